"""Python messages from one OS thread to another.

*send* is what the sender pays: a loop of 2,000 sends to a receiver that is awake, timed from the first to the last.
*until run* is the whole: until the receiver has run them all. Of the first, the Python loop itself takes the part that
the row "the loop" shows: a loop that calls a builtin function.
"""

from __future__ import annotations

import threading
from time import perf_counter_ns

from . import ours
from .build import two_cores
from .harness import Budget, Row, Side, Target, compare, missing, pinned, timed
from .peers import RECEIVERS, load

QUESTION = "What does it cost to send a Python message to another thread?"
CHUNK = 2_000


def nothing(arg):
    pass


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    rows: list[Row] = []
    absent: list[Row] = []
    peers = {}
    for name, where in RECEIVERS.items():
        try:
            peers[name] = load(where)()
        except ImportError as reason:
            absent.append(missing("send", name, reason))
            continue
        peers[name].start(second)
    with pinned(first):
        for name, until_run, targets in (
            ("send", False, {"SimpleQueue": Target("≤ 0.5 × SimpleQueue", ratio=0.5)}),
            ("send, until run", True, {}),
        ):
            mine = with_ours(second, until_run)
            sides = {key: bursts(peer, until_run) for key, peer in peers.items()}
            if not until_run:
                sides["the loop, calling len()"] = timed(bare_loop)
            rows += compare(name, mine, sides, budget, multiple=CHUNK, targets=targets)
    for peer in peers.values():
        peer.stop()
    return rows + absent


def bare_loop(count: int) -> None:
    fn, arg = len, ()
    for _ in range(count):
        fn(arg)


def bursts(receiver, until_run: bool) -> Side:
    """Return a side that sends chunk after chunk, each when the one before has run."""

    def side(count: int) -> float:
        done = threading.Event()
        elapsed = 0
        for _ in range(count // CHUNK):
            done.clear()
            begin = perf_counter_ns()
            receiver.burst(CHUNK, nothing, 1)
            sent = perf_counter_ns()
            receiver.send(lambda _: done.set(), None)
            done.wait()
            elapsed += (perf_counter_ns() if until_run else sent) - begin
        return elapsed

    return side


def with_ours(core: int, until_run: bool) -> Side:
    """The same for a reactor, which runs only while it is measured: it would take the peers' core."""

    def side(count: int) -> float:
        receiver = ours.Receiver()
        receiver.start(core)
        try:
            return bursts(receiver, until_run)(count)
        finally:
            receiver.stop()

    return side
