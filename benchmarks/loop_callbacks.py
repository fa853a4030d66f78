"""`call_soon` in one OS thread and `call_soon_threadsafe` from another, on three event loops.

The receiving loop of the second question runs on the other core. Cost per callback, from the first one sent to the last
one run.
"""

from __future__ import annotations

import threading
from time import perf_counter_ns

from . import ours
from .build import two_cores
from .harness import Budget, Row, Side, Target, available, compare, pinned
from .peers import loops

QUESTION = "What does a callback of an event loop cost?"
NO_SLOWER = Target("≤ uvloop", ratio=1.0)
BATCH = 100


def nothing(arg):
    pass


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    rows: list[Row] = []
    with pinned(first):
        name = "call_soon and run, 100 at a time"
        peers, absent = available({loop: lambda loop=loop: soon(loop) for loop in loops.LOOPS}, name)
        targets = {"uvloop": NO_SLOWER}
        rows += compare(name, soon("aio.EventLoop"), peers, budget, multiple=BATCH, targets=targets) + absent
        name = "call_soon_threadsafe from another core"
        peers, absent = available({loop: lambda loop=loop: across(loop, second) for loop in loops.LOOPS}, name)
        rows += compare(name, across("aio.EventLoop", second), peers, budget, targets=targets) + absent
    return rows


def soon(name: str) -> Side:
    return loops.on_one_loop(ours.EVENT_LOOPS[name](), nothing, BATCH)


def across(name: str, core: int) -> Side:
    receiver = loops.LoopThread(ours.EVENT_LOOPS[name], core)
    send = receiver.loop.call_soon_threadsafe

    def side(count: int) -> float:
        done = threading.Event()
        begin = perf_counter_ns()
        for _ in range(count):
            send(nothing, 1)
        send(done.set)
        done.wait()
        return perf_counter_ns() - begin

    return side
