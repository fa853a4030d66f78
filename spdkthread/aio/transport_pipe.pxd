"""ReadPipeTransport, WritePipeTransport: pipes, character devices and sockets in one direction; subprocesses have them.

As asyncio's, with the way of a byte of `Transport`.
"""

from libc.stdint cimport uint64_t

from spdkthread.aio.transport cimport Transport


cdef class PipeTransport(Transport):
    cdef public object _pipe
    cdef int fileno                     # of the pipe
    cdef bint own_fd                    # `fd` is a duplicate: the loop watches another transport of the same descriptor

    cdef int begin(self, object loop, object pipe, object protocol, object extra, str refusal) except -1
    cdef int release(self) except -1


cdef class ReadPipeTransport(PipeTransport):
    pass


cdef class WritePipeTransport(PipeTransport):
    cdef bytearray buffer
    cdef bint ends_are_seen             # reading says when the peer has closed
    cdef uint64_t lost                  # writes since the pipe broke, and one

    cdef int peer_closed(self) except -1
    cdef int write_ready(self) except -1
