"""FdWatcher: what an event loop calls when a descriptor is ready, without a `Handle` in between.

The loop's epoll names the descriptor, its table of watchers the object, and `fd_ready` is a C call in the context of
the watcher. Among the ready callbacks of a turn a watcher stands in its own place, as a handle would, with what its
descriptor was `seen` to be ready for. To asyncio's debug mode, which times what it runs and logs it, it looks like a
handle.
"""

from libc.stdint cimport uint32_t


cdef class FdWatcher:
    cdef int fd
    cdef uint32_t wanted            # FD_READABLE, FD_WRITABLE: what the loop asks the kernel for
    cdef uint32_t seen              # since it last ran
    cdef object context             # its callbacks run in it

    cdef int fd_ready(self, uint32_t events) except -1
    cdef int flush(self) except -1
