"""How long a plain Python thread waits for the GIL beside reactors whose callbacks are long and never let go of it.

Two reactors have a backlog of callbacks of 0.3 ms that hold the GIL from beginning to end (``bytes.count``): messages
on one thread, on many threads, pollers of both policies. The main thread asks for the GIL again and again, and the time
from each request to the next is measured. The peer is CPython alone: two plain threads that make the same calls. The
longest wait is to stay within three switch intervals.
"""

from __future__ import annotations

import sys
import threading
import time

import spdkthread

from . import ours
from .build import two_cores
from .harness import Budget, Row, Target, pinned

QUESTION = "How long does a plain thread wait for the GIL beside reactors with long callbacks in C?"
SECONDS = {"smoke": 0.05, "quick": 0.5, "full": 3.0}
LONG = bytes(600_000)
NAP_S = 0.0002
CASES = {
    "messages, 1 thread a reactor": (1, 0, "one"),
    "messages, 100 threads a reactor": (100, 0, "one"),
    "a poller": (1, 1, "one"),
    "100 pollers, policy all": (1, 100, "all"),
    "70 threads with 2 pollers": (70, 2, "one"),
}


def long_in_c() -> int:
    LONG.count(b"x")
    return 1


def run(budget: Budget) -> list[Row]:
    seconds = SECONDS[budget.mode]
    theirs = with_plain_threads(seconds)
    limit_ms = 3e3 * sys.getswitchinterval()
    rows = []
    for name, (threads, pollers, policy) in CASES.items():
        mine = with_reactors(seconds, threads, pollers, policy)
        for word, pick in (("median", 0.5), ("p90", 0.9), ("longest", 1.0)):
            row = Row(f"{name}: {word}", at(mine, pick), "ms", at(theirs, pick), "two plain threads")
            row.ratio = row.ours / row.peer
            rows.append(row)
        rows[-1].aim(Target(f"≤ {limit_ms:g} ms (three switch intervals)", value=limit_ms))
    return rows


def at(waits: list[float], part: float) -> float:
    return sorted(waits)[min(len(waits) - 1, int(len(waits) * part))] * 1e3


def waits_for(seconds: float) -> list[float]:
    """Ask for the GIL until the time is over; from one time that it was had to the next, in seconds."""
    waits = []
    last = time.perf_counter()
    end = last + seconds
    while last < end:
        time.sleep(NAP_S)
        now = time.perf_counter()
        waits.append(now - last)
        last = now
    return waits


def with_plain_threads(seconds: float) -> list[float]:
    over = threading.Event()

    def work(core: int) -> None:
        with pinned(core):
            while not over.is_set():
                long_in_c()

    threads = [threading.Thread(target=work, args=(core,)) for core in two_cores()]
    for thread in threads:
        thread.start()
    try:
        return waits_for(seconds)
    finally:
        over.set()
        for thread in threads:
            thread.join()


def with_reactors(seconds: float, threads: int, pollers: int, policy: str) -> list[float]:
    lib = spdkthread.ThreadLib()
    reactors = [ours.reactor(lib, core, "adaptive") for core in two_cores()]
    crowd = [reactor.create_thread(poller_policy=policy) for reactor in reactors for _ in range(threads)]
    registered = [thread.register_poller(long_in_c) for thread in crowd for _ in range(pollers)]
    over = False

    def again(thread: spdkthread.SpdkThread) -> None:
        long_in_c()
        if not over:
            thread.send_msg(again, thread)

    if not pollers:
        for thread in crowd:
            for _ in range(max(1, 16 // threads)):
                thread.send_msg(again, thread)
    try:
        return waits_for(seconds)
    finally:
        over = True
        for poller in registered:
            poller.unregister()
        for reactor in reactors:
            reactor.stop()
        lib.close()
