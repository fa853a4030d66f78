"""Coroutines on an SpdkThread.

A coroutine runs until it awaits something that is not there yet: a `Suspension`, which it hands out to `step`. What
ends the wait resumes the coroutine *on its own thread*, at once when it is there (a timer, a file descriptor),
otherwise by a message that carries the suspension::

    spawn --message--> step --- hands out a Suspension ---> waits      (coroutine.waiting is the suspension)
                        ^                                    |
                        '-------- resume(suspension) <-------'         (stale unless it is still the one waited for)

A coroutine that was cancelled no longer waits for that suspension, so a `resume` under way for it does nothing.

A suspension is for one await. Its stages, all but the first written on the thread of the coroutine that took it::

    FRESH --taken--> HANDED_OUT --begin--> WAITING --resume--> DUE --goes on--> OVER
                          '--- refused, cancelled, abandoned -------------------^

1. `taken` is exchanged for 1 before anything else is touched, so of two coroutines that await one suspension at once,
   on whatever OS threads, one has it and the other gets an AwaitError.
2. A future may be awaited again and again, by one coroutine at a time: `FutureCore.awaited` is exchanged for 1 by the
   wait that begins and set back to 0 by the wait that ends.

Asynchronous generators: while a coroutine runs, the interpreter's hooks for them are `note_generator` and the coroutine
itself. A generator that is dropped before its end is closed by a coroutine of its own on the thread where its owner is,
or was last; those that are left when a thread is about to exit are closed first.
"""

from libc.stdint cimport uint32_t, uint64_t

from spdkthread.atomics cimport st_atomic_u32
from spdkthread.future cimport FutureCore
from spdkthread.poller cimport Poller
from spdkthread.thread cimport SpdkThread
from spdkthread.timers cimport timer_node, timer_queue


cdef class Coroutine:
    cdef object coro
    cdef object context
    cdef FutureCore future
    cdef SpdkThread home            # the thread it runs on, or is on its way to
    cdef Suspension waiting
    cdef object throwing            # to be raised where it waits, at its next step
    cdef object leaving             # the Switch that it is about to leave with
    cdef object refusal             # what it was told that wanted to wait while it was being closed
    cdef str label                  # what to call it; None: the coroutine function's name
    cdef bint running
    cdef bint settled               # counted among its home's coroutines
    cdef bint noted                 # among those that are spawned
    cdef uint32_t closing           # its thread has ended: 1 + how often it wanted to wait all the same
    cdef object __weakref__

    cdef int step(self) except -1
    cdef int run_on(self) except -1
    cdef bint suspend_on(self, Suspension suspension) except -1
    cdef int interrupt(self, object error) except -1
    cdef int settle_in(self) except -1
    cdef int move_out(self) except -1
    cdef int end(self, object value, object error) except -1
    cdef str call_it(self)
    cdef SpdkThread home_now(self)
    cdef int go_home(self, SpdkThread home) except -1
    cdef int record_spawn(self) except -1
    cdef int unnote(self) except -1
    cdef object close(self, bint begun)
    cdef int report(self, str message, object error) except -1


cdef enum suspension_stage:
    SUSPENSION_FRESH
    SUSPENSION_HANDED_OUT           # to the coroutine that awaits it
    SUSPENSION_WAITING              # something will end the wait
    SUSPENSION_DUE                  # has ended it; the coroutine takes the outcome next
    SUSPENSION_OVER


cdef class Suspension:
    cdef st_atomic_u32 taken        # by the one coroutine that may await it
    cdef suspension_stage stage
    cdef Coroutine coroutine

    cdef bint hand_out(self, Coroutine coroutine) except -1
    cdef int give_up(self) except -1
    cdef object refuse(self, Coroutine coroutine)
    cdef bint begin(self, Coroutine coroutine) except -1
    cdef int withdraw(self) except -1
    cdef object outcome(self)


cdef struct sleep_node:
    timer_node node                 # first: a pointer to it is a pointer to this
    void *sleep


cdef class ThreadCoroutines:
    cdef SpdkThread thread
    cdef dict coroutines            # Coroutine -> None
    cdef dict generators            # id() of an asynchronous generator -> GeneratorRef
    cdef timer_queue timers
    cdef Poller alarm               # set to the earliest of them

    cdef int set_alarm(self, uint64_t deadline, uint64_t now) except -1


cdef bint in_coroutine() noexcept
