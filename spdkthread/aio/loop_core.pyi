import asyncio
import selectors
from collections.abc import Callable
from contextvars import Context
from typing import Any

from spdkthread.aio.loop_state import LoopState
from spdkthread.thread import SpdkThread

__all__ = ["LoopCore"]

class LoopCore(LoopState):
    _csock: Any
    _ssock: Any
    _internal_fds: int
    def _set_up(
        self,
        thread: SpdkThread,
        owns_thread: bool,
        selector: selectors.BaseSelector,
        idle: str,
        spin_us: float,
    ) -> None: ...
    def _tear_down(self) -> None: ...
    def end_thread(self) -> BaseException | None: ...
    def _enter(self) -> None: ...
    def _leave(self) -> None: ...
    def time(self) -> float: ...
    def call_soon(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle: ...
    def call_soon_threadsafe(
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle: ...
    def call_later(
        self, delay: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle: ...
    def call_at(
        self, when: float, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.TimerHandle: ...

class LoopOwner:
    loop_type: str
    thread_name: str
    def __init__(self, loop: LoopCore, thread: SpdkThread) -> None: ...

def arm_timer(handle: asyncio.TimerHandle) -> None: ...
