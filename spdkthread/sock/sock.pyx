"""Sock, Listener and SockChannel: Python's side of a thread's group of sockets. See ``core.pxd`` for the other side."""

import errno
import logging
import os
import socket
import weakref

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.object cimport PyObject
from cpython.pycapsule cimport PyCapsule_New
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport ENOBUFS, ENOMEM, EPIPE
from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memmove
from posix.unistd cimport close

from spdkthread.alloc cimport core_calloc, core_free, core_map, core_unmap
from spdkthread.fd_group cimport fd_above_standard, fd_group_open
from spdkthread.native cimport NativeCall, native_call
from spdkthread.poller cimport Poller
from spdkthread.sock.core cimport (
    SOCK_BATCH,
    SOCK_CLOSED,
    SOCK_CONNECTING,
    SOCK_IN_BLOCK,
    SOCK_IN_BUFFER,
    SOCK_LISTENING,
    SOCK_NEW,
    SOCK_OPEN,
    SOCK_TELL_CLOSED,
    SOCK_TELL_CONNECTED,
    SOCK_TELL_END,
    SOCK_TELL_HELD,
    SOCK_TELL_LOW,
    SOCK_TELL_STARVED,
    epoll_backend,
    group_ask,
    sock_abort,
    sock_attach,
    sock_close,
    sock_close_fn,
    sock_data_fn,
    sock_delivery,
    sock_detach,
    sock_next_notice,
    sock_pause,
    sock_s,
    sock_send,
    sock_shutdown_write,
    sock_tell,
    sock_update,
)
from spdkthread.sock.uring_group cimport (
    uring_buffer,
    uring_group_close,
    uring_group_forget,
    uring_group_open,
    uring_group_poller,
    uring_look,
    uring_offer_buffer,
    uring_refuse,
    uring_refused,
    uring_replace_buffer,
)
from spdkthread.thread cimport SpdkThread
from spdkthread.thread_poll cimport current_thread

from spdkthread.errors import ThreadExitedError, WrongThreadError
from spdkthread.exit_blockers import register_blocker
from spdkthread.fd_handler import make_handler
from spdkthread.native import add_signature
from spdkthread.reactor_registry import mark_dead
from spdkthread.sock.errors import SockBufferError, SockClosedError, SockLimitError

__all__ = ["Listener", "Sock", "SockChannel"]

logger = logging.getLogger("spdkthread")

DATA_SIGNATURE = "int (void *, sock_s *, uint8_t const *, size_t)"
CLOSE_SIGNATURE = "void (void *, sock_s *, int)"
add_signature(
    DATA_SIGNATURE,
    ("c_void_p", "c_void_p", "c_void_p", "c_size_t"),
    (
        "int (void *, void *, uint8_t const *, size_t)",
        "int (void *, void *, void const *, size_t)",
        # cffi forgets `const`.
        "int (void *, void *, uint8_t *, size_t)",
        "int (void *, void *, void *, size_t)",
    ),
)
add_signature(CLOSE_SIGNATURE, ("c_void_p", "c_void_p", "c_int"), ("void (void *, void *, int)",))

STATES = ("new", "connecting", "listening", "open", "closing", "closed")

RING_BUFFER_BYTES = 8 << 10     # one of the buffers that the kernel chooses from: no larger than this
RING_BYTES = 4 << 20            # all of them
RING_BUFFERS = 1024             # no more of them than that

STARVED_US = 100_000        # how long a listener rests when no descriptor is left

cdef object _channels = weakref.WeakSet()


def blockers_of(thread):
    """The sockets that keep `thread`, in words."""
    return [
        sock.in_words()
        for channel in list(_channels)
        if (<SockChannel>channel).thread is thread
        for sock in list((<SockChannel>channel).socks)
    ]


register_blocker("socket", blockers_of)


cdef class ReadBuffer:
    def __cinit__(self, size_t size, bint mapped=False):
        self.mapped = mapped
        if size:
            self.memory = <uint8_t *>(core_map(size) if mapped else core_calloc(1, size))
            if self.memory == NULL:
                raise MemoryError(f"no memory for a buffer of {size} bytes to receive into")
        self.size = size

    def __dealloc__(self):
        if self.mapped and self.memory != NULL:
            core_unmap(self.memory, self.size)
        elif not self.mapped:
            core_free(self.memory)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.window, self.length, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1


