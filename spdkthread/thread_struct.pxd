"""The C side of an SpdkThread: one struct that its senders, its poll and the upper layers share."""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport st_atomic_ptr, st_atomic_u32, st_atomic_u64, st_loadp_relaxed, st_or32_release
from spdkthread.call_later cimport timer_s
from spdkthread.clock cimport manual_clock
from spdkthread.exit_blockers cimport exit_blockers_s
from spdkthread.native cimport poller_fn
from spdkthread.pointer_map cimport pointer_map
from spdkthread.poller cimport poller_s
from spdkthread.ring cimport message_ring, ring_slot
from spdkthread.timers cimport timer_node, timer_queue

cdef enum:
    BATCH_SIZE = 8          # messages per poll
    GARBAGE_SIZE = 64       # owners of native messages that wait for the GIL to be dropped

cdef enum:
    CRITICAL_CLOSED = 1     # in `thread_s.critical`: the thread takes no critical message any more

cdef enum thread_state:
    THREAD_RUNNING
    THREAD_EXITING          # runs and accepts, until nothing is left
    THREAD_EXITED           # refuses

cdef enum poll_stage:
    STAGE_IDLE
    STAGE_CRITICAL
    STAGE_MESSAGES
    STAGE_FDS
    STAGE_ACTIVE
    STAGE_TIMED
    STAGE_END

cdef enum poll_step:
    STEP_DONE               # the poll is over, its result is in `rc`
    STEP_PYTHON             # the next piece of work needs the GIL
    STEP_NATIVE             # the next piece of work must not hold it, or it has been held for a batch of pollers
    STEP_RAISED             # an exception that ends the poll is set

cdef enum attention:
    ATTENTION_CRITICAL = 1      # the critical slot is taken
    ATTENTION_OVERFLOW = 2       # messages in the overflow list
    ATTENTION_FDS = 4           # a file descriptor may be ready


# In `reactor_s.alarms`: when a timer of one of its threads may be due.
cdef struct reactor_alarm:
    timer_node node
    uint32_t index              # the thread's, in the reactor's table


cdef enum fd_native_result:
    FD_NATIVE_WORKED = 1
    FD_NATIVE_CALL = 2          # the FdHandler's Python function is to be called in this poll, too


# Embedded in an FdHandler: a native function that runs without the GIL whenever a descriptor of the thread may be
# ready, or when `attention_set(thread, ATTENTION_FDS)` asks for it. It finds out by itself what there is, and must not
# register or unregister descriptors: its result asks for the Python function, which may.
cdef struct fd_native_s:
    poller_fn fn                # its result: flags of fd_native_result
    void *ctx
    fd_native_s *next
    bint calls                  # it has asked for the Python function


cdef struct thread_s:
    # Read by senders, written rarely.
    message_ring *ring
    st_atomic_ptr wakeup              # wakeup_state of a reactor that can sleep; NULL: never asleep
    st_atomic_u32 attention
    st_atomic_u32 state
    st_atomic_ptr critical          # a Python function, one reference; NULL; CRITICAL_CLOSED
    st_atomic_u32 ready_index       # its bit in its reactor's ready_map
    char pad[92]

    # The owner's: touched only where the thread is polled. What each poll touches stands together, and first of it what
    # a poll that finds nothing looks at: with thousands of threads each line of it is a miss of the caches.
    poller_s *active_first
    bint unfinished                 # the last poll left messages of its batch, or garbage
    bint polling
    void *locks_held                # spinlock_s: the last one that it locked, see held_locks.pxd
    uint64_t polls
    timer_queue timers
    manual_clock *clock
    thread_s *outer                 # what was current before the poll
    uint64_t serial
    int64_t rc
    uint64_t now                    # tick of this poll, once it was needed
    poller_s *active_next           # where the round of policy "all" goes on
    poller_s *running
    int stage
    uint32_t batch_next
    uint32_t batch_count
    uint32_t garbage_count
    bint now_given
    bint active_done
    bint policy_all
    bint active_runs                # one of them is inside its function
    uint64_t msgs_run
    st_atomic_u64 busy              # account stamps, see clock.pxd
    PyObject *owner                 # the SpdkThread, borrowed
    ring_slot batch[BATCH_SIZE]

    poller_s *active_last
    uint32_t active_count           # on the list and not paused, and the one that runs
    uint32_t timed_count            # in the timer queue
    uint64_t pollers_run
    exit_blockers_s blockers        # what keeps it from exiting, see exit_blockers.pxd
    pointer_map channel_map         # device_s -> channel_s, see io_device.pxd
    uint32_t fd_count               # registered file descriptors
    int fd_set                      # their epoll or kqueue; -1: none yet
    uint32_t fd_set_serial          # one more each time `fd_set` is another set
    fd_native_s *fd_natives         # of those of the registered descriptors that have a native function
    uint32_t fd_native_count
    bint fd_natives_ran             # in this poll
    PyObject *locks_poller          # the native poller that returned with a lock held; NULL: another kind of callback
    PyObject *critical_fn           # the critical message that runs, for the watchdog; NULL: none
    PyObject *garbage[GARBAGE_SIZE]

    # Timers of `call_later`, see call_later.pxd.
    timer_queue later
    timer_node alarm                # in `timers`, for all of them
    timer_s *due                    # claimed, to run now
    timer_s *deferred_first         # made in a poll that must not run them any more, in order
    timer_s *deferred_last
    timer_s *finished               # native ones of Python callers that have run: to be let go of with the GIL
    uint64_t timer_deadline         # of the timer that runs; TIMER_NEVER: none
    PyObject *timer_fn              # the Python function of the timer that runs
    PyObject *timer_list            # the SpdkThread's list of them, borrowed
    PyObject *poller_list           # and of its pollers, in any order
    uint64_t pollers_made           # ids of pollers

    uint32_t trace_number           # what stands for it in a trace
    reactor_alarm alarm_of_reactor

    # Accounting.
    uint64_t fds_run                # calls of descriptors' handlers
    uint64_t errors


cdef extern from *:
    """
    #ifndef SPDKTHREAD_FETCH
    #define SPDKTHREAD_FETCH
    /* Have the lines from one address to another in the cache by the time at which they are written. */
    static inline void st_fetch(const void *from, const void *to) {
        for (const char *line = (const char *)from; line <= (const char *)to; line += 64) __builtin_prefetch(line, 1);
    }
    #endif
    """
    void st_fetch(const void *first, const void *final) noexcept nogil


cdef inline void thread_fetch(thread_s *thread) noexcept nogil:
    """On the OS thread that will poll it: begin to load what a poll with a message touches. Among thousands of threads
    a message costs as much as the misses of the caches on its way, and these overlap."""
    st_fetch(&thread.active_first, &thread.batch[0].args[3])
    st_fetch(&thread.ring.head, &thread.ring.head)


cdef inline void attention_set(thread_s *thread, uint32_t flags) noexcept nogil:
    """From any OS thread: have the next poll look at `flags`."""
    st_or32_release(&thread.attention, flags)


cdef inline PyObject *critical_waiting(thread_s *thread) noexcept nogil:
    """The critical message that waits, or NULL."""
    cdef void *critical = st_loadp_relaxed(&thread.critical)
    return NULL if critical == <void *>CRITICAL_CLOSED else <PyObject *>critical
