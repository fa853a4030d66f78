"""A poll that finds nothing: no message, no timer due. A reactor does this most of its life.

*in a turn*: what one more idle thread adds to a reactor's turn. *a whole turn*: of a running reactor that has one
thread, its own book-keeping included. *complete*: a poll that goes through all its stages although there is nothing, as
native code drives a thread by hand.
"""

from __future__ import annotations

import statistics
import time
from queue import SimpleQueue

import spdkthread

from . import ours
from .build import native_side
from .environment import cores
from .harness import (
    Budget,
    Row,
    Target,
    Unavailable,
    calibrated,
    compare,
    interleave,
    missing,
    pinned,
    quartiles,
    timed,
)

QUESTION = "What does an empty poll cost?"
MORE = 100


def run(budget: Budget) -> list[Row]:
    with pinned(cores()[0]):
        rows = [
            in_a_turn(budget, timers=0).aim(Target("≤ 6 ns with statistics on", value=6)),
            in_a_turn(budget, timers=1),
            whole_turn(budget),
        ]
        thread = ours.one_driven_thread()
        queue: SimpleQueue = SimpleQueue()
        rows += compare(
            "thread.poll() from Python",
            timed(lambda count: call(thread.poll, count)),
            {"SimpleQueue.empty()": timed(lambda count: call(queue.empty, count))},
            budget,
        )
        try:
            native = native_side()
        except Unavailable as reason:
            return [*rows, missing("complete", "", reason)]
        return rows + compare(
            "complete, from Cython",
            timed(lambda count: native.polls(thread, count)),
            {"a C call through a pointer": timed(native.bare_calls)},
            budget,
        )


def call(fn, count: int) -> None:
    for _ in range(count):
        fn()


def in_a_turn(budget: Budget, timers: int) -> Row:
    sides = {}
    for threads in (1, 1 + MORE):
        reactor = spdkthread.Reactor(None, idle="poll", lib=spdkthread.ThreadLib(), pin=False)
        for _ in range(threads):
            thread = reactor.create_thread(ring_size=64)
            for _ in range(timers):
                thread.register_poller(lambda: 0, 3600e6)
        reactor.poll()
        sides[str(threads)] = calibrated(timed(lambda count, poll=reactor.poll: call(poll, count)), budget)
    figures = interleave(sides, budget.repeats)
    added = [(many - one) / MORE for one, many in zip(*figures.values(), strict=True)]
    name = "in a turn, no timer pending" if not timers else "in a turn, a timer pending"
    return Row(name, statistics.median(added), spread=quartiles(added))


def whole_turn(budget: Budget) -> Row:
    receiver = ours.Receiver()
    receiver.start(cores()[-1])
    figures = []
    for _ in range(budget.repeats):
        turns, begin = receiver.reactor.stats.turns, time.perf_counter_ns()
        time.sleep(budget.slice_s)
        figures.append((time.perf_counter_ns() - begin) / (receiver.reactor.stats.turns - turns))
    receiver.stop()
    return Row("a whole turn, one thread", statistics.median(figures), spread=quartiles(figures))
