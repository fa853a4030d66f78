"""SpdkFuture: a `concurrent.futures.Future` that makes its lock at the first wait.

`FutureCore` has the state and the methods; the class that users see is made of it and of the standard one when the
first future is needed, so that importing spdkthread does not import concurrent.futures.

Order of the states (`outcome` says whether there is one: state >= FUTURE_CANCELLED)::

    PENDING ---> RUNNING ---> FINISHED
       |            '-------> NOTIFIED      a spawned coroutine that ended by its cancellation
       '---> CANCELLED -----> NOTIFIED      the thread that was to run it has seen that

1. Before the first wait there is no condition, and a change of state is a few words written under `guard`: nothing with
   the GIL (there no other thread comes in between), a spin lock without.
2. The first wait makes the condition, under the same guard, and it stays. From then on every change of state happens
   with the condition held, as in the standard class: `wait` and `as_completed` rely on that.
3. `value` is written before the state that announces it is released, and never again.
4. A future does not keep alive what has to produce its result: what cannot be reached any more is collected, its
   messages are dropped, and dropping them settles their futures.
"""

from libc.stdint cimport uint32_t

from spdkthread.atomics cimport st_atomic_u32, st_load32_acquire

cdef enum future_state:
    FUTURE_PENDING
    FUTURE_RUNNING
    FUTURE_CANCELLED
    FUTURE_NOTIFIED
    FUTURE_FINISHED


cdef class Unretrieved:
    """The exception of a future, until it is retrieved. The future alone holds it: with the future it is dropped."""
    cdef object error
    cdef object fn
    cdef str what
    cdef object lib                 # weak references, or None
    cdef object thread
    cdef bint retrieved


cdef class FutureCore:
    cdef st_atomic_u32 lock
    cdef st_atomic_u32 state
    cdef bint failed
    cdef st_atomic_u32 awaited      # by a coroutine, at present
    cdef object value               # the result, or the exception when `failed`
    cdef object condition           # threading.Condition, from the first wait on
    cdef uint32_t made_after        # `condition` was made in this fork generation: forks since the first process
    cdef list waiters               # those of concurrent.futures.wait and as_completed
    cdef object callbacks           # None, one callable, or a list of them
    cdef object producer            # a weak reference to what has to produce the result (`waiting.Producer`), or None
    cdef Unretrieved unretrieved    # once it failed, until the exception is retrieved

    cdef int settle(self, uint32_t state, object value, bint failed) except -1
    cdef bint start(self) except -1
    cdef bint try_cancel(self) except -1
    cdef bint shift(self, uint32_t before, uint32_t after) noexcept
    cdef object outcome(self)
    cdef int after_fork(self) except -1
    cdef object make_condition(self)
    cdef int await_outcome(self, object timeout) except -1
    cdef int call_back(self, object callbacks) except -1
    cdef int note_failure(self, object error, object fn) except -1
    cdef int fail(self, object error, object fn) except -1
    cdef void retrieve(self) noexcept
    cdef int claim(self) except -1
    cdef int unclaim(self) except -1

    cdef inline bint is_done(self) noexcept:
        return st_load32_acquire(&self.state) >= FUTURE_CANCELLED


# `producer`: a weak reference.
cdef FutureCore new_future(object producer)
cdef FutureCore new_future_of(type cls, object producer)
cdef object error_for_await(object error)
cdef int run_and_settle(FutureCore future, object fn, tuple args, dict kwargs, object context) except -1
