"""SpdkThreads for programs of futures and coroutines: executors, coroutines on a thread, an asyncio event loop.

`SpdkThread.call`, `acall`, `spawn` and `executor` lead here; what a spawned coroutine may await is here by name.
"""

import itertools
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from spdkthread.coro import fd_ready, sleep_us, switch_to
from spdkthread.error_log import describe
from spdkthread.errors import RingFullError, ThreadExitedError, WrongThreadError
from spdkthread.future import FutureCore, make_future
from spdkthread.messages import special_message
from spdkthread.thread import SpdkThread

if TYPE_CHECKING:
    from spdkthread.event_loop import EventLoop as EventLoop

_P = ParamSpec("_P")
_T = TypeVar("_T")

__all__ = ["EventLoop", "ThreadExecutor", "fd_ready", "sleep_us", "switch_to"]


def __getattr__(name: str) -> Any:
    # asyncio is imported by those who use its loop.
    if name == "EventLoop":
        from spdkthread.event_loop import EventLoop

        return EventLoop
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class ThreadExecutor(Executor):
    """A ``concurrent.futures.Executor`` whose calls run on SpdkThreads, each on the least loaded one.

    A call goes into the ring of its thread. What finds the ring full waits in the executor, in order, as it would in
    the standard library's executors, and goes in when earlier calls have run.

    Parameters
    ----------
    threads : iterable of SpdkThread, or callable
        The threads, or a function that returns those there are at present.

    Notes
    -----
    **Thread safety:** every method from any OS thread; `shutdown` and leaving a ``with`` block wait, which raises
    `WrongThreadError` on an OS thread that has to run what is waited for.
    """

    def __init__(self, threads: Iterable[SpdkThread] | Callable[[], Iterable[SpdkThread]]) -> None:
        if not callable(threads):
            fixed = tuple(threads)
            if not fixed:
                raise ValueError("an executor needs at least one thread")
            for thread in fixed:
                if not isinstance(thread, SpdkThread):
                    raise TypeError(f"threads must be SpdkThreads, got {type(thread).__name__}")
            self._threads: Callable[[], Iterable[SpdkThread]] = lambda: fixed
        else:
            self._threads = threads
        self._lock = threading.Lock()
        self._unfinished: dict[Future, SpdkThread] = {}
        self._running: dict[SpdkThread, int] = {}
        self._waiting: dict[SpdkThread, deque] = {}
        self._turn = itertools.count()
        self._shut = False
        self._all_done = threading.Condition(self._lock)

    def __repr__(self) -> str:
        state = "shut down" if self._shut else f"{len(self._unfinished)} calls under way"
        return f"<ThreadExecutor of {len(tuple(self._threads()))} threads, {state}>"

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have ``fn(*args, **kwargs)`` run on the least loaded thread.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        ThreadExitedError
            When none of the threads takes calls any more.
        """
        with self._lock:
            if self._shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            candidates = self._by_load()
            for thread in candidates:
                future = make_future(thread)
                self._unfinished[future] = thread
                self._running[thread] = self._running.get(thread, 0) + 1
                try:
                    self._place(thread, (future, fn, args, kwargs))
                    break
                except ThreadExitedError:
                    self._forget(future)
            else:
                raise ThreadExitedError("no thread of this executor takes calls any more")
        future.add_done_callback(self._finished)
        return future

    def map(
        self,
        fn: Callable[..., _T],
        *iterables: Iterable[Any],
        timeout: float | None = None,
        chunksize: int = 1,
        **options: Any,
    ) -> Iterator[_T]:
        """As in the standard library; with a `chunksize` above 1, so many calls are one message."""
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        if chunksize == 1:
            return super().map(fn, *iterables, timeout=timeout, **options)
        calls = zip(*iterables)  # noqa: B905 - the shortest one ends it, as with map()
        chunks = iter(lambda: tuple(itertools.islice(calls, chunksize)), ())
        results = super().map(_call_each, itertools.repeat(fn), chunks, timeout=timeout, **options)
        return _chained(results)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls, and wait for those that were taken.

        Raises
        ------
        WrongThreadError
            When waiting would hold up the OS thread that has to run them.
        """
        with self._lock:
            self._shut = True
            pending = list(self._unfinished) if cancel_futures else []
        for future in pending:
            future.cancel()
        if not wait:
            return
        with self._lock:
            for future, thread in self._unfinished.items():
                if not future.done() and thread._is_driven_here():
                    raise WrongThreadError(
                        f"waiting for {self!r} here would stop {thread!r}, which has to run its calls"
                    )
            while self._unfinished:
                self._all_done.wait()

    # Inside. The lock is not held while anything of the user's runs.

    def _by_load(self) -> list[SpdkThread]:
        """The threads, the least loaded first; of equal ones another each time."""
        threads = list(self._threads())
        if len(threads) < 2:
            return threads
        first = next(self._turn) % len(threads)
        threads = threads[first:] + threads[:first]
        return sorted(threads, key=lambda one: self._running.get(one, 0) + one.pending_msgs)

    def _place(self, thread: SpdkThread, work: tuple) -> None:
        waiting = self._waiting.get(thread)
        if not waiting:
            try:
                thread.send_msg(_run, *work)
                return
            except RingFullError:
                pass
        # Behind what waits already. The message that fetches it cannot be refused for want of room.
        if waiting is None:
            waiting = self._waiting[thread] = deque()
        waiting.append(work)
        thread._send_library_msg(_fetch, self, thread)

    def _take(self, thread: SpdkThread) -> tuple | None:
        with self._lock:
            waiting = self._waiting.get(thread)
            return waiting.popleft() if waiting else None

    def _forget(self, future: Future) -> None:
        thread = self._unfinished.pop(future, None)
        if thread is not None:
            left = self._running[thread] - 1
            if left:
                self._running[thread] = left
            else:
                del self._running[thread]
            if not self._unfinished:
                self._all_done.notify_all()

    def _finished(self, future: Future) -> None:
        with self._lock:
            self._forget(future)


def _run(future: FutureCore, fn, args: tuple, kwargs: dict) -> None:
    """The message of a submitted call."""
    if not future.set_running_or_notify_cancel():
        return
    try:
        result = fn(*args, **kwargs)
    except BaseException as error:
        future.set_exception(error)
        if isinstance(error, (KeyboardInterrupt, SystemExit)):
            raise
        # The traceback has this frame.
        del future
    else:
        future.set_result(result)


def _fetch(executor: ThreadExecutor, thread: SpdkThread) -> None:
    """The message of a call that found the ring full."""
    work = executor._take(thread)
    if work is not None:
        _run(*work)


def _name(args: tuple) -> str:
    return describe(args[1])


def _drop(args: tuple, why: str) -> None:
    if args[0].set_running_or_notify_cancel():
        args[0].set_exception(ThreadExitedError(why))


def _drop_fetch(args: tuple, why: str) -> None:
    work = args[0]._take(args[1])
    if work is not None:
        _drop(work, why)


special_message(_run, _name, _drop)
special_message(_fetch, lambda args: "a call of an executor", _drop_fetch)


def _call_each(fn, chunk: tuple) -> list:
    return [fn(*args) for args in chunk]


def _chained(results):
    for chunk in results:
        chunk.reverse()
        while chunk:
            yield chunk.pop()
