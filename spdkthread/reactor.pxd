"""Reactor: one OS thread on one core that polls its SpdkThreads for ever."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport st_atomic_u32, st_atomic_u64
from spdkthread.idle cimport idle_s
from spdkthread.thread_core cimport thread_s
from spdkthread.wake cimport wake_gate

cdef enum reactor_reason:
    NEED_PYTHON             # the poll under way has come to Python work
    NEED_REQUESTS           # somebody asked for something
    NEED_SIGNALS            # a while has passed on the main thread, or a signal broke a sleep
    NEED_IDLE_OBJECT        # the user's idle object has its say
    NEED_NOTHING            # a turn is over and that was all that was asked for

cdef enum reactor_phase:
    PHASE_NEW
    PHASE_RUNNING
    PHASE_STOPPING          # takes nothing from outside, runs what it has
    PHASE_ABORTING          # ends after this turn
    PHASE_STOPPED           # may be started again
    PHASE_DEAD              # in the child of a fork

cdef enum reactor_request:
    REQUEST_MEMBERS = 1     # threads came or went
    REQUEST_CALLS = 2       # functions to run on the loop
    REQUEST_STOP = 4        # end, gracefully
    REQUEST_ABORT = 8       # end now


# What the detached phase touches.
cdef struct reactor_s:
    thread_s **threads
    uint32_t count
    uint32_t cursor             # the thread whose turn it is
    bint in_poll                # its poll is under way
    bint turn_worked
    bint single_turn            # embedded: come back after each turn
    bint watches_signals        # on the main thread
    bint stopping               # draining
    bint exiting                # drained, the threads exit
    st_atomic_u32 requests
    idle_s idle
    wake_gate *gate             # NULL: never sleeps
    int fd                      # polls the fds of all threads; -1: none has any
    uint32_t fd_countdown
    uint64_t signals_due
    uint64_t fd_looked          # account stamp
    uint64_t adopted_until      # sleeps are short up to this tick: see wake.pxd
    int signal_ear              # readable when a signal has come; -1: none
    int64_t turn_rc

    # Accounting: whose time is running, and since when.
    thread_s *busy_owner
    uint64_t busy_since
    st_atomic_u64 busy
    uint64_t manual_since       # the same for a thread with a manual clock
    uint64_t started

    uint64_t turns
    uint64_t stop_turn          # when the stop began
    uint64_t parks
    uint64_t wakes
    uint64_t gil_waits
    uint64_t gil_wait           # account stamps
    uint64_t attach_started

    # What runs now, for the watchdog.
    st_atomic_u64 stalls


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
    cdef st_atomic_u64 _tid
    cdef dict _members              # SpdkThread -> None
    cdef object _calls              # deque of functions for the loop
    cdef object _lock
    cdef object _ended              # Latch
    cdef object _ending             # Ending, when it stops together with others
    cdef object _departed           # in the child of a fork
    cdef st_atomic_u32 _phase       # reactor_phase
    cdef object _fatal
    cdef object _report
    cdef st_atomic_u64 _owner       # OS thread that runs the loop, for ever or for a turn; 0: none
    cdef bint _looping              # between start() or run() and the end of that
    cdef int _phase_before
    cdef uint32_t _capacity
    cdef public object _group
    cdef public object _watchdog
    cdef object __weakref__

    cdef int _attached(self, int reason) except -1
    cdef int _python_turn(self) except -1
    cdef int _serve(self) except -1
    cdef int _rebuild(self) except -1
    cdef int _caught(self) except -1
    cdef int _check_alive(self) except -1
    cdef bint _claim_loop(self) noexcept
    cdef PyObject *_be_here(self, bint claim) except? NULL
    cdef int _be_gone(self, PyObject *outer) except -1
    cdef int _phase_now(self) noexcept
    cdef void _set_phase(self, int phase) noexcept
    cdef int _detached_turn(self) except -1
