"""StreamTransport. See ``transport_stream.pxd``."""

import logging
import socket
from asyncio import constants, protocols, streams

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING, PyByteArray_GET_SIZE, PyByteArray_Resize
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.list cimport PyList_GET_ITEM, PyList_GET_SIZE
from libc.stdint cimport uint32_t
from libc.string cimport memcpy
from posix.uio cimport iovec

from spdkthread.aio.loop_core cimport LoopCore
from spdkthread.aio.transport cimport TRANSPORT_READ_SIZE, os_error, read_buffer_of
from spdkthread.aio.transport_socket cimport SocketTransport
from spdkthread.fd_group cimport FD_READABLE, FD_WRITABLE
from spdkthread.os_ext cimport st_again

__all__ = ["StreamTransport"]

cdef extern from *:
    """
    #include <errno.h>
    #include <netinet/in.h>
    #include <netinet/tcp.h>
    #include <sys/socket.h>
    #include <sys/uio.h>

    enum { ST_CHUNKS = 64 };

    /* Bytes, or minus errno. */
    static inline Py_ssize_t st_receive(int fd, void *into, Py_ssize_t size) {
        Py_ssize_t count = recv(fd, into, (size_t)size, 0);
        return count < 0 ? -errno : count;
    }
    static inline Py_ssize_t st_send(int fd, const void *data, Py_ssize_t size) {
        Py_ssize_t count = send(fd, data, (size_t)size, MSG_NOSIGNAL);
        return count < 0 ? -errno : count;
    }
    static inline Py_ssize_t st_send_many(int fd, struct iovec *parts, int count) {
        struct msghdr message = {0};
        Py_ssize_t sent;
        message.msg_iov = parts;
        message.msg_iovlen = count;
        sent = sendmsg(fd, &message, MSG_NOSIGNAL);
        return sent < 0 ? -errno : sent;
    }
    static inline void st_no_delay(int fd) {
        int yes = 1;
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof yes);
    }
    """
    const int ST_CHUNKS
    Py_ssize_t st_receive(int fd, void *into, Py_ssize_t size) noexcept nogil
    Py_ssize_t st_send(int fd, const void *data, Py_ssize_t size) noexcept nogil
    Py_ssize_t st_send_many(int fd, iovec *parts, int count) noexcept nogil
    void st_no_delay(int fd) noexcept nogil

logger = logging.getLogger("asyncio")

# So much gathered goes out at once; a larger write is sent without the GIL.
cdef Py_ssize_t GATHERED = 64 * 1024
cdef object BufferedProtocol = protocols.BufferedProtocol
cdef object StreamReader = streams.StreamReader
cdef object StreamReaderProtocol = streams.StreamReaderProtocol
cdef object TCP_FAMILIES = (socket.AF_INET, socket.AF_INET6)


cdef bint feed(object protocol, const char *data, Py_ssize_t count) except -1:
    """What `StreamReaderProtocol` and `StreamReader` do with bytes that were received, without their Python code.

    Returns False, with nothing done, where it takes that code: the reader is not asyncio's own, or it has to pause.
    """
    cdef Py_ssize_t before
    find = protocol._stream_reader_wr
    if find is None:
        return False
    reader = find()
    if type(reader) is not StreamReader or reader._eof:
        return False
    buffer = reader._buffer
    if type(buffer) is not bytearray:
        return False
    before = PyByteArray_GET_SIZE(buffer)
    if before + count > 2 * reader._limit:
        return False
    PyByteArray_Resize(buffer, before + count)
    memcpy(PyByteArray_AS_STRING(buffer) + before, data, count)
    waiter = reader._waiter
    if waiter is not None:
        reader._waiter = None
        if not waiter.cancelled():
            waiter.set_result(None)
    return True