cdef class SockChannel:
    """SockChannel(device, channel)\n--\n\n\
    A thread's group of sockets: `IoChannel.ctx` of a `SockGroup`.

    Notes
    -----
    **Thread safety:** its thread only, but for `stats`. Answers to ``struct spdk_sock_group``.
    """

    def __cinit__(self):
        self.c.fd = -1

    def __init__(self, device, IoChannel channel not None):
        self.device = device
        self.channel = channel
        self.thread = channel.thread
        self.socks = {}
        self.c.thread = &self.thread.c
        self.c.max_socks = device.max_socks
        self.c.max_buffered = device.max_buffered_bytes
        self.c.read_size = device.read_bytes
        self._open()
        self._watch()
        _channels.add(self)

    def __dealloc__(self):
        if self.c.ring != NULL:
            # Its thread was dropped before the channel was put: the kernel must be done with the buffers.
            with nogil:
                uring_group_close(&self.c)
        elif self.c.fd >= 0:
            close(self.c.fd)
        core_free(self.c.deliveries)

    def _open(self):
        """The kernel's side of the group, and the memory that is received into."""
        cdef int failed
        cdef uint32_t count = SOCK_BATCH
        cdef size_t size = 0
        self.replaced = {}
        if self.device.backend == "io_uring":
            size = min(RING_BUFFER_BYTES, self.device.read_bytes)
            count = 1
            while 2 * count * size <= <size_t>RING_BYTES and count < <uint32_t>RING_BUFFERS:
                count *= 2
        if self.c.deliveries == NULL:
            self.c.delivery_capacity = 2 * count
            self.c.deliveries = <sock_delivery *>core_calloc(2 * count, sizeof(sock_delivery))
            if self.c.deliveries == NULL:
                raise MemoryError(f"no memory for the sockets of {self.thread!r}")
        if self.device.backend == "io_uring":
            self.buffer = ReadBuffer(count * size, True)
            failed = uring_group_open(&self.c, self.buffer.memory, count, size)
            if failed == ENOMEM:
                raise MemoryError(f"no memory for an io_uring for the sockets of {self.thread!r}")
            if failed:
                raise OSError(failed, f"no io_uring for the sockets of {self.thread!r}: {os.strerror(failed)}")
            return
        self._new_buffer()
        self.c.backend = epoll_backend()
        self.c.fd = fd_group_open()
        if self.c.fd < 0:
            raise OSError(errno.EMFILE, f"no file descriptor for the sockets of {self.thread!r}")

    def __repr__(self):
        return f"<SockChannel of {self.device.name!r} on {self.thread.name!r}, {len(self.socks)} sockets>"

    @property
    def stats(self) -> dict:
        """Counts since its making: ``socks``, ``buffered``, ``polls``, ``reads``, ``writes``, ``bytes_in``,
        ``bytes_out``, ``accepts``, ``refused``; over io_uring, ``calls`` of the kernel that submitted requests; and
        those of its `DatagramSet` once it has one. ``socks``, ``buffered`` and ``refused`` count datagram sockets,
        too."""
        counts = {
            "socks": self.c.count,
            "buffered": self.c.buffered,
            "polls": self.c.polls,
            "reads": self.c.reads,
            "writes": self.c.writes,
            "bytes_in": self.c.bytes_in,
            "bytes_out": self.c.bytes_out,
            "accepts": self.c.accepts,
            "refused": self.c.refused,
            "calls": self.c.calls,
        }
        return counts if self.datagrams is None else counts | self.datagrams.stats

    @property
    def sockets(self) -> tuple:
        """Every `Sock`, `Listener` and `DatagramSock` that the thread has."""
        return tuple(self.socks) if self.datagrams is None else (*self.socks, *self.datagrams.sockets)

    def _watch(self):
        handler = make_handler(self.thread, self.c.fd, self._run, "r", f"sockets of {self.device.name!r}")
        self.handler = handler
        self.handler.native.fn = self.c.backend.poll
        self.handler.native.ctx = &self.c
        self.thread._fd_add(handler)
        if self.c.ring == NULL:
            return
        if self.poller is None:
            self.poller = self.thread.register_native_poller(
                PyCapsule_New(<void *>uring_look, "int (void *)", NULL), <size_t>&self.c,
                name=f"sockets of {self.device.name!r}",
            )
        uring_group_poller(&self.c, &(<Poller>self.poller).c)

    def _new_buffer(self):
        # Several sockets are read in one turn before Python sees the first: room for a large read and many small ones.
        self.buffer = ReadBuffer(2 * self.c.read_size)
        self.c.buffer = self.buffer.memory
        self.c.buffer_size = self.buffer.size
        self.c.buffer_used = 0

    def _close(self):
        """The end of the channel: no socket is left, or they are all abandoned."""
        cdef Sock sock
        for one in list(self.socks):
            sock = one
            sock_abort(&sock.c, 0)
            self._let_go(sock)
        self._drop_accepted()
        if self.datagrams is not None:
            self.datagrams._close()
        _channels.discard(self)
        if self.handler is not None:
            self.thread._fd_remove(self.handler)
            self.handler = None
        if self.poller is not None:
            self.poller.unregister()
            self.poller = None
        with nogil:
            uring_group_close(&self.c)
        self._drop_blocks()

    def _drop_blocks(self):
        cdef uint32_t index
        for index in range(self.c.delivery_count):
            if self.c.deliveries[index].where == SOCK_IN_BLOCK:
                core_free(self.c.deliveries[index].block)
        self.c.delivery_count = 0

    def _drop_accepted(self):
        cdef uint32_t index
        for index in range(self.c.accepted_count):
            close(self.c.accepted[index].fd)
        self.c.accepted_count = 0

    def _forked(self):
        """In the child of a fork: every descriptor here is the parent's too. Close the child's numbers of them, which
        leaves the parent's connections as they are, and forget the sockets."""
        cdef Sock sock
        for one in list(self.socks):
            sock = one
            if sock.c.fd >= 0:
                close(sock.c.fd)
                sock.c.fd = -1
            sock.c.listed = False
            sock.c.on_close = NULL
            sock.c.group = NULL
            core_free(sock.c.out)
            sock.c.out = NULL
            sock.c.out_begin = sock.c.out_end = sock.c.out_capacity = 0
            sock.c.slot = 0
            forget_kept(&sock.c)
            sock.c.state = SOCK_CLOSED
            sock._channel = None
        self.c.first = self.c.flush_first = self.c.flush_last = self.c.notice_first = self.c.notice_last = NULL
        self.c.count = 0
        self.c.buffered = 0
        self._drop_blocks()
        self.c.buffer_used = 0
        self.c.ready_count = self.c.ready_next = 0
        self._drop_accepted()
        alive = not self.thread.is_exited
        if self.handler is not None and self.handler.registered:
            self.thread._fd_remove(self.handler)
        self.handler = None
        if self.c.ring != NULL:
            uring_group_forget(&self.c)
        else:
            close(self.c.fd)
        self.c.fd = -1
        mine = list(self.socks)
        self.socks.clear()
        for one in mine:
            if alive:
                self.channel.put()
            Py_DECREF(one)
        if alive:
            self._open()
            self._watch()
        if self.datagrams is not None:
            self.datagrams._forked()

    # One turn, with the GIL.

    def _run(self):
        """What the poll without the GIL has left for Python."""
        try:
            self._deliver()
            self._take_accepted()
            self._tell()
        finally:
            if self.c.delivery_count or self.c.accepted_count or self.c.notice_first != NULL:
                group_ask(&self.c)

    cdef int _call(self, object fn, Sock sock, object argument, bint has_argument) except -1:
        """Call a handler; what it raises is reported, and the connection goes on."""
        try:
            if has_argument:
                fn(sock, argument)
            else:
                fn(sock)
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as error:
            self.thread.c.errors += 1
            self.thread.lib.report(
                f"handler {getattr(fn, '__qualname__', fn)!r} of {sock!r} failed on thread {self.thread.name!r}", error,
                self.thread, "fn", fn,
            )
        return 0

    cdef int _deliver(self) except -1:
        cdef uint32_t index = 0, count = self.c.delivery_count
        cdef Sock sock
        cdef ReadBuffer buffer
        cdef object view
        cdef size_t length
        cdef int where, exports
        if not count:
            return 0
        try:
            while index < count:
                where = self.c.deliveries[index].where
                if self.c.deliveries[index].sock == NULL:
                    if where == SOCK_IN_BLOCK:
                        core_free(self.c.deliveries[index].block)
                        self.c.deliveries[index].block = NULL
                    index += 1
                    self._give_back(where)
                    continue
                sock = <Sock>self.c.deliveries[index].sock.owner
                length = self.c.deliveries[index].length
                buffer = self._buffer_of(index)
                exports = buffer.exports
                self.c.deliveries[index].sock = NULL        # a handler that moves its socket does not take this along
                index += 1
                if sock._closed_here:
                    self._give_back(where)
                    continue
                if sock._channel is not self or sock.c.paused or sock.c.held or sock._on_data is None:
                    sock._hold(buffer.window, length)
                    self._give_back(where)
                    if sock.c.on_data != NULL and sock._channel is self and not sock.c.paused:
                        sock_tell(&sock.c, SOCK_TELL_HELD)      # native meanwhile
                    continue
                view = PyMemoryView_FromObject(buffer)
                try:
                    self._call(sock._on_data, sock, view, True)
                finally:
                    try:
                        view.release()
                    except BufferError:
                        pass            # something of the handler's still looks at it
                    view = None
                    # What was kept goes on showing the bytes that it showed.
                    if buffer.exports != exports:
                        self._replace(where)
                    self._give_back(where)
        finally:
            if index < count:
                memmove(
                    self.c.deliveries, &self.c.deliveries[index], (count - index) * sizeof(self.c.deliveries[0])
                )
            else:
                self.c.buffer_used = 0
            self.c.delivery_count = count - index
        return 0

    cdef ReadBuffer _buffer_of(self, uint32_t index):
        """The buffer of a delivery, with the window on its bytes."""
        cdef sock_delivery *one = &self.c.deliveries[index]
        cdef ReadBuffer buffer
        if one.where == SOCK_IN_BLOCK:
            buffer = ReadBuffer(0)
            buffer.memory = buffer.window = one.block       # its own from here on
            one.block = NULL
        elif one.where == SOCK_IN_BUFFER:
            buffer = self.buffer
            buffer.window = buffer.memory + one.offset
        else:
            buffer = self.replaced.get(one.where, self.buffer) if self.replaced else self.buffer
            buffer.window = uring_buffer(&self.c, one.where)
        buffer.length = <Py_ssize_t>one.length
        return buffer

    cdef int _give_back(self, int where) except -1:
        """Have the kernel use a buffer of the ring again."""
        if where >= 0 and self.c.ring != NULL:
            uring_offer_buffer(&self.c, where)
        return 0

    cdef int _replace(self, int where) except -1:
        """Something looks at a buffer still: another one takes its place."""
        cdef ReadBuffer buffer
        if where == SOCK_IN_BUFFER:
            self._move_buffer()
        elif where >= 0 and self.c.ring != NULL:
            buffer = ReadBuffer(min(RING_BUFFER_BYTES, self.device.read_bytes))
            self.replaced[where] = buffer
            uring_replace_buffer(&self.c, where, buffer.memory)
        return 0

    cdef int _move_buffer(self) except -1:
        """Go on with a copy of the buffer."""
        cdef ReadBuffer before = self.buffer
        cdef size_t used = self.c.buffer_used
        self._new_buffer()
        memmove(self.buffer.memory, before.memory, used)
        self.c.buffer_used = used
        return 0

    cdef int _take_accepted(self) except -1:
        cdef uint32_t index = 0, count = self.c.accepted_count
        cdef Listener listener
        cdef int fd
        if not count:
            return 0
        try:
            while index < count:
                fd = self.c.accepted[index].fd
                listener = <Listener>self.c.accepted[index].listener.owner
                index += 1
                if listener.c.state != SOCK_LISTENING:
                    close(fd)
                    continue
                listener._accepted(fd)
        finally:
            if index < count:
                memmove(self.c.accepted, &self.c.accepted[index], (count - index) * sizeof(self.c.accepted[0]))
            self.c.accepted_count = count - index
        return 0

    cdef int _tell(self) except -1:
        cdef sock_s *c = sock_next_notice(&self.c)
        cdef Sock sock
        cdef uint32_t notices
        cdef int left = 4 * SOCK_BATCH
        while c != NULL:
            sock = <Sock>c.owner
            notices = c.notices
            c.notices = 0
            if notices & SOCK_TELL_STARVED:
                (<Listener>sock)._starved()
            if notices & SOCK_TELL_CONNECTED and c.state != SOCK_CLOSED:
                sock._connected()
            if notices & SOCK_TELL_HELD and c.state != SOCK_CLOSED:
                sock._deliver_held()
            if notices & SOCK_TELL_LOW and sock.on_low_water is not None and c.state == SOCK_OPEN:
                self._call(sock.on_low_water, sock, None, False)
            if notices & SOCK_TELL_END and c.state == SOCK_OPEN and sock._channel is self:
                if sock._held:
                    c.notices |= SOCK_TELL_END      # after the bytes that came before it
                elif sock.on_end is not None:
                    self._call(sock.on_end, sock, None, False)
                else:
                    sock.close()
            if notices & SOCK_TELL_CLOSED and sock._channel is self:
                self._let_go(sock)
                if sock.on_close is not None:
                    number = sock.c.error
                    self._call(sock.on_close, sock, OSError(number, os.strerror(number)) if number else None, True)
                sock._forget()
            left -= 1
            if left == 0:
                break
            c = sock_next_notice(&self.c)
        return 0

    cdef int _keep(self, Sock sock) except -1:
        """Take a socket in, with a reference to the channel for as long as it is here."""
        cdef int failed
        self.channel.ref()
        sock.c.owner = <PyObject *>sock
        failed = sock_attach(&self.c, &sock.c)
        if failed:
            self.channel.put()
            if failed == -ENOMEM:
                raise MemoryError(f"no memory for a further socket of {self.thread!r}")
            raise SockLimitError(
                f"{self.thread!r} has {self.c.count} sockets of {self.device.name!r} with {self.c.buffered} bytes to "
                f"send; it may have {self.c.max_socks} and {self.c.max_buffered}"
            )
        sock._channel = self
        sock.thread = self.thread
        self.socks[sock] = None
        Py_INCREF(sock)
        return 0

    cdef int _let_go(self, Sock sock) except -1:
        cdef uint32_t index
        if sock not in self.socks:
            return 0
        for index in range(self.c.accepted_count, 0, -1):
            if self.c.accepted[index - 1].listener == &sock.c:
                close(self.c.accepted[index - 1].fd)
                self.c.accepted_count -= 1
                self.c.accepted[index - 1] = self.c.accepted[self.c.accepted_count]
        for index in range(self.c.delivery_count):
            if self.c.deliveries[index].sock == &sock.c:
                self.c.deliveries[index].sock = NULL
        sock_detach(&sock.c)
        del self.socks[sock]
        sock._channel = None
        self.channel.put()
        Py_DECREF(sock)
        return 0


