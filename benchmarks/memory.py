"""Resident memory of a new SpdkThread, and of a message that waits.

Difference of the process's resident set before and after, divided by how many were made. The rings have their default
size of 65,536 slots, of which nothing is resident until it is used.
"""

from __future__ import annotations

import asyncio
import gc
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue

import spdkthread

from . import ours
from .harness import Budget, Row, Target, Unavailable

QUESTION = "How much memory does a thread take, and a message that waits?"
KIB = 1024


def nothing(arg) -> None:
    pass


def run(budget: Budget) -> list[Row]:
    threads = 50 if budget.is_smoke else 500
    messages = 60_000
    lib = spdkthread.ThreadLib()
    rows = []
    per_thread = grown(lambda: [lib.create_thread() for _ in range(threads)]) / threads / KIB
    gate = threading.Event()
    peers = {
        "threading.Thread": lambda: [start_thread(gate) for _ in range(threads)],
        "asyncio loop": lambda: [asyncio.SelectorEventLoop() for _ in range(threads)],
        "SimpleQueue": lambda: [SimpleQueue() for _ in range(threads)],
    }
    for name, make in peers.items():
        theirs = grown(make) / threads / KIB
        row = Row("a new SpdkThread", per_thread, "KiB", theirs, name, ratio=per_thread / theirs if theirs else None)
        rows.append(row.aim(Target("≤ 16 KiB until used", value=16) if not rows else None))
    thread = ours.one_driven_thread(ring_size=65536)
    queue: SimpleQueue = SimpleQueue()
    loop = asyncio.SelectorEventLoop()
    per_message = grown(lambda: fill(thread.send_msg, messages)) / messages
    queued = grown(lambda: [queue.put((nothing, index)) for index in range(messages)] and None) / messages
    scheduled = grown(lambda: fill(loop.call_soon_threadsafe, messages)) / messages
    for name, theirs in (("SimpleQueue", queued), ("asyncio", scheduled)):
        rows.append(
            Row(
                "a message that waits",
                per_message,
                "bytes",
                theirs,
                name,
                ratio=per_message / theirs if theirs else None,
            )
        )
    gate.set()
    return rows


def fill(send, count: int) -> None:
    for index in range(count):
        send(nothing, index)


def start_thread(gate: threading.Event) -> threading.Thread:
    thread = threading.Thread(target=gate.wait, daemon=True)
    thread.start()
    return thread


def grown(make: Callable[[], object]) -> float:
    """Return by how many bytes the resident set grew while `make` ran and its result is alive."""
    gc.collect()
    before = resident()
    kept = make()
    after = resident()
    KEPT.append(kept)  # freed memory would be used again by the next one, and not be counted there
    return max(0, after - before)


KEPT: list[object] = []


def resident() -> int:
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        raise Unavailable("the resident set is read from /proc") from None
