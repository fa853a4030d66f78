"""SPDK's event_perf: four events in flight per core, each handler posts one to the next core.

As SPDK defines it: the cost per event on one core (posting to itself) and over two cores in a ring. In Python, and
native. Event loops are called by their thread-safe call, as the handler does not know where the next core's loop runs.
"""

from __future__ import annotations

import threading
from time import perf_counter_ns

from . import ours
from .build import native_side
from .environment import cores
from .harness import Budget, Row, Side, Unavailable, available, compare, missing
from .peers import loops

QUESTION = "event_perf: what does an event cost that is posted to the next core?"
IN_FLIGHT = 4


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    allowed = cores()
    for count in (1, 2):
        if count > len(allowed):
            continue
        name = f"Python, {count} core{'s' * (count > 1)}"
        peers, absent = available(
            {key: lambda key=key, count=count: loop_side(loops.LOOPS[key], allowed[:count]) for key in loops.LOOPS},
            name,
        )
        rows += compare(name, python_side(allowed[:count]), peers, budget, multiple=8) + absent
    try:
        native = native_side()
    except Unavailable as reason:
        return [*rows, missing("native", "", reason)]
    for count in (1, 2):
        if count > len(allowed):
            continue
        side = ours.reactors_apart(
            allowed[:count], lambda threads, n: native.event_ring(threads, IN_FLIGHT * len(threads), n)
        )
        rows += compare(f"native, {count} core{'s' * (count > 1)}", side, {}, budget, multiple=8)
    return rows


def ring(sends: list, count: int) -> float:
    """Pass events round a ring of senders until `count` have run; returns the nanoseconds."""
    done = threading.Event()
    left = count
    begin = perf_counter_ns()
    end = 0

    def handlers(index: int):
        send = sends[(index + 1) % len(sends)]

        def handle() -> None:
            nonlocal left, end
            left -= 1
            if left > 0:
                send(following[(index + 1) % len(sends)])
            elif left == 0:
                end = perf_counter_ns()
                done.set()

        return handle

    following = [handlers(index) for index in range(len(sends))]
    for index, send in enumerate(sends):
        for _ in range(IN_FLIGHT):
            send(following[index])
    done.wait()
    return end - begin


def python_side(on: list[int]) -> Side:
    return ours.reactors_apart(on, lambda threads, count: ring([thread.send_msg for thread in threads], count))


def loop_side(new_loop, on: list[int]) -> Side:
    new_loop().close()  # not installed: say so before it starts

    def side(count: int) -> float:
        threads = [loops.LoopThread(new_loop, core) for core in on]
        try:
            return ring([thread.loop.call_soon_threadsafe for thread in threads], count)
        finally:
            for thread in threads:
                thread.stop()

    return side
