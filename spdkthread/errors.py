"""The named errors. Every message names the objects concerned."""

__all__ = [
    "AwaitError",
    "DeviceError",
    "FdError",
    "NestedLoopError",
    "NoThreadError",
    "ReactorError",
    "RingFullError",
    "RingFullTimeoutError",
    "SpdkThreadError",
    "ThreadExitedError",
    "WrongThreadError",
]


class SpdkThreadError(Exception):
    """Base of every error that this library raises on its own account."""


class RingFullError(SpdkThreadError):
    """The target's message ring (or its critical slot) has no room; nothing was sent."""


class RingFullTimeoutError(RingFullError, TimeoutError):
    """`SpdkThread.send_msg_wait` found no room within its time limit; nothing was sent."""


class ThreadExitedError(SpdkThreadError, RuntimeError):
    """The target thread has exited, or its reactor is stopping and takes nothing more from outside.

    A `RuntimeError` too, as what the standard library's loops and executors raise when they are closed.
    """


class WrongThreadError(SpdkThreadError, RuntimeError):
    """The call belongs on another thread: state of an SpdkThread is touched only where it is polled.

    A `RuntimeError` too, as what asyncio raises for a loop that is used where it does not run.
    """


class NoThreadError(SpdkThreadError):
    """The call needs a current SpdkThread and the calling OS thread has none."""


class DeviceError(SpdkThreadError):
    """An I/O device or channel is not in the state that the call needs."""


class ReactorError(SpdkThreadError):
    """A reactor cannot be made, started, or given that thread."""


class FdError(SpdkThreadError):
    """A file descriptor is closed, cannot be waited for, or has a handler on this thread already."""


class NestedLoopError(SpdkThreadError, RuntimeError):
    """An event loop was to be patched for nested runs, which its SpdkThread does not allow."""


class AwaitError(SpdkThreadError, RuntimeError):
    """A coroutine awaits what cannot be waited for where it runs."""
