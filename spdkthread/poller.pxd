"""Poller: a function that its thread calls again and again, or at every period."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t

from spdkthread.atomics cimport st_atomic_u32
from spdkthread.native cimport NativeCall, poller_fn
from spdkthread.timers cimport timer_node


cdef enum poller_state:
    POLLER_WAITING          # on a list of its thread, or under way to it in a message
    POLLER_RUNNING          # inside its function
    POLLER_PAUSED           # registered, not called
    POLLER_UNREGISTERED     # never called again

# What `Poller.request` is asked for.
cdef enum poller_wish:
    POLLER_NOTHING
    POLLER_PAUSE
    POLLER_RESUME
    POLLER_UNREGISTER

ctypedef int (*poller_request_fn)(Poller poller, int what) except -1


# What the poll loop touches. `timer` is first: a pointer to it is a pointer to this.
cdef struct poller_s:
    timer_node timer
    poller_s *next                  # among the active pollers
    poller_s *prev
    bint listed                     # on the list of active pollers
    st_atomic_u32 state             # written by its thread, read on any OS thread
    uint64_t period                 # ticks; 0: active
    bint fixed_rate                 # deadlines at start + k periods
    uint64_t serial                 # the poll in which it came onto the list
    poller_fn native_fn             # NULL: py_fn is called
    void *native_ctx
    PyObject *py_fn                 # borrowed from the Poller
    PyObject *owner                 # the Poller itself, borrowed: its thread keeps it
    uint64_t run_count
    uint64_t busy_count
    uint64_t error_count
    uint64_t overrun_count
    uint64_t late                   # ticks of lateness that do not make a whole period yet


cdef class Poller:
    cdef poller_s c
    cdef str _name                  # None: its function's
    cdef readonly uint64_t id
    cdef readonly object thread
    cdef object _fn
    cdef NativeCall _native
    cdef poller_request_fn request  # of its thread, which is in a higher layer
    cdef int wanted                 # what a request that waits in the overflow list is to do
    cdef Py_ssize_t list_position   # 1 + its index in the list of its thread; 0: not registered
    cdef object __weakref__

    cdef int _ask(self, int what) except -1


cdef Poller new_poller(object thread, object name, uint64_t period, bint fixed_rate, poller_request_fn request)
