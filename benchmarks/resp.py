"""The example server of Redis' protocol beside redis-server, and the same program on asyncio.

Every server is a process of its own; redis-benchmark drives each in turn with 50 connections and a pipeline of 16, over
the loopback. A figure is the time of one command, of which part is the client's: with two cores the client has one and
the server the other, and a server of two reactors shares them with the client.
"""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from .environment import cores
from .harness import Budget, Row, Target, Unavailable, interleave, ratio_row

QUESTION = "What does a command of Redis' protocol cost?"
EXAMPLE = Path(__file__).parent.parent / "examples" / "resp_server.py"
COMMANDS = {"smoke": 2_000, "quick": 200_000, "full": 500_000}
MOST_REPEATS = {"smoke": 1, "quick": 3, "full": 7}
CONNECTIONS, PIPELINE = 50, 16
PEERS = ("redis-server", "asyncio")
ON_ASYNCIO = """
import importlib.util, sys, threading
spec = importlib.util.spec_from_file_location("resp_server", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
print("listening on %s:%d" % module.AsyncioServer().address, flush=True)
threading.Event().wait()
"""
# Ours, the peer, and at most so many times the peer's time.
LIMITS = {
    ("Python handlers", "asyncio"): 1 / 1.5,
    ("native handlers", "redis-server"): 1.0,
    ("native handlers, two reactors", "native handlers"): 1 / 1.5,
}


def run(budget: Budget) -> list[Row]:
    if not shutil.which("redis-benchmark"):
        raise Unavailable("no redis-benchmark here: it comes with redis-tools")
    rows: list[Row] = []
    with contextlib.ExitStack() as stack:
        sides = {name: stack.enter_context(server(command)) for name, command in commands().items()}
        for what in ("set", "get"):
            figures = interleave(
                {name: driven(port, what, budget) for name, port in sides.items()},
                min(budget.repeats, MOST_REPEATS[budget.mode]),
            )
            for mine in [name for name in figures if "handlers" in name]:
                for peer in figures:
                    limit = LIMITS.get((mine, peer))
                    if peer in PEERS or limit is not None:
                        row = ratio_row(f"{what.upper()}, {mine}", figures[mine], figures[peer], peer)
                        rows.append(row.aim(None if limit is None else Target(f"≤ {limit:.2f} × {peer}", ratio=limit)))
    return rows


def commands() -> dict[str, list[str]]:
    """How each server is started: it prints where it listens, redis-server excepted."""
    first, *others = map(str, sorted(cores(), reverse=True))
    ours = [sys.executable, str(EXAMPLE), "--port", "0"]
    found = {
        "Python handlers": [*ours, "--cores", first],
        "native handlers": [*ours, "--cores", first, "--handlers", "native"],
        "asyncio": [sys.executable, "-c", ON_ASYNCIO, str(EXAMPLE)],
    }
    if others:
        found["native handlers, two reactors"] = [*ours, "--cores", f"{first},{others[0]}", "--handlers", "native"]
    if shutil.which("redis-server"):
        found["redis-server"] = ["redis-server", "--save", "", "--appendonly", "no", "--bind", "127.0.0.1", "--port"]
    return found


@contextlib.contextmanager
def server(command: list[str]) -> Iterator[int]:
    """Start a server; its port."""
    if command[0] == "redis-server":
        port = free_port()
        process = subprocess.Popen([*command, str(port)], stdout=subprocess.DEVNULL)
        wait_until(lambda: subprocess.run(["redis-cli", "-p", str(port), "ping"], capture_output=True).stdout[:4])
    else:
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
    try:
        yield port
    finally:
        process.terminate()
        process.wait()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def wait_until(ready: Callable[[], object]) -> None:
    give_up = time.monotonic() + 10
    while not ready():
        if time.monotonic() > give_up:
            raise Unavailable("redis-server does not answer")
        time.sleep(0.02)


def driven(port: int, what: str, budget: Budget) -> Callable[[], float]:
    """Nanoseconds of a command, by redis-benchmark's own count."""
    count = COMMANDS[budget.mode]

    def measure() -> float:
        done = subprocess.run(
            ["redis-benchmark", "-p", str(port), "-t", what, "-n", str(count), "-c", str(CONNECTIONS), "-P",
             str(PIPELINE), "-r", "10000", "--csv"],
            capture_output=True, text=True, check=True, timeout=120,
        )  # fmt: skip
        line = next(line for line in done.stdout.splitlines() if line.startswith(f'"{what.upper()}"'))
        return 1e9 / float(line.split(",")[1].strip('"'))

    return measure
