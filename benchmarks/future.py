"""Futures: `thread.call` beside an executor's `submit`, and beside nothing but the standard library's Future.

The bare Future is made, begun, settled and asked on one OS thread, with no queue and no handover at all: what any
`submit` pays at least. Ours does the same work through a ring.
"""

from __future__ import annotations

from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter_ns

import spdkthread

from . import ours
from .build import two_cores
from .harness import Budget, Row, Side, Target, available, compare, pin, pinned

QUESTION = "What does a call with a result cost?"
BATCH = 1_000


def work(arg):
    return arg


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    with pinned(first):
        peers = {"concurrent.futures.Future": bare}
        rows = compare("a call on one OS thread", driven(), peers, budget, best=Target("≤ 0.5 ×", ratio=0.5))
        for name, ours_side, peer_side, target in (
            ("1,000 calls, then their results", many, submit_many, Target("≤ 0.5 ×", ratio=0.5)),
            ("a call and its result, waiting", waiting, submit_waiting, None),
        ):
            mine, absent = available({ours.NAME: lambda make=ours_side: make(second)}, name)
            rows += absent
            if mine:
                peers = {"ThreadPoolExecutor": peer_side(second)}
                multiple = BATCH if ours_side is many else 1
                rows += compare(name, mine[ours.NAME], peers, budget, multiple=multiple, best=target)
    return rows


def bare(count: int) -> float:
    begin = perf_counter_ns()
    for _ in range(count):
        future = Future()
        future.set_running_or_notify_cancel()
        future.set_result(work(1))
        future.result()
    return perf_counter_ns() - begin


def driven() -> Side:
    thread = ours.one_driven_thread()

    def side(count: int) -> float:
        call, poll = thread.call, thread.poll
        begin = perf_counter_ns()
        for _ in range(count):
            future = call(work, 1)
            poll()
            future.result()
        return perf_counter_ns() - begin

    return side


def results_of(send) -> Side:
    def side(count: int) -> float:
        begin = perf_counter_ns()
        for _ in range(count // BATCH):
            for future in [send(work, arg) for arg in range(BATCH)]:
                future.result()
        return perf_counter_ns() - begin

    return side


def one_by_one(send) -> Side:
    def side(count: int) -> float:
        begin = perf_counter_ns()
        for _ in range(count):
            send(work, 1).result()
        return perf_counter_ns() - begin

    return side


def on_a_reactor(make):
    def with_core(second: int) -> Side:
        # It sleeps while it is not asked, and leaves the core to the peer.
        reactor = ours.reactor(spdkthread.ThreadLib(), second, "adaptive")
        thread = reactor.create_thread("asked")
        ours.touch(thread)
        return make(thread.call)

    return with_core


def in_an_executor(make):
    def with_core(second: int) -> Side:
        executor = ThreadPoolExecutor(1, initializer=pin, initargs=(second,))
        return make(executor.submit)

    return with_core


many, waiting = on_a_reactor(results_of), on_a_reactor(one_by_one)
submit_many, submit_waiting = in_an_executor(results_of), in_an_executor(one_by_one)
