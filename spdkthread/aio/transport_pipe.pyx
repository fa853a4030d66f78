"""Transports of pipes. See ``transport_pipe.pxd``."""

import logging
import os
import stat
import warnings
from asyncio import constants, transports

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EIO
from libc.stdint cimport uint32_t, uint64_t

from spdkthread.aio.loop_fds cimport watch
from spdkthread.aio.transport cimport TRANSPORT_READ_SIZE, Transport, os_error, read_buffer_of
from spdkthread.fd_group cimport FD_READABLE, FD_WRITABLE
from spdkthread.os_ext cimport st_again

__all__ = ["PipeTransport", "ReadPipeTransport", "WritePipeTransport"]

cdef extern from *:
    """
    #include <errno.h>
    #include <unistd.h>

    /* Bytes, or minus errno. */
    static inline Py_ssize_t st_read(int fd, void *into, Py_ssize_t size) {
        Py_ssize_t count = read(fd, into, (size_t)size);
        return count < 0 ? -errno : count;
    }
    static inline Py_ssize_t st_write(int fd, const void *data, Py_ssize_t size) {
        Py_ssize_t count = write(fd, data, (size_t)size);
        return count < 0 ? -errno : count;
    }
    """
    Py_ssize_t st_read(int fd, void *into, Py_ssize_t size) noexcept nogil
    Py_ssize_t st_write(int fd, const void *data, Py_ssize_t size) noexcept nogil


logger = logging.getLogger("asyncio")

cdef uint64_t LOGGED_LOSSES = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES


class ReadPipeTransportKind(transports.ReadTransport):
    """What the reading pipe transports of the loop are to ``isinstance``."""


class WritePipeTransportKind(transports._FlowControlMixin, transports.WriteTransport):
    """What the writing pipe transports of the loop are to ``isinstance``."""


cdef class PipeTransport(Transport):
    """What the transports of pipes have in common. Not one by itself."""

    cdef int begin(self, object loop, object pipe, object protocol, object extra, str refusal) except -1:
        """Returns whether it is a character device."""
        fileno = pipe.fileno()
        mode = os.fstat(fileno).st_mode
        if not (stat.S_ISFIFO(mode) or stat.S_ISSOCK(mode) or stat.S_ISCHR(mode)):
            raise ValueError(refusal)
        os.set_blocking(fileno, False)
        self.join(loop, fileno, protocol, extra)
        self._extra["pipe"] = pipe
        self.fileno = fileno
        self._pipe = pipe
        return stat.S_ISCHR(mode)

    cdef int want(self, uint32_t events) except -1:
        if events == self.wanted:
            return 0
        try:
            watch(self.core, self, events)
        except FileExistsError:
            if self.own_fd:
                raise
            # A terminal is read and written on one descriptor, by two transports.
            self.fd = os.dup(self.fileno)
            self.own_fd = True
            watch(self.core, self, events)
        return 0

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if self._pipe is None:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self.fileno}")
        if self._pipe is not None:
            info.append("open" if self.core._closed else "polling" if self.wanted else "idle")
        return f"<{' '.join(info)}>"

    @property
    def _fileno(self) -> int:
        return self.fileno

    cdef int force_close(self, object error) except -1:
        if self._loop is None:
            return 0
        self._closing = True
        self.want(0)
        self._loop.call_soon(self._call_connection_lost, error, context=self.context)
        return 0

    cdef int lose(self, object error) except -1:
        if self._loop is None:
            return 0
        try:
            self._protocol.connection_lost(error)
        finally:
            self.want(0)
            self.release()
            self._protocol = self._loop = None
        return 0

    cdef int release(self) except -1:
        pipe = self._pipe
        self._pipe = None
        if self.own_fd:
            self.own_fd = False
            os.close(self.fd)
        if pipe is not None:
            pipe.close()
        return 0

    def __del__(self):
        if self._pipe is None:
            return
        warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
        if self.wanted:
            self.want(0)
        self.release()


cdef class ReadPipeTransport(PipeTransport):
    """The reading end of a pipe, on `aio.EventLoop`."""

    @property
    def __class__(self) -> type:
        return ReadPipeTransportKind

    def __init__(self, loop, pipe, protocol, waiter=None, extra=None):
        self.begin(loop, pipe, protocol, extra, "Pipe transport is for pipes/sockets only.")
        self.announce(waiter)

    cdef int fd_ready(self, uint32_t events) except -1:
        cdef char *buffer
        cdef Py_ssize_t count
        if not self.wanted & FD_READABLE:
            return 0
        buffer = PyByteArray_AS_STRING(read_buffer_of(self.core))
        count = st_read(self.fd, buffer, TRANSPORT_READ_SIZE)
        if count > 0:
            self._protocol.data_received(PyBytes_FromStringAndSize(buffer, count))
        elif count == 0:
            if self.core._debug:
                logger.info("%r was closed by peer", self)
            self._closing = True
            self.want(0)
            self._loop.call_soon(self._protocol.eof_received, context=self.context)
            self._loop.call_soon(self._call_connection_lost, None, context=self.context)
        elif not st_again(count):
            self.fatal(os_error(-count), "Fatal read error on pipe transport")
        return 0

    cdef bint is_expected(self, object error) except *:
        # What a terminal says whose other side is closed.
        return isinstance(error, OSError) and error.errno == EIO

    def close(self) -> None:
        """As ``asyncio.BaseTransport.close``."""
        if not self._closing:
            self.force_close(None)


