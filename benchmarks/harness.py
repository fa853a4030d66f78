"""How everything here is measured.

Two sides of a comparison run in turn, many times, in one process tree: a machine that is slow for a second is slow for
both. What is reported is the medians of both sides and the ratio of these two, and beside it the quartiles of the
ratios of neighbouring runs, in which noise that hits both sides cancels. Every figure is a cost (lower is better), and
a ratio below 1 means that spdkthread is cheaper.
"""

from __future__ import annotations

import math
import os
import statistics
import time
from collections.abc import Callable, Iterable
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field

Side = Callable[[int], float]
"""Does the work n times and returns the nanoseconds that it took."""

PERCENTILES = (50, 90, 99, 99.9, 99.99)
BEYOND = 10
"""A percentile is given where so many samples lie beyond it: with fewer it says how long one stall was."""


class Unavailable(Exception):
    """A side that cannot be measured here, and why."""


@dataclass(frozen=True)
class Budget:
    """How long a benchmark may take: ``smoke`` only shows that it runs, ``quick`` is for development."""

    mode: str
    repeats: int
    slice_s: float
    samples: int
    largest: int

    @classmethod
    def of(cls, mode: str) -> Budget:
        return {
            "smoke": cls("smoke", repeats=2, slice_s=0.001, samples=200, largest=10_000),
            "quick": cls("quick", repeats=7, slice_s=0.012, samples=10_000, largest=1_000_000),
            "full": cls("full", repeats=21, slice_s=0.04, samples=200_000, largest=1_000_000),
        }[mode]

    @property
    def is_smoke(self) -> bool:
        return self.mode == "smoke"

    def sizes(self, sizes: Iterable[int]) -> list[int]:
        """Leave out the sizes that would not fit into the time, but never all of them."""
        wanted = list(sizes)
        return [size for size in wanted if size <= self.largest] or wanted[:1]


@dataclass(frozen=True)
class Target:
    """A promise of the design: at most so many times the peer's figure, or at most so much."""

    text: str
    ratio: float | None = None
    value: float | None = None


@dataclass
class Row:
    """One line of a table."""

    name: str
    ours: float | None
    unit: str = "ns"
    peer: float | None = None
    peer_name: str = ""
    ratio: float | None = None
    spread: tuple[float, float] | None = None
    target: str = ""
    met: bool | None = None
    note: str = ""
    percentiles: dict[str, dict[str, float]] = field(default_factory=dict)
    curves: dict[str, list[tuple[float, float]]] = field(default_factory=dict)
    figure: str = ""
    series: str = ""
    x: float | None = None

    def aim(self, target: Target | None) -> Row:
        """Set the target beside the figure."""
        if target is not None:
            self.target = target.text
            figure, limit = (self.ratio, target.ratio) if target.ratio is not None else (self.ours, target.value)
            self.met = None if figure is None or limit is None else figure <= limit
        return self

    def as_dict(self) -> dict[str, object]:
        return asdict(self)


def interleave(sides: dict[str, Callable[[], float]], repeats: int) -> dict[str, list[float]]:
    """Call every side in turn, `repeats` times, the order reversed every other round."""
    figures: dict[str, list[float]] = {name: [] for name in sides}
    names = list(sides)
    for turn in range(repeats):
        for name in names if turn % 2 == 0 else reversed(names):
            figures[name].append(sides[name]())
    return figures


