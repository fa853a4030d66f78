"""Native handlers that send back what they receive: examples, and what benchmarks and tests use."""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint8_t

from spdkthread.sock.core cimport sock_s, sock_send
from spdkthread.sock.datagram_core cimport datagram_reply, datagram_s

__all__ = ["on_data", "on_datagram"]


cdef int echo_data(void *ctx, sock_s *sock, const uint8_t *data, size_t length) noexcept nogil:
    return sock_send(sock, data, length)


cdef int echo_datagram(void *ctx, datagram_s *sock, const uint8_t *data, size_t length) noexcept nogil:
    return datagram_reply(sock, data, length)


on_data = PyCapsule_New(<void *>echo_data, b"int (void *, sock_s *, uint8_t const *, size_t)", NULL)
on_datagram = PyCapsule_New(<void *>echo_datagram, b"int (void *, datagram_s *, uint8_t const *, size_t)", NULL)
