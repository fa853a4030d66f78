"""WaitFd: a descriptor by which an outside loop waits for an SpdkThread that it polls itself."""

from libc.stdint cimport uint32_t

from spdkthread.thread cimport SpdkThread
from spdkthread.wakeup cimport wakeup_state


cdef class WaitFd:
    cdef readonly SpdkThread thread
    cdef wakeup_state *wakeup
    cdef int epoll                  # what the outside loop waits on: the three below
    cdef int alarm                  # readable from the earliest deadline on
    cdef int fd_set                 # the thread's, as last seen
    cdef uint32_t fd_set_serial

    cdef int _check(self) except -1
    cdef void _release(self) noexcept
