"""`SpdkThread.call_later` beside the `call_later` of uvloop and asyncio: on the thread itself, others pending.

A thread that its user polls stands for the loop. Timeouts that are cancelled are what most programs make; timers of no
delay that run show the way from the call to the function.
"""

from __future__ import annotations

import random
from time import perf_counter_ns

import spdkthread

from . import loop_timers
from .environment import cores
from .harness import Budget, Row, Side, Target, available, compare, pinned
from .peers import loops

QUESTION = "What does call_later of a thread cost?"
NO_SLOWER = Target("≤ uvloop", ratio=1.0)
BATCH = loop_timers.BATCH

threads: list[spdkthread.SpdkThread] = []
"""Those whose pending timers are to be cancelled at the end."""


def run(budget: Budget) -> list[Row]:
    try:
        return measure(budget)
    finally:
        while threads:
            for timer in threads.pop().timers:
                timer.cancel()


def measure(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    with pinned(cores()[0]):
        for pending in budget.sizes((100, 10_000, 100_000)):
            for name, mine, theirs in (
                ("call_later and cancel", cancelled, loop_timers.cancelled),
                ("call_later and run", expiring, loop_timers.expiring),
            ):
                name = f"{name}, {pending:,} pending"
                peers, absent = available(
                    {loop: lambda loop=loop, make=theirs, n=pending: make(loop, n) for loop in loops.LOOPS}, name
                )
                rows += compare(
                    name,
                    mine(pending),
                    peers,
                    budget,
                    multiple=BATCH,
                    targets={"uvloop": NO_SLOWER},
                    figure=mine.__name__,
                    x=pending,
                )
                rows += absent
    return rows


def nothing() -> None:
    pass


def driven(pending: int) -> spdkthread.SpdkThread:
    """Return a thread with timers pending that will not expire while we measure."""
    generator = random.Random(pending)
    thread = spdkthread.ThreadLib().create_thread("timers")
    threads.append(thread)
    with thread:
        for _ in range(pending):
            thread.call_later(generator.uniform(600e6, 4200e6), nothing)
    return thread


def cancelled(pending: int) -> Side:
    thread = driven(pending)
    generator = random.Random(1)
    delays_us = [generator.uniform(1e6, 60e6) for _ in range(BATCH)]

    def side(count: int) -> float:
        call_later, poll = thread.call_later, thread.poll
        with thread:
            begin = perf_counter_ns()
            for _ in range(count // BATCH):
                for timer in [call_later(delay_us, nothing) for delay_us in delays_us]:
                    timer.cancel()
                poll()
            return perf_counter_ns() - begin

    return side


def expiring(pending: int) -> Side:
    thread = driven(pending)

    def side(count: int) -> float:
        call_later, poll = thread.call_later, thread.poll
        with thread:
            begin = perf_counter_ns()
            for _ in range(count // BATCH):
                for _ in range(BATCH):
                    call_later(0.0, nothing)
                poll()
            return perf_counter_ns() - begin

    return side