cdef class StreamTransport(SocketTransport):
    """A connected TCP or unix socket of `aio.EventLoop`."""

    _start_tls_compatible = True

    def __init__(self, loop, sock, protocol, waiter=None, extra=None, server=None):
        self.chunks = []
        self._sendfile_compatible = constants._SendfileMode.TRY_NATIVE
        self.begin(loop, sock, protocol, extra, server)
        if sock.family in TCP_FAMILIES and sock.type == socket.SOCK_STREAM and sock.proto in (0, socket.IPPROTO_TCP):
            st_no_delay(self.fd)
        self.announce(waiter)

    def set_protocol(self, protocol) -> None:
        """As ``asyncio.BaseTransport.set_protocol``."""
        self.buffered_protocol = isinstance(protocol, BufferedProtocol)
        self.reader_protocol = type(protocol) is StreamReaderProtocol
        self._protocol = protocol

    cdef int fd_ready(self, uint32_t events) except -1:
        if events & FD_READABLE and self.wanted & FD_READABLE:
            if self.buffered_protocol:
                self.read_into_protocol()
            else:
                self.read_ready()
        if events & FD_WRITABLE and self.wanted & FD_WRITABLE:
            self.write_ready()
        return 0

    # Reading

    cdef int read_ready(self) except -1:
        cdef char *buffer
        cdef Py_ssize_t count
        if self._conn_lost:
            return 0
        buffer = PyByteArray_AS_STRING(read_buffer_of(self.core))
        count = st_receive(self.fd, buffer, TRANSPORT_READ_SIZE)
        if count <= 0:
            if count == 0:
                return self.end_of_file()
            if not st_again(count):
                self.fatal(os_error(-count), "Fatal read error on socket transport")
            return 0
        try:
            if self.reader_protocol and feed(self._protocol, buffer, count):
                return 0
            self._protocol.data_received(PyBytes_FromStringAndSize(buffer, count))
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error: protocol.data_received() call failed.")
        return 0

    cdef int read_into_protocol(self) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t count
        if self._conn_lost:
            return 0
        try:
            into = self._protocol.get_buffer(-1)
            PyObject_GetBuffer(into, &view, PyBUF_WRITABLE)
            if view.len == 0:
                PyBuffer_Release(&view)
                raise RuntimeError("get_buffer() returned an empty buffer")
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error: protocol.get_buffer() call failed.")
            return 0
        count = st_receive(self.fd, view.buf, view.len)
        PyBuffer_Release(&view)
        if count <= 0:
            if count == 0:
                return self.end_of_file()
            if not st_again(count):
                self.fatal(os_error(-count), "Fatal read error on socket transport")
            return 0
        try:
            self._protocol.buffer_updated(count)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error: protocol.buffer_updated() call failed.")
        return 0

    cdef int end_of_file(self) except -1:
        if self.core._debug:
            logger.debug("%r received EOF", self)
        try:
            keep_open = self._protocol.eof_received()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.fatal(error, "Fatal error: protocol.eof_received() call failed.")
            return 0
        if keep_open:
            # The protocol may write on. There is nothing more to read, and the descriptor would be ready for ever.
            self.want(self.wanted & ~<uint32_t>FD_READABLE)
        else:
            self.close()
        return 0

    # Writing

    def write(self, data) -> None:
        """As ``asyncio.WriteTransport.write``."""
        if type(data) is not bytes and not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof:
            raise RuntimeError("Cannot call write() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError("unable to write; sendfile is in progress")
        self.write_bytes(data)

    def writelines(self, list_of_data) -> None:
        """As ``asyncio.WriteTransport.writelines``: one system call."""
        if self._eof:
            raise RuntimeError("Cannot call writelines() after write_eof()")
        if self._empty_waiter is not None:
            raise RuntimeError("unable to writelines; sendfile is in progress")
        lines = list(list_of_data)
        for data in lines:
            if not isinstance(data, (bytes, bytearray, memoryview)):
                raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._conn_lost:
            if lines:
                self.refuse_write()
            return
        waits = self.buffered != 0 and not self.to_be_flushed
        for data in lines:
            self.append(data, 0, -1)
        if self.buffered and not waits:
            self.send_chunks()
        self.pause_protocol()

    cdef int write_bytes(self, object data) except -1:
        cdef Py_buffer view
        cdef Py_ssize_t sent = 0
        cdef Py_ssize_t size
        cdef LoopCore loop = self.core
        if type(data) is bytes:
            size = PyBytes_GET_SIZE(data)
        elif isinstance(data, memoryview):
            size = data.nbytes
            if not data.c_contiguous:
                data = bytes(data)
        else:
            size = len(data)
        if size == 0:
            return 0
        if self._conn_lost:
            return self.refuse_write()
        if self.buffered == 0 and self.wrote_in != loop.turns and not self.gathers:
            self.wrote_in = loop.turns
            if type(data) is bytes and size <= GATHERED:
                sent = st_send(self.fd, PyBytes_AS_STRING(data), size)
            else:
                PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
                with nogil:
                    sent = st_send(self.fd, view.buf, view.len)
                PyBuffer_Release(&view)
            if sent == size:
                return 0
            if sent < 0:
                if not st_again(sent):
                    return self.write_failed(os_error(-sent))
                sent = 0
            self.append(data, sent, size)
            self.want(self.wanted | FD_WRITABLE)
        else:
            self.append(data, 0, size)
            if not self.wanted & FD_WRITABLE:
                self.gather()
        if self.buffered > self._high_water:
            if not self.wanted & FD_WRITABLE:
                self.send_chunks()          # the mark is for what the kernel does not take
            self.pause_protocol()
        return 0

    cdef int append(self, object data, Py_ssize_t start, Py_ssize_t size) except -1:
        """The bytes of `data` from `start` on wait. What the caller may change is copied."""
        if type(data) is not bytes:
            data = bytes(data)
        if size < 0:
            size = PyBytes_GET_SIZE(data)
        if size == start:
            return 0
        if start and self.buffered == 0:
            self.offset = start
        self.chunks.append(data)
        self.buffered += size - start
        return 0

    cdef int gather(self) except -1:
        """What has been appended goes out at the end of the turn, with what else the turn writes."""
        cdef LoopCore loop = self.core
        self.gathers = True
        if self.buffered >= GATHERED:
            self.send_chunks()
        elif not self.to_be_flushed:
            self.to_be_flushed = True
            loop.to_flush.append(self)
        return 0

    cdef int flush(self) except -1:
        self.to_be_flushed = False
        if PyList_GET_SIZE(self.chunks) - self.first <= 1 and self.wrote_in != self.core.turns:
            self.gathers = False            # one write in this turn: nothing was gained
        if self.buffered and not self.wanted & FD_WRITABLE and not self._conn_lost:
            self.send_chunks()
            if self._protocol_paused and self.buffered <= self._low_water:
                self.resume_protocol()
        return 0

    cdef Py_ssize_t send_chunks(self) except? -1:
        """Send what waits. What the kernel does not take waits until the descriptor is ready. Bytes, 0 after a failure.
        """
        cdef iovec parts[64]
        cdef Py_ssize_t sent, left, index
        cdef Py_ssize_t total = 0
        cdef Py_ssize_t asked
        cdef int count
        while self.buffered:
            count = 0
            asked = 0
            index = self.first
            while index < PyList_GET_SIZE(self.chunks) and count < ST_CHUNKS:
                chunk = <object>PyList_GET_ITEM(self.chunks, index)
                parts[count].iov_base = PyBytes_AS_STRING(chunk)
                parts[count].iov_len = PyBytes_GET_SIZE(chunk)
                if count == 0:
                    parts[0].iov_base = PyBytes_AS_STRING(chunk) + self.offset
                    parts[0].iov_len -= self.offset
                asked += parts[count].iov_len
                count += 1
                index += 1
            if count == 1 and asked <= GATHERED:
                sent = st_send(self.fd, parts[0].iov_base, asked)
            elif asked <= GATHERED:
                sent = st_send_many(self.fd, parts, count)
            else:
                # The chunks are this transport's, and only the loop's OS thread, which is here, takes them out.
                with nogil:
                    sent = st_send_many(self.fd, parts, count)
            if sent < 0:
                if not st_again(sent):
                    self.write_failed(os_error(-sent))
                    return 0
                sent = 0
            total += sent
            self.buffered -= sent
            left = sent
            while left:
                chunk = <object>PyList_GET_ITEM(self.chunks, self.first)
                index = PyBytes_GET_SIZE(chunk) - self.offset
                if left < index:
                    self.offset += left
                    break
                left -= index
                self.offset = 0
                self.chunks[self.first] = None
                self.first += 1
            if self.buffered == 0:
                self.chunks.clear()
                self.first = 0
            elif self.first > 64 and self.first * 2 > PyList_GET_SIZE(self.chunks):
                del self.chunks[:self.first]
                self.first = 0
            if sent < asked:
                break
        if self.buffered:
            self.want(self.wanted | FD_WRITABLE)
        return total

    cdef int write_failed(self, object error) except -1:
        self.drop_buffer()
        self.fatal(error, "Fatal write error on socket transport")
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_exception(error)
        return 0

    cdef int drop_buffer(self) except -1:
        self.chunks.clear()
        self.first = self.offset = self.buffered = 0
        return 0

    cdef int write_ready(self) except -1:
        if self._conn_lost:
            return 0
        self.send_chunks()
        if self._conn_lost:
            return 0
        self.resume_protocol()              # which may write
        if self.buffered == 0 and self._loop is not None:
            self.want(self.wanted & ~<uint32_t>FD_WRITABLE)
            self.all_sent()
        return 0

    cdef int all_sent(self) except -1:
        if self._empty_waiter is not None and not self._empty_waiter.done():
            self._empty_waiter.set_result(None)
        if self._closing:
            self.lose(None)
        elif self._eof:
            self.shut_writing()
        return 0

    def write_eof(self) -> None:
        """As ``asyncio.WriteTransport.write_eof``."""
        if self._closing or self._eof:
            return
        self._eof = True
        self.send_gathered()
        if self.buffered == 0 and not self._conn_lost:
            self.shut_writing()

    def can_write_eof(self) -> bool:
        """As ``asyncio.WriteTransport.can_write_eof``."""
        return True

    cdef int shut_writing(self) except -1:
        self._sock.shutdown(socket.SHUT_WR)
        return 0

    cdef int send_gathered(self) except -1:
        """What was gathered, as asyncio would have sent it when it was written."""
        if self.buffered and not self.wanted & FD_WRITABLE and not self._conn_lost:
            self.send_chunks()
        return 0

    # Endings

    def close(self) -> None:
        """As ``asyncio.BaseTransport.close``."""
        if not self._closing:
            self.send_gathered()
            SocketTransport.close(self)

    def abort(self) -> None:
        """As ``asyncio.WriteTransport.abort``."""
        self.send_gathered()
        self.force_close(None)

    cdef int lose(self, object error) except -1:
        try:
            SocketTransport.lose(self, error)
        finally:
            if self._empty_waiter is not None and not self._empty_waiter.done():
                self._empty_waiter.set_exception(ConnectionError("Connection is closed by peer"))
        return 0

    # sendfile

    def _make_empty_waiter(self):
        if self._empty_waiter is not None:
            raise RuntimeError("Empty waiter is already set")
        self.send_gathered()
        self._empty_waiter = self._loop.create_future()
        if self.buffered == 0:
            self._empty_waiter.set_result(None)
        return self._empty_waiter

    def _reset_empty_waiter(self):
        self._empty_waiter = None
