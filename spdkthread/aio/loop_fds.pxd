"""The descriptors of an event loop: those of asyncio's selector, and those of the loop's SpdkThread."""

from libc.stdint cimport uint32_t

from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.aio.loop_state cimport LoopState

cdef bint asks_only_the_kernel(object selector)
cdef int look_at_fds(LoopState loop) except -1
cdef int watch_thread_fds(LoopState loop) except -1
cdef int take_events(LoopState loop) except -1
cdef int watch(LoopState loop, FdWatcher watcher, uint32_t mask) except -1
cdef int take_seen(LoopState loop, object seen) except -1
