from collections.abc import Callable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, Self

import numpy
from numpy.typing import DTypeLike

from spdkthread.for_each_channel import IoChannelIter as IoChannelIter
from spdkthread.lib import ThreadLib
from spdkthread.thread import SpdkThread

__all__ = ["IoChannel", "IoChannelIter", "IoDevice"]

def live_channels() -> int: ...
def live_devices() -> int: ...

class IoDevice:
    def __init__(
        self,
        name: str | None = None,
        *,
        create_channel: Callable[[IoChannel], Any] | None = None,
        destroy_channel: Callable[[IoChannel], object] | None = None,
        ctx_dtype: DTypeLike | None = None,
        lib: ThreadLib | None = None,
    ) -> None: ...
    def register(self) -> Self: ...
    def unregister(self, cb: Callable[[Self], object] | None = None) -> Future[None]: ...
    def get_io_channel(self) -> IoChannel: ...
    def channel(self) -> ChannelContext: ...
    def for_each_channel(
        self,
        fn: Callable[[IoChannelIter], int | None],
        ctx: object = None,
        cpl: Callable[[IoChannelIter, int], object] | None = None,
    ) -> Future[int]: ...
    def create_channel(self, channel: IoChannel) -> Any: ...
    def destroy_channel(self, channel: IoChannel) -> object: ...
    @property
    def name(self) -> str:
        """Its name."""

    @property
    def lib(self) -> ThreadLib:
        """The library in which it is registered."""

    @property
    def ctx_dtype(self) -> numpy.dtype[Any] | None:
        """The dtype of its channels' `IoChannel.ctx`, or None."""

    @property
    def state(self) -> str: ...
    @property
    def is_registered(self) -> bool: ...
    @property
    def channels_count(self) -> int: ...
    @property
    def channels(self) -> tuple[IoChannel, ...]: ...

class IoChannel:
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def ref(self) -> Self: ...
    def put(self) -> None: ...
    @property
    def device(self) -> IoDevice:
        """The device."""

    @property
    def thread(self) -> SpdkThread:
        """The thread that it belongs to."""

    @property
    def ctx(self) -> Any:
        """What `IoDevice.create_channel` returned, or a zeroed array of `IoDevice.ctx_dtype`."""

    @property
    def ref_count(self) -> int: ...

class ChannelContext:
    def __enter__(self) -> IoChannel: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    async def __aenter__(self) -> IoChannel: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...

class Unregistration:
    @property
    def lib(self) -> ThreadLib:
        """The library of the device."""

    def complete(self) -> None: ...