def make_channel(device, channel):
    """The `SockChannel` for `SockGroup.create_channel`."""
    return SockChannel(device, channel)


def close_channel(channel):
    """For `SockGroup.destroy_channel`."""
    (<SockChannel?>channel)._close()


def after_fork():
    """In the child, after `mark_dead`, which has told the threads: hooks run in the order of their registration."""
    for channel in list(_channels):
        (<SockChannel>channel)._forked()


del mark_dead
os.register_at_fork(after_in_child=after_fork)


cdef class Sock:
    """Sock()\n--\n\n\
    A connection, or one that is being made. Comes from `SockGroup.connect` or to a listener's `on_accept`.

    Attributes
    ----------
    on_data : callable or None
        ``on_data(sock, view)`` with what has been received: a read-only memoryview of the group's own buffer, valid
        during the call and released after it, so that a later use is a ValueError. ``bytes(view)`` copies. Without a
        handler nothing is read until there is one.
    on_end : callable or None
        ``on_end(sock)`` after the peer's last byte. None: the socket is closed then, once all is sent.
    on_close : callable or None
        ``on_close(sock, error)``, once, as the last call: an `OSError`, or None when it was closed here or in order.
    on_high_water, on_low_water : callable or None
        ``on_high_water(sock)``, inside `write`, when more than the high-water mark waits to be sent; then
        ``on_low_water(sock)`` when it is down at the low one.
    on_connect : callable or None
        ``on_connect(sock)`` when a connection that was asked for is there.
    context : object
        The user's.

    Notes
    -----
    **Thread safety:** the socket's own thread, as whose callbacks the handlers run. Answers to ``struct spdk_sock``.
    """

    def __cinit__(self):
        self.c.fd = -1
        self.c.in_python = True

    def __init__(self):
        raise TypeError("a Sock comes from SockGroup.connect or to on_accept of a Listener")

    def __dealloc__(self):
        if self.c.fd >= 0:
            close(self.c.fd)
        core_free(self.c.out)
        forget_kept(&self.c)

    def __repr__(self):
        where = "no thread" if self.thread is None else repr(self.thread.name)
        return f"<{type(self).__name__} fd {self.c.fd} on {where}, {self.state}, {self.pending_bytes} bytes to send>"

    def in_words(self) -> str:
        """What it is, for `SpdkThread.exit_blockers`."""
        text = f"socket fd {self.c.fd} of {self.group.name!r}, {self.state}"
        return f"{text}, {self.pending_bytes} bytes to send" if self.pending_bytes else text

    @property
    def state(self) -> str:
        """``"new"``, ``"connecting"``, ``"listening"``, ``"open"``, ``"closing"`` or ``"closed"``."""
        return STATES[self.c.state]

    @property
    def on_data(self):
        """What is called with received bytes; see `Sock`."""
        return self._on_data

    @on_data.setter
    def on_data(self, fn):
        self._on_data = fn
        if self._held and fn is not None:
            self._require("on_data")
            sock_tell(&self.c, SOCK_TELL_HELD)

    @property
    def pending_bytes(self) -> int:
        """Bytes written and not yet sent."""
        return self.c.out_end - self.c.out_begin

    @property
    def bytes_in(self) -> int:
        """Bytes received."""
        return self.c.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes that the kernel has taken."""
        return self.c.bytes_out

    @property
    def is_paused(self) -> bool:
        """Whether reading is paused."""
        return self.c.paused

    @property
    def address(self) -> int:
        """That of its ``sock_s``, for native code."""
        return <size_t>&self.c

    def fileno(self) -> int:
        """The descriptor; -1 once it is closed."""
        return self.c.fd

    def sockname(self):
        """The own address, in the form of `socket.socket.getsockname`."""
        return self._ask("getsockname")

    def peername(self):
        """The peer's address, in the form of `socket.socket.getpeername`."""
        return self._ask("getpeername")

    def _ask(self, what):
        if self.c.fd < 0:
            raise SockClosedError(f"{self!r} has no descriptor")
        view = socket.socket(fileno=self.c.fd)
        try:
            return getattr(view, what)()
        finally:
            view.detach()

    def set_option(self, level: int, option: int, value) -> None:
        """As `socket.socket.setsockopt`."""
        if self.c.fd < 0:
            raise SockClosedError(f"{self!r} has no descriptor")
        view = socket.socket(fileno=self.c.fd)
        try:
            view.setsockopt(level, option, value)
        finally:
            view.detach()

    def write(self, data) -> None:
        """Have bytes sent: gathered with all others of this turn, and sent once.

        Parameters
        ----------
        data : bytes-like
            Copied.

        Raises
        ------
        SockBufferError
            More would wait than the socket or the group may hold. Nothing of `data` was taken.
        SockClosedError
            It is closed, or its write side is.
        WrongThreadError
            On any thread but its own.
        """
        cdef Py_buffer view
        cdef int failed
        cdef bint before
        self._require("write")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        before = self.c.above
        failed = sock_send(&self.c, view.buf, <size_t>view.len)
        PyBuffer_Release(&view)
        if failed:
            self._refuse_write(-failed, len(data))
        if self.c.above and not before and self.on_high_water is not None:
            self.on_high_water(self)

    def _refuse_write(self, number, length):
        if number == EPIPE:
            raise SockClosedError(f"{self!r} sends nothing any more")
        if number == ENOBUFS:
            raise SockBufferError(
                f"{length} bytes more are too many for {self!r}: it may hold {self.c.limit}, and its group "
                f"{self._channel.c.max_buffered if self._channel is not None else 0}. Wait for on_low_water"
            )
        raise MemoryError(f"no memory for {length} bytes to send on {self!r}")

    def shutdown_write(self) -> None:
        """Tell the peer, once all is sent, that nothing more comes; go on receiving."""
        self._require("shutdown_write")
        sock_shutdown_write(&self.c)

    def close(self) -> None:
        """Receive no more, send what was written, then close. Idempotent. `on_close` is called when it is done."""
        if self.c.state == SOCK_CLOSED:
            return
        self._require("close")
        self._closed_here = True
        self._held = None
        sock_close(&self.c)

    def abort(self) -> None:
        """Close at once, with a reset; what waits to be sent is dropped. Idempotent."""
        if self.c.state == SOCK_CLOSED:
            return
        self._require("abort")
        self._closed_here = True
        self._held = None
        sock_abort(&self.c, 0)

    def pause_reading(self) -> None:
        """Have `on_data` not called until `resume_reading`; the peer is held up when the kernel's buffers are full."""
        self._require("pause_reading")
        sock_pause(&self.c, True)

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        self._require("resume_reading")
        sock_pause(&self.c, False)

    def set_water_marks(self, high: int, low: int) -> None:
        """When `on_high_water` and `on_low_water` are called, in bytes that wait to be sent."""
        if not 0 <= low <= high:
            raise ValueError(f"0 <= low <= high, got high {high!r} and low {low!r}")
        self._require("set_water_marks")
        self.c.high = high
        self.c.low = low

    def set_native(self, on_data, ctx=None, *, on_close=None) -> None:
        """Have a native function called with what is received, without the GIL.

        Parameters
        ----------
        on_data : native function
            ``int (*)(void *ctx, sock_s *sock, const uint8_t *data, size_t length)``, from any of the sources of
            `SpdkThread.send_native`. A negative result closes the connection. `sock_send` of ``spdkthread.sock.core``
            answers.
        ctx : None, int or object with a writable buffer
            Its first argument, as for `SpdkThread.send_native`.
        on_close : native function, optional
            ``void (*)(void *ctx, sock_s *sock, int error)``: the last call.

        Raises
        ------
        TypeError
            When a function has another signature, or a `ctx` no address.
        """
        cdef NativeCall data = native_call(on_data, ctx, DATA_SIGNATURE)
        cdef NativeCall end = None if on_close is None else native_call(on_close, ctx, CLOSE_SIGNATURE)
        self._require("set_native")
        self._native = data
        self._native_close = end
        self.c.ctx = data.ctx
        self.c.on_data = <sock_data_fn>data.fn
        self.c.on_close = NULL if end is None else <sock_close_fn>end.fn
        self.c.in_python = False
        if self._held:
            sock_tell(&self.c, SOCK_TELL_HELD)      # what came before there was a handler

    def move_to(self, thread, fn=None) -> None:
        """Hand it to another thread, with what it has received and what it has to send.

        Parameters
        ----------
        thread : SpdkThread
            Where it goes on. It gets a channel of the group there.
        fn : callable, optional
            ``fn(sock)`` is called there when it has arrived, before anything else of it.

        Raises
        ------
        ThreadExitedError
            When `thread` takes no messages any more; the socket stays where it is.
        """
        cdef SockChannel channel
        cdef ReadBuffer buffer
        cdef uint32_t index
        self._require("move_to")
        if not isinstance(thread, SpdkThread):
            raise TypeError(f"thread must be an SpdkThread, got {type(thread).__name__}")
        if self.c.state != SOCK_OPEN:
            raise SockClosedError(f"{self!r} cannot be moved: only an open connection can")
        if thread is self.thread:
            if fn is not None:
                thread._send_library_msg(fn, self)
            return
        if thread.is_exited:
            raise ThreadExitedError(f"{self!r} cannot be moved to {thread!r}, which has exited")
        channel = self._channel
        for index in range(channel.c.delivery_count):
            if channel.c.deliveries[index].sock == &self.c:
                # Its buffer is given back where the deliveries are gone through.
                buffer = channel._buffer_of(index)
                self._hold(buffer.window, channel.c.deliveries[index].length)
                channel.c.deliveries[index].sock = NULL
        # Kept alive by the message from here on.
        channel._let_go(self)
        try:
            thread._send_library_msg(self._arrive, thread, fn)
        except BaseException:
            channel._keep(self)
            raise

    def _arrive(self, thread, fn):
        cdef SockChannel channel
        opened = None
        try:
            opened = self.group.get_io_channel()
            channel = opened.ctx
            channel._keep(self)
        except BaseException:
            # No room here: it ends, and says so.
            sock_abort(&self.c, ENOBUFS)
            self.thread = thread
            if self.on_close is not None:
                self.on_close(self, OSError(ENOBUFS, f"{self!r} found no room on {thread!r}"))
            self._forget()
            raise
        finally:
            if opened is not None:
                opened.put()
        if fn is not None:
            fn(self)
        if self._held:
            sock_tell(&self.c, SOCK_TELL_HELD)

    cdef int _require(self, str what) except -1:
        if self._channel is None:
            raise SockClosedError(f"{what} of {self!r}: it is closed, or on its way to another thread")
        if current_thread() != &self.thread.c:
            raise WrongThreadError(f"{what} of {self!r} belongs on {self.thread!r}")
        return 0

    cdef int _hold(self, const uint8_t *data, size_t length) except -1:
        """Keep what was received for later."""
        if self._held is None:
            self._held = []
        self._held.append(PyBytes_FromStringAndSize(<const char *>data, <Py_ssize_t>length))
        self.c.held = True
        sock_update(&self.c)
        return 0

    def _deliver_held(self):
        """Call the handler of data, if there is one, with what was kept; then read on."""
        cdef const uint8_t *kept
        while self._held and self._channel is not None and not self.c.paused:
            if self._on_data is None and self.c.on_data == NULL:
                break
            data = self._held.pop(0)
            if self._closed_here:
                break
            if self.c.on_data != NULL:
                kept = data
                if self.c.on_data(self.c.ctx, &self.c, kept, <size_t>len(data)) < 0:
                    sock_close(&self.c)
                    return
                continue
            with memoryview(data) as view:
                self._channel._call(self._on_data, self, view, True)
        if self._held or self._channel is None:
            return
        self.c.held = False
        if self.c.notices & SOCK_TELL_END or (self.c.ended and self.c.state == SOCK_OPEN):
            self.c.notices = 0
            sock_tell(&self.c, SOCK_TELL_END)
        sock_update(&self.c)

    def _connected(self):
        """The kernel has made the connection, or has not."""
        cdef int number = self.c.error
        if number:
            self._try_next(number)
            return
        self.c.held = bool(self._held)
        self._addresses = None
        sock_update(&self.c)
        if self.on_connect is not None:
            self._channel._call(self.on_connect, self, None, False)

    def _try_next(self, number):
        """Connect to the next of the addresses; close with `number` when none is left."""
        while self._addresses:
            family, kind, protocol, _, address = self._addresses.pop(0)
            try:
                made = socket.socket(family, kind, protocol)
            except OSError as error:
                number = error.errno
                continue
            try:
                made.setblocking(False)
                self.group._set_options(made)
                number = made.connect_ex(address)
            except OSError as error:
                number = error.errno or errno.EINVAL
            if number not in (0, errno.EINPROGRESS, errno.EAGAIN if family == socket.AF_UNIX else 0):
                made.close()
                continue
            if self.c.fd >= 0:
                close(self.c.fd)
            self.c.fd = above_standard(made.detach())
            self.c.error = 0
            self.c.state = SOCK_CONNECTING
            sock_update(&self.c)
            return
        sock_abort(&self.c, number or errno.EADDRNOTAVAIL)

    def _resolved(self, addresses, error):
        """Names have been resolved, elsewhere."""
        if self.c.state != SOCK_NEW or self._channel is None:
            return
        if error is not None:
            self.c.error = 0
            sock_abort(&self.c, error.errno if isinstance(error.errno, int) and error.errno > 0 else errno.EHOSTUNREACH)
            return
        self._addresses = addresses
        self._try_next(0)

    def _forget(self):
        """Closed: nothing is called any more, and nothing need be kept."""
        self._on_data = self.on_end = self.on_high_water = self.on_low_water = self.on_connect = None
        self.on_close = None
        self._held = None
        self._native = self._native_close = None


