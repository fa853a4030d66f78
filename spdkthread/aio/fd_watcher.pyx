"""FdWatcher. See ``fd_watcher.pxd``."""

from libc.stdint cimport uint32_t

from spdkthread.fd_group cimport FD_READABLE, FD_WRITABLE

__all__ = ["FdWatcher"]


cdef class FdWatcher:
    """Called by an event loop when a descriptor is ready. Transports are some."""

    # What asyncio reads of a handle.
    _source_traceback = None
    _args = ()

    def __cinit__(self):
        self.fd = -1

    cdef int fd_ready(self, uint32_t events) except -1:
        """The descriptor is ready for `events`, which are among those wanted."""
        return 0

    cdef int flush(self) except -1:
        """The turn ends: send what was gathered in it."""
        return 0

    @property
    def _cancelled(self) -> bool:
        return self.seen == 0

    @property
    def _callback(self) -> object:
        return self._run

    def _run(self) -> None:
        cdef uint32_t events = self.seen
        self.seen = 0
        if events:
            self.context.run(self._ready, events)

    def _ready(self, uint32_t events) -> None:
        events &= self.wanted
        if events:
            self.fd_ready(events)

    # For a selector whose events the loop does not read itself: asyncio's handles call these.

    def _ready_to_read(self) -> None:
        self.context.run(self._ready, FD_READABLE)

    def _ready_to_write(self) -> None:
        self.context.run(self._ready, FD_WRITABLE)
