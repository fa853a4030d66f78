"""SocketTransport: what stream and datagram transports have in common.

A transport holds its socket as a file made of it would: closing the socket elsewhere does not close the descriptor, so
that its number cannot become another file's under the loop's hands. The descriptor is closed with the transport.
"""

from libc.stdint cimport uint64_t

from spdkthread.aio.transport cimport Transport


cdef class SocketTransport(Transport):
    cdef public object _sock
    cdef readonly object _server
    cdef bint holds_sock
    cdef readonly uint64_t _conn_lost       # connection_lost was called or will be; then: writes since

    cdef int begin(self, object loop, object sock, object protocol, object extra, object server) except -1
    cdef bint holds_data(self) noexcept
    cdef int drop_buffer(self) except -1
    cdef int forget_server(self) except -1
    cdef int refuse_write(self) except -1
    cdef int release_sock(self) except -1
