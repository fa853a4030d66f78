"""Transport. See ``transport.pxd``."""

import inspect
import logging
import os
import socket
import warnings
from asyncio import base_events, constants, futures, transports, trsock

from libc.stdint cimport uint32_t, uint64_t

from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.aio.loop_core cimport LoopCore
from spdkthread.fd_group cimport FD_READABLE, FD_WRITABLE

from spdkthread.aio.loop_core import LoopCore as loop_class

__all__ = ["Transport"]

cdef extern from "Python.h":
    Py_ssize_t PY_SSIZE_T_MAX
    object PyContext_CopyCurrent()

logger = logging.getLogger("asyncio")

# From 3.13 on a server knows its transports by object, before it counts them.
cdef bint server_knows_transports = len(inspect.signature(base_events.Server._attach).parameters) > 1
cdef uint64_t LOGGED_LOSSES = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
cdef object set_result_unless_cancelled = futures._set_result_unless_cancelled
cdef object plain_socket = socket.socket


cdef bytearray read_buffer_of(LoopCore loop):
    if loop.read_buffer is None:
        loop.read_buffer = bytearray(TRANSPORT_READ_SIZE)
    return loop.read_buffer


cdef object os_error(int number):
    return OSError(number, os.strerror(number))


class TransportKind(transports._FlowControlMixin, transports.Transport):
    """What transports of the loop are to ``isinstance``.

    asyncio's classes have slots of their own, which a C structure cannot have beside its fields.
    """


