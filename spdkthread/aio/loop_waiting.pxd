"""Nothing is ready: an event loop waits until something is, or until a timer is due."""

from spdkthread.aio.loop_state cimport LoopState

cdef int this_core() noexcept nogil
cdef int wait(LoopState loop) except -1
