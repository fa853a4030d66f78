"""Reactor: one OS thread on one core that polls its SpdkThreads for ever."""

from cpython.object cimport PyObject

from spdkthread.atomics cimport st_atomic_u64
from spdkthread.reactor_state cimport ReactorState


cdef class Reactor(ReactorState):
    cdef readonly object lib
    cdef readonly int core
    cdef readonly str name
    cdef readonly object idle
    cdef readonly double spin_us
    cdef readonly bint pin
    cdef object _thread             # threading.Thread
    cdef object _affinity           # the OS thread's cores before it was bound
    cdef bint _bound                # between affinity_enter and affinity_leave
    cdef st_atomic_u64 _tid
    cdef object _departed           # in the child of a fork
    cdef int _phase_before
    cdef public object _group
    cdef public object _watchdog
    cdef object __weakref__

    cdef PyObject *_own_loop(self) noexcept
    cdef int _check_alive(self) except -1
