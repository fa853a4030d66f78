"""The inside of `aio.EventLoop`: what asyncio's selector loop does in ``_run_once``, on an SpdkThread.

One turn::

    the SpdkThread's poll     messages that lay in the ring when the turn began, its pollers and timers
    file descriptors          one look, whatever else there is to do; what is ready joins the ready callbacks
    nothing to do?            spin without the GIL for `spin_us`, then sleep in the kernel
    timers of the loop        those due join the ready callbacks
    ready callbacks           those of this turn, in order; what they schedule runs in the next one

The order is asyncio's: what was posted to the loop before something else runs before it. So `call_soon` looks whether
anything waits in the ring. Handles at its head join the ready callbacks at once; behind a message that is something
else, the handle of `call_soon` goes into the ring too. What is ready when a turn begins is then older than every
message that waits, and runs before it.
"""

from libc.stdint cimport uint32_t, uint64_t

from spdkthread.aio.loop_state cimport LoopState


cdef class LoopCore(LoopState):
    cdef object drain_thread(self, object stop)
    cdef int catch_up(self) except -1
    cdef int take_handles(self) except -1
    cdef int post(self, object fn, object handle) except -1
    cdef object schedule(self, object handle)
    cdef int poll_thread(self, bint messages) except -1
    cdef uint32_t messages_in_front(self, uint64_t end) noexcept
    cdef bint has_work(self) except -1
    cdef int check_set_up(self) except -1
    cdef object arm(self, object handle, double when, uint64_t now)
    cdef int report(self, str what, object error) except -1
    cdef double now_s(self) noexcept
