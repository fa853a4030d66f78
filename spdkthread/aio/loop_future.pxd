"""LoopFuture: an `asyncio.Future` to the tasks that await it, for outcomes that arrive in batches.

A batch is settled in one callback of its loop. A future of asyncio then has each of its own callbacks scheduled, a
handle apiece; this one may call them then and there (`settle` with `at_once`), because what settles it is a callback
of the loop already, and no task is running. In all other places they are scheduled like those of asyncio.

It is its own iterator: the state of an await is that of the future. In the loop's debug mode, which times each
callback, all are scheduled.

Everything happens on the loop's OS thread, except that `is_cancelled` may be asked from any.
"""

from spdkthread.atomics cimport st_atomic_u32, st_load32_relaxed

cdef enum loop_future_state:
    LOOP_FUTURE_PENDING
    LOOP_FUTURE_CANCELLED
    LOOP_FUTURE_FINISHED


cdef class LoopFuture:
    cdef object loop
    cdef st_atomic_u32 state
    cdef bint failed
    cdef bint blocking              # it was yielded to a task, which has not noticed yet
    cdef bint unseen                # an exception that was not retrieved
    cdef object value               # the result, or the exception when `failed`
    cdef object traceback           # of the exception when it came
    cdef object cancel_message
    cdef object callback            # the first one, with its context
    cdef object callback_context
    cdef list more_callbacks        # pairs of those
    cdef object made_at             # the stack, in the loop's debug mode
    cdef object __weakref__

    cdef int begin(self, object loop) except -1
    cdef int check_ready(self) except -1
    cdef int refuse_if_done(self) except -1
    cdef int settle(self, object value, bint failed, bint at_once) except -1
    cdef bint try_cancel(self, object message) except -1
    cdef object outcome(self)
    cdef int schedule_callbacks(self) except -1
    cdef int call_callbacks(self) except -1
    cdef int call_one(self, object fn, object context) except -1
    cdef int on_retrieved(self) except -1
    cdef int hand_out(self) except -1

    cdef inline loop_future_state state_now(self) noexcept:
        return <loop_future_state>st_load32_relaxed(&self.state)

    cdef inline bint is_done(self) noexcept:
        return st_load32_relaxed(&self.state) != LOOP_FUTURE_PENDING

    cdef inline bint is_cancelled(self) noexcept:
        return st_load32_relaxed(&self.state) == LOOP_FUTURE_CANCELLED


cdef int await_by_sending(object future_class) except -1
