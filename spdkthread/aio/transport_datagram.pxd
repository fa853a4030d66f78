"""DatagramTransport: a UDP or unix datagram socket of `aio.EventLoop`.

One look at the kernel takes as many as DATAGRAMS_A_TURN datagrams, into the loop's buffer.
"""

from spdkthread.aio.transport_socket cimport SocketTransport


cdef class DatagramTransport(SocketTransport):
    cdef object waiting             # deque of (bytes, address): written, not sent
    cdef object address             # the only one that may be written to; None: any
    cdef bint connected
    cdef bint large                 # datagrams may be larger than the loop's buffer

    cdef int read_ready(self) except -1
    cdef int write_ready(self) except -1
    cdef int take_first(self, object data) except -1
    cdef int send_one(self, object data, object address) except -1
