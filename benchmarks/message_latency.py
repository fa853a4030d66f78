"""From the moment when a message should be sent to the moment when its function runs, on a fixed schedule.

Open loop: the sender keeps to its schedule however late the answers are, and latency counts from the scheduled time,
so a stall is charged to every message that it delays. The sender waits without the GIL.
"""

from __future__ import annotations

import ctypes
import time
from time import perf_counter_ns

from . import ours
from .build import shared_library, two_cores
from .harness import Budget, Row, interleave, latency_rows, missing, pinned, wait_for
from .peers import RECEIVERS, load

QUESTION = "How late is a Python message on another core, up to the 99.99th percentile?"
RATES = (1_000, 10_000)
SECONDS = {"smoke": 0.02, "quick": 0.5, "full": 5.0}


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    wait_until = shared_library("pace").wait_until
    wait_until.argtypes, wait_until.restype = [ctypes.c_uint64], None
    receivers, rows = {ours.NAME: ours.Receiver}, []
    for name, where in RECEIVERS.items():
        try:
            make = load(where)
            make()
            receivers[name] = make
        except ImportError as reason:
            rows.append(missing("one way", name, reason))
    turns = 2 if budget.is_smoke else 5
    for rate in RATES:
        samples: dict[str, list[int]] = {name: [] for name in receivers}
        sides = {
            name: lambda name=name, make=make, rate=rate, samples=samples: one_turn(
                make(), second, rate, SECONDS[budget.mode] / turns, wait_until, samples[name]
            )
            for name, make in receivers.items()
        }
        with pinned(first):
            interleave(sides, turns)
        rows += latency_rows(
            f"one way, {rate:,} a second",
            samples,
            ours=ours.NAME,
            figure=f"percentile-at-{rate}-a-second",
            corrected=False,
        )
    return rows


def one_turn(receiver, core: int, rate: int, seconds: float, wait_until, samples: list[int]) -> float:
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
    time.sleep(0.01)
    return 0.0
