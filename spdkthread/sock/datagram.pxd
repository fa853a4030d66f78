"""DatagramSock, DatagramBatch and DatagramSet: Python's side of a thread's datagram sockets."""

from libc.stdint cimport uint8_t

from spdkthread.fd_handler cimport FdHandler
from spdkthread.native cimport NativeCall
from spdkthread.sock.datagram_core cimport datagram_address, datagram_block, datagram_group_s, datagram_s
from spdkthread.sock.sock cimport SockChannel
from spdkthread.thread cimport SpdkThread


cdef class BatchMemory:
    """A socket's block, of which windows are lent as memoryviews. With any of them left after the handler, the block
    is this object's, and the socket gets another one."""

    cdef datagram_block *block
    cdef uint8_t *window
    cdef Py_ssize_t length
    cdef Py_ssize_t exports
    cdef bint is_owner

    cdef object lend(self, void *window, Py_ssize_t length)


cdef class DatagramBatch:
    cdef readonly DatagramSock sock
    cdef BatchMemory memory
    cdef Py_ssize_t count           # not above 0: the handler has returned

    cdef datagram_block *block(self) except NULL
    cdef Py_ssize_t index(self, Py_ssize_t index) except -1


cdef class DatagramSet:
    cdef datagram_group_s c
    cdef SockChannel channel
    cdef readonly object device
    cdef readonly SpdkThread thread
    cdef FdHandler handler
    cdef dict socks                 # DatagramSock -> None
    cdef object __weakref__

    cdef int _call(self, object fn, DatagramSock sock, object argument, bint has_argument) except -1
    cdef int _keep(self, DatagramSock sock) except -1
    cdef int _let_go(self, DatagramSock sock) except -1


cdef class DatagramSock:
    cdef datagram_s c
    cdef readonly SpdkThread thread
    cdef readonly object group
    cdef DatagramSet _set
    cdef object _on_batch
    cdef public object on_error, on_low_water, on_close, context
    cdef NativeCall _native
    cdef BatchMemory _memory
    cdef bint _connected
    cdef bint _closed_here
    cdef object __weakref__

    cdef int _require(self, str what) except -1
    cdef int _send(self, const void *data, size_t length, const datagram_address *address) except -1
    cdef int _refuse(self, int number, size_t length) except -1
    cdef int _deliver(self) except -1