cdef class WritePipeTransport(PipeTransport):
    """The writing end of a pipe, on `aio.EventLoop`."""

    @property
    def __class__(self) -> type:
        return WritePipeTransportKind

    def __init__(self, loop, pipe, protocol, waiter=None, extra=None):
        self.buffer = bytearray()
        # Of a pipe or a socket epoll says that nothing reads it any more.
        self.ends_are_seen = not self.begin(
            loop, pipe, protocol, extra, "Pipe transport is only for pipes, sockets and character devices"
        )
        self.announce(waiter)

    cdef int may_read(self) except -1:
        if self.ends_are_seen:
            self.want(self.wanted | FD_READABLE)
        return 0

    cdef int fd_ready(self, uint32_t events) except -1:
        if events & FD_READABLE and self.wanted & FD_READABLE:
            self.peer_closed()
        if events & FD_WRITABLE and self.wanted & FD_WRITABLE:
            self.write_ready()
        return 0

    cdef int peer_closed(self) except -1:
        if self.core._debug:
            logger.info("%r was closed by peer", self)
        return self.force_close(BrokenPipeError() if self.buffer else None)

    def __repr__(self) -> str:
        described = PipeTransport.__repr__(self)
        return described if self._pipe is None else f"{described[: len(described) - 1]} bufsize={len(self.buffer)}>"

    # What `Transport` has for those that read. That a pipe is readable means here that its reader is gone.

    def is_reading(self):
        """Raises NotImplementedError: this end of a pipe is not read, as that of ``asyncio`` is not."""
        raise NotImplementedError(f"{self!r} is the writing end of a pipe: nothing is read from it")

    def pause_reading(self):
        """Raises NotImplementedError, as `is_reading`."""
        self.is_reading()

    def resume_reading(self):
        """Raises NotImplementedError, as `is_reading`."""
        self.is_reading()

    def write(self, data) -> None:
        """As ``asyncio.WriteTransport.write``."""
        cdef Py_buffer view
        cdef Py_ssize_t sent
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if not data:
            return
        if self.lost or self._closing:
            if self.lost >= LOGGED_LOSSES:
                logger.warning("pipe closed by peer or os.write(pipe, data) raised exception.")
            self.lost += 1
            return
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            sent = 0
            if not self.buffer:
                with nogil:
                    sent = st_write(self.fd, view.buf, view.len)
                if sent == view.len:
                    return
                if sent < 0:
                    if not st_again(sent):
                        self.lost += 1
                        self.fatal(os_error(-sent), "Fatal write error on pipe transport")
                        return
                    sent = 0
                self.want(self.wanted | FD_WRITABLE)
            self.buffer += <bytes>(<char *>view.buf)[sent:view.len]
            self.buffered = len(self.buffer)
        finally:
            PyBuffer_Release(&view)
        self.pause_protocol()

    def writelines(self, list_of_data) -> None:
        """As ``asyncio.WriteTransport.writelines``."""
        self.write(b"".join(list_of_data))

    cdef int write_ready(self) except -1:
        cdef Py_ssize_t sent = st_write(self.fd, PyByteArray_AS_STRING(self.buffer), len(self.buffer))
        if sent < 0:
            if not st_again(sent):
                self.lost += 1
                self.fatal(os_error(-sent), "Fatal write error on pipe transport")
            return 0
        del self.buffer[:sent]
        self.buffered = len(self.buffer)
        self.resume_protocol()              # which may write
        if not self.buffer and self._loop is not None:
            self.want(self.wanted & ~<uint32_t>FD_WRITABLE)
            if self._closing:
                self.want(0)
                self.lose(None)
        return 0

    def can_write_eof(self) -> bool:
        """As ``asyncio.WriteTransport.can_write_eof``."""
        return True

    def write_eof(self) -> None:
        """As ``asyncio.WriteTransport.write_eof``: closes it when all is written."""
        if self._closing:
            return
        self._closing = True
        if not self.buffer:
            self.want(0)
            self._loop.call_soon(self._call_connection_lost, None, context=self.context)

    def close(self) -> None:
        """As ``asyncio.BaseTransport.close``."""
        if self._pipe is not None and not self._closing:
            self.write_eof()

    cdef int force_close(self, object error) except -1:
        self.buffer.clear()
        self.buffered = 0
        return PipeTransport.force_close(self, error)
