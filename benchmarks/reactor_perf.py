"""SPDK's reactor_perf: one reactor, q messages in flight, each of which posts itself again.

With q = 1 this is the cost of one turn of the loop, because a batch never has more than one.
"""

from __future__ import annotations

import threading
from time import perf_counter_ns

from . import ours
from .build import native_side
from .environment import cores
from .harness import Budget, Row, Side, Unavailable, available, compare, missing
from .peers import loops

QUESTION = "reactor_perf: what does a message cost that posts itself again?"
DEPTHS = (1, 4, 64)


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    core = cores()[0]
    for depth in DEPTHS:
        name = f"Python, queue depth {depth}"
        peers, absent = available(
            {key: lambda key=key, depth=depth: loop_side(loops.LOOPS[key], core, depth) for key in loops.LOOPS}, name
        )
        side = ours.reactors_apart([core], lambda threads, n, depth=depth: self_post(threads[0].send_msg, depth, n))
        rows += compare(name, side, peers, budget, multiple=64) + absent
    try:
        native = native_side()
    except Unavailable as reason:
        return [*rows, missing("native", "", reason)]
    for depth in DEPTHS:
        side = ours.reactors_apart([core], lambda threads, n, depth=depth: native.event_ring(threads, depth, n))
        rows += compare(f"native, queue depth {depth}", side, {}, budget, multiple=64)
    return rows


def self_post(send, depth: int, count: int, from_outside=None) -> float:
    done = threading.Event()
    left = count
    begin = end = 0

    def handle() -> None:
        nonlocal left, end
        left -= 1
        if left > 0:
            send(handle)
        elif left == 0:
            end = perf_counter_ns()
            done.set()

    def start() -> None:
        nonlocal begin
        begin = perf_counter_ns()
        for _ in range(depth):
            send(handle)

    (from_outside or send)(start)
    done.wait()
    return end - begin


def loop_side(new_loop, core: int, depth: int) -> Side:
    new_loop().close()

    def side(count: int) -> float:
        thread = loops.LoopThread(new_loop, core)
        try:
            # From inside the loop its cheap call is legal, and that is what its users call.
            return self_post(thread.loop.call_soon, depth, count, thread.loop.call_soon_threadsafe)
        finally:
            thread.stop()

    return side
