"""The stall watchdog: callbacks that hold up their reactor."""

import logging
import os
import sys
import threading
import time
import traceback

from spdkthread.forks import ReentrantLock
from spdkthread.signal_safe_event import SignalSafeEvent

__all__ = ["DEFAULT_STALL_MS", "Watchdog"]

logger = logging.getLogger("spdkthread")

# What no healthy program does: hold up every thread, descriptor and timer of its reactor for a second. That is two
# hundred of the interpreter's switch intervals, longer than collections, imports and the kernel's pauses on a crowded
# machine are, and short enough to be heard of before a peer's time limit.
DEFAULT_STALL_MS = 1000.0


class Watchdog:
    """Reports each callback of a reactor that runs longer than a limit: once per stall, with the Python stack.

    It costs the reactor nothing: one OS thread of the process, which all watchdogs share, looks at the counters that
    the loops keep anyway. When a poll is under way and no counter has moved, the callback is still the same one. It
    looks four times per limit where one was given, and once per limit where none was: the callback is heard of after
    between one and two of them then.

    Notes
    -----
    On a build with the GIL, a callback that holds the GIL inside C code is reported when it lets go of it, if it still
    runs then.
    """

    def __init__(self, reactor, stall_ms: float | None = None):
        self.stall_ms = DEFAULT_STALL_MS if stall_ms is None else stall_ms
        self.period_s = self.stall_ms / 1000 if stall_ms is None else self.stall_ms / 4000
        self._reactor = reactor
        self._last: tuple | None = None
        self._since = 0.0
        self._reported = False

    def start(self) -> None:
        self._last = None
        watcher.add(self)

    def stop(self) -> None:
        watcher.remove(self)

    def look(self) -> None:
        """On the watcher's OS thread."""
        progress = self._reactor._progress()
        now = time.monotonic()
        if progress is None or progress != self._last:
            self._last, self._since, self._reported = progress, now, False
        elif not self._reported and (now - self._since) * 1000 >= self.stall_ms:
            self._reported = True
            self._report((now - self._since) * 1000)

    def _report(self, lasted_ms: float) -> None:
        what, os_thread = self._reactor._stalled()
        if what is None:
            return
        frame = sys._current_frames().get(os_thread)
        stack = "".join(traceback.format_stack(frame)) if frame is not None else "(no Python frame)\n"
        logger.warning(
            "%r stalls: %s has run for %.0f ms (limit %g ms)\n%s", self._reactor, what, lasted_ms, self.stall_ms, stack
        )


class Watcher:
    """The OS thread that looks after all reactors that run; there is none while none runs."""

    def __init__(self) -> None:
        self._lock = ReentrantLock()
        self._watchdogs: dict[int, Watchdog] = {}
        self._changed = SignalSafeEvent()
        self._thread: threading.Thread | None = None

    def add(self, one: Watchdog) -> None:
        with self._lock:
            self._watchdogs[id(one)] = one
            if self._thread is None:
                self._changed = SignalSafeEvent()
                self._thread = threading.Thread(
                    target=self._run, args=(self._changed,), name="spdk_watchdog", daemon=True
                )
                self._thread.start()
            else:
                # It may have to look more often.
                self._changed.set()

    def remove(self, one: Watchdog) -> None:
        with self._lock:
            self._watchdogs.pop(id(one), None)
            if self._watchdogs or self._thread is None:
                return
            thread, self._thread = self._thread, None
            self._changed.set()
        if thread is not threading.current_thread():
            thread.join()

    def _run(self, changed: SignalSafeEvent) -> None:
        while True:
            with self._lock:
                if self._changed is not changed or self._thread is not threading.current_thread():
                    return
                changed.clear()
                period_s = min(one.period_s for one in self._watchdogs.values())
            changed.wait(period_s)
            with self._lock:
                watchdogs = list(self._watchdogs.values())
            for one in watchdogs:
                one.look()
            del watchdogs

    def forget(self) -> None:
        """In the child of a fork: neither the OS thread nor the reactors are there."""
        self._watchdogs = {}
        self._thread = None


watcher = Watcher()
os.register_at_fork(after_in_child=watcher.forget)
