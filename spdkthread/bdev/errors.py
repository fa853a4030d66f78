"""The named errors of block devices."""

from spdkthread.errors import DeviceError, SpdkThreadError

__all__ = ["AlignmentError", "BackendError", "QueueFullError"]


class QueueFullError(SpdkThreadError):
    """A channel has as many requests under way as it takes; nothing was begun. Some have to complete first."""


class AlignmentError(SpdkThreadError, ValueError):
    """Offset, length or memory of a request past the page cache are no multiples of what the device asks for."""


class BackendError(DeviceError):
    """The way to the kernel that was asked for is not to be had here."""
