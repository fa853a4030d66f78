"""Reactor: one OS thread on one core that polls its SpdkThreads for ever."""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t

from spdkthread.atomics cimport st_atomic_u32, st_atomic_u64
from spdkthread.reactor_loop cimport reactor_s
from spdkthread.thread_poll cimport thread_s

cdef enum reactor_phase:
    PHASE_NEW
    PHASE_RUNNING
    PHASE_STOPPING          # takes nothing from outside, runs what it has
    PHASE_ABORTING          # ends after this turn
    PHASE_STOPPED           # may be started again
    PHASE_DEAD              # in the child of a fork


cdef class Reactor:
    cdef reactor_s r
    cdef readonly object lib
    cdef readonly int core
    cdef readonly str name
    cdef readonly object idle
    cdef readonly double spin_us
    cdef readonly bint pin
    cdef object _thread             # threading.Thread
    cdef object _signals            # SignalWatch, while run() is on the main thread
    cdef object _affinity           # the OS thread's cores before it was bound
    cdef bint _bound                # between affinity_enter and affinity_leave
    cdef st_atomic_u64 _tid
    cdef dict _members              # id(thread) -> SpdkThread: users' subclasses may say what is equal
    cdef object _calls              # deque of functions for the loop
    cdef object _lock
    cdef object _ended              # SignalSafeEvent
    cdef object _termination             # Termination, when it stops together with others
    cdef object _departed           # in the child of a fork
    cdef st_atomic_u32 _phase       # reactor_phase
    cdef object _fatal
    cdef object _report
    cdef st_atomic_u64 _owner       # OS thread that runs the loop, for ever or for a turn; 0: none
    cdef bint _looping              # between start() or run() and the end of that
    cdef int _phase_before
    cdef uint32_t _capacity
    cdef thread_s **_spare          # a larger table, for the loop to take; NULL: none
    cdef uint32_t _spare_capacity
    cdef int _spare_fd              # an fd set, for the loop to take; -1: none
    cdef public object _group
    cdef public object _watchdog
    cdef object __weakref__

    cdef int _attached(self, int reason) except -1
    cdef int _python_turn(self) except -1
    cdef int _serve(self) except -1
    cdef int _make_ready(self, object one) except -1
    cdef int _make_room(self, count) except -1
    cdef int _make_fd_set(self) except -1
    cdef int _rebuild(self) except -1
    cdef int _list_threads(self) except -1
    cdef int _caught(self) except -1
    cdef int _check_alive(self) except -1
    cdef bint _claim_loop(self) noexcept
    cdef PyObject *_be_here(self, bint claim) except? NULL
    cdef int _be_gone(self, PyObject *outer) except -1
    cdef int _phase_now(self) noexcept
    cdef void _set_phase(self, int phase) noexcept
    cdef int _detached_turn(self) except -1
