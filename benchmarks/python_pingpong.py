"""Python ping-pong between two loops on two cores.

Each side runs a Python function that sends the answer. The peers wait in the kernel between the two; spdkthread's
reactors spin without the GIL. The distribution is corrected for coordinated omission.
"""

from __future__ import annotations

from . import ours
from .build import two_cores
from .harness import Budget, Row, Target, calibrated, compare, latency_rows, missing
from .peers import PINGPONGS, load

QUESTION = "How long is a Python round trip between two cores?"
NAME = "Python ping-pong"


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    # Our reactors spin, also while a peer is measured: so they run only while they are measured themselves.
    sides, rows = {ours.NAME: Apart(ours.PingPong, first, second)}, []
    for name, where in PINGPONGS.items():
        try:
            sides[name] = load(where)()
            sides[name].start(first, second)
        except ImportError as reason:
            rows.append(missing(NAME, name, reason))
    peers = {name: side.run for name, side in sides.items() if name != ours.NAME}
    rows = compare(NAME, sides[ours.NAME].run, peers, budget, best=Target("≤ 1/20 of the best peer", ratio=0.05)) + rows
    samples = {}
    for name, side in sides.items():
        samples[name] = []
        # Slow sides take as many samples as fit into the time of the fast ones.
        per_trip = calibrated(side.run, budget)()
        side.run(min(budget.samples, max(100, int(budget.slice_s * budget.repeats * 1e9 / per_trip))), samples[name])
    rows += latency_rows(f"{NAME}, distribution", samples, ours=ours.NAME, figure="percentile", corrected=True)
    for side in sides.values():
        side.stop()
    return rows


class Apart:
    """A ping-pong whose threads exist only while it runs."""

    def __init__(self, make, *cores):
        self._make, self._cores = make, cores

    def run(self, count: int, samples: list[int] | None = None) -> float:
        side = self._make()
        side.start(*self._cores)
        try:
            return side.run(count, samples)
        finally:
            side.stop()

    def stop(self) -> None:
        pass
