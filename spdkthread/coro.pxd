"""Coroutines on an SpdkThread.

A coroutine runs until it awaits something that is not there yet: a `Suspension`, which it hands out to `step`. Whoever
ends the wait has the coroutine go on *on its own thread*, at once when it is there (a timer, a file descriptor),
otherwise by a message that carries the suspension::

    spawn --message--> step --- hands out a Suspension ---> waits      (coroutine.waiting is the suspension)
                        ^                                    |
                        '-------- resume(suspension) <-------'         (stale unless it is still the one waited for)

A coroutine that was cancelled no longer waits for that suspension, so a `resume` under way for it does nothing.
"""

from libc.stdint cimport uint64_t

from spdkthread.future cimport FutureCore
from spdkthread.poller cimport Poller
from spdkthread.thread cimport SpdkThread
from spdkthread.timers cimport timer_node, timer_queue


cdef class Coroutine:
    cdef object coro
    cdef object context
    cdef FutureCore future
    cdef SpdkThread home            # the thread it runs on, or is on its way to
    cdef Suspension waiting
    cdef object throwing            # to be raised where it waits, at its next step
    cdef object leaving             # the Switch that it is about to leave with
    cdef bint running
    cdef bint settled               # counted among its home's coroutines
    cdef object __weakref__

    cdef int step(self) except -1
    cdef int run_on(self) except -1
    cdef bint suspend_on(self, Suspension suspension) except -1
    cdef int interrupt(self, object error) except -1
    cdef int settle_in(self) except -1
    cdef int move_out(self) except -1
    cdef int end(self, object value, object error) except -1


cdef class Suspension:
    cdef Coroutine coroutine
    cdef int stage
    cdef object error               # raised where it is awaited

    cdef bint begin(self, Coroutine coroutine) except -1
    cdef int withdraw(self) except -1
    cdef object outcome(self)


cdef struct sleep_node:
    timer_node node                 # first: a pointer to it is a pointer to this
    void *sleep


cdef class CoroutineHome:
    cdef SpdkThread thread
    cdef dict coroutines            # Coroutine -> None
    cdef timer_queue timers
    cdef Poller alarm               # set to the earliest of them

    cdef int set_alarm(self, uint64_t deadline, uint64_t now) except -1


cdef bint in_coroutine() noexcept
