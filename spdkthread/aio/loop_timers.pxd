"""The timers of an event loop: a queue of ticks in C memory instead of asyncio's heap of handles."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from spdkthread.aio.loop_state cimport LoopState
from spdkthread.cpython_ext cimport st_visitproc
from spdkthread.timers cimport timer_node, timer_queue

cdef struct loop_timer:
    timer_node node                 # first: a pointer to it is a pointer to this
    void *owner                     # the LoopTimer, one reference while it is queued
    PyObject *handle                # one reference while it is queued


cdef class LoopTimer:
    cdef loop_timer c

    cdef object take_handle(self)


# On the OS thread that runs the loop, or in the loop's critical section while none does.
cdef int enqueue_timer(LoopState loop, object handle, double when, uint64_t now) except -1
cdef uint64_t timers_now(LoopState loop) except? 0
cdef int forget_timer(LoopState loop, object known) except -1
cdef int expire_timers(LoopState loop) except -1
cdef int drop_timers(LoopState loop) except -1

cdef int visit_timers(timer_queue *timers, st_visitproc visit, void *arg) noexcept
