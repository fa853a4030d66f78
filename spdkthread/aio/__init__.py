"""SpdkThreads for programs of futures and coroutines: executors, coroutines on a thread, an asyncio event loop.

`SpdkThread.call`, `acall`, `spawn` and `executor` lead here; what a spawned coroutine may await is here by name. The
modules are imported when a name of theirs is first used: asyncio is loaded by programs that use its loop.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from spdkthread.aio.coroutine import fd_ready, sleep_us, switch_to
    from spdkthread.aio.event_loop import EventLoop, new_event_loop, run
    from spdkthread.aio.event_loop_policy import EventLoopPolicy, install
    from spdkthread.aio.executor import ThreadExecutor

__all__ = [
    "EventLoop",
    "EventLoopPolicy",
    "ThreadExecutor",
    "fd_ready",
    "install",
    "new_event_loop",
    "run",
    "sleep_us",
    "switch_to",
]

_MODULE_OF = {
    "EventLoop": "event_loop",
    "EventLoopPolicy": "event_loop_policy",
    "ThreadExecutor": "executor",
    "fd_ready": "coroutine",
    "install": "event_loop_policy",
    "new_event_loop": "event_loop",
    "run": "event_loop",
    "sleep_us": "coroutine",
    "switch_to": "coroutine",
}


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f"{__name__}.{module}"), name)
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
