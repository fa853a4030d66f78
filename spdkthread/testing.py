"""Simulated time and deterministic polling, for tests of programs that use spdkthread."""

import gc
from collections.abc import Iterable

from spdkthread import alloc, io_device, poller, thread, wake
from spdkthread.clock import ManualClock

__all__ = ["ManualClock", "leak_counters", "poll_threads", "poll_until_idle"]


def poll_threads(threads: "Iterable[thread.SpdkThread]", rounds: int = 1) -> int:
    """Poll each of `threads` once per round, in their order. Returns how many polls found work.

    Answers to ``poll_threads`` of SPDK's ``ut_multithread``.
    """
    threads = tuple(threads)
    return sum(one.poll() > 0 for _ in range(rounds) for one in threads)


def poll_until_idle(threads: "Iterable[thread.SpdkThread]", max_rounds: int = 100_000) -> int:
    """Poll `threads` in rounds until a whole round finds no work and no message waits.

    Returns
    -------
    int
        Rounds that found work.

    Raises
    ------
    RuntimeError
        When they are still busy after `max_rounds`: probably a message or an active poller that never rests.
    """
    threads = tuple(threads)
    for done in range(max_rounds):
        if poll_threads(threads) == 0 and not any(one.pending_msgs for one in threads):
            return done
    raise RuntimeError(f"still busy after {max_rounds} rounds: {', '.join(map(repr, threads))}")


def leak_counters() -> dict[str, int]:
    """What exists at present: threads, pollers, channels, devices, native blocks, and messages accepted but not run.

    Call it after ``gc.collect()``; a test that ends with the numbers it began with has leaked nothing.
    """
    return {
        "threads": thread.live_threads(),
        "pollers": poller.live_pollers(),
        "channels": io_device.live_channels(),
        "devices": io_device.live_devices(),
        "native_blocks": alloc.live_blocks() - wake.gate_count(),
        "messages": sum(one.pending_msgs for one in gc.get_objects() if isinstance(one, thread.SpdkThread)),
    }
