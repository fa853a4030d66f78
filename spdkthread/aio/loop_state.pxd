"""What `aio.EventLoop` consists of beside asyncio's own classes.

`LoopCore` adds what asyncio calls. The mechanism is functions over this class, a file for each concept::

    loop_handles    making asyncio's handles, and running the ready ones
    loop_timers     call_later and call_at: the loop's timer queue
    loop_fds        the selector's descriptors, and those of the loop's SpdkThread
    loop_waiting    nothing to do: spinning, then sleeping
    loop_core       the turn, scheduling, the loop's beginning and end

Who owns what: the ready callbacks and the timers belong to the OS thread that runs the loop. `call_later` from another
one is a message, a cancelled timer is put onto a list that the loop looks at. While the loop does not run they belong
to the OS thread that holds the GIL, or the loop's critical section where there is no GIL.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport st_atomic_u32, st_atomic_u64, st_load_relaxed
from spdkthread.cpython_ext cimport PyThread_get_thread_ident
from spdkthread.fd_group cimport fd_event
from spdkthread.thread cimport SpdkThread
from spdkthread.timers cimport timer_queue
from spdkthread.wakeup cimport wakeup_state


cdef class LoopState:
    cdef public bint _closed
    cdef public bint _stopping
    cdef public bint _debug
    cdef readonly SpdkThread thread
    cdef bint owns_thread
    cdef bint held                  # the thread is the loop's, until it is closed
    cdef bint holds                 # and is kept from exiting
    cdef bint on_main_thread
    cdef bint entered
    cdef st_atomic_u64 os_thread    # that runs the loop; 0: none
    cdef object owner               # stands for the loop where its thread names it

    # The ready callbacks
    cdef list ready
    cdef list batch                 # those of this turn
    cdef uint64_t turns             # begun

    # Timers
    cdef timer_queue timers
    cdef bint own_time              # `time` is not LoopCore's: the timers go by what it returns
    cdef object cancelled           # deque of LoopTimers that were cancelled on other OS threads
    cdef st_atomic_u32 cancels      # there are such

    # Descriptors
    cdef object selector
    cdef int poll_fd                # the selector's epoll or kqueue
    cdef bint direct                # an epoll whose events are read here
    cdef dict keys                  # the selector's: fd -> SelectorKey
    # A set that holds the set of the thread's descriptors. It is the loop's: the number of the thread's may be that of
    # a descriptor of the user's in the next moment. Among the selector's once the thread has descriptors.
    cdef int thread_fds
    cdef uint32_t thread_fds_serial  # of the thread's set that is in it; 0: none
    cdef list watchers              # by descriptor: FdWatchers whose descriptors are in the selector's epoll; None
    cdef list to_flush              # FdWatchers that gather writes: flushed when the ready callbacks have run
    cdef bytearray read_buffer      # what transports receive into; None: nothing was received yet
    cdef fd_event events[64]
    cdef int events_count

    # Waiting
    cdef wakeup_state *wakeup
    cdef int idle_mode
    cdef uint64_t spin_ticks
    cdef uint32_t misses            # how often in a row spinning has found nothing
    cdef uint32_t skipped           # how often it was left out since
    cdef uint64_t idle_head         # where a loop that never sleeps last saw the head of its ring
    cdef uint64_t idle_since        # and since when it is there; a tick
    cdef st_atomic_u32 sender_core  # 1 + the core of the last call_soon_threadsafe from elsewhere; 0: none, or unknown


cdef inline bint runs_here(LoopState loop) noexcept:
    """Whether the calling OS thread runs the loop."""
    return st_load_relaxed(&loop.os_thread) == PyThread_get_thread_ident()
