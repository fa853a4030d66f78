"""The inside of `aio.EventLoop`: what asyncio's selector loop does in ``_run_once``, on an SpdkThread.

One turn::

    the SpdkThread's poll     messages that lay in the ring when the turn began, its pollers and timers
    file descriptors          one look, whatever else there is to do; what is ready joins the ready callbacks
    nothing to do?            look around without the GIL for `spin_us`, then sleep in the kernel
    timers of the loop        those due join the ready callbacks
    ready callbacks           those of this turn, in order; what they schedule runs in the next one

The order is asyncio's: what was posted to the loop before something else runs before it. So `call_soon` looks whether
anything waits in the ring. Handles at its head join the ready callbacks at once; behind a message that is something
else, the handle of `call_soon` goes into the ring too. What is ready when a turn begins is then older than every
message that waits, and runs before it.

Who owns what: the ready callbacks and the timers belong to the OS thread that runs the loop. `call_later` from another
one is a message, a cancelled timer is put onto a list that the loop looks at. While the loop does not run they belong
to the OS thread that holds the GIL, or the loop's critical section where there is no GIL.

A handle is asyncio's own `Handle`, made and run without its Python code: its slots are written and read where CPython
keeps them. Where they are is asked of the class, and where the class looks different the plain constructor is used.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.atomics cimport st_atomic_u32, st_atomic_u64
from spdkthread.fd_group cimport fd_event
from spdkthread.thread cimport SpdkThread
from spdkthread.timers cimport timer_node, timer_queue
from spdkthread.wakeup cimport wakeup_state

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
    cdef bint held                  # the thread is the loop's, until it is closed
    cdef bint holds                 # and is kept from exiting
    cdef bint on_main_thread
    cdef bint entered
    cdef st_atomic_u64 os_thread    # that runs the loop; 0: none
    cdef object owner               # stands for the loop where its thread names it
    cdef object cancelled           # deque of LoopTimers that were cancelled on other OS threads
    cdef st_atomic_u32 cancels      # there are such
    cdef wakeup_state *wakeup
    cdef int poll_fd                # the selector's epoll or kqueue
    # A set that holds the set of the thread's descriptors. It is the loop's: the number of the thread's may be that of
    # a descriptor of the user's in the next moment. Among the selector's once the thread has descriptors.
    cdef int thread_fds
    cdef uint32_t thread_fds_serial  # of the thread's set that is in it; 0: none
    cdef bint direct                # an epoll whose events are read here
    cdef dict keys                  # the selector's: fd -> SelectorKey
    cdef object selector
    cdef uint64_t spin_ticks
    cdef uint32_t misses            # how often in a row looking around was for nothing
    cdef uint32_t skipped
    cdef st_atomic_u32 sender_core  # 1 + the core of the last call_soon_threadsafe from elsewhere; 0: none, or unknown
    cdef int idle_mode
    cdef timer_queue timers
    cdef fd_event events[64]
    cdef int events_count
    cdef list watchers              # by descriptor: FdWatchers whose descriptors are in the selector's epoll; None
    cdef list to_flush              # FdWatchers that gather writes: flushed when the ready callbacks have run
    cdef uint64_t turns             # begun
    cdef bytearray read_buffer      # what transports receive into; None: nothing was received yet

    cdef object drain_thread(self, object stop)
    cdef int catch_up(self) except -1
    cdef int take_handles(self) except -1
    cdef int post(self, object fn, object handle) except -1
    cdef object schedule(self, object handle)
    cdef int poll_thread(self, bint messages) except -1
    cdef uint32_t messages_in_front(self, uint64_t end) noexcept
    cdef bint has_work(self) noexcept
    cdef int look_at_fds(self) except -1
    cdef int take_events(self) except -1
    cdef int watch(self, FdWatcher watcher, uint32_t mask) except -1
    cdef int watch_in_selector(self, FdWatcher watcher, uint32_t mask) except -1
    cdef int run_watcher(self, FdWatcher watcher, uint32_t mask) except -1
    cdef int flush_all(self) except -1
    cdef int expire_timers(self) except -1
    cdef int wait(self) except -1
    cdef int wait_in_selector(self) except -1
    cdef int take_seen(self, object seen) except -1
    cdef int look_around(self) noexcept nogil
    cdef int found(self, uint64_t spin) noexcept nogil
    cdef int park(self) noexcept nogil
    cdef int sleep(self) noexcept nogil
    cdef int traced_sleep(self) noexcept nogil
    cdef int64_t nap_ns(self) noexcept nogil
    cdef int run_ready(self) except -1
    cdef int run_plain(self, list batch) except -1
    cdef int run_watched(self, list batch) except -1
    cdef object arm(self, object handle, double when, uint64_t now)
    cdef int enqueue_timer(self, object handle, double when, uint64_t now) except -1
    cdef int forget_timer(self, object timer) except -1
    cdef int forget_cancelled(self) except -1
    cdef int drop_timers(self) except -1
    cdef bint runs_here(self) noexcept
    cdef int report(self, str what, object error) except -1
    cdef int watch_thread_fds(self) except -1
    cdef double now_s(self) noexcept
