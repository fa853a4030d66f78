"""The C side of an SpdkThread: what its poll touches, and what a send from native code touches.

One poll is a small state machine that stops where the way changes between native and Python work, so that the loop
around it can take or drop the GIL lexically flat::

    BATCH -> CRITICAL -> MESSAGES -> FDS -> ACTIVE -> TIMED -> END
                native work: poll_detached()       Python work: poll_attached()

TIMED is first every timer of `call_later` that is due, then the timed pollers.

A batch is moved out of the ring before any of it runs. It lives in the thread, not on the stack, so an exception that
ends a poll half-way leaves the rest to the next one: nothing is replayed, nothing is skipped.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint32_t, uint64_t

from spdkthread.atomics cimport (
    st_add_relaxed,
    st_atomic_ptr,
    st_atomic_u32,
    st_atomic_u64,
    st_compiler_barrier,
    st_fence_seq_cst,
    st_load32_relaxed,
    st_loadp_relaxed,
)
from spdkthread.call_later cimport timer_s
from spdkthread.clock cimport manual_clock
from spdkthread.native cimport msg_fn, poller_fn
from spdkthread.pointer_map cimport pointer_map
from spdkthread.poller cimport poller_s
from spdkthread.ring cimport (
    MSG_NATIVE,
    RING_FULL,
    RING_OK,
    message_ring,
    ring_claim,
    ring_publish,
    ring_ready,
    ring_slot,
    ring_slot_at,
)
from spdkthread.timers cimport timer_node, timer_queue
from spdkthread.wakeup cimport wakeup_thread, wakeup_state

cdef enum:
    BATCH_SIZE = 8          # messages per poll
    GARBAGE_SIZE = 64       # owners of native messages that wait for the GIL to be dropped

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
    ATTENTION_SPILLED = 2       # messages in the overflow list
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
    st_atomic_ptr critical          # a Python function, one reference
    st_atomic_u32 ready_index       # its place among the bits of its reactor's ready_map
    char pad[92]

    # The owner's: touched only where the thread is polled. First what a poll that finds nothing looks at.
    poller_s *active_first
    bint unfinished                 # the last poll left messages of its batch, or garbage
    void *locks_held                # spinlock_s: the last one that it locked, see held_locks.pxd
    uint64_t polls
    timer_queue timers
    manual_clock *clock
    PyObject *owner                 # the SpdkThread, borrowed
    thread_s *outer                 # what was current before the poll
    poller_s *active_last
    poller_s *active_next           # where the round of policy "all" goes on
    poller_s *running
    uint64_t now                    # tick of this poll, once it was needed
    uint64_t serial
    uint32_t active_count           # on the list and not paused, and the one that runs
    bint active_runs                # one of them is inside its function
    uint32_t timed_count            # in the timer queue
    uint32_t registered             # pollers, paused and running ones too, and timers
    uint32_t kept                   # what else keeps it from exiting: coroutines, event loops; see exit_blockers.py
    uint32_t holds                  # iterations and completions of its own that are under way
    uint32_t waits                  # unregistrations of devices that it is to hear of
    uint32_t channels               # those waiting for their destruction too
    pointer_map channel_map         # device_s -> channel_s, see io_device.pxd
    uint32_t fd_count               # registered file descriptors
    int fd_set                      # their epoll or kqueue; -1: none yet
    uint32_t fd_set_serial          # one more each time another set is in that place
    fd_native_s *fd_natives         # of those of the registered descriptors that have a native function
    uint32_t fd_native_count
    bint fd_natives_ran             # in this poll
    bint policy_all
    bint now_given
    bint active_done
    bint polling
    int stage
    int64_t rc
    uint32_t batch_next
    uint32_t batch_count
    uint32_t garbage_count
    PyObject *locks_poller          # the native poller that returned with a lock held; NULL: another kind of callback
    PyObject *critical_fn           # the critical message that runs, for the watchdog; NULL: none
    ring_slot batch[BATCH_SIZE]
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

    uint32_t trace_number           # what stands for it in a trace
    reactor_alarm alarm_of_reactor

    # Accounting.
    uint64_t msgs_run
    uint64_t pollers_run
    uint64_t fds_run                # calls of descriptors' handlers
    uint64_t errors
    st_atomic_u64 busy              # account stamps, see clock.pxd


cdef thread_s *current_thread() noexcept nogil
cdef thread_s *set_current(thread_s *thread) noexcept nogil

cdef void fds_look(thread_s *thread) noexcept nogil
cdef int poll_begin(thread_s *thread, uint32_t limit, uint64_t now, bint now_given) noexcept nogil
cdef int poll_detached(thread_s *thread) noexcept nogil
cdef int poll_attached(thread_s *thread) noexcept
cdef void poll_end(thread_s *thread) noexcept nogil
cdef void drop_garbage(thread_s *thread) noexcept
cdef int report_locks(thread_s *thread, str kind, PyObject *subject) noexcept
cdef bint poll_needed(thread_s *thread) noexcept nogil
cdef bint thread_may_exit(thread_s *thread) noexcept nogil

cdef void active_append(thread_s *thread, poller_s *poller) noexcept nogil
cdef void active_unlink(thread_s *thread, poller_s *poller) noexcept nogil
# Of an active poller, on its thread, also from native code: what `Poller.pause` and `Poller.resume` do.
cdef void active_pause(thread_s *thread, poller_s *poller) noexcept nogil
cdef void active_resume(thread_s *thread, poller_s *poller) noexcept nogil
cdef void active_count_running(thread_s *thread, bint runs) noexcept nogil
cdef void poller_arm(thread_s *thread, poller_s *poller, uint64_t now) noexcept nogil
cdef void poller_arm_again(thread_s *thread, poller_s *poller, uint64_t now) noexcept nogil

# Timers. All of these on the thread only, where it is current; for native code with memory of its own:
#
#     cdef timer_s timer                            # zeroed; stays where it is until it has run or was cancelled
#     thread_call_later(current_thread(), &timer, 1_000_000, fn, ctx)       # in 1 ms: ticks are nanoseconds
#     thread_cancel_timer(current_thread(), &timer)                         # whether it was pending
#
# `fn` may arm the same timer again. A pending one keeps its thread from exiting. 0, or -1: no memory, not the current
# thread, a thread that has exited, or a timer that is pending.
cdef int thread_call_later(
    thread_s *thread, timer_s *timer, uint64_t delay_ticks, msg_fn fn, void *ctx
) noexcept nogil
cdef bint thread_cancel_timer(thread_s *thread, timer_s *timer) noexcept nogil
cdef bint timers_ready(thread_s *thread) noexcept nogil
cdef void timer_add(thread_s *thread, timer_s *timer, bint next_poll, uint64_t now) noexcept nogil
cdef void timer_remove(thread_s *thread, timer_s *timer) noexcept nogil
cdef bint timer_claim(timer_s *timer, uint64_t state) noexcept nogil
cdef uint64_t timers_next(thread_s *thread) noexcept nogil
cdef uint64_t pollers_next(thread_s *thread) noexcept nogil

# The deadline for which the timed poller or timer that is running on this OS thread runs; TIMER_NEVER when none is.
cdef uint64_t current_deadline() noexcept nogil

cdef void attention_set(thread_s *thread, uint32_t flags) noexcept nogil


cdef inline void thread_wake(thread_s *thread) noexcept nogil:
    """After publishing: wake the reactor if it can sleep and does, and tell it for which thread if it has many."""
    cdef wakeup_state *wakeup
    # The message is under way before the wakeup is read: see wakeup.pxd about a thread that changes its reactor.
    st_compiler_barrier()
    wakeup = <wakeup_state *>st_loadp_relaxed(&thread.wakeup)
    if wakeup != NULL:
        st_fence_seq_cst()
        if st_load32_relaxed(&wakeup.sleeping):
            wakeup_thread(wakeup, st_load32_relaxed(&thread.ready_index))


cdef inline int thread_send_native(thread_s *thread, msg_fn fn, void *ctx, uint64_t passes) noexcept nogil:
    """Send a native message that owns nothing. Returns RING_OK or why not."""
    cdef uint64_t position
    cdef ring_slot *slot
    cdef int verdict = ring_claim(thread.ring, 1, passes, &position)
    if verdict != RING_OK:
        if verdict == RING_FULL:
            st_add_relaxed(&thread.ring.refused, 1)
        return verdict
    slot = ring_slot_at(thread.ring, position)
    slot.kind = MSG_NATIVE
    slot.fn = <void *>fn
    slot.args[0] = ctx
    slot.args[1] = NULL
    ring_publish(slot, position)
    thread_wake(thread)
    return RING_OK


cdef inline bint poll_messages_ready(thread_s *thread) noexcept nogil:
    """Whether a poll would find something besides pollers and timers, at the price of two loads."""
    return ring_ready(thread.ring) or st_load32_relaxed(&thread.attention) != 0 or thread.unfinished


cdef inline bint poll_work_ready(thread_s *thread) noexcept nogil:
    """Whether a poll would find something besides timers."""
    return (
        ring_ready(thread.ring)
        or st_load32_relaxed(&thread.attention) != 0
        or thread.active_first != NULL
        or thread.unfinished
    )
