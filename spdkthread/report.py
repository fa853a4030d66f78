"""What a stop leaves behind."""

from collections.abc import Iterable
from typing import NamedTuple

from spdkthread.exit_blockers import blockers_by_kind

__all__ = [
    "LeftoverChannel",
    "LeftoverMessage",
    "LeftoverOther",
    "LeftoverPoller",
    "LeftoverUnregistration",
    "ShutdownReport",
    "what_is_left",
]


# Kinds of what keeps a thread that have a field in the report. An iteration shows as the message that carries it.
KINDS_OF_THEIR_OWN = ("message", "poller", "channel", "unregistration", "iteration")


class LeftoverMessage(NamedTuple):
    """A message that was accepted and has not run. It is still in its thread, which can be polled by hand."""

    thread: str
    name: str


class LeftoverPoller(NamedTuple):
    """A poller that is still registered, a timer that is pending, or what else its thread would go on calling."""

    thread: str
    name: str


class LeftoverChannel(NamedTuple):
    """An I/O channel that was not put back."""

    thread: str
    device: str
    ref_count: int


class LeftoverUnregistration(NamedTuple):
    """An I/O device's unregistration that has not ended, on the thread that is to hear of it."""

    thread: str
    name: str


class LeftoverOther(NamedTuple):
    """Anything else that keeps a thread from exiting: a file descriptor, a coroutine, an event loop, ..."""

    thread: str
    kind: str
    name: str


class ShutdownReport(NamedTuple):
    """What was left when a reactor stopped; each entry names its owner."""

    leftover_msgs: tuple[LeftoverMessage, ...] = ()
    leftover_pollers: tuple[LeftoverPoller, ...] = ()
    leftover_channels: tuple[LeftoverChannel, ...] = ()
    still_running: tuple[str, ...] = ()
    """Reactors that had not ended when the time was over, or because the caller must not wait for them."""
    leftover_unregistrations: tuple[LeftoverUnregistration, ...] = ()
    leftover_others: tuple[LeftoverOther, ...] = ()

    @property
    def ok(self) -> bool:
        """Nothing was left and everything has ended."""
        return not any(self)

    def __add__(self, other: "ShutdownReport") -> "ShutdownReport":  # type: ignore[override]
        return ShutdownReport(
            self.leftover_msgs + other.leftover_msgs,
            self.leftover_pollers + other.leftover_pollers,
            self.leftover_channels + other.leftover_channels,
            self.still_running + other.still_running,
            self.leftover_unregistrations + other.leftover_unregistrations,
            self.leftover_others + other.leftover_others,
        )

    def __str__(self) -> str:
        if self.ok:
            return "nothing left"
        parts = [f"message {left.name} of thread {left.thread}" for left in self.leftover_msgs]
        parts += [f"poller {left.name} of thread {left.thread}" for left in self.leftover_pollers]
        parts += [
            f"channel of {left.device} on thread {left.thread} ({left.ref_count} references)"
            for left in self.leftover_channels
        ]
        parts += [f"{left.name} on thread {left.thread}" for left in self.leftover_unregistrations]
        parts += [f"{left.name} on thread {left.thread}" for left in self.leftover_others]
        parts += [f"{name} still running" for name in self.still_running]
        shown = "; ".join(parts[:20])
        return f"{shown}; ... {len(parts)} in all" if len(parts) > 20 else shown


def what_is_left(threads: Iterable, by_name: bool) -> ShutdownReport:
    """What keeps these threads. `by_name`: on their loop; from elsewhere messages may run, and go, and are counted."""
    messages, pollers, channels, waits, others = [], [], [], [], []
    for thread in threads:
        if thread.is_exited:
            continue
        if by_name:
            messages += thread._waiting()
        else:
            messages += [LeftoverMessage(thread.name, "(its reactor still runs)")] * thread.pending_msgs
        pollers += [LeftoverPoller(thread.name, poller.name) for poller in thread.pollers]
        channels += [
            LeftoverChannel(thread.name, channel.device.name, channel.ref_count) for channel in thread.io_channels
        ]
        waits += [LeftoverUnregistration(thread.name, name) for name in thread._awaited()]
        others += [
            LeftoverOther(thread.name, kind, words)
            for kind, words in blockers_by_kind(thread)
            if kind not in KINDS_OF_THEIR_OWN
        ]
    return ShutdownReport(tuple(messages), tuple(pollers), tuple(channels), (), tuple(waits), tuple(others))
