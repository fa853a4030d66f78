"""What an SpdkThread does inside: its driver and its owner, messages of the library's own, its states, forks, its end.

`SpdkThread` in thread.pyx is this class with what users call. The mechanism is in files of its own, on the struct
`thread_s`: send, thread_poll, poller_lists, fd_handler, driver, exit_blockers, undelivered.
"""

from cpython.object cimport PyCallable_Check, PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport st_atomic_u64
from spdkthread.call_later cimport Timer
from spdkthread.driver cimport driver_s
from spdkthread.exit_blockers cimport NamedBlockers
from spdkthread.fd_handler cimport FdHandlers
from spdkthread.cpython_ext cimport PyCallable_CheckRaw, likely
from spdkthread.lib cimport ThreadLib
from spdkthread.poller cimport Poller
from spdkthread.ring cimport MSG_PYTHON
from spdkthread.send cimport send_call
from spdkthread.thread_struct cimport thread_s


cdef class ThreadBase:
    cdef thread_s c
    cdef readonly ThreadLib lib
    cdef readonly str name
    cdef readonly uint64_t id
    cdef object _cpumask
    cdef list _pollers              # in any order; each knows its index
    cdef list _timers               # pending ones, as the pollers
    cdef public dict _channels      # IoChannel -> None, in the order of creation
    cdef NamedBlockers _blockers    # the iterations, unregistrations and event loops that keep it
    cdef readonly FdHandlers _fds
    cdef public object _coroutines  # ThreadCoroutines, once one was spawned here
    cdef object _owner              # the Reactor or EventLoop that it belongs to; None: its user
    cdef object _reactor            # its owner, when that is a Reactor
    cdef readonly object _weak      # a weak reference to itself, for futures
    cdef driver_s _driver
    cdef list _entered
    cdef uint32_t _entered_before_poll
    cdef public bint _bound
    cdef bint _exit_asked
    cdef bint _polled
    cdef uint64_t _first_poll       # account stamp
    cdef uint64_t _poll_began       # account stamp: a poll by hand that is under way
    cdef st_atomic_u64 _busy_seen   # ticks: the most that `stats` has ever said
    cdef st_atomic_u64 _idle_seen
    cdef st_atomic_u64 _water_seen
    cdef bint _ready
    cdef bint _dead                 # in the child of a fork
    cdef object __weakref__

    cdef int _send_one(self, object fn, object a) except -1
    cdef bint _post_now(self, object fn, tuple args) except -1
    cdef int _send_own(self, object fn, object a, uint64_t passes) except -1
    cdef int _post(self, object fn, object a) except -1
    cdef int _send_lib(self, object fn, tuple args, uint64_t passes) except -1
    cdef int _refuse(self, int verdict) except -1
    cdef int _check_ready(self) except -1
    cdef int _request(self, int what, Poller poller) except -1
    cdef bint _send_request(self, int what, Poller poller) except -1
    cdef int _request_beside(self, int what, Poller poller) except -1
    cdef bint _has_active(self) noexcept
    cdef object _start_timer(self, Timer timer, uint64_t delay)
    cdef int _add_timer(self, Timer timer, bint next_poll) except -1
    cdef int _drop_timer(self, Timer timer) except -1
    cdef int _require_here(self, str what) except -1
    cdef int _claim_driver(self) except -1
    cdef int _refuse_driver(self, uint64_t driver) except -1
    cdef void _release_driver(self) noexcept
    cdef Poller _new_poller(self, object period_us, object name, bint fixed_rate)
    cdef Poller _register(self, Poller poller)
    cdef int _poll(self, uint32_t limit, uint64_t now, bint now_given) noexcept
    cdef bint _is_here(self) noexcept
    cdef object _next_deadline(self, bint timers_too)
    cdef void _account(self, uint64_t start) noexcept


cdef tuple pack(PyObject *const *args, Py_ssize_t count)
cdef int send_packed(ThreadBase self, PyObject *fn, PyObject *const *args, Py_ssize_t count) except -1


cdef inline int send_msg(ThreadBase self, PyObject *fn, PyObject *const *args, Py_ssize_t count) except -1:
    """`SpdkThread.send_msg`: RING_OK or why not."""
    if not likely(PyCallable_CheckRaw(fn)):
        raise TypeError(f"a message to {self!r} must be callable, got {type(<object>fn).__name__}")
    if not likely(count <= 4):
        return send_packed(self, fn, args, count)
    if not likely(self.c.ring != NULL):
        self._check_ready()
    return send_call(&self.c, MSG_PYTHON, fn, args, count)
