import asyncio

from spdkthread.aio.loop_core import LoopCore

__all__ = ["TimerHandle"]

class TimerHandle(asyncio.TimerHandle): ...

def append_ready(handle: asyncio.Handle) -> None: ...
def report_failure(loop: LoopCore, handle: asyncio.Handle, error: BaseException) -> None: ...
