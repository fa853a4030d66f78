"""FdHandler: a function that its thread calls while a file descriptor is ready."""

import os
import stat

from libc.stdint cimport uint32_t

from spdkthread.fd_group cimport FD_READABLE, FD_WRITABLE
from spdkthread.cpython_ext cimport seal

from spdkthread.errors import FdError

__all__ = ["FdHandler"]


cdef uint32_t events_of(object events) except 0:
    """Read ``"r"``, ``"w"`` or ``"rw"``."""
    cdef uint32_t mask = 0
    if not isinstance(events, str):
        raise TypeError(f"events must be a str of 'r' and 'w', got {type(events).__name__}")
    for letter in events:
        if letter == "r":
            mask |= FD_READABLE
        elif letter == "w":
            mask |= FD_WRITABLE
        else:
            raise ValueError(f"events must be 'r', 'w' or 'rw', got {events!r}")
    if mask == 0:
        raise ValueError("events must be 'r', 'w' or 'rw', got ''")
    return mask


cdef str events_text(uint32_t mask):
    return ("r" if mask & FD_READABLE else "") + ("w" if mask & FD_WRITABLE else "")


cdef class FdHandler:
    """FdHandler()\n--\n\n\
    A registered file descriptor. Made by `SpdkThread.register_fd`.

    Notes
    -----
    **Thread safety:** `unregister` from any OS thread: on the handler's own thread at once, from elsewhere by a
    message. `modify` on the handler's thread only. Answers to ``struct spdk_interrupt``.
    """

    def __repr__(self):
        state = "registered" if self.registered else "unregistered" if self._over else "on its way"
        return f"<FdHandler {self.name!r} of fd {self.fd} {self.events!r} on {self.thread.name!r}, {state}>"

    def modify(self, events) -> None:
        """Wait for other events from now on.

        Raises
        ------
        WrongThreadError
            On any thread but the handler's own.
        FdError
            When it is unregistered, or its descriptor was closed.
        TypeError, ValueError
            When `events` is none of ``"r"``, ``"w"``, ``"rw"``.
        """
        self.thread._fd_modify(self, events_of(events))

    def unregister(self) -> None:
        """Never call it again. Idempotent; works for a descriptor that was closed already."""
        self.thread._fd_unregister(self)

    @property
    def events(self) -> str:
        """What it waits for: ``"r"``, ``"w"`` or ``"rw"``."""
        return events_text(self.mask)


def make_handler(thread, fd, fn, events, name):
    """Check the arguments of `SpdkThread.register_fd`."""
    if not callable(fn):
        raise TypeError(f"a handler of {thread!r} must be callable, got {type(fn).__name__}")
    cdef FdHandler handler = FdHandler.__new__(FdHandler)
    handler.mask = events_of(events)
    number = fd if isinstance(fd, int) else getattr(fd, "fileno", None)
    if callable(number):
        number = number()
    if isinstance(number, bool) or not isinstance(number, int):
        raise TypeError(f"fd must be an int or have fileno(), got {type(fd).__name__}")
    if number < 0:
        raise FdError(f"{number} is not an open file descriptor")
    try:
        mode = os.fstat(number).st_mode
    except (OSError, OverflowError) as error:
        raise FdError(f"fd {number} cannot be registered on {thread!r}: {error}") from None
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        raise FdError(f"fd {number} cannot be waited for on {thread!r}: a regular file is always ready")
    if name is None:
        name = getattr(fn, "__qualname__", None) or type(fn).__qualname__
    if not isinstance(name, str):
        raise TypeError(f"name must be a str, got {type(name).__name__}")
    handler.fd = number
    handler.name = name
    handler.thread = thread
    handler.fn = fn
    return handler


seal(FdHandler)
