"""StreamTransport: a connected TCP or unix socket of `aio.EventLoop`.

Reading: one `recv` for each time the descriptor is found ready, into the loop's buffer of 64 KiB (asyncio asks for 256
KiB, which the allocator maps and unmaps for every message), or into the buffer of a `BufferedProtocol`.

Writing: the first write of a turn is tried at once. What the same turn writes after it is gathered and goes out in one
system call at the end of the turn, or when 64 KiB have come together. A transport that did so gathers the first write
of its next turn as well: an answer of a head and a body is one `sendmsg` from the second one on. It stops gathering
when a turn had only one write. What the kernel does not take waits until it is ready, as everywhere in asyncio.
"""

from libc.stdint cimport uint64_t

from spdkthread.aio.transport_socket cimport SocketTransport


cdef class StreamTransport(SocketTransport):
    cdef list chunks                # of bytes: written, not sent
    cdef Py_ssize_t first           # of the chunks that is not sent whole
    cdef Py_ssize_t offset          # of its bytes that are sent
    cdef bint gathers               # the writes of a turn wait for its end
    cdef bint to_be_flushed         # in the loop's list of those
    cdef uint64_t wrote_in          # turn of the loop
    cdef bint buffered_protocol
    cdef bint reader_protocol       # asyncio's own, of its streams
    cdef readonly bint _eof
    cdef readonly object _empty_waiter
    cdef public object _sendfile_compatible

    cdef int read_ready(self) except -1
    cdef int read_into_protocol(self) except -1
    cdef int end_of_file(self) except -1
    cdef int write_ready(self) except -1
    cdef int write_bytes(self, object data) except -1
    cdef int append(self, object data, Py_ssize_t start, Py_ssize_t size) except -1
    cdef int send_gathered(self) except -1
    cdef int gather(self) except -1
    cdef Py_ssize_t send_chunks(self) except? -1
    cdef int all_sent(self) except -1
    cdef int write_failed(self, object error) except -1
    cdef int shut_writing(self) except -1
