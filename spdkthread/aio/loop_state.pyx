"""What `aio.EventLoop` consists of beside asyncio's own classes. See ``loop_state.pxd``."""

from collections import deque


cdef class LoopState:
    """The state of an `EventLoop`, which alone makes one."""

    def __cinit__(self):
        self.ready = []
        self.batch = []
        self.watchers = []
        self.to_flush = []
        self.turns = 1
        self.cancelled = deque()
        self.poll_fd = -1
        self.thread_fds = -1
        self._closed = True         # until it is set up
