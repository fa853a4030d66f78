from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from spdkthread.thread import SpdkThread

__all__ = ["acall"]

_T = TypeVar("_T")

def acall(thread: SpdkThread, fn: Callable[..., _T], args: tuple[Any, ...]) -> Awaitable[_T]: ...
