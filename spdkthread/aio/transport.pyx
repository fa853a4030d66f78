"""Transport. See ``transport.pxd``."""

import logging
import os
from asyncio import futures

from libc.stdint cimport uint32_t

from spdkthread.aio.loop_fds cimport watch
from spdkthread.aio.fd_watcher cimport FdWatcher
from spdkthread.aio.loop_core cimport LoopCore
from spdkthread.cpython_ext cimport PY_SSIZE_T_MAX, PyContext_CopyCurrent
from spdkthread.fd_group cimport FD_READABLE

from spdkthread.aio.loop_core import LoopCore as loop_class

__all__ = ["Transport"]

logger = logging.getLogger("asyncio")

cdef object set_result_unless_cancelled = futures._set_result_unless_cancelled


cdef bytearray read_buffer_of(LoopCore loop):
    if loop.read_buffer is None:
        loop.read_buffer = bytearray(TRANSPORT_READ_SIZE)
    return loop.read_buffer


cdef object os_error(int number):
    return OSError(number, os.strerror(number))


cdef class Transport(FdWatcher):
    """What the transports of `aio.EventLoop` have in common. Not one by itself."""

    max_size = TRANSPORT_READ_SIZE

    cdef int join(self, object loop, int fd, object protocol, object extra) except -1:
        if not isinstance(loop, loop_class):
            raise TypeError(f"a {type(self).__name__} needs an aio.EventLoop, got {type(loop).__name__}")
        self.core = loop
        self._loop = loop
        self.fd = fd
        self.context = PyContext_CopyCurrent()
        self._extra = {} if extra is None else extra
        self._high_water = 64 * 1024
        self._low_water = 16 * 1024
        self.set_protocol(protocol)
        return 0

    cdef int announce(self, object waiter) except -1:
        """connection_made, then reading, then the waiter: in this order, in the loop's next turn."""
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
            self.may_read()

    cdef int may_read(self) except -1:
        """The protocol knows the transport: the descriptor may be watched."""
        return self.want(self.wanted | FD_READABLE)

    cdef int want(self, uint32_t events) except -1:
        if events != self.wanted:
            watch(self.core, self, events)
        return 0

    # What asyncio's code asks

    @property
    def _paused(self) -> bool:
        return self.paused

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

    cdef int tell(self, str message, object error) except -1:
        self._loop.call_exception_handler(
            {"message": message, "exception": error, "transport": self, "protocol": self._protocol}
        )
        return 0

    # Endings

    cdef int fatal(self, object error, str what) except -1:
        """Log it as asyncio does, and end the transport."""
        if self._loop is None:
            return 0
        if self.is_expected(error):
            if self.core._debug:
                logger.debug("%r: %s", self, what, exc_info=(type(error), error, error.__traceback__))
        else:
            self.tell(what, error)
        return self.force_close(error)

    cdef bint is_expected(self, object error) except *:
        """Whether it is how connections end, and not a fault of the program."""
        return isinstance(error, OSError)

    cdef int force_close(self, object error) except -1:
        """Let go of what is not sent, and have connection_lost called."""
        return 0

    def _fatal_error(self, exc, message="Fatal error on transport"):
        self.fatal(exc, message)

    def _force_close(self, exc):
        self.force_close(exc)

    cdef int lose(self, object error) except -1:
        """Tell the protocol that the connection is lost, and let go of everything."""
        return 0

    def _call_connection_lost(self, exc):
        self.lose(exc)

    def abort(self) -> None:
        """As ``asyncio.WriteTransport.abort``."""
        self.force_close(None)
