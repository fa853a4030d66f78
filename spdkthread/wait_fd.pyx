"""WaitFd: a descriptor by which an outside loop waits for an SpdkThread that it polls itself."""

import sys

cimport cython
from libc.stdint cimport uint64_t
from posix.unistd cimport close

from spdkthread.atomics cimport st_loadp_relaxed, st_storep_release
from spdkthread.clock cimport st_ticks
from spdkthread.fd_group cimport FD_READABLE, fd_group_add, fd_group_open
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport poll_work_ready, thread_s
from spdkthread.timers cimport TIMER_NEVER, timer_next_deadline
from spdkthread.wakeup cimport wakeup_begin_sleep, wakeup_end_sleep, wakeup_give_back, wakeup_take

from spdkthread.errors import FdError, ThreadExitedError, WrongThreadError

__all__ = ["WaitFd"]

cdef extern from *:
    """
    #include <unistd.h>
    #ifdef __linux__
    #include <sys/timerfd.h>
    static inline int st_alarm_open(void) { return timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK); }
    /* 0: never. It is not readable any more after this, until that time. */
    static inline int st_alarm_set(int fd, uint64_t ticks) {
        struct itimerspec at = {{0, 0}, {(time_t)(ticks / 1000000000u), (long)(ticks % 1000000000u)}};
        return timerfd_settime(fd, TFD_TIMER_ABSTIME, &at, NULL);
    }
    #else
    static inline int st_alarm_open(void) { return -1; }
    static inline int st_alarm_set(int fd, uint64_t ticks) { return -1; }
    #endif
    """
    int st_alarm_open() nogil
    int st_alarm_set(int fd, uint64_t ticks) nogil


# Not cleared by the collector: the thread points to the wake-up state until `_release`.
@cython.no_gc_clear
cdef class WaitFd:
    """A descriptor that is readable while a thread that is driven by hand has something to do.

    For a loop of one's own, or of another library, that waits for many things and polls the thread between::

        with WaitFd(thread) as waits:
            selector.register(waits, selectors.EVENT_READ)
            while True:
                while thread.poll():
                    pass
                if waits.arm():                 # False: something came meanwhile
                    selector.select()

    Parameters
    ----------
    thread : SpdkThread
        On no reactor, and on the real clock.

    Raises
    ------
    WrongThreadError
        When the thread belongs to a reactor or an event loop, which wait for it themselves, or to another WaitFd.
    ThreadExitedError
        When it has exited.
    ValueError
        When its library has a manual clock, for which no kernel waits.
    FdError
        When there are no more descriptors, or the system has none that wait for a time (only Linux has).

    Notes
    -----
    **Thread safety:** on the OS thread that polls the thread. Answers to ``spdk_thread_get_interrupt_fd``. An active
    poller always has something to do, so with one `arm` returns False; SPDK switches its pollers to interrupts instead.
    """

    def __cinit__(self):
        self.epoll = self.alarm = self.fd_set = -1

    def __init__(self, SpdkThread thread not None):
        if self.thread is not None:
            raise FdError(f"{self!r} is initialised already")
        self.thread = thread
        self._check()
        if thread.c.clock != NULL:
            raise ValueError(f"{thread!r} is on a manual clock: no descriptor becomes readable when that is moved")
        if st_loadp_relaxed(&thread.c.wakeup) != NULL:
            raise WrongThreadError(f"{thread!r} has another WaitFd: close() that one first")
        self.epoll = fd_group_open()
        self.alarm = st_alarm_open()
        if self.epoll < 0 or self.alarm < 0:
            self._release()
            raise FdError(
                f"no descriptor to wait by for {thread!r}: "
                + ("the process has too many open" if sys.platform == "linux" else "only Linux has what it takes")
            )
        try:
            self.wakeup = wakeup_take()
        except BaseException:
            self._release()
            raise
        if (
            fd_group_add(self.epoll, self.wakeup.wait_fd, FD_READABLE, 0) < 0
            or fd_group_add(self.epoll, self.alarm, FD_READABLE, 0) < 0
        ):
            self._release()
            raise FdError(f"no memory in the kernel to wait for {thread!r}")
        st_storep_release(&thread.c.wakeup, self.wakeup)

    def __dealloc__(self):
        self._release()

    def __enter__(self):
        return self

    def __exit__(self, *exc_info):
        self.close()

    def __repr__(self):
        return f"<WaitFd {self.epoll} of {self.thread!r}>"

    cdef int _check(self) except -1:
        if self.thread.is_exited:
            raise ThreadExitedError(f"{self.thread!r} has nothing to wait for any more")
        if self.thread._owned_by() is not None:
            raise WrongThreadError(f"{self.thread!r} belongs to {self.thread._owned_by()!r}, which waits for it itself")
        return 0

    cdef void _release(self) noexcept:
        if self.wakeup != NULL:
            if self.thread is not None and st_loadp_relaxed(&self.thread.c.wakeup) == self.wakeup:
                st_storep_release(&self.thread.c.wakeup, NULL)
            wakeup_give_back(self.wakeup)
            self.wakeup = NULL
        if self.epoll >= 0:
            close(self.epoll)
        if self.alarm >= 0:
            close(self.alarm)
        self.epoll = self.alarm = -1

    def fileno(self) -> int:
        """The descriptor. It stays the same until `close`.

        Raises
        ------
        FdError
            When it is closed.
        """
        if self.epoll < 0:
            raise FdError(f"{self!r} is closed")
        return self.epoll

    def arm(self) -> bool:
        """Right before waiting: have the descriptor become readable when there is something to do.

        Returns
        -------
        bool
            False when there is already: poll instead of waiting.

        Raises
        ------
        FdError
            When it is closed.
        WrongThreadError, ThreadExitedError
            When the thread has come to a reactor meanwhile, or has exited.
        """
        cdef thread_s *thread = &self.thread.c
        cdef uint64_t deadline = TIMER_NEVER
        self.fileno()
        self._check()
        if st_loadp_relaxed(&thread.wakeup) != self.wakeup:
            # The thread has been on a reactor meanwhile.
            st_storep_release(&thread.wakeup, self.wakeup)
        if thread.fd_count and (self.fd_set != thread.fd_set or self.fd_set_serial != thread.fd_set_serial):
            # The thread's former set was closed, and so has left the epoll by itself.
            fd_group_add(self.epoll, thread.fd_set, FD_READABLE, 0)
            self.fd_set, self.fd_set_serial = thread.fd_set, thread.fd_set_serial
        wakeup_begin_sleep(self.wakeup)
        if not poll_work_ready(thread):
            if thread.timers.count:
                deadline = timer_next_deadline(&thread.timers)
            if deadline == TIMER_NEVER:
                st_alarm_set(self.alarm, 0)
                return True
            if deadline > st_ticks():
                st_alarm_set(self.alarm, deadline)
                return True
        wakeup_end_sleep(self.wakeup)
        return False

    def close(self) -> None:
        """Close the descriptor. A second call does nothing."""
        self._release()
