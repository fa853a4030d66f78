"""From the send to the run, when the receiver sleeps in the kernel.

The limit is a thread blocked in read() of an eventfd. Between two messages the sender waits long enough for the
receiver to fall asleep; the waiting is on a fixed schedule and not part of the figure.
"""

from __future__ import annotations

import ctypes
import statistics
from time import perf_counter_ns

from . import ours
from .build import Program, native_side, shared_library, two_cores
from .harness import Budget, Row, Target, Unavailable, interleave, latency_rows, missing, pinned, ratio_row, wait_for
from .peers import RECEIVERS, load

QUESTION = "How long does it take to wake a sleeping receiver?"
LIMIT = "a bare eventfd"
PAUSE_US = 300


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    wait_until = shared_library("pace").wait_until
    wait_until.argtypes, wait_until.restype = [ctypes.c_uint64], None
    rows: list[Row] = []
    samples: dict[str, list] = {}
    receiver = ours.Receiver(idle="adaptive")
    receiver.start(second)
    receivers = {}
    for name, where in RECEIVERS.items():
        try:
            receivers[name] = load(where)()
        except ImportError as reason:
            rows.append(missing("Python", name, reason))
            continue
        receivers[name].start(second)
    count = {"smoke": 20, "quick": 100}.get(budget.mode, 300)
    with pinned(first), Program("eventfd_wake", first, second, PAUSE_US) as bare:

        def note(name: str, late) -> float:
            samples.setdefault(name, []).extend(late)
            return statistics.median(late)

        sides = {LIMIT: lambda: note(LIMIT, bare.samples("read", count).tolist())}
        try:
            native = native_side()
            sides["native"] = lambda: note(
                "spdkthread, native", native.wakeups(receiver.thread, PAUSE_US * 1000, count)
            )
        except Unavailable as reason:
            rows.append(missing("native", LIMIT, reason))
        sides["spdkthread, Python"] = lambda: note("spdkthread, Python", wakes(receiver, count, wait_until))
        for name, each in receivers.items():
            sides[name] = lambda name=name, each=each: note(name, wakes(each, count, wait_until))
        figures = interleave(sides, max(3, budget.repeats))
    receiver.stop()
    for each in receivers.values():
        each.stop()
    if "native" in figures:
        row = ratio_row("native message to a sleeping reactor", figures["native"], figures[LIMIT], LIMIT)
        rows.insert(0, row.aim(Target("≤ 1.3 × a bare eventfd wake-up", ratio=1.3)))
    mine = figures["spdkthread, Python"]
    rows += [ratio_row("Python message to a sleeper", mine, figures[name], name) for name in (LIMIT, *receivers)]
    ours_first = "spdkthread, native" if "spdkthread, native" in samples else "spdkthread, Python"
    return rows + latency_rows("wake-up", samples, ours=ours_first, figure="percentile", corrected=False)


def wakes(receiver, count: int, wait_until) -> list[int]:
    late: list[int] = []

    def arrived(sent: int) -> None:
        late.append(perf_counter_ns() - sent)

    send = receiver.send
    due = perf_counter_ns()
    for index in range(count):
        due += PAUSE_US * 1000
        wait_until(due)
        send(arrived, perf_counter_ns())
        wait_for(lambda index=index: len(late) > index, "a wake-up")
        due = max(due, perf_counter_ns())
    return late
