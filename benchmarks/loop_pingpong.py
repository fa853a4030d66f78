"""Two event loops on two cores that answer each other with `call_soon_threadsafe`.

asyncio and uvloop write to a pipe and wake up in the kernel for each answer. Ours looks at its ring for `spin_us`
before it sleeps.
"""

from __future__ import annotations

from . import ours
from .build import two_cores
from .harness import Budget, Row, Target, available, calibrated, compare, latency_rows
from .peers import loops

QUESTION = "How long is a round trip between two event loops?"
NAME = "round trip between two loops"


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    pairs = {ours.NAME: ours.EventLoopPingPong, "asyncio": loops.AsyncioPingPong, "uvloop": loops.UvloopPingPong}
    started = {}

    def start(name: str):
        started[name] = pairs[name]()
        started[name].start(first, second)
        return started[name].run

    sides, absent = available({name: lambda name=name: start(name) for name in pairs}, NAME)
    mine = sides.pop(ours.NAME)
    rows = compare(NAME, mine, sides, budget, targets={"uvloop": Target("≤ 1/10 of uvloop's", ratio=0.1)}) + absent
    samples: dict[str, list[int]] = {}
    for name, side in started.items():
        samples[name] = []
        per_trip = calibrated(side.run, budget)()
        side.run(min(budget.samples, max(100, int(budget.slice_s * budget.repeats * 1e9 / per_trip))), samples[name])
    rows += latency_rows(f"{NAME}, distribution", samples, ours=ours.NAME, figure="percentile", corrected=True)
    for side in started.values():
        side.stop()
    return rows
