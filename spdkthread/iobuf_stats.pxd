"""What the modules of a pool have done: the counts of its channels, the open ones and those that are closed."""

from libc.stdint cimport uint32_t

from spdkthread.forks cimport ReentrantLock
from spdkthread.iobuf_lists cimport iobuf_channel_s


cdef class Gathering:
    """The counts of one call of `IoBufPool.stats`. Each channel is counted once: by its visit, or when it is closed."""

    cdef dict modules           # module -> size -> counts
    cdef set seen               # serials of channels


cdef class ModuleCounts:
    """The modules of one pool."""

    cdef readonly ReentrantLock lock
    cdef dict names             # serial of a channel -> module, while the channel is open or holds buffers
    cdef dict closed            # module -> size -> counts of channels that are closed
    cdef list gatherings        # under way

    cdef int channel_opened(self, uint32_t serial, str name) except -1
    cdef int channel_closed(self, iobuf_channel_s *channel, str name) except -1
    cdef Gathering begin(self)
    cdef int count(self, Gathering gathering, iobuf_channel_s *channel, str name) except -1
    cdef dict end(self, Gathering gathering)


cdef ModuleCounts new_module_counts()
