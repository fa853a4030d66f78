"""SPDK's poller_perf: b pollers of one thread, each counts and says that it was busy.

Cost per run as SPDK computes it: busy ticks of the thread divided by the runs of its pollers. Active ones (period 0)
and timed ones (period 1 us), driven by a reactor for a while.
"""

from __future__ import annotations

import time

from . import ours
from .build import native_side
from .environment import cores
from .harness import Budget, Row, Unavailable, missing

QUESTION = "poller_perf: what does the reactor spend on one run of a poller?"
POLLERS = (1, 10, 1_000)
SECONDS = {"smoke": 0.02, "quick": 0.2, "full": 1.0}


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    try:
        native = native_side()
    except Unavailable as reason:
        native = None
        rows.append(missing("native", "", reason))
    for period_us in (0, 1):
        for count in POLLERS:
            kind = f"{count:,} {'timed, 1 us' if period_us else 'active'}"
            if native is not None:
                rows.append(
                    measure(
                        f"native, {kind}",
                        count,
                        budget,
                        lambda t, n, p=period_us: native.register_busy_pollers(t, n, p),
                    )
                )
            rows.append(measure(f"Python, {kind}", count, budget, lambda t, n, p=period_us: python_pollers(t, n, p)))
    return rows


def python_pollers(thread, count: int, period_us: int) -> None:
    def busy() -> int:
        return 1

    for _ in range(count):
        thread.register_poller(busy, period_us)


def measure(name: str, count: int, budget: Budget, register) -> Row:
    receiver = ours.Receiver(poller_policy="all")
    receiver.start(cores()[-1])
    thread = receiver.thread
    try:
        thread.call(register, thread, count).result()
        time.sleep(SECONDS[budget.mode] / 4)
        before = thread.stats
        time.sleep(SECONDS[budget.mode])
        after = thread.stats
        thread.call(lambda: [poller.unregister() for poller in thread.pollers]).result()
    finally:
        receiver.stop()
    runs = after.pollers_run - before.pollers_run
    return Row(name, (after.busy_ticks - before.busy_ticks) / runs if runs else None)
