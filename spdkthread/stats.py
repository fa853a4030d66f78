"""What the counters say: immutable snapshots."""

from typing import NamedTuple

__all__ = ["ReactorStats", "ThreadStats"]


class ThreadStats(NamedTuple):
    """A snapshot of an `SpdkThread`'s counters: none ever goes back. Answers to ``struct spdk_thread_stats``."""

    busy_ticks: int
    """Ticks spent in polls whose result was above 0, without the reactor's waits for the GIL."""
    idle_ticks: int
    """Ticks since its first poll that were not busy. A poll that has not ended is neither yet."""
    msgs_run: int
    pollers_run: int
    polls: int
    errors: int
    """Exceptions that left its callbacks."""
    ring_full: int
    """Sends that were refused for want of room."""
    high_water: int
    """The most messages that are known to have waited at once."""


class ReactorStats(NamedTuple):
    """A snapshot of a `Reactor`'s counters, none of which ever goes back, not even when it is started again."""

    busy_ticks: int
    """Ticks in turns that found work, without the waits for the GIL."""
    idle_ticks: int
    """Ticks while it was started that were not busy, asleep or not. A turn that has not ended is neither yet."""
    turns: int
    parks: int
    """How often it went to sleep."""
    wakes: int
    """How often a sender, a file descriptor or a request ended a sleep before its time."""
    gil_waits: int
    """How often it had to wait for the GIL."""
    gil_wait_ticks: int
    stalls: int = 0
    """Callbacks that ran longer than ``stall_ms``."""
    slices_lost: int = 0
    """How often it was off its core for over a millisecond while it looked for work ("poll", "yield")."""
