"""Transport: what the transports of `aio.EventLoop` have in common.

They are asyncio's own transports in C: the same states, the same order of callbacks, the same errors. What differs is
the way of a byte. Ready descriptors come straight from the loop's epoll (``fd_watcher.pxd``), are received into one
buffer of the loop, and go to the protocol in one call, in the context in which the transport was made. connection_made
and connection_lost run in that context as well.

Attributes with a leading underscore are those which asyncio's own code reads of its transports.
"""

from libc.stdint cimport uint32_t

from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.aio.loop_core cimport LoopCore

cdef extern from *:
    """
    #ifndef SPDKTHREAD_TRANSPORT
    #define SPDKTHREAD_TRANSPORT
    enum { TRANSPORT_READ_SIZE = 64 * 1024 };
    #endif
    """
    const Py_ssize_t TRANSPORT_READ_SIZE


cdef class Transport(FdWatcher):
    cdef LoopCore core
    cdef readonly object _loop              # the same, None once the connection is lost
    cdef public object _protocol
    cdef public dict _extra
    cdef readonly bint _protocol_paused
    cdef readonly bint _closing
    cdef bint paused
    cdef readonly Py_ssize_t _high_water
    cdef readonly Py_ssize_t _low_water
    cdef Py_ssize_t buffered                # bytes that the kernel has not taken
    cdef dict __dict__
    cdef object __weakref__

    cdef int join(self, object loop, int fd, object protocol, object extra) except -1
    cdef int announce(self, object waiter) except -1
    cdef int may_read(self) except -1
    cdef int want(self, uint32_t events) except -1
    cdef int pause_protocol(self) except -1
    cdef int resume_protocol(self) except -1
    cdef int tell(self, str message, object error) except -1
    cdef bint is_expected(self, object error) except *
    cdef int fatal(self, object error, str what) except -1
    cdef int force_close(self, object error) except -1
    cdef int lose(self, object error) except -1


cdef bytearray read_buffer_of(LoopCore loop)
cdef object os_error(int number)
