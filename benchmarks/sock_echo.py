"""A TCP echo: sockets on an SpdkThread, with Python and native handlers, over epoll and io_uring; uvloop, asyncio and
`aio.EventLoop`.

Servers run in processes of their own, one after the other, interleaved over the rounds; the client is one epoll loop in
this process. A figure is the best round: wall time and server CPU of one message of 64 bytes there and back.
"""

import argparse
import asyncio
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time

MESSAGE = b"x" * 64
SERVERS = (
    "sock, native",
    "sock, Python",
    "io_uring, native",
    "io_uring, Python",
    "uvloop",
    "asyncio",
    "aio.EventLoop",
)


def serve(kind: str) -> None:
    """In the server's process: print the port, then the CPU seconds at each line of input."""
    if kind.startswith(("sock", "io_uring")):
        serve_sock(kind)
    else:
        asyncio_loop(kind).run_until_complete(serve_asyncio())


def tell(port: int) -> None:
    print(port, flush=True)


def answer() -> None:
    used = resource.getrusage(resource.RUSAGE_SELF)
    print(used.ru_utime + used.ru_stime, flush=True)


def serve_sock(kind: str) -> None:
    from spdkthread import Reactor
    from spdkthread.sock import SockGroup

    group = SockGroup("echo", backend="io_uring" if kind.startswith("io_uring") else "epoll").register()
    if kind.endswith("native"):
        from spdkthread.sock import echo

        def accepted(sock):
            sock.set_native(echo.on_data)
    else:

        def accepted(sock):
            sock.on_data = data

        def data(sock, view):
            sock.write(view)

    reactor = Reactor(1 if 1 in os.sched_getaffinity(0) else None).start()
    listener = reactor.create_thread("echo").call(group.listen, ("127.0.0.1", 0), accepted).result()
    tell(listener.sockname()[1])
    for _ in sys.stdin:
        answer()
    os._exit(0)


class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)


def asyncio_loop(kind: str):
    if kind == "uvloop":
        import uvloop

        return uvloop.new_event_loop()
    if kind == "aio.EventLoop":
        from spdkthread.aio import EventLoop

        return EventLoop()
    return asyncio.SelectorEventLoop()


async def serve_asyncio() -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    tell(server.sockets[0].getsockname()[1])
    loop.add_reader(0, lambda: answer() if sys.stdin.readline() else os._exit(0))
    await asyncio.Event().wait()


def drive(port: int, connections: int, messages: int) -> float:
    """Microseconds of a message, over all connections."""
    poll = select.epoll()
    peers = {}
    for _ in range(connections):
        peer = socket.create_connection(("127.0.0.1", port))
        peer.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        peers[peer.fileno()] = peer
        poll.register(peer, select.EPOLLIN)
    began = time.perf_counter()
    for peer in peers.values():
        peer.send(MESSAGE)
    sent, done = connections, 0
    while done < messages:
        for fd, _ in poll.poll():
            peers[fd].recv(65536)
            done += 1
            if sent < messages:
                peers[fd].send(MESSAGE)
                sent += 1
    seconds = time.perf_counter() - began
    for peer in peers.values():
        peer.close()
    return seconds / messages * 1e6


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serve", choices=SERVERS)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 10, 100, 1000])
    parser.add_argument("--servers", nargs="*", choices=SERVERS, default=SERVERS)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 65536), hard))
    if options.serve:
        serve(options.serve)
        return
    servers = {}
    for kind in options.servers:
        process = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        line = process.stdout.readline()
        if line:
            servers[kind] = process, int(line)
        else:
            print(f"{kind}: does not run here")

    def used(process) -> float:
        process.stdin.write("\n")
        process.stdin.flush()
        return float(process.stdout.readline())

    def pick(kind) -> None:
        """Only the one that is measured runs."""
        for other, (process, _) in servers.items():
            process.send_signal(signal.SIGCONT if other == kind else signal.SIGSTOP)

    print(f"{'server':16} {'connections':>11} {'wall µs':>9} {'server CPU µs':>14}")
    try:
        for connections in options.connections:
            best = {kind: (float("inf"), float("inf")) for kind in servers}
            for _ in range(options.rounds):
                for kind, (process, port) in servers.items():
                    pick(kind)
                    drive(port, connections, 2 * connections)
                    before = used(process)
                    wall = drive(port, connections, options.messages)
                    cpu = (used(process) - before) / options.messages * 1e6
                    best[kind] = min(best[kind][0], wall), min(best[kind][1], cpu)
            for kind, (wall, cpu) in best.items():
                print(f"{kind:16} {connections:11} {wall:9.1f} {cpu:14.1f}", flush=True)
    finally:
        for process, _ in servers.values():
            process.kill()
            process.wait()


if __name__ == "__main__":
    main()
