"""Thousands of connections held at once, and many more opened and reset, without a leak.

    python -m verify.connections --held 10000 --opened 100000 --server sock

The server, on `spdkthread.sock` or on the transports of `aio.EventLoop`, is a process of its own. It says what it has after
each step: connections, descriptors, resident memory, and the library's own counters; all must be as they were before. Memory
may grow once, to what so many connections need, and not with their number: the second half of those that are opened and
reset leaves it where the first half did.
"""

import argparse
import asyncio
import gc
import json
import os
import random
import resource
import socket
import struct
import subprocess
import sys
import time

from spdkthread import Reactor
from spdkthread.aio import EventLoop
from spdkthread.sock import SockGroup, echo
from spdkthread.testing import leak_counters

PATIENCE_S = 300
SERVERS = ("sock", "native", "aio.EventLoop")
# Freed memory is not always given back at once.
SLACK_BYTES = 4 << 20
BATCH = 200


def raise_limit():
    """As many descriptors as the system allows; how many these are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def state(connections):
    """What this process has."""
    gc.collect()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    counters = leak_counters()
    return {
        "connections": connections,
        "descriptors": len(os.listdir("/proc/self/fd")),
        "memory": pages * os.sysconf("SC_PAGE_SIZE"),
        **{name: counters[name] for name in ("threads", "pollers", "timers", "channels", "devices", "native_blocks")},
    }


# ---- servers -------------------------------------------------------------------------------------------------------


def serve_sock(kind):
    group = SockGroup("held").register()
    reactor = Reactor().start()
    thread = reactor.create_thread("held")

    def accepted(sock):
        if kind == "native":
            sock.set_native(echo.on_data)
        else:
            sock.on_data = lambda sock, view: sock.write(view)

    listener = thread.call(group.listen, ("127.0.0.1", 0), accepted).result()
    print(listener.sockname()[1], flush=True)

    def count():
        channel = group.get_io_channel()
        channel.put()
        return channel.ctx.stats["socks"] - 1

    while sys.stdin.readline():
        print(json.dumps(state(thread.call(count).result())), flush=True)


class Echo(asyncio.Protocol):
    open = 0

    def connection_made(self, transport):
        Echo.open += 1
        self.transport = transport

    def data_received(self, data):
        self.transport.write(data)

    def connection_lost(self, error):
        Echo.open -= 1


async def serve_asyncio():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0, backlog=1024)
    print(server.sockets[0].getsockname()[1], flush=True)
    ended = asyncio.Event()

    def asked():
        if sys.stdin.readline():
            print(json.dumps(state(Echo.open)), flush=True)
        else:
            ended.set()

    loop.add_reader(0, asked)
    await ended.wait()


def serve(kind):
    raise_limit()
    if kind == "aio.EventLoop":
        asyncio.Runner(loop_factory=EventLoop).run(serve_asyncio())
    else:
        serve_sock(kind)
    os._exit(0)


# ---- the client ----------------------------------------------------------------------------------------------------


class Server:
    def __init__(self, kind):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "verify.connections", "--serve", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.port = int(self.process.stdout.readline())

    def state(self):
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def settled(self, connections):
        """Its state once it has so many connections."""
        give_up = time.monotonic() + PATIENCE_S
        while True:
            now = self.state()
            if now["connections"] == connections:
                return now
            if time.monotonic() > give_up:
                raise AssertionError(f"the server has {now['connections']} connections, and should have {connections}")
            time.sleep(0.05)

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE_S)


def reset(peer):
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    peer.close()


def open_and_reset(server, count, dice):
    """Reset after connecting, after sending, with an answer on the way, or with one half read."""
    for begin in range(0, count, BATCH):
        peers = [server.connect() for _ in range(min(BATCH, count - begin))]
        for peer in peers:
            kind = dice.randrange(4)
            if kind:
                peer.send(b"x" * dice.choice((1, 100, 20_000)))
            if kind > 1:
                peer.recv(1)
        dice.shuffle(peers)
        for peer in peers:
            reset(peer)


def hold(server, count):
    """The server's state while it holds so many, each of which was answered."""
    peers = [server.connect() for _ in range(count)]
    for peer in peers:
        peer.send(b"hello")
    for peer in peers:
        assert peer.recv(100) == b"hello"
    held = server.settled(count)
    for peer in peers:
        reset(peer)
    return held


def compare(before, after, what):
    changed = {name: (before[name], after[name]) for name in before if name != "memory" and before[name] != after[name]}
    assert not changed, f"{what}: before and after: {changed}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--server", choices=SERVERS, action="append")
    parser.add_argument("--held", type=int, default=10_000)
    parser.add_argument("--opened", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
    held = min(options.held, raise_limit() - 500)
    for kind in options.server or SERVERS:
        begin = time.monotonic()
        dice = random.Random(options.seed)
        server = Server(kind)
        try:
            open_and_reset(server, 2 * BATCH, dice)
            before = server.settled(0)
            during = hold(server, held)
            after_hold = server.settled(0)
            compare(before, after_hold, "held and reset")
            open_and_reset(server, options.opened // 2, dice)
            half = server.settled(0)
            open_and_reset(server, options.opened - options.opened // 2, dice)
            after = server.settled(0)
            compare(before, after, "opened and reset")
            grown = after["memory"] - half["memory"]
            assert grown < SLACK_BYTES, f"{grown} bytes more after {options.opened - options.opened // 2} connections"
        finally:
            server.process.kill()
            server.process.communicate()
        figures = {
            "server": kind,
            "held": held,
            "bytes each": (during["memory"] - before["memory"]) // held,
            "opened and reset": options.opened,
            "grown by bytes": grown,
            "descriptors": after["descriptors"],
            "seconds": round(time.monotonic() - begin),
        }
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
