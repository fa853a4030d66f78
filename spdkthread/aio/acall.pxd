"""acall: a call on an SpdkThread, awaited under any asyncio loop.

A call that has run is pushed onto the `CompletionStack` of its loop, from any OS thread. The pusher that finds the
stack empty wakes the loop, once, with ``call_soon_threadsafe``; pushes until the loop takes the whole stack cost
nothing more::

    SpdkThreads                          the loop's OS thread
      push: compare-and-swap on `top`      drain: exchange `top` for NULL, settle the calls in their order
      top was NULL? -> wake the loop

A call of a few microseconds is back before the kernel could have put a thread to sleep and woken it. So after sending,
`acall` itself watches the stack for a moment, without the GIL (`CompletionStack.watch`), and a call that is back by
then is a future that is done: awaiting it costs no turn of the loop. Every so often it takes the long way all the same,
so that the loop's other callbacks have their turn; and where calls take longer, `acall` soon stops watching. After a
burst of calls it does not watch either: those are answered while the next ones are sent. While it watches, `watching`
is set and pushers do not wake the loop. It writes `watching` = 0 first and looks at `top` second, the pusher the other
way round, with a full fence in between on both sides: so one of them sees the other.

Both may see each other, and then the loop is woken for answers that `acall` takes itself. At most one `drain_it` is
queued, which `drain_queued` says: with a second one in the same turn of the loop a task that only calls would run
ahead of the others.
"""

from cpython.object cimport PyObject
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.aio.loop_future cimport LoopFuture
from spdkthread.atomics cimport st_atomic_ptr, st_atomic_u32
from spdkthread.thread cimport SpdkThread


cdef class Call(LoopFuture):
    cdef object fn
    cdef uint32_t count             # of its arguments
    cdef object first               # up to two of them lie here: a tuple in each of many calls
    cdef object second              # would be one more thing for the garbage collector to walk over
    cdef tuple args                 # more lie here
    cdef object context             # for fn; None: an empty one
    cdef CompletionStack completions    # the way back; None once it is on that stack: no cycle through a call
    cdef CompletionStack returned_to    # the same, on the loop's OS thread, once the call is back
    cdef SpdkThread thread
    cdef uint64_t number            # of the stack's calls
    cdef object answer              # of fn: the result, or the exception when `raised`
    cdef bint raised
    cdef bint awaited               # a task waits for it
    cdef PyObject *below            # on the stack

    cdef object perform(self)
    cdef int come_back(self) except -1
    cdef int deliver(self, bint at_once) except -1
    cdef int report(self) except -1


cdef class CompletionStack:
    cdef st_atomic_ptr top
    cdef st_atomic_u32 watching
    cdef st_atomic_u32 drain_queued     # the loop has been asked to call `drain_it`
    cdef uint64_t asked             # when, for the last time
    cdef uint64_t watch_ticks
    cdef bint loop_was_woken        # the last answer came, or comes, by waking the loop
    cdef uint32_t misses
    cdef uint32_t skipped
    cdef uint32_t in_a_row
    cdef uint32_t burst
    cdef uint64_t sent              # the number of the last call
    cdef uint64_t consumed          # and of the last one whose outcome was retrieved
    cdef object __weakref__
    cdef object loop                # weak
    cdef object drain_it
    cdef int one_core               # the only one that the loop's OS thread may use, or -1

    cdef int push(self, Call call) except -1
    cdef PyObject *take(self) noexcept
    cdef int drain(self, bint at_once) except -1
    cdef int put_back(self, PyObject *each) except -1
    cdef int abandon(self) except -1
    cdef bint count_call(self, Call call) noexcept
    cdef bint worth_watching(self, SpdkThread thread) noexcept
    cdef void watch(self) noexcept
    cdef int take_answers(self) except -1


cdef class Drain:
    cdef object completions                # weak: a handle that a closed loop drops must not keep anything alive
