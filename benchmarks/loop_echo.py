"""An echo server on three event loops: one message on each connection, then one answer from each.

The server is a process of its own on one core, as a protocol (`asyncio.Protocol`) and with streams, over TCP, unix
sockets and TLS. The client is this process on another core: plain blocking sockets, the same for all. Cost per message
there and back, as time on the clock and as the server's time on its core.
"""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import ssl
import subprocess
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns, process_time_ns

from . import ours
from .build import two_cores
from .harness import Budget, Row, Side, Target, Unavailable, available, compare, pin, pinned, ratio_row
from .peers import loops

QUESTION = "What does an echo cost on an event loop?"
NO_SLOWER = Target("≤ asyncio", ratio=1.0)
FASTER = Target("≤ 0.9 × uvloop", ratio=0.9)
AS_FAST = Target("≤ uvloop", ratio=1.0)
SIZE = 1024
CERTIFICATE = Path(__file__).with_name("localhost.pem")

# (sockets, kind of server, connections, promise beside uvloop)
CASES = (
    *(("TCP", kind, count, FASTER) for kind in ("protocol", "streams") for count in (1, 10, 100, 1000)),
    *(("unix", kind, 100, AS_FAST) for kind in ("protocol", "streams")),
    *(("TLS", "protocol", count, AS_FAST) for count in (1, 100)),
    ("TLS", "streams", 100, AS_FAST),
)
SMOKE_CASES = (("TCP", "protocol", 10, FASTER), ("unix", "streams", 10, AS_FAST), ("TLS", "protocol", 10, AS_FAST))


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != resource.RLIM_INFINITY and soft < 4096:
        resource.setrlimit(resource.RLIMIT_NOFILE, (4096 if hard == resource.RLIM_INFINITY else min(4096, hard), hard))
    rows: list[Row] = []
    with pinned(first):
        for sockets, kind, connections, promise in SMOKE_CASES if budget.is_smoke else CASES:
            rows += one_case(budget, second, sockets, kind, connections, promise)
    return rows


def one_case(budget: Budget, core: int, sockets: str, kind: str, connections: int, promise: Target) -> list[Row]:
    where = "" if sockets == "TCP" else f"{sockets}, "
    name = f"echo of {SIZE} bytes, {where}{kind}, {connections} connection{'s' if connections > 1 else ''}"
    servers: dict[str, Server] = {}

    def start(loop: str) -> Side:
        servers[loop] = Server(loop, sockets, kind, core, connections)
        return servers[loop].side

    targets = {"asyncio": NO_SLOWER, "uvloop": promise}
    try:
        mine = start("aio.EventLoop")
        peers, absent = available({loop: lambda loop=loop: start(loop) for loop in loops.LOOPS}, name)
        rows = compare(
            name, mine, peers, budget, multiple=connections, targets=targets, figure=f"{sockets} {kind}", x=connections
        )
        for peer in peers:
            used, its = (servers[loop].cpu_ns[-budget.repeats :] for loop in ("aio.EventLoop", peer))
            row = ratio_row(f"{name}, server's CPU", used, its, peer).aim(targets[peer])
            row.figure, row.series, row.x = f"{sockets} {kind}, CPU", "spdkthread", connections
            rows.append(row)
        return rows + absent
    finally:
        for server in servers.values():
            server.stop()


class Server:
    """A server in a process of its own, and the connections to it."""

    def __init__(self, loop: str, sockets: str, kind: str, core: int, connections: int):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.loop_echo", loop, sockets, kind, str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        self.cpu_ns: list[float] = []
        self.sockets: list[socket.socket] = []
        answer = self.process.stdout.readline().strip().split(" ", 1)
        if answer[0] != "at":
            raise Unavailable(" ".join(answer) or "the server did not start")
        for _ in range(connections):
            self.sockets.append(connected(sockets, answer[1]))

    def used_ns(self) -> int:
        """The processor time of the server so far."""
        self.process.stdin.write("cpu\n")
        self.process.stdin.flush()
        return int(self.process.stdout.readline())

    def side(self, count: int) -> float:
        message = b"x" * SIZE
        sockets = self.sockets
        used = self.used_ns()
        begin = perf_counter_ns()
        for _ in range(count // len(sockets)):
            for one in sockets:
                one.sendall(message)
            for one in sockets:
                if received(one) != message:
                    raise AssertionError("the echo is not what was sent")
        took = perf_counter_ns() - begin
        self.cpu_ns.append((self.used_ns() - used) / count)
        return took

    def stop(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)
        self.process.stdout.close()
        for one in self.sockets:
            one.close()


def connected(sockets: str, where: str) -> socket.socket:
    if sockets == "unix":
        one = socket.socket(socket.AF_UNIX)
        one.connect(where)
        return one
    one = socket.create_connection(("127.0.0.1", int(where)))
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    if sockets == "TLS":
        context = ssl.create_default_context(cafile=CERTIFICATE)
        return context.wrap_socket(one, server_hostname="localhost")
    return one


def received(one: socket.socket) -> bytes:
    if not isinstance(one, ssl.SSLSocket):
        return one.recv(SIZE, socket.MSG_WAITALL)
    data = one.recv(SIZE)
    while len(data) < SIZE:
        part = one.recv(SIZE - len(data))
        if not part:
            break
        data += part
    return data


# The server's process ------------------------------------------------------------------------------------------------


class Echo(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.write = transport.write

    def data_received(self, data: bytes) -> None:
        self.write(data)


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(65536):
        writer.write(data)
        await writer.drain()
    writer.close()


async def serve(sockets: str, kind: str) -> None:
    loop = asyncio.get_running_loop()
    over = asyncio.Event()

    def asked() -> None:
        if not os.read(0, 4096):
            over.set()
        else:
            print(process_time_ns(), flush=True)

    with tempfile.TemporaryDirectory() as directory:
        options: dict = {"backlog": 1024}
        if sockets == "TLS":
            options["ssl"] = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            options["ssl"].load_cert_chain(CERTIFICATE)
        if sockets == "unix":
            where = f"{directory}/echo"
            if kind == "protocol":
                await loop.create_unix_server(Echo, where, **options)
            else:
                await asyncio.start_unix_server(echo, where, **options)
        else:
            if kind == "protocol":
                server = await loop.create_server(Echo, "127.0.0.1", 0, **options)
            else:
                server = await asyncio.start_server(echo, "127.0.0.1", 0, **options)
            where = server.sockets[0].getsockname()[1]
        loop.add_reader(0, asked)
        print("at", where, flush=True)
        await over.wait()
    # The connections are the client's to close: none of them is to be reported here.
    sys.stdout.flush()
    os._exit(0)


def main(name: str, sockets: str, kind: str, core: str) -> None:
    pin(int(core))
    try:
        loop = ours.EVENT_LOOPS[name]()
    except ImportError as reason:
        print(reason, flush=True)
        return
    loop.run_until_complete(serve(sockets, kind))


if __name__ == "__main__":
    main(*sys.argv[1:])