cdef class Listener(Sock):
    """Listener()\n--\n\n\
    A listening socket. Comes from `SockGroup.listen`.

    Notes
    -----
    **Thread safety:** its own thread. Answers to ``spdk_sock_listen``.
    """

    def in_words(self) -> str:
        """What it is, for `SpdkThread.exit_blockers`."""
        return f"listening socket fd {self.c.fd} of {self.group.name!r}"

    def _accepted(self, fd):
        """Make the Sock of an accepted descriptor, here or on the next of the threads."""
        cdef Sock sock = new_sock(self.group, fd, SOCK_OPEN)
        try:
            self.group._set_accepted_options(fd)
            self._channel._keep(sock)
        except (SockLimitError, OSError) as error:
            self.group._log_once("limit", "%r refuses a connection: %s", self, error)
            return      # its descriptor goes with it
        if not self.targets:
            self._channel._call(self.on_accept, sock, None, False)
            return
        thread = self.targets[self._next % len(self.targets)]
        self._next += 1
        try:
            sock.move_to(thread, self.on_accept)
            if thread is self.thread:
                return
        except ThreadExitedError as error:
            self.group._log_once("target", "%r drops a connection: %s", self, error)
            sock.abort()

    def _starved(self):
        """No descriptor is left: rest, and say so."""
        self.group._log_once(
            "starved", "%r accepts nothing for %d ms: %s", self, STARVED_US // 1000, os.strerror(self.c.error)
        )
        sock_pause(&self.c, True)
        self.thread.call_later(STARVED_US, self._retry)

    def _retry(self):
        if self.c.state == SOCK_LISTENING and self._channel is not None:
            sock_pause(&self.c, False)

    def _forget(self):
        Sock._forget(self)
        self.on_accept = None
        if self.unlink_path is not None:
            try:
                os.unlink(self.unlink_path)
            except OSError:
                pass


