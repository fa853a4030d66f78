from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self, SupportsIndex

from spdkthread.io_device import IoChannel, IoDevice
from spdkthread.lib import ThreadLib
from spdkthread.thread import SpdkThread

__all__ = ["IoBuf", "IoBufChannel", "IoBufPool"]

def live_buffers() -> int: ...
def channels_in_words(thread: SpdkThread) -> list[str]: ...
def close_channels(iterator: object) -> None: ...

class IoBufPool(IoDevice):
    def __init__(
        self,
        *,
        small_count: SupportsIndex = 8192,
        small_size: SupportsIndex = 8192,
        large_count: SupportsIndex = 1024,
        large_size: SupportsIndex = 135168,
        name: str | None = None,
        lib: ThreadLib | None = None,
    ) -> None: ...
    def channel(  # type: ignore[override]
        self, module: str, *, small_cache: SupportsIndex = 128, large_cache: SupportsIndex = 16
    ) -> IoBufChannel: ...
    def create_channel(self, channel: IoChannel) -> Any: ...
    def destroy_channel(self, channel: IoChannel) -> None: ...
    def stats(self) -> Future[dict[str, dict[str, Any]]]: ...
    def close(self) -> Future[None]: ...
    @property
    def small_size(self) -> int: ...
    @property
    def large_size(self) -> int: ...
    @property
    def small_count(self) -> int: ...
    @property
    def large_count(self) -> int: ...

class IoBufChannel:
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def get(self, nbytes: SupportsIndex, cb: Callable[[IoBuf], object] | None = None) -> IoBuf | None: ...
    def abort(self, cb: Callable[[IoBuf], object]) -> bool: ...
    def close(self) -> None: ...
    @property
    def pool(self) -> IoBufPool:
        """The pool."""

    @property
    def module(self) -> str:
        """What uses the buffers."""

    @property
    def thread(self) -> SpdkThread:
        """The thread that it belongs to."""

    @property
    def held(self) -> int: ...
    @property
    def waiting(self) -> int: ...

class IoBuf:
    def __len__(self) -> int: ...
    def __buffer__(self, flags: int, /) -> memoryview: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def put(self) -> None: ...
    @property
    def channel(self) -> IoBufChannel:
        """Where it was got."""

    @property
    def address(self) -> int: ...
