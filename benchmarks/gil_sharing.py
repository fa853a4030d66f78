"""How the GIL is shared: two reactors with busy Python pollers, and a main thread that computes.

Each of the three does the same small pieces of Python work, as many as it can, for a fixed time, at several switch
intervals. A share is its part of all pieces done. The peer is CPython alone: three plain threads in the same places.
A wait is how long a reactor with Python work to do had to wait for the GIL, on average. On a build without the GIL
there is nothing to share; the pieces show what that is worth.
"""

from __future__ import annotations

import sys
import threading
import time

import spdkthread

from . import ours
from .build import two_cores
from .harness import Budget, Row, pinned

QUESTION = "How is the GIL shared between two busy reactors and a main thread?"
INTERVALS_MS = (5.0, 0.5, 0.05)
SECONDS = {"smoke": 0.1, "quick": 1.0, "full": 4.0}
PIECE = range(400)


def piece() -> int:
    """Some ten microseconds of Python."""
    total = 0
    for number in PIECE:
        total += number
    return 1


def run(budget: Budget) -> list[Row]:
    rows = []
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    before = sys.getswitchinterval()
    try:
        for interval_ms in INTERVALS_MS if has_gil else INTERVALS_MS[:1]:
            sys.setswitchinterval(interval_ms / 1000)
            name = f"switch interval {interval_ms:g} ms" if has_gil else "no GIL"
            rows += compared(name, SECONDS[budget.mode], interval_ms)
    finally:
        sys.setswitchinterval(before)
    return rows


def compared(name: str, seconds: float, interval_ms: float) -> list[Row]:
    theirs = with_threads(seconds)
    mine, stats = with_reactors(seconds)
    rows = [
        Row(
            f"{name}: share of {who}",
            100 * mine[index] / sum(mine),
            "% of the pieces",
            100 * theirs[index] / sum(theirs),
            "three plain threads",
            figure="switch-interval",
            series=who,
            x=interval_ms,
        )
        for index, who in enumerate(("reactor 1", "reactor 2", "the main thread"))
    ]
    rows.append(cost(f"{name}: a piece, all in all", seconds, mine, theirs))
    waits = sum(one.gil_waits for one in stats)
    waited = sum(one.gil_wait_ticks for one in stats)
    rows.append(
        Row(
            f"{name}: a reactor's wait for the GIL",
            waited / waits if waits else 0.0,
            note=f"{waits:,} waits, {100 * waited / 1e9 / (2 * seconds):.0f} % of the reactors' time",
        )
    )
    return rows


def cost(name: str, seconds: float, mine: list[int], theirs: list[int]) -> Row:
    row = Row(name, seconds * 1e9 / sum(mine), "ns", seconds * 1e9 / sum(theirs), "three plain threads")
    row.ratio = row.ours / row.peer
    return row


def computing(seconds: float) -> int:
    """Do pieces on the calling OS thread; how many were done."""
    done = 0
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        piece()
        done += 1
    return done


def with_threads(seconds: float) -> list[int]:
    done = [0, 0, 0]

    def work(index: int, core: int) -> None:
        with pinned(core):
            done[index] = computing(seconds)

    threads = [threading.Thread(target=work, args=(index, core)) for index, core in enumerate(two_cores())]
    for thread in threads:
        thread.start()
    done[2] = computing(seconds)
    for thread in threads:
        thread.join()
    return done


def with_reactors(seconds: float) -> tuple[list[int], list[spdkthread.ReactorStats]]:
    lib = spdkthread.ThreadLib()
    reactors = [ours.reactor(lib, core, "adaptive") for core in two_cores()]
    pollers = [reactor.create_thread().register_poller(piece) for reactor in reactors]
    time.sleep(0.02)
    before = [poller.run_count for poller in pollers]
    stats = [reactor.stats for reactor in reactors]
    main = computing(seconds)
    done = [poller.run_count - count for poller, count in zip(pollers, before, strict=True)]
    stats = [
        now._replace(gil_waits=now.gil_waits - then.gil_waits, gil_wait_ticks=now.gil_wait_ticks - then.gil_wait_ticks)
        for now, then in zip([reactor.stats for reactor in reactors], stats, strict=True)
    ]
    for poller in pollers:
        poller.unregister()
    for reactor in reactors:
        reactor.stop()
    lib.close()
    return [*done, main], stats
