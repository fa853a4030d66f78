"""Signals while a reactor runs on the main thread."""

import fcntl
import os
import signal
from collections.abc import Callable

__all__ = ["SignalWatch"]


class SignalWatch:
    """Makes Ctrl-C a request to stop, and a signal something that ends a sleep.

    Python's own handler would raise KeyboardInterrupt in the middle of the callback that runs. Here the first Ctrl-C
    calls `on_interrupt`, and only a second one raises. A handler of the user's is left in its place.

    A signal that comes right before the reactor falls asleep would not be seen until something else woke it. So
    ``signal.set_wakeup_fd`` writes every signal into a pipe, whichever OS thread the kernel gave it to, and the pipe's
    reading end, `wait_fd`, is among what the reactor waits for. The bytes are passed on to the descriptor that another
    user of that facility had set.

    Notes
    -----
    **Thread safety:** the main thread only.
    """

    def __init__(self, on_interrupt: Callable[[], None]):
        self._on_interrupt = on_interrupt
        self._handler = self._handle
        self._interrupted = False
        self._previous_fd = -1
        self.wait_fd = -1
        self._notify_fd = -1

    def start(self) -> None:
        self.wait_fd, self._notify_fd = (above_standard(end) for end in os.pipe())
        os.set_blocking(self.wait_fd, False)
        os.set_blocking(self._notify_fd, False)
        self._previous_fd = signal.set_wakeup_fd(self._notify_fd, warn_on_full_buffer=False)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, self._handler)

    def stop(self) -> None:
        if self._notify_fd < 0:
            return
        if signal.getsignal(signal.SIGINT) is self._handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        found = signal.set_wakeup_fd(self._previous_fd)
        if found != self._notify_fd:
            signal.set_wakeup_fd(found)  # other code has set another one meanwhile
        self.clear()
        os.close(self._notify_fd)
        os.close(self.wait_fd)
        self.wait_fd = self._notify_fd = -1

    def die(self) -> None:
        """In the child of a fork, on its only OS thread: the child's signals must not go into the parent's pipe."""
        if self._notify_fd < 0:
            return
        if signal.getsignal(signal.SIGINT) is self._handler:
            signal.signal(signal.SIGINT, signal.default_int_handler)
        found = signal.set_wakeup_fd(self._previous_fd)
        if found != self._notify_fd:
            signal.set_wakeup_fd(found)
        os.close(self._notify_fd)
        os.close(self.wait_fd)
        self.wait_fd = self._notify_fd = -1

    def clear(self) -> None:
        """Empty the pipe, so that `wait_fd` is not readable until the next signal."""
        if self.wait_fd < 0:
            return
        try:
            numbers = os.read(self.wait_fd, 4096)
        except BlockingIOError:
            return
        if self._previous_fd >= 0:
            try:
                os.write(self._previous_fd, numbers)
            except OSError:
                pass  # full: its reader has bytes to be woken by

    def _handle(self, number, frame) -> None:
        if self._interrupted:
            raise KeyboardInterrupt
        self._interrupted = True
        self._on_interrupt()


def above_standard(fd: int) -> int:
    """Move a descriptor off 0, 1 and 2: a daemon closes those and expects none but its own there."""
    if fd > 2:
        return fd
    moved = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 3)
    os.close(fd)
    return moved