def calibrated(side: Side, budget: Budget, multiple: int = 1, largest: int = 1 << 30) -> Callable[[], float]:
    """Return a call that runs `side` for about the budget's slice of time and gives its cost per unit of work."""
    count, wanted = multiple, budget.slice_s * 1e9
    while True:  # the warm-up, too
        # The better of two: one hiccup must not make the work look long, and its share of fixed costs large.
        elapsed = min(side(count), side(count))
        if elapsed >= wanted / 4 or count >= largest:
            break
        count = min(largest, count * (4 if elapsed <= wanted / 64 else 2))
    count = max(1, min(int(count * wanted / max(elapsed, 1)), largest) // multiple) * multiple
    return lambda: side(count) / count


def quartiles(values: list[float]) -> tuple[float, float]:
    if len(values) < 2:
        return values[0], values[0]
    low, _, high = statistics.quantiles(values, n=4, method="inclusive")
    return low, high


def ratio_row(name: str, ours: list[float], peer: list[float], peer_name: str, unit: str = "ns") -> Row:
    """Return the row of two interleaved series: medians, their ratio, and the quartiles of the pairs' ratios."""
    ratios = [a / b for a, b in zip(ours, peer, strict=True) if b > 0]
    mine, its = statistics.median(ours), statistics.median(peer)
    return Row(name, mine, unit, its, peer_name, mine / its if its > 0 else None, quartiles(ratios) if ratios else None)


def compare(
    name: str,
    ours: Side | None,
    peers: dict[str, Side],
    budget: Budget,
    *,
    multiple: int = 1,
    largest: int = 1 << 30,
    targets: dict[str, Target] | None = None,
    best: Target | None = None,
    absolute: Target | None = None,
    unit: str = "ns",
    scale: float = 1.0,
    figure: str = "",
    series: str = "spdkthread",
    x: float | None = None,
) -> list[Row]:
    """Measure one thing on all sides and return a row per peer.

    `targets` are judged on the row of the peer that they name, `best` on that of the cheapest peer, `absolute` on our
    own figure (in the last row). `scale` multiplies nanoseconds into `unit`.
    """
    sides = {} if ours is None else {"": ours}
    sides.update(peers)
    figures = interleave(
        {key: calibrated(side, budget, multiple, largest) for key, side in sides.items()}, budget.repeats
    )
    figures = {key: [value * scale for value in values] for key, values in figures.items()}
    rows = []
    for peer_name in peers:
        if ours is None:
            row = Row(name, None, unit, statistics.median(figures[peer_name]), peer_name)
        else:
            row = ratio_row(name, figures[""], figures[peer_name], peer_name, unit)
        rows.append(row.aim((targets or {}).get(peer_name)))
    if best is not None and rows:
        min(rows, key=lambda row: row.peer).aim(best)
    if ours is not None and (absolute is not None or not rows):
        rows.append(Row(name, statistics.median(figures[""]), unit, spread=quartiles(figures[""])).aim(absolute))
    for row in rows:
        row.figure, row.series, row.x = figure, series, x
    return rows


def missing(name: str, peer_name: str, reason: object) -> Row:
    """Return a row that says why a peer is not in the table."""
    return Row(name, None, peer_name=peer_name, note=f"not measured: {reason}")


def available(sides: dict[str, Callable[[], Side]], name: str) -> tuple[dict[str, Side], list[Row]]:
    """Build each side; those that are not installed become rows that say so."""
    built: dict[str, Side] = {}
    rows: list[Row] = []
    for key, make in sides.items():
        try:
            built[key] = make()
        except (ImportError, Unavailable) as reason:
            rows.append(missing(name, key, reason))
    return built, rows


# Latency ------------------------------------------------------------------------------------------------------------


def histogram(samples, expected_interval_ns: int = 0):
    """Return the HDR histogram of samples in ns, corrected for coordinated omission when an interval is given."""
    import numpy
    from hdrh.histogram import HdrHistogram

    result = HdrHistogram(1, 60 * 10**9, 3)
    values, counts = numpy.unique(numpy.asarray(samples, dtype=numpy.int64), return_counts=True)
    for value, count in zip(values.tolist(), counts.tolist(), strict=True):
        value = max(1, min(value, 60 * 10**9))
        if expected_interval_ns:
            result.record_corrected_value(value, expected_interval_ns, count)
        else:
            result.record_value(value, count)
    return result


def percentiles(result) -> dict[str, float]:
    known = {f"p{p:g}": result.get_value_at_percentile(p) for p in PERCENTILES if enough(result, p)}
    return known | {"max": result.get_max_value()}


def enough(result, percentile: float) -> bool:
    return result.get_total_count() * (100 - percentile) / 100 >= BEYOND - 1e-6


def curve(result) -> list[tuple[float, float]]:
    """Return (percentile, ns) up to 99.99, denser towards the tail, as far as there are samples for it."""
    points = [100 * (1 - 10 ** (-4 * i / 80)) for i in range(81)]
    return [(point, result.get_value_at_percentile(point)) for point in points if enough(result, point)]


def latency_rows(
    name: str,
    samples: dict[str, object],
    *,
    ours: str,
    figure: str,
    corrected: bool,
    note: str = "",
    targets: dict[tuple[str, str], Target] | None = None,
) -> list[Row]:
    """Return one row per peer (or one, of ours alone) with the percentiles of every side in each.

    `corrected`: the samples come from a loop that waits for each answer before it asks again. Its expected interval
    is its own median, so that a stall counts once for every question that it kept from being asked. `targets`, by peer
    and percentile ("p99"), make a row each for what is not the median.
    """
    import numpy

    try:
        import hdrh.histogram  # noqa: F401
    except ImportError as reason:
        return [missing(name, key, reason) for key in samples if key != ours]
    histograms = {}
    for key, values in samples.items():
        interval = int(numpy.median(values)) if corrected and len(values) else 0
        histograms[key] = histogram(values, interval)
    tables = {key: percentiles(value) for key, value in histograms.items()}
    curves = {key: curve(value) for key, value in histograms.items()}
    targets = targets or {}
    rows = []
    for key in [key for key in tables if key != ours] or [""]:
        for which in ["p50", *(of for peer, of in targets if peer == key and of != "p50")]:
            mine = tables.get(ours, {}).get(which)
            its = tables[key].get(which) if key else None
            if which != "p50" and (mine is None or its is None):
                continue
            row = Row(name, mine, f"ns {which}", its, key, note=note, figure=figure)
            if mine and its:
                row.ratio = mine / its
            if which == "p50":
                row.percentiles = {side: tables[side] for side in (ours, key) if side in tables}
                row.curves = {side: curves[side] for side in (ours, key) if side in curves}
            rows.append(row.aim(targets.get((key, which))))
    return rows


# Placement and time -------------------------------------------------------------------------------------------------


def pin(core: int) -> None:
    """Keep the calling OS thread on one core, where the system can do that."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {core})


@contextmanager
def pinned(*on: int):
    """Keep the calling OS thread on these cores for a while."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, on)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def timed(fn: Callable[[int], object]) -> Side:
    """Turn a loop that runs n times into a side: a clock before it and one after."""
    clock = time.perf_counter_ns

    def side(count: int) -> float:
        begin = clock()
        fn(count)
        return clock() - begin

    return side


def wait_for(condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
    """Wait until something is true that another thread makes true; an answer that never comes is an error."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not happen within {timeout_s:g} s")
        time.sleep(0.0005)


def human(value: float | None) -> str:
    """Return a figure with three significant digits, as a table shows it."""
    if value is None:
        return "-"
    if value == 0:
        return "0"
    digits = max(0, 2 - math.floor(math.log10(abs(value))))
    return f"{value:,.{digits}f}"
