"""The named errors. Every message names the objects concerned."""

__all__ = [
    "AwaitError",
    "DeviceError",
    "FdError",
    "LoopExitedError",
    "LoopThreadError",
    "NestedLoopError",
    "NoThreadError",
    "NotIdleError",
    "ReactorError",
    "RingFullError",
    "RingFullTimeoutError",
    "SpdkThreadError",
    "SpinLockError",
    "ThreadExitedError",
    "WrongThreadError",
]


class SpdkThreadError(Exception):
    """Base of every error that this library raises on its own account."""

    # Exceptions of the interpreter have no signature, and a class inherits that.
    def __init__(self, *args: object) -> None:
        super().__init__(*args)


class RingFullError(SpdkThreadError):
    """The target's message ring (or its critical slot) has no room; nothing was sent."""


class RingFullTimeoutError(RingFullError, TimeoutError):
    """`SpdkThread.send_msg_wait` found no room within its time limit; nothing was sent."""


class ThreadExitedError(SpdkThreadError):
    """The target thread has exited, or its reactor is stopping and takes nothing more from outside."""


class WrongThreadError(SpdkThreadError):
    """The call belongs on another thread: state of an SpdkThread is touched only where it is polled."""


class NoThreadError(SpdkThreadError):
    """The call needs a current SpdkThread and the calling OS thread has none."""


class DeviceError(SpdkThreadError):
    """An I/O device or channel is not in the state that the call needs."""


class ReactorError(SpdkThreadError):
    """A reactor cannot be made, started, or given that thread."""


class FdError(SpdkThreadError):
    """A file descriptor is closed, cannot be waited for, or has a handler on this thread already."""


class LoopExitedError(ThreadExitedError, RuntimeError):
    """The SpdkThread of an event loop has exited: the loop runs nothing any more. Also what asyncio's users catch."""


class LoopThreadError(WrongThreadError, RuntimeError):
    """An event loop cannot run here: its SpdkThread is driven elsewhere. Also what asyncio's users catch."""


class NestedLoopError(SpdkThreadError, RuntimeError):
    """An event loop was to be patched for nested runs, which its SpdkThread does not allow."""


class AwaitError(SpdkThreadError, RuntimeError):
    """A coroutine awaits what cannot be waited for where it runs."""


class NotIdleError(SpdkThreadError, RuntimeError):
    """Threads that a test polls until they are idle always find more work: a message, a poller or a timer of no delay
    that arms itself again."""


class SpinLockError(SpdkThreadError):
    """A misuse of a `SpinLock`, or a callback that returned while it held one.

    Attributes
    ----------
    lock : SpinLock or str or None
        The lock; its name where native code made it.
    owner : SpdkThread or None
        Its owner at that time.
    reason : str
    number : int
        SPDK's number of the misuse, 1 to 9; 0 without one.
    """

    def __init__(
        self, message: str, *, lock: object = None, owner: object = None, reason: str = "", number: int = 0
    ) -> None:
        super().__init__(message)
        self.lock = lock
        self.owner = owner
        self.reason = reason
        self.number = number
