"""The named errors of sockets. What the kernel says is an `OSError`."""

from spdkthread.errors import SpdkThreadError

__all__ = ["SockBackendError", "SockBufferError", "SockClosedError", "SockLimitError"]


class SockBackendError(SpdkThreadError):
    """The kernel gives this process no io_uring on which sockets can stand; it says why."""


class SockLimitError(SpdkThreadError):
    """The thread has as many sockets of the group as it may have, or they hold as many bytes; nothing was opened."""


class SockBufferError(SpdkThreadError, BufferError):
    """More bytes would wait to be sent than the socket or its group may hold; none of them was taken."""


class SockClosedError(SpdkThreadError, ConnectionError):
    """The socket is closed, or its write side is, or it is on its way to another thread."""
