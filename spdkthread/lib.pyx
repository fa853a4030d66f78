"""ThreadLib: the registry of threads and devices, the clock, the routing of exceptions."""

import os
import sys
from bisect import bisect_left, bisect_right

from cpython.exc cimport PyErr_SetObject, PyErr_WriteUnraisable
from libc.stdint cimport uint64_t

from spdkthread.atomics cimport st_add_relaxed, st_load_relaxed
from spdkthread.clock cimport ManualClock, clock_read
from spdkthread.late cimport LATE_FOR_EACH_THREAD, LATE_THREAD, late

from spdkthread.error_log import ErrorLog, describe
from spdkthread.errors import SpdkThreadError
from spdkthread.forks import ReentrantLock
from spdkthread.weak_registry import WeakRegistry

__all__ = ["ThreadLib", "default_lib"]

libs = WeakRegistry()


cdef class ThreadLib:
    """ThreadLib(*, clock=None, exception_handler=None)\n--\n\n\
    One thread library: its threads, devices, clock and error handler. Separate instances share nothing.

    Parameters
    ----------
    clock : ManualClock, optional
        Simulated time for everything in this library; by default the clock of ``time.perf_counter_ns``.
    exception_handler : callable, optional
        Called with a dict for every exception that leaves a callback. See `exception_handler`.

    Notes
    -----
    **Thread safety:** every method from any OS thread. Answers to ``spdk_thread_lib_init``.
    """

    def __cinit__(self):
        self._threads = {}
        self._ids = []
        self._devices = {}
        self._next_id = 1

    def __init__(self, *, clock=None, exception_handler=None):
        if self._lock is not None:
            raise SpdkThreadError(f"{self!r} is initialised already")
        if clock is not None and not isinstance(clock, ManualClock):
            raise TypeError(f"clock must be None or a ManualClock, got {type(clock).__name__}")
        self._clock = clock
        if clock is not None:
            self.clock = &(<ManualClock>clock).c
        self._lock = ReentrantLock()
        self._error_log = ErrorLog()
        libs.add(self)
        self.exception_handler = exception_handler

    def __repr__(self):
        state = "closed" if self._closed else "open"
        return f"<ThreadLib {state}, {len(self._threads)} threads, {len(self._devices)} devices>"

    def create_thread(self, name=None, *, cpumask=None, ring_size=4096, poller_policy="one"):
        """Create an `SpdkThread` of this library.

        Parameters
        ----------
        name : str, optional
            By default ``thread_<id>``.
        cpumask : iterable of int or str, optional
            The cores on which it may be placed: numbers, ``"0-3,6"`` or ``"0x4f"``. None: every core.
        ring_size : int, default 4096
            Slots of the message ring, rounded up to a power of two.
        poller_policy : {"one", "all"}
            Pollers per poll: one active and one timed as in SPDK 19.01, or all of them as in later versions.

        Returns
        -------
        SpdkThread

        Raises
        ------
        TypeError, ValueError
            For a bad argument.
        MemoryError
            When the ring does not fit into memory.
        SpdkThreadError
            When the library is closed.

        Notes
        -----
        **Thread safety:** any OS thread. Answers to ``spdk_thread_create``.
        """
        return late(LATE_THREAD)(name, cpumask=cpumask, ring_size=ring_size, poller_policy=poller_policy, lib=self)

    def get_thread_by_id(self, id: int):
        """The thread with this id, or None when it never was or has exited.

        Notes
        -----
        **Thread safety:** any OS thread. Answers to ``spdk_thread_get_by_id``.
        """
        return self._threads.get(id)

    @property
    def app_thread(self):
        """The first thread that this library made; None before, and once that one has exited.

        Notes
        -----
        **Thread safety:** any OS thread. Answers to ``spdk_thread_get_app_thread``; SPDK's does not exit before the
        library is closed.
        """
        return self._threads.get(1)

    def for_each_thread(self, fn, cpl=None):
        """Run ``fn()`` on every thread of this library, one after the other. See `spdkthread.for_each_thread`."""
        return late(LATE_FOR_EACH_THREAD)(fn, cpl, lib=self)

    def close(self) -> None:
        """End the library. A second call does nothing.

        Raises
        ------
        SpdkThreadError
            While threads or devices are left; it names every one of them and what keeps each thread, and nothing is
            closed.

        Notes
        -----
        **Thread safety:** any OS thread. Answers to ``spdk_thread_lib_fini``.
        """
        with self._lock:
            if self._closed:
                return
            threads = [with_blockers(thread) for thread in self._threads.copy().values()]
            devices = [describe(device) for device in self._devices.copy().values()]
            if threads or devices:
                left = ", ".join(threads + devices)
                raise SpdkThreadError(f"the thread library cannot close, there are left: {left}")
            self._closed = True
        self._error_log.summarize()

    @staticmethod
    def _all():
        """The libraries of this process."""
        return tuple(libs.all())

    def _after_fork(self):
        """In the child: an OS thread that is not here may have been inside `_add_thread` or `_remove_thread`."""
        self._ids = sorted(self._threads)
        for thread in list(self._threads.values()):
            thread._after_fork()

    # The registry, for the layers above.

    def _add_thread(self, thread) -> int:
        with self._lock:
            if self._closed:
                raise SpdkThreadError(f"{self!r} takes no new threads")
            id = self._next_id
            self._next_id += 1
            self._threads[id] = thread
            self._ids.append(id)
            return id

    def _remove_thread(self, id: int) -> None:
        with self._lock:
            if self._threads.pop(id, None) is not None:
                del self._ids[bisect_left(self._ids, id)]

    def _thread_after(self, id: int):
        """The thread created next after the one with this id, among those that have not exited."""
        with self._lock:
            index = bisect_right(self._ids, id)
            return self._threads[self._ids[index]] if index < len(self._ids) else None

    def _add_device(self, device) -> None:
        with self._lock:
            if self._closed:
                raise SpdkThreadError(f"{self!r} takes no new devices")
            self._devices[id(device)] = device

    def _remove_device(self, device) -> None:
        with self._lock:
            self._devices.pop(id(device), None)

    # Errors

    cdef int report(self, str message, object exception, object thread, str key, object subject) except -1:
        """Route an exception that left a callback: to the handler or the default log, else ``sys.unraisablehook``."""
        st_add_relaxed(&self._error_count, 1)
        context = {"message": message, "exception": exception, "thread": thread, key: subject}
        try:
            if self._exception_handler is not None:
                self._exception_handler(context)
            else:
                self._error_log.record(context)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as failure:
            tell_unraisable(failure, f"Exception handler of {self!r} failed", self._exception_handler)
        return 0

    def _report(self, message, exception, thread, key, subject):
        """`report` for Python code of the layers above."""
        self.report(message, exception, thread, key, subject)

    def _count_lost(self, count):
        st_add_relaxed(&self._lost_msgs, <uint64_t>count)

    cdef uint64_t now(self) noexcept:
        return clock_read(self.clock)

    @property
    def manual_clock(self) -> ManualClock | None:
        """The simulated clock of everything in this library; None: the clock of ``time.perf_counter_ns``."""
        return self._clock

    @property
    def exception_handler(self):
        """callable(context: dict) or None.

        The dict has ``message``, ``exception``, ``thread``, and ``poller``, ``device`` or ``fn``. None: the logger
        ``spdkthread``, where repeats of one failure are counted instead of printed. A handler that fails goes to
        ``sys.unraisablehook``. The handler runs on the thread of the callback.
        """
        return self._exception_handler

    @exception_handler.setter
    def exception_handler(self, handler):
        if handler is not None and not callable(handler):
            raise TypeError(f"exception_handler must be callable or None, got {type(handler).__name__}")
        self._exception_handler = handler

    @property
    def threads(self) -> tuple:
        """The threads in creation order; exited ones are not among them."""
        with self._lock:
            return tuple(self._threads.copy().values())

    @property
    def devices(self) -> tuple:
        """The registered devices in registration order."""
        with self._lock:
            return tuple(self._devices.copy().values())

    @property
    def error_count(self) -> int:
        """How many exceptions have left a callback."""
        return st_load_relaxed(&self._error_count)

    @property
    def lost_msgs(self) -> int:
        """Accepted messages that never ran, because their thread was destroyed or abandoned. Each loss is logged."""
        return st_load_relaxed(&self._lost_msgs)

    @property
    def error_log(self):
        """The default handler's memory: an `ErrorLog` with one record for each distinct failure."""
        return self._error_log


