"""Objects that pass messages: 8 tokens go around rings of SpdkThreads, all on one reactor, in a random order.

Beside them the same objects on one asyncio loop, each hop a ``call_soon``: there an object costs the loop nothing, and
has no queue of its own.
"""

from __future__ import annotations

import random
import threading
from time import perf_counter_ns

import spdkthread

from . import ours
from .environment import cores
from .harness import Budget, Row, Side, available, compare, pinned
from .peers import loops

QUESTION = "What does a message cost with 100 to 10,000 threads on a reactor?"
OBJECTS = (100, 1_000, 10_000)
TOKENS = 8


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    core = cores()[-1]
    for count in budget.sizes(OBJECTS):
        name = f"{count:,} objects"
        with pinned(core):
            peers, absent = available(
                {
                    "asyncio": lambda count=count: on_loop(loops.LOOPS["asyncio"], count),
                    "aio.EventLoop": lambda count=count: on_loop(ours.new_event_loop, count),
                },
                name,
            )
            rows += compare(
                name,
                on_reactor(core, count),
                peers,
                budget,
                multiple=1_000,
                figure="number-of-objects",
                x=count,
            )
        rows += absent
    return rows


def successors(count: int) -> list[int]:
    """One ring through all, in an order that no prefetcher knows."""
    order = list(range(count))
    random.Random(count).shuffle(order)
    following = [0] * count
    for here, there in zip(order, order[1:] + order[:1], strict=True):
        following[here] = there
    return following


class Hops:
    """Counts hops down, and says when there are none left."""

    def __init__(self, following: list[int], sends: list):
        self._following, self._sends = following, sends
        self._left = 0
        self._over = lambda: None

    def begin(self, count: int, over) -> None:
        self._left, self._over = count, over
        for token in range(TOKENS):
            start = token * len(self._sends) // TOKENS
            self._sends[start](self.hop, start)

    def hop(self, here: int) -> None:
        self._left -= 1
        if self._left > 0:
            there = self._following[here]
            self._sends[there](self.hop, there)
        elif self._left == 0:
            self._over()


def on_reactor(core: int, count: int) -> Side:
    def measure(hops: int) -> float:
        lib = spdkthread.ThreadLib()
        with pinned(*cores()):
            reactor = spdkthread.Reactor(core, idle="poll", lib=lib)
        threads = [reactor.create_thread(ring_size=64) for _ in range(count)]
        reactor.start()
        ring = Hops(successors(count), [thread.send_msg for thread in threads])
        try:
            go_round(ring, max(count, 1_000))  # every object once: its memory is there
            return go_round(ring, hops)
        finally:
            reactor.stop()
            lib.close()

    return measure


def go_round(ring: Hops, hops: int) -> float:
    done = threading.Event()
    begin = perf_counter_ns()
    ring.begin(hops, done.set)
    done.wait()
    return perf_counter_ns() - begin


def on_loop(new_loop, count: int) -> Side:
    loop = new_loop()
    ring = Hops(successors(count), [loop.call_soon] * count)

    def measure(hops: int) -> float:
        begin = perf_counter_ns()
        loop.call_soon(ring.begin, hops, loop.stop)
        loop.run_forever()
        elapsed = perf_counter_ns() - begin
        # The tokens that are still under way.
        loop.call_soon(loop.call_soon, loop.stop)
        loop.run_forever()
        return elapsed

    return measure
