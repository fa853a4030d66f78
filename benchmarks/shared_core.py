"""A Python round trip between two cores that processes which compute use as well.

The processes are the benchmark's own: one on one core, or one on each. Every side does the same fixed number of round
trips, so that a lost slice is spread over as many on each side, and each is timed by itself. What each way of being
idle costs there: "adaptive" sleeps and is woken ahead of a process that computes; "poll" uses up its slice of the core
and is then off it for one; "yield" gives its slice away at first and then takes naps.
"""

from __future__ import annotations

import os
import queue
import subprocess
import sys
import threading
from contextlib import contextmanager
from time import perf_counter_ns

import spdkthread

from . import ours
from .build import two_cores
from .harness import Budget, Row, Target, pinned

QUESTION = "What does a Python round trip cost on cores that are shared with processes that compute?"
TRIPS = {"smoke": 50, "quick": 1_000, "full": 20_000}
TARGETS = {
    "adaptive": Target("≤ 0.3 x SimpleQueue", ratio=0.3),
    "poll": Target("≤ 1 x SimpleQueue", ratio=1.0),
    "yield": Target("≤ 1 x SimpleQueue", ratio=1.0),
}
HOG = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
print(flush=True)
while os.getppid() == int(sys.argv[2]):
    sum(range(9999))
"""


def run(budget: Budget) -> list[Row]:
    trips = TRIPS[budget.mode]
    rows = []
    both = two_cores()
    for name, busy in (("no core shared", ()), ("one core shared", both[:1]), ("both cores shared", both)):
        with hogs(busy):
            peer = simple_queue(trips)
            for idle, target in TARGETS.items():
                mine, lost = reactors(trips, idle)
                for word, pick in (("mean", None), ("p50", 0.5), ("p99", 0.99)):
                    row = Row(f"{name}, {idle}: {word}", figure(mine, pick), "us", figure(peer, pick), "SimpleQueue")
                    row.ratio = row.ours / row.peer
                    if pick is None:
                        row.aim(target)
                        row.note = f"{trips:,} round trips; the reactors lost {lost} slices"
                    rows.append(row)
    return rows


def figure(times: list[int], part: float | None) -> float:
    if part is None:
        return sum(times) / len(times) / 1e3
    return sorted(times)[min(len(times) - 1, int(len(times) * part))] / 1e3


@contextmanager
def hogs(cores):
    """A process that computes on each of `cores`; ends with this one at the latest."""
    running = []
    try:
        for core in cores:
            command = [sys.executable, "-c", HOG, str(core), str(os.getpid())]
            running.append(subprocess.Popen(command, stdout=subprocess.PIPE))
            running[-1].stdout.readline()
        yield
    finally:
        for process in running:
            process.kill()
            process.wait()
            process.stdout.close()


def reactors(trips: int, idle: str) -> tuple[list[int], int]:
    lib = spdkthread.ThreadLib()
    left, right = (ours.reactor(lib, core, idle) for core in two_cores())
    ping, pong = left.create_thread(), right.create_thread()
    times: list[int] = []
    done = threading.Event()
    began = 0

    def back() -> None:
        nonlocal began
        now = perf_counter_ns()
        times.append(now - began)
        if len(times) == trips:
            done.set()
            return
        began = perf_counter_ns()
        pong.send_msg(there)

    def there() -> None:
        ping.send_msg(back)

    def begin() -> None:
        nonlocal began
        began = perf_counter_ns()
        pong.send_msg(there)

    ping.send_msg(begin)
    done.wait()
    lost = left.stats.slices_lost + right.stats.slices_lost
    for one in (left, right):
        one.stop()
    lib.close()
    return times, lost


def simple_queue(trips: int) -> list[int]:
    there: queue.SimpleQueue = queue.SimpleQueue()
    back: queue.SimpleQueue = queue.SimpleQueue()
    first, second = two_cores()

    def answer() -> None:
        with pinned(second):
            while (item := there.get()) is not None:
                back.put(item)

    thread = threading.Thread(target=answer)
    thread.start()
    times = []
    with pinned(first):
        for number in range(trips):
            began = perf_counter_ns()
            there.put(number)
            back.get()
            times.append(perf_counter_ns() - began)
    there.put(None)
    thread.join()
    return times
