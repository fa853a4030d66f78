"""SignalSafeEvent: an event that may be waited for anywhere, in a signal handler too."""

import threading
import time
from collections import deque

__all__ = ["SignalSafeEvent"]

SLICE_S = 0.1


class SignalSafeEvent:
    """``threading.Event``, with a wait that a signal handler may interrupt by another wait for the same event.

    ``threading.Event`` takes a lock for a moment inside its ``wait``. A signal handler that interrupts just that
    moment, and waits for the same event, waits for itself. Here every waiter has a lock of its own.

    Parameters
    ----------
    is_set : bool
        Its state at the beginning.

    Notes
    -----
    **Thread safety:** any OS thread, and signal handlers.
    """

    def __init__(self, is_set: bool = False):
        self._is_set = is_set
        self._waiters: deque = deque()

    def is_set(self) -> bool:
        return self._is_set

    def set(self) -> None:
        """Set the event and let every waiter go on."""
        self._is_set = True
        while True:
            try:
                self._waiters.popleft().release()
            except IndexError:
                return

    def clear(self) -> None:
        """Reset the event: waits that begin from now on block."""
        self._is_set = False

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until the event is set. Returns False when it was not within `timeout_s` seconds."""
        if self._is_set:
            return True
        waiter = threading.Lock()
        waiter.acquire()
        self._waiters.append(waiter)
        # It may have been set before `set` could see this waiter.
        if self._is_set:
            return True
        if _acquire(waiter, timeout_s):
            return True
        try:
            self._waiters.remove(waiter)
        except ValueError:
            return True
        return False


def _acquire(lock, timeout_s: float | None) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return lock.acquire(timeout=-1 if timeout_s is None else min(max(0.0, timeout_s), threading.TIMEOUT_MAX))
    # A signal that comes right before the lock falls asleep does not wake it: Ctrl-C would wait for the event. In
    # slices it waits for the next one.
    give_up = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left = SLICE_S if give_up is None else min(SLICE_S, max(0.0, give_up - time.monotonic()))
        if lock.acquire(timeout=left):
            return True
        if give_up is not None and time.monotonic() >= give_up:
            return False