cdef int forget_kept(sock_s *c) except -1:
    """What was received and not read, or accepted."""
    cdef size_t at = 0
    while c.listening and at < c.in_length:
        close((<int *>(c.input + at))[0])
        at += sizeof(int)
    core_free(c.input)
    c.input = NULL
    c.in_length = c.in_capacity = 0
    return 0


def uring_refusal():
    """Why the kernel gives this process no io_uring on which sockets can stand: the errno's name; None: it does.

    **Thread safety:** any OS thread.
    """
    cdef int failed
    with nogil:
        failed = uring_refused()
    return errno.errorcode.get(failed, str(failed)) if failed else None


def _refuse_uring(number):
    """For tests: have io_uring refused with this errno from now on; 0: no more."""
    uring_refuse(number)


cdef int above_standard(int fd) except -1:
    """A daemon closes 0, 1 and 2 and expects that its own files take their places."""
    cdef int moved = fd_above_standard(fd)
    if moved < 0:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return moved


cdef Sock new_sock(object group, int fd, int state):
    cdef Sock sock = Sock.__new__(Sock)
    set_up(sock, group, fd, state)
    return sock


cdef int set_up(Sock sock, object group, int fd, int state) except -1:
    sock.group = group
    sock.c.fd = fd
    sock.c.state = state
    sock.c.high = group.high_water_bytes
    sock.c.low = group.low_water_bytes
    sock.c.limit = group.max_sock_bytes
    return 0


def open_sock(group, SockChannel channel not None):
    """A `Sock` that will connect."""
    cdef Sock sock = new_sock(group, -1, SOCK_NEW)
    channel._keep(sock)
    return sock


def open_listener(group, SockChannel channel not None, made, on_accept, targets, unlink_path):
    """A `Listener` of a listening socket.socket, whose descriptor it takes."""
    cdef Listener listener = Listener.__new__(Listener)
    set_up(listener, group, above_standard(made.detach()), SOCK_LISTENING)
    listener.on_accept = on_accept
    listener.targets = targets
    listener.unlink_path = unlink_path
    channel._keep(listener)
    return listener
