"""The inside of `aio.EventLoop`: what asyncio's selector loop does in ``_run_once``, on an SpdkThread.

One turn::

    the SpdkThread's poll     messages (call_soon_threadsafe is one), its pollers and timers
    file descriptors          every turn that would otherwise sleep, and every so often while there is work
    timers of the loop        those due join the ready callbacks
    nothing ready?            look around without the GIL for `spin_us`, then sleep in the kernel
    ready callbacks           those of this turn, in order; what they schedule runs in the next one

A handle is asyncio's own `Handle`, made and run without its Python code: its slots are written and read where CPython
keeps them. Where they are is asked of the class, and where the class looks different the plain constructor is used.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport st_atomic_u32
from spdkthread.fds cimport fd_event
from spdkthread.thread cimport SpdkThread
from spdkthread.timers cimport timer_node, timer_queue
from spdkthread.wake cimport wake_gate

cdef struct loop_timer:
    timer_node node                 # first: a pointer to it is a pointer to this
    void *owner                     # the LoopTimer, one reference while it is queued
    PyObject *handle                # one reference while it is queued


cdef class LoopTimer:
    cdef loop_timer c

    cdef object take_handle(self)


cdef class LoopCore:
    cdef public bint _closed
    cdef public bint _stopping
    cdef public bint _debug
    cdef list ready
    cdef list batch                 # what runs in this turn
    cdef readonly SpdkThread thread
    cdef bint owns_thread
    cdef bint held                  # the thread is kept from exiting
    cdef bint on_main_thread
    cdef bint entered
    cdef uint64_t os_thread         # that runs the loop; 0: none
    cdef wake_gate *gate
    cdef int poll_fd                # the selector's epoll or kqueue
    cdef int thread_fds             # the thread's own set, once it is among the selector's
    cdef uint32_t thread_fds_serial     # which of the sets that have been in that place
    cdef bint direct                # an epoll whose events are read here
    cdef dict keys                  # the selector's: fd -> SelectorKey
    cdef object selector
    cdef uint64_t spin_ticks
    cdef uint32_t misses            # how often in a row looking around was for nothing
    cdef uint32_t skipped
    cdef st_atomic_u32 sender_core  # 1 + the core of the last call_soon_threadsafe from elsewhere; 0: none, or unknown
    cdef int idle_mode
    cdef uint32_t turns
    cdef timer_queue timers
    cdef fd_event events[64]
    cdef int events_count

    cdef int drain_thread(self) except -1
    cdef int catch_up(self) except -1
    cdef int take_handles(self) except -1
    cdef int poll_thread(self) except -1
    cdef int look_at_fds(self) except -1
    cdef int take_events(self) except -1
    cdef int expire_timers(self) except -1
    cdef int wait(self) except -1
    cdef int wait_in_selector(self) except -1
    cdef int take_seen(self, object seen) except -1
    cdef int look_around(self) noexcept nogil
    cdef int found(self, uint64_t spin) noexcept nogil
    cdef int park(self) noexcept nogil
    cdef int64_t nap_ns(self) noexcept nogil
    cdef int run_ready(self) except -1
    cdef int run_plain(self, list batch) except -1
    cdef int run_watched(self, list batch) except -1
    cdef object arm(self, object handle, double when, uint64_t now)
    cdef int watch_thread_fds(self) except -1
    cdef double now_s(self) noexcept
