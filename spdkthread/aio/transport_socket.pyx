"""SocketTransport. See ``transport_socket.pxd``."""

import inspect
import logging
import socket
import warnings
from asyncio import base_events, constants, transports, trsock

from libc.stdint cimport uint32_t, uint64_t

from spdkthread.aio.transport cimport Transport
from spdkthread.fd_group cimport FD_READABLE, FD_WRITABLE

__all__ = ["SocketTransport"]

logger = logging.getLogger("asyncio")

# From 3.13 on a server knows its transports by object, before it counts them.
cdef bint server_knows_transports = len(inspect.signature(base_events.Server._attach).parameters) > 1
cdef uint64_t LOGGED_LOSSES = constants.LOG_THRESHOLD_FOR_CONNLOST_WRITES
cdef object plain_socket = socket.socket


class SocketTransportKind(transports._FlowControlMixin, transports.Transport):
    """What the socket transports of the loop are to ``isinstance``.

    asyncio's classes have slots of their own, which a C structure cannot have beside its fields.
    """


cdef class SocketTransport(Transport):
    """A transport of a socket, in the part that streams and datagrams share. Not one by itself."""

    @property
    def __class__(self) -> type:
        return SocketTransportKind

    cdef int begin(self, object loop, object sock, object protocol, object extra, object server) except -1:
        cdef int fd = sock.fileno()
        loop._ensure_fd_no_transport(fd)
        self.join(loop, fd, protocol, extra)
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
        self._sock = sock
        if isinstance(sock, plain_socket):
            # As a file made of it would: closing the socket elsewhere does not free the descriptor's number.
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

    cdef bint holds_data(self) noexcept:
        """Whether something waits to be sent."""
        return self.buffered != 0

    cdef int drop_buffer(self) except -1:
        self.buffered = 0
        return 0

    @property
    def _sock_fd(self) -> int:
        return self.fd

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

    # Endings

    def close(self) -> None:
        """As ``asyncio.BaseTransport.close``."""
        if self._closing:
            return
        self._closing = True
        self.want(self.wanted & ~<uint32_t>FD_READABLE)
        if not self.holds_data():
            self._conn_lost += 1
            self.want(0)
            self._loop.call_soon(self._call_connection_lost, None, context=self.context)

    cdef int force_close(self, object error) except -1:
        if self._conn_lost:
            return 0
        self.drop_buffer()
        self.want(0)
        self._closing = True
        self._conn_lost += 1
        self._loop.call_soon(self._call_connection_lost, error, context=self.context)
        return 0

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

    cdef int forget_server(self) except -1:
        server = self._server
        if server is not None:
            self._server = None
            if server_knows_transports:
                server._detach(self)
            else:
                server._detach()
        return 0

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