cdef class Transport(FdWatcher):
    """A transport of `aio.EventLoop`, in the part that streams and datagrams share."""

    max_size = TRANSPORT_READ_SIZE

    @property
    def __class__(self) -> type:
        return TransportKind

    cdef int begin(self, object loop, object sock, object protocol, object extra, object server) except -1:
        if not isinstance(loop, loop_class):
            raise TypeError(f"a {type(self).__name__} needs an aio.EventLoop, got {type(loop).__name__}")
        self.core = loop
        self._loop = loop
        self.context = PyContext_CopyCurrent()
        self._extra = {} if extra is None else extra
        self._extra["socket"] = trsock.TransportSocket(sock)
        try:
            self._extra["sockname"] = sock.getsockname()
        except OSError:
            self._extra["sockname"] = None
        if "peername" not in self._extra:
            try:
                self._extra["peername"] = sock.getpeername()
            except OSError:
                self._extra["peername"] = None
        self.fd = sock.fileno()
        loop._ensure_fd_no_transport(self.fd)
        self._high_water = 64 * 1024
        self._low_water = 16 * 1024
        self.set_protocol(protocol)
        self._sock = sock
        if isinstance(sock, plain_socket):
            # As a file made of it would: whoever closes the socket meanwhile does not free the descriptor's number.
            sock._io_refs += 1
            self.holds_sock = True
        self._server = server
        if server is not None:
            if server_knows_transports:
                server._attach(self)
            else:
                server._attach()
        loop._transports[self.fd] = self
        return 0

    cdef int announce(self, object waiter) except -1:
        """connection_made, then reading, then the waiter: in this order, in turns of the loop's."""
        loop = self._loop
        loop.call_soon(self._connection_made, self._protocol.connection_made, context=self.context)
        if waiter is not None:
            loop.call_soon(set_result_unless_cancelled, waiter, None)
        return 0

    def _connection_made(self, tell):
        try:
            tell(self)
        finally:
            self._start_reading()

    def _start_reading(self):
        if not self._closing and not self.paused:
            self.want(self.wanted | FD_READABLE)

    cdef int want(self, unsigned int events) except -1:
        if events != self.wanted:
            self.core.watch(self, events)
        return 0

    cdef int drop_buffer(self) except -1:
        self.buffered = 0
        return 0

    # What asyncio's code asks

    @property
    def _sock_fd(self) -> int:
        return self.fd

    @property
    def _paused(self) -> bool:
        return self.paused

    def __repr__(self) -> str:
        info = [type(self).__name__]
        if self._sock is None:
            info.append("closed")
        elif self._closing:
            info.append("closing")
        info.append(f"fd={self.fd}")
        if self._loop is not None and not self._loop.is_closed():
            info.append("read=polling" if self.wanted & FD_READABLE else "read=idle")
            state = "polling" if self.wanted & FD_WRITABLE else "idle"
            info.append(f"write=<{state}, bufsize={self.get_write_buffer_size()}>")
        return f"<{' '.join(info)}>"

    def get_extra_info(self, name, default=None):
        """As ``asyncio.BaseTransport.get_extra_info``."""
        return self._extra.get(name, default)

    def set_protocol(self, protocol) -> None:
        """As ``asyncio.BaseTransport.set_protocol``."""
        self._protocol = protocol

    def get_protocol(self):
        """As ``asyncio.BaseTransport.get_protocol``."""
        return self._protocol

    def is_closing(self) -> bool:
        """As ``asyncio.BaseTransport.is_closing``."""
        return self._closing

    def is_reading(self) -> bool:
        """As ``asyncio.ReadTransport.is_reading``."""
        return not self._closing and not self.paused

    def pause_reading(self) -> None:
        """As ``asyncio.ReadTransport.pause_reading``."""
        if self._closing or self.paused:
            return
        self.paused = True
        self.want(self.wanted & ~<uint32_t>FD_READABLE)
        if self.core._debug:
            logger.debug("%r pauses reading", self)

    def resume_reading(self) -> None:
        """As ``asyncio.ReadTransport.resume_reading``."""
        if self._closing or not self.paused:
            return
        self.paused = False
        self.want(self.wanted | FD_READABLE)
        if self.core._debug:
            logger.debug("%r resumes reading", self)

    # Water marks

    def get_write_buffer_limits(self) -> tuple:
        """As ``asyncio.WriteTransport.get_write_buffer_limits``."""
        return self._low_water, self._high_water

    def set_write_buffer_limits(self, high=None, low=None) -> None:
        """As ``asyncio.WriteTransport.set_write_buffer_limits``."""
        if high is None:
            high = 64 * 1024 if low is None else 4 * low
        if low is None:
            low = high // 4
        if not high >= low >= 0:
            raise ValueError(f"high ({high!r}) must be >= low ({low!r}) must be >= 0")
        # As good as none, where C has no such number.
        self._high_water = min(int(high), PY_SSIZE_T_MAX)
        self._low_water = min(int(low), PY_SSIZE_T_MAX)
        self.pause_protocol()

    def get_write_buffer_size(self) -> int:
        """As ``asyncio.WriteTransport.get_write_buffer_size``."""
        return self.buffered

    cdef int pause_protocol(self) except -1:
        if self.buffered <= self._high_water or self._protocol_paused:
            return 0
        self._protocol_paused = True
        try:
            self._protocol.pause_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.tell("protocol.pause_writing() failed", error)
        return 0

    cdef int resume_protocol(self) except -1:
        if not self._protocol_paused or self.buffered > self._low_water:
            return 0
        self._protocol_paused = False
        try:
            self._protocol.resume_writing()
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            self.tell("protocol.resume_writing() failed", error)
        return 0

    def tell(self, message, error):
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        )

    # Endings

    def abort(self) -> None:
        """As ``asyncio.WriteTransport.abort``."""
        self.force_close(None)

    def close(self) -> None:
        """As ``asyncio.BaseTransport.close``."""
        if self._closing:
            return
        self._closing = True
        self.want(self.wanted & ~<uint32_t>FD_READABLE)
        if self.buffered == 0:
            self._conn_lost += 1
            self.want(0)
            self._loop.call_soon(self._call_connection_lost, None, context=self.context)

    def _fatal_error(self, exc, message="Fatal error on transport"):
        self.fatal(exc, message)

    def _force_close(self, exc):
        self.force_close(exc)

    cdef int fatal(self, object error, str what) except -1:
        if self._loop is None:
            return 0
        if isinstance(error, OSError):
            if self.core._debug:
                logger.debug("%r: %s", self, what, exc_info=(type(error), error, error.__traceback__))
        else:
            self.tell(what, error)
        return self.force_close(error)

    cdef int force_close(self, object error) except -1:
        if self._conn_lost:
            return 0
        self.drop_buffer()
        self.want(0)
        self._closing = True
        self._conn_lost += 1
        self._loop.call_soon(self._call_connection_lost, error, context=self.context)
        return 0

    def _call_connection_lost(self, exc):
        self.lose(exc)

    cdef int lose(self, object error) except -1:
        self._conn_lost += 1
        try:
            self._protocol.connection_lost(error)
        finally:
            self.want(0)
            self.release_sock()
            self._sock = self._protocol = self._loop = None
            self.forget_server()
        return 0

    def forget_server(self):
        server = self._server
        if server is not None:
            self._server = None
            if server_knows_transports:
                server._detach(self)
            else:
                server._detach()

    cdef int release_sock(self) except -1:
        sock = self._sock
        if sock is None:
            return 0
        if self.holds_sock:
            self.holds_sock = False
            sock._decref_socketios()
        sock.close()
        return 0

    cdef int refuse_write(self) except -1:
        """The connection is lost, or will be as soon as its protocol has been told."""
        if self._conn_lost >= LOGGED_LOSSES:
            logger.warning("socket.send() raised exception.")
        self._conn_lost += 1
        return 0

    def __del__(self):
        if self._sock is None:
            return
        warnings.warn(f"unclosed transport {self!r}", ResourceWarning, source=self)
        if self.wanted:
            self.want(0)
        self.release_sock()
        self._sock = None
        if server_knows_transports:
            self.forget_server()
