from collections.abc import Callable
from typing import Any, TypeVar

from spdkthread.aio.loop_future import LoopFuture
from spdkthread.thread import SpdkThread

__all__ = ["acall"]

_T = TypeVar("_T")

def acall(thread: SpdkThread, fn: Callable[..., _T], args: tuple[Any, ...]) -> LoopFuture[_T]: ...
