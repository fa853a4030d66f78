"""One OS thread streams Python messages to another for longer than the ring is: it waits for room again and again.

The sender of spdkthread uses ``send_msg_wait`` and the ring of the usual size; the queues of the peers have no bound,
so they never wait and hold whatever was sent. Time per message until the last one has run.
"""

from __future__ import annotations

import threading
from time import perf_counter_ns

from . import ours
from .environment import cores
from .harness import Budget, Row, Side, Target, compare, missing, pinned
from .peers import RECEIVERS, load

QUESTION = "What does a stream of Python messages cost that is longer than the ring?"
PEERS = ("SimpleQueue", "asyncio", "uvloop")
LEAST = 32_768  # eight rings


def nothing(arg) -> None:
    pass


def run(budget: Budget) -> list[Row]:
    peers: dict[str, Side] = {}
    absent: list[Row] = []
    first, second = cores()[0], cores()[-1]
    receivers = []
    for name in PEERS:
        try:
            receiver = load(RECEIVERS[name])()
        except ImportError as reason:
            absent.append(missing("stream", name, reason))
            continue
        receiver.start(second)
        receivers.append(receiver)
        peers[name] = side(receiver, receiver.burst)
    with pinned(first):
        rows = compare(
            "stream",
            stream(second),
            peers,
            budget,
            multiple=1_000 if budget.is_smoke else LEAST,
            targets={"SimpleQueue": Target("<= 1.0 x", ratio=1.0)},
        )
    for receiver in receivers:
        receiver.stop()
    return rows + absent


def side(receiver, burst) -> Side:
    def measure(count: int) -> float:
        done = threading.Event()
        begin = perf_counter_ns()
        burst(count, nothing, 1)
        receiver.send(lambda _: done.set(), None)
        done.wait()
        return perf_counter_ns() - begin

    return measure


class Stream(ours.Receiver):
    def start(self, core: int) -> None:
        super().start(core)
        self.send = self.thread.send_msg_wait

    def burst(self, count: int, fn, arg) -> None:
        send = self.send
        for _ in range(count):
            send(fn, arg)


def stream(core: int) -> Side:
    """Return a side whose reactor exists only while it runs: it would take time from the others."""

    def measure(count: int) -> float:
        receiver = Stream("adaptive")
        receiver.start(core)
        try:
            return side(receiver, receiver.burst)(count)
        finally:
            receiver.stop()

    return measure
