"""A poller of fixed rate at 10 kHz, beside a thread that sleeps with `time.sleep` until its next deadline.

Deadlines lie at start + k x 100 us for all. What is counted is runs and missed deadlines per second, which together
must be 10,000, and how late each run is against the deadline for which it runs. Each side has the machine for itself
for the same time, first with a main thread that sleeps, then with one that multiplies matrices in NumPy.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from time import perf_counter_ns

import spdkthread

from . import ours
from .build import native_side
from .environment import cores
from .harness import Budget, Row, Target, pin

QUESTION = "Does a poller of fixed rate run 10,000 times a second, and how late?"
PERIOD_US = 100
PERIOD_NS = PERIOD_US * 1_000
SECONDS = {"smoke": 0.2, "quick": 2.0, "full": 10.0}
SIDES = ("native, adaptive", "Python, adaptive", "native, poll", "Python, poll", "time.sleep")

PERCENTILES = (50, 99, 99.9)
NO_LATER = Target("≤ time.sleep", ratio=1.0)

Outcome = tuple[list[int], int, int]
"""Lateness of each run in nanoseconds, missed deadlines, and the nanoseconds from start to end."""


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    core = cores()[-1]
    for beside, work in (("an idle main thread", time.sleep), ("NumPy on the main thread", multiply)):
        samples: dict[str, list[int]] = {}
        for side in SIDES:
            late, missed, elapsed_ns = measure(side, core, work, SECONDS[budget.mode])
            samples[side] = late
            per_second = 1e9 / max(elapsed_ns, 1)
            rows.append(
                Row(
                    f"{side}, beside {beside}: runs and misses per second",
                    (len(late) + missed) * per_second,
                    "1/s",
                    note=f"{len(late) * per_second:,.0f} runs, {missed * per_second:,.1f} misses",
                )
            )
        tables = {side: percentiles(late) for side, late in samples.items()}
        for side in SIDES[:-1]:
            for name, ours_ns in tables[side].items():
                peer_ns = tables["time.sleep"][name]
                row = Row(
                    f"{side}, beside {beside}: lateness, {name}",
                    ours_ns,
                    "ns",
                    peer_ns,
                    "time.sleep",
                    ours_ns / peer_ns,
                )
                rows.append(row.aim(NO_LATER if name == "p99" else None))
    return rows


def percentiles(late: list[int]) -> dict[str, float]:
    """Return those of the lateness in nanoseconds."""
    import numpy

    values = numpy.percentile(numpy.maximum(late or [0], 1), PERCENTILES)
    return {f"p{point:g}": float(value) for point, value in zip(PERCENTILES, values, strict=True)}


def multiply(seconds: float) -> None:
    """Keep the calling thread in NumPy, which lets go of the GIL inside each product and takes it in between."""
    import numpy

    matrix = numpy.random.default_rng(1).random((256, 256))
    give_up = time.monotonic() + seconds
    while time.monotonic() < give_up:
        matrix @ matrix


def measure(side: str, core: int, work: Callable[[float], None], seconds: float) -> Outcome:
    if side == "time.sleep":
        return sleeping_thread(core, work, seconds)
    kind, idle = side.split(", ")
    lib = spdkthread.ThreadLib()
    reactor = ours.reactor(lib, core, idle)
    thread = reactor.create_thread("fixed rate")
    try:
        return (native_poller if kind == "native" else python_poller)(thread, work, seconds)
    finally:
        reactor.stop()
        lib.close()


def native_poller(thread, work: Callable[[float], None], seconds: float) -> Outcome:
    late, poller, elapsed_ns = native_side().fixed_rate_lateness(
        thread, PERIOD_US, int(2e9 * seconds / PERIOD_NS) + 1_000, lambda: work(seconds)
    )
    return late.tolist(), poller.overrun_count, elapsed_ns


def python_poller(thread, work: Callable[[float], None], seconds: float) -> Outcome:
    late: list[int] = []
    poller = None

    def tick() -> int:
        late.append(perf_counter_ns() - poller.deadline)
        return 1

    def register() -> int:
        nonlocal poller
        poller = thread.register_poller(tick, PERIOD_US, fixed_rate=True)
        return perf_counter_ns()

    def unregister() -> int:
        poller.unregister()
        return perf_counter_ns()

    start = thread.call(register).result()
    work(seconds)
    end = thread.call(unregister).result()
    return late, poller.overrun_count, end - start


def sleeping_thread(core: int, work: Callable[[float], None], seconds: float) -> Outcome:
    late: list[int] = []
    missed = elapsed_ns = 0
    done = threading.Event()

    def loop() -> None:
        nonlocal missed, elapsed_ns
        pin(core)
        start = perf_counter_ns()
        deadline = start + PERIOD_NS
        while not done.is_set():
            left = deadline - perf_counter_ns()
            if left > 0:
                time.sleep(left / 1e9)
            behind = perf_counter_ns() - deadline
            late.append(behind)
            skipped = behind // PERIOD_NS
            missed += skipped
            deadline += (skipped + 1) * PERIOD_NS
        elapsed_ns = perf_counter_ns() - start

    thread = threading.Thread(target=loop)
    thread.start()
    work(seconds)
    done.set()
    thread.join()
    return late, missed, elapsed_ns
