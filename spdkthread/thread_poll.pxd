"""The poll of an SpdkThread.

One poll is a small state machine that stops where the way changes between native and Python work, so that the loop
around it can take or drop the GIL lexically flat::

    BATCH -> CRITICAL -> MESSAGES -> FDS -> ACTIVE -> TIMED -> END
                native work: poll_detached()       Python work: poll_attached()

TIMED is first every timer of `call_later` that is due, then the timed pollers.

A batch is moved out of the ring before any of it runs. It lives in the thread, not on the stack, so an exception that
ends a poll half-way leaves the rest to the next one: nothing is replayed, nothing is skipped.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport st_load32_relaxed
from spdkthread.call_later cimport timer_s
from spdkthread.native cimport msg_fn
from spdkthread.poller_lists cimport active_pause, active_resume
from spdkthread.ring cimport ring_ready
from spdkthread.thread_struct cimport (
    ATTENTION_CRITICAL,
    ATTENTION_FDS,
    ATTENTION_OVERFLOW,
    BATCH_SIZE,
    FD_NATIVE_CALL,
    FD_NATIVE_WORKED,
    GARBAGE_SIZE,
    STAGE_ACTIVE,
    STAGE_CRITICAL,
    STAGE_END,
    STAGE_FDS,
    STAGE_IDLE,
    STAGE_MESSAGES,
    STAGE_TIMED,
    STEP_DONE,
    STEP_NATIVE,
    STEP_PYTHON,
    STEP_RAISED,
    THREAD_EXITED,
    THREAD_EXITING,
    THREAD_RUNNING,
    attention_set,
    fd_native_s,
    reactor_alarm,
    thread_fetch,
    thread_s,
)


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
