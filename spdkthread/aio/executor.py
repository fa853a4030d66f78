"""A `concurrent.futures` executor over SpdkThreads."""

import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from concurrent.futures import wait as wait_for_all
from typing import Any, ParamSpec, TypeVar

from spdkthread import late
from spdkthread.error_log import describe
from spdkthread.errors import RingFullError, ThreadExitedError, WrongThreadError
from spdkthread.future import FutureCore, make_future, run_call
from spdkthread.thread import SpdkThread
from spdkthread.undelivered import special_message

_P = ParamSpec("_P")
_T = TypeVar("_T")

__all__ = ["ThreadExecutor"]


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
        self._workers: dict[int, _Worker] = {}
        self._turn = itertools.count()
        self._shut = False

    def __repr__(self) -> str:
        under_way = sum(len(worker.under_way) for worker in list(self._workers.values()))
        state = "shut down" if self._shut else f"{under_way} calls under way"
        return f"<ThreadExecutor of {len(tuple(self._threads()))} threads, {state}>"

    @property
    def _max_workers(self) -> int:
        # What dask reads of the executor that is its `pool`: how many calls to have under way.
        return len(tuple(self._threads()))

    def submit(self, fn: Callable[_P, _T], /, *args: _P.args, **kwargs: _P.kwargs) -> Future[_T]:
        """Have ``fn(*args, **kwargs)`` run on the least loaded thread.

        Raises
        ------
        RuntimeError
            After `shutdown`.
        ThreadExitedError
            When none of the threads takes calls any more.
        TypeError
            When the function that names the threads returns something else.
        """
        self._refuse_if_shut()
        for worker in self._by_load():
            future = make_future(worker.thread)
            worker.under_way[id(future)] = future
            try:
                future.add_done_callback(worker.finished)
                # After it was entered: shutdown() looks the other way round, and one of the two sees the other.
                self._refuse_if_shut()
                worker.take_in(future, fn, args, kwargs)
            except ThreadExitedError:
                worker.finished(future)
            except BaseException:
                # Not begun, it never runs: the caller gets no future of it.
                future.cancel()
                worker.finished(future)
                raise
            else:
                return future
        raise ThreadExitedError("no thread of this executor takes calls any more")

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
        self._shut = True
        if cancel_futures:
            for _, future in self._under_way():
                future.cancel()
        if not wait:
            return
        while under_way := self._under_way():
            for worker, future in under_way:
                if not future.done() and worker.thread._is_driven_here():
                    raise WrongThreadError(
                        f"waiting for {self!r} here would stop {worker.thread!r}, which has to run its calls"
                    )
                worker.give_up(future)
            wait_for_all([future for _, future in under_way])
            for worker, future in under_way:
                worker.finished(future)

    # Inside. There is no lock: a collection may run a destructor in any of these lines, and that may cancel a future of
    # this executor, or submit to it. What is shared is changed by single operations of dicts and deques.

    def _refuse_if_shut(self) -> None:
        if self._shut:
            raise RuntimeError("cannot schedule new futures after shutdown")

    def _under_way(self) -> list[tuple["_Worker", Any]]:
        workers = list(self._workers.values())
        return [(worker, future) for worker in workers for future in list(worker.under_way.values())]

    def _by_load(self) -> list["_Worker"]:
        """The threads, the least loaded first; of equal ones another each time."""
        workers = [self._worker_of(thread) for thread in self._threads()]
        if len(workers) < 2:
            return workers
        first = next(self._turn) % len(workers)
        workers = workers[first:] + workers[:first]
        return sorted(workers, key=_Worker.load)

    def _worker_of(self, thread: SpdkThread) -> "_Worker":
        worker = self._workers.get(id(thread))
        if worker is not None:
            return worker
        if not isinstance(thread, SpdkThread):
            raise TypeError(f"threads must be SpdkThreads, got {type(thread).__name__}")
        # Those that are over: nothing is under way there, and nothing goes there any more.
        for key, old in self._workers.copy().items():  # a collection may add one at any tuple of an iteration
            if old.thread.is_exited and not old.under_way:
                self._workers.pop(key, None)
        return self._workers.setdefault(id(thread), _Worker(thread))


class _Work:
    """A submitted call that found the ring full. Equal to itself only."""

    __slots__ = ("args", "fn", "future", "kwargs")

    def __init__(self, future: FutureCore, fn: Callable, args: tuple, kwargs: dict) -> None:
        self.future, self.fn, self.args, self.kwargs = future, fn, args, kwargs


class _Worker:
    """One thread of an executor: what is under way there, and what waits for room in its ring."""

    __slots__ = ("thread", "under_way", "waiting")

    def __init__(self, thread: SpdkThread) -> None:
        self.thread = thread
        self.under_way: dict[int, Any] = {}  # by id(): a future is no other one
        self.waiting: deque[_Work] = deque()

    def load(self) -> int:
        return len(self.under_way) + self.thread.pending_msgs

    def take_in(self, future: Any, fn: Callable, args: tuple, kwargs: dict) -> None:
        if not self.waiting:
            try:
                self.thread.send_msg(run_call, future, fn, args, kwargs)
                return
            except RingFullError:
                pass
        # Behind what waits already. The message that fetches it cannot be refused for want of room.
        work = _Work(future, fn, args, kwargs)
        self.waiting.append(work)
        try:
            self.thread._send_library_msg(_fetch, self)
        except BaseException as refused:
            # There is one message for each that waits, and this one has none: the first that waits goes.
            first = self.next()
            if first is work or first is None:
                raise
            first.future._never_ran(f"{describe(first.fn)} never ran: {refused}")

    def next(self) -> _Work | None:
        try:
            return self.waiting.popleft()
        except IndexError:
            return None

    def finished(self, future: Any) -> None:
        self.under_way.pop(id(future), None)

    def give_up(self, future: Any) -> None:
        """Settle a call that cannot run any more: its thread was left behind by a fork."""
        if self.thread.is_exited and not future.done():
            try:
                future._never_ran(f"a call on {self.thread!r} never ran: its thread has ended")
            except Exception:
                if not future.done():
                    raise


def _fetch(worker: _Worker) -> None:
    """The message of a call that found the ring full."""
    work = worker.next()
    if work is not None:
        run_call(work.future, work.fn, work.args, work.kwargs)


def _drop_fetch(args: tuple, why: str) -> None:
    work = args[0].next()
    if work is not None:
        work.future._never_ran(why)


special_message(_fetch, lambda args: "a call of an executor", _drop_fetch)


def _call_each(fn, chunk: tuple) -> list:
    return [fn(*args) for args in chunk]


def _chained(results):
    for chunk in results:
        chunk.reverse()
        while chunk:
            yield chunk.pop()


late.fill("executor", ThreadExecutor)
