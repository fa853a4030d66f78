"""How much of a core an event loop uses that has nothing to do, or a timer now and then: CPU time over wall time."""

from __future__ import annotations

import time

from . import ours
from .environment import cores
from .harness import Budget, Row, Target, available, interleave, ratio_row
from .peers import loops

QUESTION = "What does an idle event loop cost?"
SECONDS = {"smoke": 0.05, "quick": 0.3, "full": 1.0}
ROUNDS = {"smoke": 1, "quick": 3, "full": 5}
NOTHING = Target("< 0.5 % of a core", value=0.5)


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    for name, period_s in (("nothing to do", None), ("a timer every 10 ms", 0.010)):

        def side(loop: str):
            ours.EVENT_LOOPS[loop]().close()  # is it there?
            return lambda: share(loop, period_s, SECONDS[budget.mode])  # noqa: B023 - called in this turn

        sides, absent = available({loop: lambda loop=loop: side(loop) for loop in ours.EVENT_LOOPS}, name)
        figures = interleave(sides, ROUNDS[budget.mode])
        mine = figures.pop("aio.EventLoop")
        for peer, theirs in figures.items():
            row = ratio_row(name, mine, theirs, peer, "% of a core")
            if period_s is None:
                row.ratio = row.spread = None  # next to nothing of next to nothing
                row.aim(NOTHING)
            rows.append(row)
        rows += absent
    return rows


def share(name: str, period_s: float | None, seconds: float) -> float:
    thread = loops.LoopThread(ours.EVENT_LOOPS[name], cores()[-1])
    loop = thread.loop

    def tick() -> None:
        loop.call_later(period_s, tick)

    if period_s is not None:
        loop.call_soon_threadsafe(tick)
    time.sleep(0.02)
    cpu, wall = time.process_time(), time.perf_counter()
    time.sleep(seconds)
    used = 100 * (time.process_time() - cpu) / (time.perf_counter() - wall)
    thread.stop()
    return used
