"""From the moment when a message should be sent to the moment when its function runs, on a fixed schedule.

Open loop: the sender keeps to its schedule however late the answers are, and latency counts from the scheduled time,
so a stall is charged to every message that it delays. The sender waits without the GIL.

Each rate is measured twice: as any process runs, and with a real-time priority, in stretches of a quarter of a second,
where the system lets one have it. What the first adds to the second is the time for which the kernel gave a core to
another process.
"""

from __future__ import annotations

import ctypes
import os
import time
from contextlib import contextmanager, nullcontext
from time import perf_counter_ns

from . import ours
from .build import shared_library, two_cores
from .harness import Budget, Row, Target, interleave, latency_rows, missing, pinned, wait_for
from .peers import RECEIVERS, load

QUESTION = "How late is a Python message on another core, up to the 99.99th percentile?"
RATES = (1_000, 10_000)
SECONDS = {"smoke": 0.02, "quick": 1.2, "full": 12.0}
REAL_TIME_SLICE_S = 0.25
ADAPTIVE = 'idle="adaptive"'
JUDGED = ("SimpleQueue", "asyncio")
TARGETS = {
    **{(peer, "p50"): Target("≤ 0.1 ×", ratio=0.1) for peer in JUDGED},
    **{(peer, which): Target("≤ 1 ×", ratio=1.0) for which in ("p99", "p99.9") for peer in JUDGED},
}


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    wait_until = shared_library("pace").wait_until
    wait_until.argtypes, wait_until.restype = [ctypes.c_uint64], None
    receivers, rows = {ours.NAME: ours.Receiver, ADAPTIVE: lambda: ours.Receiver("adaptive")}, []
    for name, where in RECEIVERS.items():
        try:
            make = load(where)
            make()
            receivers[name] = make
        except ImportError as reason:
            rows.append(missing("one way", name, reason))
    seconds = SECONDS[budget.mode]
    for rate in RATES:
        name = f"one way, {rate:,} a second"
        rows += measured(name, receivers, (first, second), rate, seconds, 2 if budget.is_smoke else 5, wait_until)
        try:
            with real_time():
                pass
        except PermissionError as reason:
            rows.append(missing(f"{name}, real-time priority", "", reason))
            continue
        few = {key: make for key, make in receivers.items() if key in (ours.NAME, ADAPTIVE, *JUDGED)}
        turns = 2 if budget.is_smoke else max(2, round(seconds / REAL_TIME_SLICE_S))
        rows += measured(
            f"{name}, real-time priority", few, (first, second), rate, seconds, turns, wait_until, real_time
        )
    return rows


@contextmanager
def real_time():
    """Have the calling OS thread, and what it starts, run before everything that has no such priority."""
    if not hasattr(os, "sched_setscheduler"):
        raise PermissionError("this system has no sched_setscheduler")
    before = os.sched_getscheduler(0), os.sched_getparam(0)
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    try:
        yield
    finally:
        os.sched_setscheduler(0, *before)


def measured(name, receivers, on, rate, seconds, turns, wait_until, priority=nullcontext) -> list[Row]:
    samples: dict[str, list[int]] = {key: [] for key in receivers}

    def turn(key: str) -> float:
        with priority():
            one_turn(receivers[key](), on[1], rate, seconds / turns, wait_until, samples[key])
        # After a stretch that nothing else could interrupt, others have theirs.
        time.sleep(0.01 if priority is nullcontext else REAL_TIME_SLICE_S)
        return 0.0

    with pinned(on[0]):
        interleave({key: lambda key=key: turn(key) for key in receivers}, turns)
    return latency_rows(
        name,
        samples,
        ours=ours.NAME,
        figure=name.replace(",", "").replace(" ", "-"),
        corrected=False,
        targets=TARGETS,
    )


def one_turn(receiver, core: int, rate: int, seconds: float, wait_until, samples: list[int]) -> None:
    late = []

    def arrived(due: int) -> None:
        late.append(perf_counter_ns() - due)

    receiver.start(core)
    try:
        send = receiver.send
        period = 1_000_000_000 // rate
        count = max(10, int(rate * seconds))
        due = perf_counter_ns() + 5_000_000
        for _ in range(count):
            wait_until(due)
            send(arrived, due)
            due += period
        wait_for(lambda: len(late) == count, "the last message")
    finally:
        receiver.stop()
    samples += late[count // 10 :]  # the beginning warms up