cdef str with_blockers(object thread):
    """A thread, and what keeps it."""
    blockers = thread.exit_blockers
    shown = ", ".join(blockers[:10]) + (", ..." if len(blockers) > 10 else "")
    return f"{thread!r} (kept by {shown})" if blockers else repr(thread)


cdef int tell_unraisable(object failure, str what, object handler) except -1:
    """A user's `sys.unraisablehook` gets everything; the interpreter's own takes only what the interpreter makes."""
    if sys.unraisablehook is not sys.__unraisablehook__:
        sys.unraisablehook(_Unraisable(failure, what, handler))
        return 0
    PyErr_SetObject(type(failure), failure)
    PyErr_WriteUnraisable(what)
    return 0


class _Unraisable:
    """What ``sys.unraisablehook`` reads."""

    def __init__(self, failure, err_msg, object):
        self.exc_type = type(failure)
        self.exc_value = failure
        self.exc_traceback = failure.__traceback__
        self.err_msg = err_msg
        self.object = object


cdef ThreadLib the_default = None
cdef object the_default_lock = ReentrantLock()


def default_lib() -> ThreadLib:
    """The process-wide library, made at the first call. **Thread safety:** any OS thread."""
    global the_default
    cdef ThreadLib made
    if the_default is None:
        # Not under the lock: a destructor that asks for it while this one is being made makes it itself.
        made = ThreadLib()
        with the_default_lock:
            if the_default is None:
                the_default = made
    return the_default


cdef ThreadLib lib_or_default(object lib):
    if lib is None:
        return default_lib()
    if not isinstance(lib, ThreadLib):
        raise TypeError(f"lib must be a ThreadLib or None, got {type(lib).__name__}")
    if (<ThreadLib>lib)._lock is None:
        raise SpdkThreadError(f"this {type(lib).__name__} was never initialised")
    return lib


def look_after_threads():
    """In the child of a fork: what other OS threads drove is dead there."""
    for lib in libs.all():
        lib._after_fork()


os.register_at_fork(after_in_child=look_after_threads)
