"""A native handler that sends back what it receives: an example of one, and what benchmarks and tests use."""

from cpython.pycapsule cimport PyCapsule_New
from libc.stdint cimport uint8_t

from spdkthread.sock.core cimport sock_s, sock_send

__all__ = ["on_data"]


cdef int echo_data(void *ctx, sock_s *sock, const uint8_t *data, size_t length) noexcept nogil:
    return sock_send(sock, data, length)


on_data = PyCapsule_New(<void *>echo_data, b"int (void *, sock_s *, uint8_t const *, size_t)", NULL)
