"""What the counters say: immutable snapshots."""

from typing import NamedTuple

from spdkthread.errors import ReactorError

__all__ = ["ContextSwitches", "ReactorStats", "ThreadStats", "read_context_switches"]


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


class ContextSwitches(NamedTuple):
    """How often an OS thread left its core, as ``getrusage`` counts it."""

    voluntary: int
    """It slept, or waited for a lock."""
    involuntary: int
    """The kernel gave the core to another."""


def read_context_switches(reactor, tid: int) -> ContextSwitches:
    """Of one OS thread of this process, from the kernel's file about it."""
    counts = {}
    try:
        with open(f"/proc/self/task/{tid}/status", encoding="ascii", errors="replace") as status:
            for line in status:
                name, _, value = line.partition(":")
                if name.endswith("voluntary_ctxt_switches"):
                    counts[name] = int(value)
        return ContextSwitches(counts["voluntary_ctxt_switches"], counts["nonvoluntary_ctxt_switches"])
    except (OSError, KeyError, ValueError) as error:
        raise ReactorError(f"this system does not tell the context switches of {reactor!r}: {error!r}") from None
