"""Listener. See ``transport_server.pxd``."""

import errno
import logging
from asyncio import constants, trsock

from libc.stdint cimport uint32_t

from spdkthread.aio.loop_fds cimport watch
from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.cpython_ext cimport PyContext_CopyCurrent
from spdkthread.fd_group cimport FD_READABLE

__all__ = ["Listener"]

logger = logging.getLogger("asyncio")

cdef frozenset OUT_OF_RESOURCES = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))


cdef class Listener(FdWatcher):
    """A listening socket of `aio.EventLoop`, which has it from `create_server`."""

    def __init__(self, loop, factory, sock, tls_context, server, backlog, handshake_timeout, shutdown_timeout):
        self.loop = loop
        self.factory = factory
        self.sock = sock
        fd = sock.fileno()
        if not isinstance(fd, int) or fd < 0:
            raise ValueError(f"Invalid file object: {sock!r}")
        self.fd = fd
        self.tls_context = tls_context
        self.server = server
        self.backlog = backlog
        self.handshake_timeout = handshake_timeout
        self.shutdown_timeout = shutdown_timeout
        self.context = PyContext_CopyCurrent()

    def __repr__(self) -> str:
        return f"<Listener fd={self.fd} {'stopped' if self.stopped else 'accepting' if self.wanted else 'pausing'}>"

    def start(self) -> None:
        """Accept from now on."""
        if not self.stopped:
            watch(self.loop, self, FD_READABLE)

    def stop(self) -> None:
        """Accept no more."""
        self.stopped = True
        watch(self.loop, self, 0)

    cdef int fd_ready(self, uint32_t events) except -1:
        for _ in range(self.backlog):
            if self.stopped or not self.accept_one():
                break
        return 0

    cdef int accept_one(self) except -1:
        """Returns whether there may be more."""
        try:
            conn, address = self.sock.accept()
        except (BlockingIOError, InterruptedError, ConnectionAbortedError):
            return False
        except OSError as error:
            if error.errno not in OUT_OF_RESOURCES:
                raise
            # The descriptor stays ready: it is not looked at for a while.
            self.loop.call_exception_handler(
                {
                    "message": "socket.accept() out of system resource",
                    "exception": error,
                    "socket": trsock.TransportSocket(self.sock),
                }
            )
            watch(self.loop, self, 0)
            self.loop.call_later(constants.ACCEPT_RETRY_DELAY, self.start)
            return False
        if self.loop._debug:
            logger.debug("%r got a new connection from %r: %r", self.server, address, conn)
        conn.setblocking(False)
        extra = {"peername": address}
        if self.tls_context:
            self.loop.create_task(
                self.loop._accept_connection2(
                    self.factory,
                    conn,
                    extra,
                    self.tls_context,
                    self.server,
                    self.handshake_timeout,
                    self.shutdown_timeout,
                )
            )
        else:
            self.context.copy().run(self._take_in, conn, extra)
        return True

    def _take_in(self, conn, extra):
        protocol = None
        try:
            protocol = self.factory()
            self.loop._make_socket_transport(conn, protocol, extra=extra, server=self.server)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as error:
            conn.close()
            if self.loop._debug:
                told = {"message": "Error on transport creation for incoming connection", "exception": error}
                if protocol is not None:
                    told["protocol"] = protocol
                self.loop.call_exception_handler(told)
