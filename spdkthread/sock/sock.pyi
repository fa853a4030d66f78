from collections.abc import Callable
from typing import Any

from typing_extensions import Buffer

from spdkthread.io_device import IoChannel
from spdkthread.sock.group import SockGroup
from spdkthread.thread import SpdkThread

__all__ = ["Listener", "Sock", "SockChannel"]

CLOSE_SIGNATURE: str
DATA_SIGNATURE: str
RING_BUFFERS: int
RING_BUFFER_BYTES: int
RING_BYTES: int
STARVED_US: int
STATES: tuple[str, ...]

def after_fork() -> None: ...
def blockers_of(thread: SpdkThread) -> list[str]: ...
def close_channel(channel: SockChannel) -> None: ...
def make_channel(device: SockGroup, channel: IoChannel) -> SockChannel: ...
def open_listener(
    group: SockGroup,
    channel: SockChannel,
    made: Any,
    on_accept: Callable[[Sock], object],
    targets: tuple[SpdkThread, ...],
    unlink_path: str | None,
) -> Listener: ...
def open_sock(group: SockGroup, channel: SockChannel) -> Sock: ...
def uring_refusal() -> str | None: ...

class ReadBuffer:
    def __init__(self, size: int, mapped: bool = False) -> None: ...

class SockChannel:
    def __init__(self, device: SockGroup, channel: IoChannel) -> None: ...
    @property
    def device(self) -> SockGroup:
        """The group of which it is the channel."""
    @property
    def thread(self) -> SpdkThread:
        """The thread whose sockets they are."""
    @property
    def datagrams(self) -> Any:
        """The thread's `DatagramSet`, or None before its first datagram socket."""
    @property
    def stats(self) -> dict[str, int]: ...
    @property
    def sockets(self) -> tuple[Any, ...]: ...

class Sock:
    on_data: Callable[[Sock, memoryview], object] | None
    on_end: Callable[[Sock], object] | None
    on_close: Callable[[Sock, OSError | None], object] | None
    on_high_water: Callable[[Sock], object] | None
    on_low_water: Callable[[Sock], object] | None
    on_connect: Callable[[Sock], object] | None
    context: Any

    @property
    def thread(self) -> SpdkThread:
        """The thread that it belongs to."""
    @property
    def group(self) -> SockGroup:
        """The group from which it came."""
    @property
    def state(self) -> str: ...
    @property
    def pending_bytes(self) -> int: ...
    @property
    def bytes_in(self) -> int: ...
    @property
    def bytes_out(self) -> int: ...
    @property
    def is_paused(self) -> bool: ...
    @property
    def address(self) -> int: ...
    def in_words(self) -> str: ...
    def fileno(self) -> int: ...
    def sockname(self) -> Any: ...
    def peername(self) -> Any: ...
    def set_option(self, level: int, option: int, value: int | Buffer) -> None: ...
    def write(self, data: Buffer) -> None: ...
    def shutdown_write(self) -> None: ...
    def close(self) -> None: ...
    def abort(self) -> None: ...
    def pause_reading(self) -> None: ...
    def resume_reading(self) -> None: ...
    def set_water_marks(self, high: int, low: int) -> None: ...
    def set_native(self, on_data: object, ctx: object = None, *, on_close: object = None) -> None: ...
    def move_to(self, thread: SpdkThread, fn: Callable[[Sock], object] | None = None) -> None: ...

class Listener(Sock):
    @property
    def on_accept(self) -> Callable[[Sock], object]:
        """Called with each accepted connection, on the thread that gets it."""
    @property
    def targets(self) -> tuple[SpdkThread, ...]:
        """The threads that get the connections in turn; empty: the listener's own."""
    @property
    def unlink_path(self) -> str | None:
        """The path that is removed when it is closed."""
