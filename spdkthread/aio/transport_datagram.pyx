"""DatagramTransport. See ``transport_datagram.pxd``."""

import logging
import socket
import sys
from asyncio import transports
from collections import deque

from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.stdint cimport uint32_t

from spdkthread.aio.transport cimport read_buffer_of
from spdkthread.aio.transport_socket cimport SocketTransport
from spdkthread.fd_group cimport FD_READABLE, FD_WRITABLE

__all__ = ["DatagramTransport"]

logger = logging.getLogger("asyncio")

cdef enum:
    DATAGRAMS_A_TURN = 16
    LARGEST_DATAGRAM = 256 * 1024       # where the family has no limit of its own

# What asyncio counts for each datagram that waits, besides its bytes.
cdef Py_ssize_t COUNTED_HEADER = 8 if sys.version_info >= (3, 13) else 0


class DatagramTransportKind(transports._FlowControlMixin, transports.Transport, transports.DatagramTransport):
    """What the datagram transports of the loop are to ``isinstance``."""


cdef class DatagramTransport(SocketTransport):
    """A datagram socket of `aio.EventLoop`."""

    @property
    def __class__(self) -> type:
        return DatagramTransportKind

    def __init__(self, loop, sock, protocol, address=None, waiter=None, extra=None):
        self.waiting = deque()
        self.begin(loop, sock, protocol, extra, None)
        self.address = address
        self.connected = self._extra["peername"] is not None       # b"" or "" is that of a socket without a name
        self.large = sock.family not in (socket.AF_INET, socket.AF_INET6)
        self.announce(waiter)

    @property
    def _address(self):
        return self.address

    cdef int fd_ready(self, uint32_t events) except -1:
        if events & FD_READABLE and self.wanted & FD_READABLE:
            self.read_ready()
        if events & FD_WRITABLE and self.wanted & FD_WRITABLE:
            self.write_ready()
        return 0

    cdef int read_ready(self) except -1:
        cdef bytearray buffer = read_buffer_of(self.core)
        cdef Py_ssize_t count
        for _ in range(DATAGRAMS_A_TURN):
            # The protocol may have closed or paused, or the socket be gone.
            if self._conn_lost or not self.wanted & FD_READABLE:
                return 0
            try:
                if self.large:
                    data, address = self._sock.recvfrom(LARGEST_DATAGRAM)
                else:
                    count, address = self._sock.recvfrom_into(buffer)
                    data = PyBytes_FromStringAndSize(PyByteArray_AS_STRING(buffer), count)
            except (BlockingIOError, InterruptedError):
                return 0
            except OSError as error:
                self._protocol.error_received(error)
                return 0
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                return self.fatal(error, "Fatal read error on datagram transport")
            self._protocol.datagram_received(data, address)
        return 0

    cdef int send_one(self, object data, object address) except -1:
        if self.connected:
            self._sock.send(data)
        else:
            self._sock.sendto(data, address)
        return 0

    def sendto(self, data, addr=None) -> None:
        """As ``asyncio.DatagramTransport.sendto``."""
        if not isinstance(data, (bytes, bytearray, memoryview)):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self.address:
            if addr is not None and addr != self.address:
                raise ValueError(f"Invalid address: must be None or {self.address}")
            addr = self.address
        if self._conn_lost:
            self.refuse_write()
            return
        if not self.waiting:
            try:
                self.send_one(data, addr)
                return
            except (BlockingIOError, InterruptedError):
                self.want(self.wanted | FD_WRITABLE)
            except OSError as error:
                self._protocol.error_received(error)
                return
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                self.fatal(error, "Fatal write error on datagram transport")
                return
        data = bytes(data)
        self.waiting.append((data, addr))
        self.buffered += len(data) + COUNTED_HEADER
        self.pause_protocol()

    cdef int write_ready(self) except -1:
        while self.waiting:
            data, address = self.waiting[0]
            try:
                self.send_one(data, address)
            except (BlockingIOError, InterruptedError):
                break
            except OSError as error:
                self.take_first(data)
                self._protocol.error_received(error)
                return 0
            except (SystemExit, KeyboardInterrupt):
                raise
            except BaseException as error:
                return self.fatal(error, "Fatal write error on datagram transport")
            self.take_first(data)
        self.resume_protocol()              # which may write
        if not self.waiting and self._loop is not None and not self._conn_lost:
            self.want(self.wanted & ~<uint32_t>FD_WRITABLE)
            if self._closing:
                self.lose(None)
        return 0

    cdef int take_first(self, object data) except -1:
        self.waiting.popleft()
        self.buffered -= len(data) + COUNTED_HEADER
        return 0

    cdef bint holds_data(self) noexcept:
        return bool(self.waiting)           # empty ones, too

    cdef int drop_buffer(self) except -1:
        self.waiting.clear()
        self.buffered = 0
        return 0
