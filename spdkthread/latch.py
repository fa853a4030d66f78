"""Latch: an event that may be waited for anywhere, in a signal handler too."""

import threading
import time
from collections import deque

__all__ = ["Latch"]

SLICE_S = 0.1


class Latch:
    """Open or shut; whoever waits goes on when it opens.

    ``threading.Event`` takes a lock for a moment inside its ``wait``. A signal handler that interrupts just that
    moment, and waits for the same event, waits for itself. Here everybody who waits has a lock of his own.

    Notes
    -----
    **Thread safety:** any OS thread, and signal handlers.
    """

    def __init__(self, is_open: bool = False):
        self._open = is_open
        self._waiting: deque = deque()

    def is_open(self) -> bool:
        return self._open

    def open(self) -> None:
        """Let everybody go on."""
        self._open = True
        while True:
            try:
                self._waiting.popleft().release()
            except IndexError:
                return

    def shut(self) -> None:
        """From now on whoever comes has to wait."""
        self._open = False

    def wait(self, timeout_s: float | None = None) -> bool:
        """Wait until it is open. False: it was not within `timeout_s` seconds."""
        if self._open:
            return True
        mine = threading.Lock()
        mine.acquire()
        self._waiting.append(mine)
        # It may have been opened before anybody knew that this one waits.
        if self._open:
            return True
        if _acquire(mine, timeout_s):
            return True
        try:
            self._waiting.remove(mine)
        except ValueError:
            return True
        return False


def _acquire(lock, timeout_s: float | None) -> bool:
    if threading.current_thread() is not threading.main_thread():
        return lock.acquire(timeout=-1 if timeout_s is None else min(max(0.0, timeout_s), threading.TIMEOUT_MAX))
    # A signal that comes right before the lock falls asleep does not wake it: Ctrl-C would wait for the latch. In
    # slices it waits for the next one.
    give_up = None if timeout_s is None else time.monotonic() + timeout_s
    while True:
        left = SLICE_S if give_up is None else min(SLICE_S, max(0.0, give_up - time.monotonic()))
        if lock.acquire(timeout=left):
            return True
        if give_up is not None and time.monotonic() >= give_up:
            return False
