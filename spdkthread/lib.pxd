"""ThreadLib: the registry of threads and devices, the clock, the routing of exceptions."""

from libc.stdint cimport uint64_t

from spdkthread.atomics cimport st_atomic_u64
from spdkthread.clock cimport manual_clock


cdef class ThreadLib:
    cdef manual_clock *clock            # NULL: the real one
    cdef readonly object _clock
    cdef object _exception_handler
    cdef st_atomic_u64 _error_count
    cdef st_atomic_u64 _lost_msgs
    cdef readonly object _error_log
    cdef readonly object _lock
    cdef dict _threads                  # id -> SpdkThread, creation order
    cdef list _ids                      # ascending
    cdef dict _devices                  # id() -> IoDevice, registration order
    cdef uint64_t _next_id
    cdef bint _closed
    cdef object __weakref__

    cdef uint64_t now(self) noexcept
    cdef int report(self, str message, object exception, object thread, str key, object subject) except -1


cdef ThreadLib lib_or_default(object lib)
