"""Timer: one call at a deadline. See ``call_later.pxd``."""

cimport cython
from cpython.list cimport PyList_GET_SIZE
from cpython.object cimport PyObject

from spdkthread.atomics cimport st_add_relaxed, st_atomic_u64, st_load_acquire, st_load_relaxed, st_sub_relaxed
from spdkthread.native cimport NativeCall

from spdkthread.error_log import describe

__all__ = ["Timer"]

cdef st_atomic_u64 live

STATES = ("done", "pending", "cancelled")


def live_timers() -> int:
    """Timer objects that exist. **Thread safety:** any OS thread."""
    return st_load_relaxed(&live)


@cython.freelist(64)
cdef class Timer:
    """Timer()\n--\n\n\
    One call at a deadline. Made by `SpdkThread.call_later` and `SpdkThread.call_later_native`.

    Notes
    -----
    **Thread safety:** every member from any OS thread. Answers to no function of SPDK: there a poller unregisters
    itself.
    """

    def __cinit__(self):
        st_add_relaxed(&live, 1)

    def __init__(self):
        raise TypeError("a Timer comes from SpdkThread.call_later")

    def __dealloc__(self):
        st_sub_relaxed(&live, 1)

    def __repr__(self):
        if self.thread is None:
            return "<Timer, never armed>"
        state = STATES[st_load_acquire(&self.c.state)]
        return f"<Timer {self.name!r} of {self.thread.name!r} at tick {self.deadline}, {state}>"

    def cancel(self) -> bool:
        """Have it never run, and drop its function and arguments at once.

        Returns
        -------
        bool
            True: it has not run and never will. False: it runs or has run, or was cancelled before.

        Notes
        -----
        **Thread safety:** any OS thread. What it answers is true on every OS thread: the word that says whether it is
        pending is changed once, by the run or by the cancel. From elsewhere, only the removal from its thread's list
        is by a message, so an exiting thread may stay until that has run.
        """
        if self.request == NULL:
            return False
        return self.request(self)

    cdef object release(self):
        """Take function and arguments out; they are dropped with what this returns, and outside any lock."""
        cdef object held
        with cython.critical_section(self):
            held = (self._fn, self._args, self._native)
            self._fn = None
            self._args = None
            self._native = None
        return held

    @property
    def deadline(self) -> int:
        """The absolute tick at or after which it runs."""
        return self.c.deadline

    @property
    def is_pending(self) -> bool:
        """Whether it has neither begun to run nor been cancelled."""
        return st_load_acquire(&self.c.state) == TIMER_PENDING

    @property
    def name(self) -> str:
        """That of its function; empty once it has run or was cancelled."""
        cdef object fn
        cdef NativeCall native
        with cython.critical_section(self):
            fn = self._fn
            native = self._native
        if native is not None:
            fn = native._fn_owner
            return getattr(fn, "__qualname__", None) or getattr(fn, "__name__", None) or "native"
        return "" if fn is None else describe(fn)


cdef Timer new_timer(object thread, object fn, tuple args, NativeCall native):
    cdef Timer timer = Timer.__new__(Timer)
    timer.c.owner = <PyObject *>timer
    timer.thread = thread
    timer._fn = fn
    timer._args = args
    if native is not None:
        timer._native = native
        timer.c.native_fn = <msg_fn>native.fn
        timer.c.native_ctx = native.ctx
    return timer


cdef int list_timer(list timers, Timer timer) except -1:
    """Its thread: keep the timer in the list of those that are pending."""
    timers.append(timer)
    timer.list_position = PyList_GET_SIZE(timers)
    return 0


cdef int unlist_timer(list timers, Timer timer) except -1:
    """Its thread: take it out of the list; one swap, whatever its length. Nothing for one that is not in it."""
    cdef Timer last
    if not timer.list_position:
        return 0
    with cython.critical_section(timers):       # `list` of it is one step for other OS threads
        last = timers.pop()
        if last is not timer:
            timers[timer.list_position - 1] = last
            last.list_position = timer.list_position
    timer.list_position = 0
    return 0
