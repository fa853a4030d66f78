"""What a spawned coroutine cannot await, by name: the things of asyncio, whose loop does not run it, and all others.

A wait of asyncio's begins in one of three ways. Most look for the running loop first and raise a RuntimeError, or
stumble over None, where there is none; some find a loop (the main thread's, or one that polls the coroutine's
SpdkThread) and yield a future of it; ``asyncio.sleep(0)`` yields None. The first ones have raised by the time this
library hears of it, so it is the coroutine's outcome that becomes an `AwaitError`; where something was yielded it is
raised at the await.
"""

import inspect
from collections.abc import Iterator
from types import FrameType
from typing import Any

from spdkthread.errors import AwaitError

__all__ = ["explained", "refusal", "refuse_turn"]

INSTEAD = (
    "its loop does not run this coroutine: await what spdkthread.aio has, a future from call() or spawn(), or have the "
    "coroutine run by an aio.EventLoop"
)


def refusal(coroutine: object, coro: Any, awaited: Any) -> AwaitError:
    """Why what was yielded cannot be awaited."""
    if not hasattr(awaited, "_asyncio_future_blocking"):
        return AwaitError(f"{coroutine!r} awaited {awaited!r}, which is nothing that an SpdkThread can wait for")
    awaited._asyncio_future_blocking = False
    name = _awaits(coro)
    what = f"{awaited!r} of asyncio" if name is None else f"asyncio's {name} ({awaited!r})"
    if not awaited.get_loop().is_running():
        _dismiss(awaited)
    return AwaitError(f"{coroutine!r} awaited {what}: {INSTEAD}")


def refuse_turn(coroutine: object, coro: Any) -> None:
    """Raise when a bare None was yielded for asyncio, which means a turn of its loop."""
    name = _awaits(coro)
    if name is not None:
        raise AwaitError(f"{coroutine!r} awaited asyncio's {name}: {INSTEAD}")


def explained(coroutine: object, error: Exception) -> BaseException:
    """What a coroutine ended by: an `AwaitError` with `error` as its cause when asyncio missed its loop in it."""
    if isinstance(error, AttributeError):
        missed = error.obj is None
    else:
        text = str(error)
        missed = "event loop" in text or "task" in text
    if not missed:
        return error
    inside: list[FrameType] = []
    traceback = error.__traceback__
    while traceback is not None:
        if _of_asyncio(traceback.tb_frame):
            inside.append(traceback.tb_frame)
        else:
            inside.clear()
        traceback = traceback.tb_next
    if inside:
        name = inside[0].f_code.co_qualname
    elif type(error) is RuntimeError and error.args == ("no running event loop",):
        name = "running event loop"  # asked for by a function that has no frame, such as get_running_loop()
    else:
        return error
    for frame in inside:
        for value in list(frame.f_locals.values()):
            _close_unbegun(value)
    refused = AwaitError(f"{coroutine!r} used asyncio's {name}: {INSTEAD}")
    refused.__cause__ = error
    return refused.with_traceback(error.__traceback__)


def _of_asyncio(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__")).partition(".")[0] == "asyncio"


def _frames(coro: Any) -> Iterator[FrameType]:
    """Of a coroutine that waits, and of what it waits for, inwards."""
    while coro is not None:
        frame = getattr(coro, "cr_frame", None) or getattr(coro, "gi_frame", None) or getattr(coro, "ag_frame", None)
        if isinstance(frame, FrameType):
            yield frame
        inner = getattr(coro, "cr_await", None)
        if inner is None:
            inner = getattr(coro, "gi_yieldfrom", None)
        if inner is None:
            inner = getattr(coro, "ag_await", None)
        coro = inner


def _awaits(coro: Any) -> str | None:
    """What of asyncio a coroutine waits in, by the name under which it was called; None: nothing of asyncio's."""
    name = None
    for frame in _frames(coro):
        if not _of_asyncio(frame):
            name = None
        elif name is None:
            name = frame.f_code.co_qualname
    return name


def _close_unbegun(value: object) -> None:
    """Close coroutines that were given to asyncio and will never run: the error says so already."""
    if isinstance(value, tuple | list | set):
        for each in list(value):
            _close_unbegun(each)
    elif inspect.iscoroutine(value) and inspect.getcoroutinestate(value) == inspect.CORO_CREATED:
        value.close()


def _dismiss(awaited: Any) -> None:
    """Tasks of a loop that does not run, made for what was awaited: they will never begin."""
    for child in getattr(awaited, "_children", ()):
        _dismiss(child)
    coro = getattr(awaited, "get_coro", lambda: None)()
    if inspect.iscoroutine(coro) and inspect.getcoroutinestate(coro) == inspect.CORO_CREATED:
        coro.close()
        awaited._log_destroy_pending = False
