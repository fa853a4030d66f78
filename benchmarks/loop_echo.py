"""A TCP echo server on three event loops: one message on each connection, then one answer from each.

The server is a process of its own on one core, as a protocol (`asyncio.Protocol`) and with streams. The client is this
process on another core: plain blocking sockets, the same for all. Cost per message there and back.
"""

from __future__ import annotations

import asyncio
import socket
import subprocess
import sys
from pathlib import Path
from time import perf_counter_ns

from . import ours
from .build import two_cores
from .harness import Budget, Row, Side, Target, Unavailable, available, compare, pin, pinned
from .peers import loops

QUESTION = "What does an echo over TCP cost on an event loop?"
NO_SLOWER = Target("≤ asyncio", ratio=1.0)
SIZE = 1024


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    rows: list[Row] = []
    with pinned(first):
        for kind in ("protocol", "streams"):
            for connections in (10,) if budget.is_smoke else (1, 10, 100):
                name = f"echo of {SIZE} bytes, {kind}, {connections} connection{'s' if connections > 1 else ''}"
                servers: list[Server] = []

                def start(loop: str) -> Side:
                    servers.append(Server(loop, kind, second, connections))  # noqa: B023 - called in this turn
                    return servers[-1].side  # noqa: B023

                try:
                    mine = start("aio.EventLoop")
                    peers, absent = available({loop: lambda loop=loop: start(loop) for loop in loops.LOOPS}, name)
                    rows += compare(
                        name,
                        mine,
                        peers,
                        budget,
                        multiple=connections,
                        targets={"asyncio": NO_SLOWER},
                        figure=kind,
                        x=connections,
                    )
                    rows += absent
                finally:
                    for server in servers:
                        server.stop()
    return rows


class Server:
    """A server in a process of its own, and the connections to it."""

    def __init__(self, loop: str, kind: str, core: int, connections: int):
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.loop_echo", loop, kind, str(core)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=Path(__file__).parent.parent,
        )
        line = self.process.stdout.readline()
        if not line.strip().isdigit():
            raise Unavailable(line.strip() or "the server did not start")
        self.sockets = [socket.create_connection(("127.0.0.1", int(line))) for _ in range(connections)]
        for one in self.sockets:
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def side(self, count: int) -> float:
        message = b"x" * SIZE
        sockets = self.sockets
        begin = perf_counter_ns()
        for _ in range(count // len(sockets)):
            for one in sockets:
                one.sendall(message)
            for one in sockets:
                if one.recv(SIZE, socket.MSG_WAITALL) != message:
                    raise AssertionError("the echo is not what was sent")
        return perf_counter_ns() - begin

    def stop(self) -> None:
        for one in self.sockets:
            one.close()
        self.process.stdin.close()
        self.process.stdout.close()
        self.process.wait(10)


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


async def serve(kind: str) -> None:
    loop = asyncio.get_running_loop()
    if kind == "protocol":
        server = await loop.create_server(Echo, "127.0.0.1", 0)
    else:
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
    over = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), over.set)
    print(server.sockets[0].getsockname()[1], flush=True)
    await over.wait()


def main(name: str, kind: str, core: str) -> None:
    pin(int(core))
    try:
        loop = ours.EVENT_LOOPS[name]()
    except ImportError as reason:
        print(reason, flush=True)
        return
    loop.run_until_complete(serve(kind))


if __name__ == "__main__":
    main(*sys.argv[1:])
