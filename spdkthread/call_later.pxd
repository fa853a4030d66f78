"""Timer: one call at a deadline. Made by `SpdkThread.call_later`, or by native code in memory of its own.

The timers of a thread are in a queue of their own, `thread_s.later`, because one poll runs all of them that are due
and, with policy "one", at most one poller. What decides when a thread has to be polled looks at `thread_s.timers` only:
the node `thread_s.alarm` stands there for all timers of the thread, at or before their earliest deadline.

`state` is one atomic word, and a timer leaves TIMER_PENDING once::

    TIMER_PENDING --(owner, compare-and-swap)--> TIMER_DONE        its function runs
                  --(any OS thread, the same)--> TIMER_CANCELLED   its function never runs

The one that changed the word owns function and arguments from then on.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from spdkthread.atomics cimport st_atomic_u64
from spdkthread.native cimport NativeCall, msg_fn
from spdkthread.timers cimport timer_node


cdef enum timer_state:
    TIMER_DONE              # has run, or was never armed: memory of zeros is a timer
    TIMER_PENDING
    TIMER_CANCELLED

ctypedef bint (*timer_cancel_fn)(Timer timer) except -1


# What the poll loop touches. `node` is first: a pointer to it is a pointer to this.
cdef struct timer_s:
    timer_node node
    uint64_t deadline
    st_atomic_u64 state
    uint64_t first_poll             # number of the poll from which on it may run
    bint deferred                   # on the list of those that may not run in this poll
    msg_fn native_fn                # NULL: the Timer's Python function is called
    void *native_ctx
    PyObject *owner                 # the Timer, borrowed from its thread's list; NULL: memory of native code


cdef class Timer:
    cdef timer_s c
    cdef readonly object thread
    cdef object _fn
    cdef tuple _args                # None: no arguments
    cdef NativeCall _native
    cdef timer_cancel_fn request    # of its thread, which is in a higher layer
    cdef Py_ssize_t list_position   # 1 + its index in the list of its thread; 0: not in it
    cdef object __weakref__

    cdef object release(self)


cdef Timer new_timer(object thread, object fn, tuple args, NativeCall native)
cdef int list_timer(list timers, Timer timer) except -1
cdef int unlist_timer(list timers, Timer timer) except -1
