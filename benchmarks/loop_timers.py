"""`call_later` on three event loops: timeouts that are cancelled, and timers that expire, with others pending.

asyncio keeps a heap and forgets a cancelled timer when half of them are; uvloop has a libuv handle per timer; ours is
the library's timer queue.
"""

from __future__ import annotations

import random
from time import perf_counter_ns

from . import ours
from .environment import cores
from .harness import Budget, Row, Side, Target, available, compare, pinned
from .peers import loops

QUESTION = "What does a timer of an event loop cost?"
NO_SLOWER = Target("≤ uvloop", ratio=1.0)
BATCH = 1_000


def nothing():
    pass


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    with pinned(cores()[0]):
        for pending in budget.sizes((100, 10_000, 100_000)):
            for name, make in (("call_later and cancel", cancelled), ("call_later and run", expiring)):
                name = f"{name}, {pending:,} pending"
                peers, absent = available(
                    {loop: lambda loop=loop, make=make, pending=pending: make(loop, pending) for loop in loops.LOOPS},
                    name,
                )
                rows += compare(
                    name,
                    make("aio.EventLoop", pending),
                    peers,
                    budget,
                    multiple=BATCH,
                    targets={"uvloop": NO_SLOWER},
                    figure=make.__name__,
                    x=pending,
                )
                rows += absent
    return rows


class Loop:
    """A loop with timers pending that will not expire while we measure."""

    def __init__(self, name: str, pending: int):
        generator = random.Random(pending)
        self.loop = ours.EVENT_LOOPS[name]()
        self.pending = [self.loop.call_later(generator.uniform(600, 4200), nothing) for _ in range(pending)]

    def run(self, fn) -> float:
        """Run the loop from ``fn`` on until it is stopped."""
        self.loop.call_soon(fn)
        begin = perf_counter_ns()
        self.loop.run_forever()
        return perf_counter_ns() - begin


def cancelled(name: str, pending: int) -> Side:
    on = Loop(name, pending)
    generator = random.Random(1)
    delays = [generator.uniform(1.0, 60.0) for _ in range(BATCH)]

    def side(count: int) -> float:
        left = count // BATCH
        call_soon, call_later = on.loop.call_soon, on.loop.call_later

        def turn() -> None:
            nonlocal left
            if not left:
                on.loop.stop()
                return
            left -= 1
            for handle in [call_later(delay, nothing) for delay in delays]:
                handle.cancel()
            call_soon(turn)

        return on.run(turn)

    return side


def expiring(name: str, pending: int) -> Side:
    on = Loop(name, pending)

    def side(count: int) -> float:
        left = count // BATCH
        call_later = on.loop.call_later

        def turn() -> None:
            nonlocal left
            if not left:
                on.loop.stop()
                return
            left -= 1
            for _ in range(BATCH - 1):
                call_later(0.0, nothing)
            call_later(0.0, turn)

        return on.run(turn)

    return side
