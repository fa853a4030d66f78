import concurrent.futures
from collections.abc import Awaitable, Generator
from collections.abc import Coroutine as CoroutineABC
from typing import Any, TypeVar

from spdkthread.future import FutureCore
from spdkthread.thread import SpdkThread

__all__ = ["fd_ready", "sleep_us", "spawn", "switch_to"]

_T = TypeVar("_T")

def spawn(thread: SpdkThread, coro: CoroutineABC[Any, Any, _T]) -> concurrent.futures.Future[_T]: ...
def sleep_us(us: float) -> Awaitable[None]: ...
def switch_to(thread: SpdkThread) -> Awaitable[None]: ...
def fd_ready(fd: Any, events: str = "r") -> Awaitable[None]: ...
def await_future(future: FutureCore) -> Generator[Any, None, Any]: ...
