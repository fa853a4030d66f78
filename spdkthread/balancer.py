"""The balancer of a group: an OS thread that calls the scheduler."""

import logging
import threading

from spdkthread.reactor import get_reactor
from spdkthread.scheduler import StaticScheduler
from spdkthread.signal_safe_event import SignalSafeEvent

__all__ = ["Balancer", "note_failed_move"]

logger = logging.getLogger("spdkthread")


class Balancer:
    """Calls the scheduler once per period, from an OS thread of its own that otherwise sleeps.

    The static scheduler has nothing to say between its selections, so with that one it sleeps until there is another.
    """

    def __init__(self, group):
        self._group = group
        self._over = False
        self._changed = SignalSafeEvent()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        if self._group.period_us:
            self._thread = threading.Thread(target=self._run, name="spdk_scheduler", daemon=True)
            self._thread.start()

    def stop(self) -> None:
        self._over = True
        self._changed.set()
        if self._thread is not None and self._thread is not threading.current_thread() and get_reactor() is None:
            self._thread.join()

    def look_again(self) -> None:
        """The group has another scheduler."""
        self._changed.set()

    def _run(self) -> None:
        while True:
            # A subclass may do what the static scheduler does not.
            rests = type(self._group.scheduler) is StaticScheduler
            if self._changed.wait(None if rests else self._group.period_us / 1e6):
                self._changed.clear()
                if self._over:
                    return
                continue
            try:
                self._group.balance()
            except Exception:
                logger.exception("the scheduler of %r failed", self._group)


def note_failed_move(move) -> None:
    """The thread has moved, exited or been stopped since the snapshot; the next round sees where it is."""
    error = move.exception()
    if error is not None:
        logger.debug("a thread was not moved: %s", error)
