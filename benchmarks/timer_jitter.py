"""10,000 periodic timers at once: how late is each, against the deadline that its period promised?

Periods of 50 to 150 ms, 100,000 expiries a second and more. A timer that fires notes how far the deadline for which it
runs lies back: for a poller the one in the timer queue, for an event loop the time that it was asked for.
"""

from __future__ import annotations

import random
import threading
import time
from functools import partial
from time import perf_counter_ns

from . import ours
from .build import native_side
from .environment import cores
from .harness import Budget, Row, latency_rows, missing
from .peers import loops

QUESTION = "How late are 10,000 periodic timers?"
TIMERS = 10_000
SECONDS = {"smoke": 0.3, "quick": 1.5, "full": 6.0}


def run(budget: Budget) -> list[Row]:
    core = cores()[-1]
    count = 500 if budget.is_smoke else TIMERS
    generator = random.Random(4)
    periods = [generator.randrange(50_000_000, 150_000_000) for _ in range(count)]
    seconds = SECONDS[budget.mode]
    native = native_side()
    samples = {
        "spdkthread, Python": python_pollers(periods, seconds, core, native.lateness),
        "spdkthread, native": native.timer_lateness(periods, seconds, core),
    }
    rows: list[Row] = []
    for name, new_loop in loops.LOOPS.items():
        try:
            samples[name] = loop_timers(new_loop, periods, seconds, core)
        except ImportError as reason:
            rows.append(missing("periodic timers", name, reason))
    return (
        latency_rows(
            f"{count:,} periodic timers, lateness",
            samples,
            ours="spdkthread, Python",
            figure="percentile-of-lateness",
            corrected=False,
        )
        + rows
    )


def python_pollers(periods: list[int], seconds: float, core: int, lateness) -> list[int]:
    late: list[int] = []
    pollers = []

    def tick(index: int) -> int:
        late.append(lateness(pollers[index]))
        return 1

    receiver = ours.Receiver()
    receiver.start(core)
    thread = receiver.thread

    def register() -> None:
        for index, period in enumerate(periods):
            pollers.append(thread.register_poller(partial(tick, index), period / 1000))

    thread.call(register).result()
    time.sleep(seconds)
    thread.call(lambda: [poller.unregister() for poller in pollers]).result()
    receiver.stop()
    return late


def loop_timers(new_loop, periods: list[int], seconds: float, core: int) -> list[int]:
    late: list[int] = []
    due = [0] * len(periods)
    thread = loops.LoopThread(new_loop, core)
    loop = thread.loop
    done = threading.Event()

    def arm(index: int) -> None:
        # The loop's clock is that of perf_counter_ns.
        due[index] = perf_counter_ns() + periods[index]
        loop.call_at(due[index] / 1e9, tick, index)

    def tick(index: int) -> None:
        late.append(perf_counter_ns() - due[index])
        if not done.is_set():
            arm(index)

    def register() -> None:
        for index in range(len(periods)):
            arm(index)

    loop.call_soon_threadsafe(register)
    time.sleep(seconds)
    done.set()
    thread.stop()
    return late
