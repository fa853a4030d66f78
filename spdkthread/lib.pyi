from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, Literal, TypeAlias

from spdkthread.clock import ManualClock
from spdkthread.error_log import ErrorLog
from spdkthread.io_device import IoDevice
from spdkthread.thread import SpdkThread

__all__ = ["ThreadLib", "default_lib"]

ExceptionHandler: TypeAlias = Callable[[dict[str, Any]], object]

class ThreadLib:
    def __init__(
        self, *, clock: ManualClock | None = None, exception_handler: ExceptionHandler | None = None
    ) -> None: ...
    def create_thread(
        self,
        name: str | None = None,
        *,
        cpumask: str | Iterable[int] | None = None,
        ring_size: int = 4096,
        poller_policy: Literal["one", "all"] = "one",
    ) -> SpdkThread: ...
    def get_thread_by_id(self, id: int) -> SpdkThread | None: ...
    def for_each_thread(self, fn: Callable[[], object], cpl: Callable[[], object] | None = None) -> Future[None]: ...
    def close(self) -> None: ...
    @property
    def exception_handler(self) -> ExceptionHandler | None: ...
    @exception_handler.setter
    def exception_handler(self, handler: ExceptionHandler | None) -> None: ...
    @property
    def threads(self) -> tuple[SpdkThread, ...]: ...
    @property
    def devices(self) -> tuple[IoDevice, ...]: ...
    @property
    def error_count(self) -> int: ...
    @property
    def lost_msgs(self) -> int: ...
    @property
    def error_log(self) -> ErrorLog: ...

def default_lib() -> ThreadLib: ...
