"""DatagramSock, DatagramBatch and DatagramSet: Python's side of datagram sockets. See ``datagram_core.pxd``."""

import errno
import os
import socket
import struct
import weakref

from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_FillInfo, PyBuffer_Release, PyObject_GetBuffer
from cpython.memoryview cimport PyMemoryView_FromObject
from cpython.object cimport PyObject
from cpython.ref cimport Py_DECREF, Py_INCREF
from libc.errno cimport EMSGSIZE, ENOBUFS, EPIPE
from libc.stdint cimport uint32_t
from posix.unistd cimport close

from spdkthread.alloc cimport core_free
from spdkthread.fd_group cimport fd_above_standard, fd_group_open
from spdkthread.native cimport NativeCall, native_call
from spdkthread.sock.datagram_core cimport (
    DATAGRAM_CLOSED,
    DATAGRAM_OPEN,
    DATAGRAM_TELL_BATCH,
    DATAGRAM_TELL_CLOSED,
    DATAGRAM_TELL_FAULT,
    DATAGRAM_TELL_SENT,
    datagram_abort,
    datagram_address,
    datagram_address_get,
    datagram_address_set,
    datagram_attach,
    datagram_block,
    datagram_close,
    datagram_detach,
    datagram_fn,
    datagram_free,
    datagram_next_notice,
    datagram_pause,
    datagram_s,
    datagram_send,
    datagram_tell,
    datagram_update,
    datagrams_ask,
    datagrams_poll,
)
from spdkthread.sock.sock cimport SockChannel
from spdkthread.thread_poll cimport current_thread

from spdkthread.errors import WrongThreadError
from spdkthread.exit_blockers import register_blocker
from spdkthread.fd_handler import make_handler
from spdkthread.native import add_signature
from spdkthread.sock.errors import SockBufferError, SockClosedError, SockLimitError

__all__ = ["DatagramBatch", "DatagramSet", "DatagramSock"]

DATAGRAM_SIGNATURE = "int (void *, datagram_s *, uint8_t const *, size_t)"
add_signature(
    DATAGRAM_SIGNATURE,
    ("c_void_p", "c_void_p", "c_void_p", "c_size_t"),
    (
        "int (void *, void *, uint8_t const *, size_t)",
        "int (void *, void *, void const *, size_t)",
        # cffi forgets `const`.
        "int (void *, void *, uint8_t *, size_t)",
        "int (void *, void *, void *, size_t)",
    ),
)

STATES = ("open", "closing", "closed")

# Linux counts for a socket what it dropped because the receive buffer was full; the last of these numbers.
SO_MEMINFO = 55
MEMINFO_NUMBERS = 9

cdef object _sets = weakref.WeakSet()


def blockers_of(thread):
    """The datagram sockets that keep `thread`, in words."""
    return [
        sock.in_words()
        for one in list(_sets)
        if (<DatagramSet>one).thread is thread
        for sock in list((<DatagramSet>one).socks)
    ]


register_blocker("datagram socket", blockers_of)


cdef class BatchMemory:
    def __dealloc__(self):
        if self.is_owner:
            core_free(self.block)

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.window, self.length, 1, flags)
        self.exports += 1

    def __releasebuffer__(self, Py_buffer *view):
        self.exports -= 1

    cdef object lend(self, void *window, Py_ssize_t length):
        self.window = <uint8_t *>window
        self.length = length
        return PyMemoryView_FromObject(self)


cdef class DatagramBatch:
    """DatagramBatch()\n--\n\n\
    Datagrams that were received together: what `DatagramSock.on_batch` is called with.

    They lie in one block of memory, a datagram every `stride` bytes, and nothing is copied::

        np.frombuffer(batch.data, np.uint8).reshape(len(batch), batch.stride)
        np.frombuffer(batch.data, message_dtype)        # with datagram_bytes=message_dtype.itemsize

    Notes
    -----
    A view that is kept, or an array made of one, goes on showing the same bytes: the socket then receives into another
    block. Everything else is a ValueError once the handler has returned.

    **Thread safety:** inside the handler.
    """

    def __init__(self):
        raise TypeError("a DatagramBatch comes to on_batch of a DatagramSock")

    def __repr__(self):
        if self.count <= 0:
            return "<DatagramBatch, over>"
        return f"<DatagramBatch of {self.count} datagrams, received by {self.sock!r}>"

    cdef datagram_block *block(self) except NULL:
        if self.count <= 0:
            raise ValueError("the handler of this DatagramBatch has returned: a view of it would have kept its bytes")
        return self.memory.block

    cdef Py_ssize_t index(self, Py_ssize_t index) except -1:
        self.block()
        if index < 0:
            index += self.count
        if not 0 <= index < self.count:
            raise IndexError(f"a batch of {self.count} datagrams has none of that number")
        return index

    def __len__(self):
        return 0 if self.count < 0 else self.count

    def __getitem__(self, Py_ssize_t index):
        """The bytes of one datagram: a read-only memoryview."""
        index = self.index(index)
        cdef datagram_block *block = self.block()
        return self.memory.lend(block.data + index * <Py_ssize_t>block.size, block.lengths[index])

    @property
    def stride(self) -> int:
        """Bytes from one datagram to the next in `data`: the socket's `DatagramSock.datagram_bytes`."""
        return self.block().size

    @property
    def data(self):
        """All datagrams: a read-only memoryview of ``len(batch) * batch.stride`` bytes. What is behind the end of a
        datagram is of an earlier one, or zero."""
        cdef datagram_block *block = self.block()
        return self.memory.lend(block.data, self.count * <Py_ssize_t>block.size)

    @property
    def lengths(self):
        """The length of each datagram in bytes: a read-only memoryview of ``uint32``."""
        return self.memory.lend(self.block().lengths, self.count * <Py_ssize_t>sizeof(uint32_t)).cast("I")

    @property
    def sockaddrs(self):
        """The senders' addresses as the kernel has them: a read-only memoryview of bytes, 28 for each datagram, of
        which the first 16 are a ``struct sockaddr_in``, or all a ``struct sockaddr_in6``."""
        return self.memory.lend(self.block().addresses, self.count * <Py_ssize_t>sizeof(datagram_address))

    @property
    def addresses(self) -> list:
        """The senders' addresses, in the form of `socket.socket.recvfrom`."""
        return [self.address(index) for index in range(len(self))]

    def address(self, Py_ssize_t index):
        """The address of a datagram's sender, in the form of `socket.socket.recvfrom`."""
        index = self.index(index)
        return address_of(&self.block().addresses[index])

    def is_truncated(self, Py_ssize_t index) -> bool:
        """Whether a datagram was longer than `stride`; what did not fit is lost."""
        index = self.index(index)
        return self.block().truncated[index] != 0

    def reply(self, Py_ssize_t index, data) -> None:
        """`DatagramSock.send` to the sender of a datagram, whose address is not looked at."""
        cdef Py_buffer view
        index = self.index(index)
        self.sock._require("reply")
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self.sock._send(view.buf, <size_t>view.len, &self.block().addresses[index])
        finally:
            PyBuffer_Release(&view)


cdef object address_of(const datagram_address *address):
    cdef char host[64]
    cdef uint32_t port, flow, scope
    cdef int family = datagram_address_get(address, host, sizeof(host), &port, &flow, &scope)
    text = (<bytes>host).decode("ascii")
    return (text, port) if family == socket.AF_INET else (text, port, flow, scope)


cdef int read_address(DatagramSock sock, object address, datagram_address *out) except -1:
    """A tuple of the form of `socket.socket.sendto`, with a numeric host."""
    cdef uint32_t scope = 0
    cdef int port
    if not isinstance(address, tuple) or not 2 <= len(address) <= 4 or not isinstance(address[0], str):
        raise TypeError(f"an address of {sock!r} must be a tuple (host, port), got {address!r}")
    if isinstance(address[1], bool) or not isinstance(address[1], int):
        raise TypeError(f"the port of an address must be an int, got {type(address[1]).__name__}")
    if not 0 < address[1] < 65536:
        raise ValueError(f"the port of an address must be from 1 to 65535, got {address[1]}")
    port = address[1]
    if len(address) == 4:
        scope = address[3]
    if datagram_address_set(out, sock.c.family, address[0].encode("ascii", "replace"), port, scope) < 0:
        what = "IPv6" if sock.c.family == socket.AF_INET6 else "IPv4"
        raise ValueError(
            f"{address[0]!r} is no {what} address, which {sock!r} sends to; names are resolved by socket.getaddrinfo, "
            "on another OS thread"
        )
    return 0


cdef class DatagramSet:
    """DatagramSet(channel)\n--\n\n\
    A thread's datagram sockets: a part of its `SockChannel`.

    Notes
    -----
    **Thread safety:** its thread only, but for `stats`.
    """

    def __cinit__(self):
        self.c.fd = -1

    def __init__(self, SockChannel channel not None):
        self.channel = channel
        self.device = channel.device
        self.thread = channel.thread
        self.socks = {}
        self.c.thread = &self.thread.c
        self.c.sockets = &channel.c
        self.c.fd = fd_group_open()
        if self.c.fd < 0:
            raise OSError(errno.EMFILE, f"no file descriptor for the datagram sockets of {self.thread!r}")
        self._watch()
        _sets.add(self)

    def __dealloc__(self):
        if self.c.fd >= 0:
            close(self.c.fd)

    def __repr__(self):
        return f"<DatagramSet of {self.device.name!r} on {self.thread.name!r}, {len(self.socks)} sockets>"

    @property
    def stats(self) -> dict:
        """Counts since its making: ``datagram_socks``, ``datagram_reads`` and ``datagram_writes`` (calls to the
        kernel), ``datagrams_in``, ``datagrams_out``, ``datagram_bytes_in``, ``datagram_bytes_out``,
        ``datagrams_truncated``, ``datagrams_rejected``, ``datagram_errors``."""
        return {
            "datagram_socks": self.c.count,
            "datagram_reads": self.c.reads,
            "datagram_writes": self.c.writes,
            "datagrams_in": self.c.datagrams_in,
            "datagrams_out": self.c.datagrams_out,
            "datagram_bytes_in": self.c.bytes_in,
            "datagram_bytes_out": self.c.bytes_out,
            "datagrams_truncated": self.c.truncated,
            "datagrams_rejected": self.c.rejected,
            "datagram_errors": self.c.errors,
        }

    @property
    def sockets(self) -> tuple:
        """Every `DatagramSock` that the thread has."""
        return tuple(self.socks)

    @property
    def one_by_one(self) -> bool:
        """Whether the kernel is asked for one datagram at a time, because it has no call for many."""
        return self.c.one_by_one

    def _set_one_by_one(self):
        """For tests: as if the kernel had no call for many."""
        self.c.one_by_one = True

    def _watch(self):
        name = f"datagram sockets of {self.device.name!r}"
        handler = make_handler(self.thread, self.c.fd, self._run, "r", name)
        self.handler = handler
        self.handler.native.fn = datagrams_poll
        self.handler.native.ctx = &self.c
        self.thread._fd_add(handler)

    def _close(self):
        """The end of the channel: no socket is left, or they are all abandoned."""
        cdef DatagramSock sock
        for one in list(self.socks):
            sock = one
            datagram_abort(&sock.c, 0)
            self._let_go(sock)
        _sets.discard(self)
        if self.handler is not None:
            self.thread._fd_remove(self.handler)
            self.handler = None
        # Their descriptors are not left to the collector, for which the channel and its set would wait together.
        self.channel = None
        self.c.sockets = NULL
        if self.c.fd >= 0:
            close(self.c.fd)
            self.c.fd = -1

    def _forked(self):
        """In the child of a fork: as `SockChannel._forked`, which counts anew by itself."""
        cdef DatagramSock sock
        alive = not self.thread.is_exited
        mine = list(self.socks)
        self.socks.clear()
        for one in mine:
            sock = one
            if sock.c.fd >= 0:
                close(sock.c.fd)
                sock.c.fd = -1
            sock.c.state = DATAGRAM_CLOSED
            sock.c.listed = sock.c.flushing = sock.c.noticed = sock.c.blocked = False
            sock.c.group = NULL
            sock._set = None
            if alive:
                self.channel.channel.put()
            Py_DECREF(one)
        self.c.first = self.c.flush_first = self.c.flush_last = self.c.notice_first = self.c.notice_last = NULL
        self.c.count = 0
        self.c.ready_count = self.c.ready_next = 0
        if self.handler is not None and self.handler.registered:
            self.thread._fd_remove(self.handler)
        self.handler = None
        close(self.c.fd)
        self.c.fd = -1
        if alive:
            self.c.fd = fd_group_open()
            self._watch()

    def _run(self):
        """What the poll without the GIL has left for Python."""
        cdef datagram_s *c
        cdef DatagramSock sock
        cdef uint32_t notices
        cdef uint32_t left = self.c.count
        try:
            while left:
                left -= 1
                c = datagram_next_notice(&self.c)
                if c == NULL:
                    break
                sock = <DatagramSock>c.owner
                notices = c.notices
                c.notices = 0
                if notices & DATAGRAM_TELL_BATCH:
                    sock._deliver()
                if notices & DATAGRAM_TELL_FAULT and sock.on_error is not None and c.state != DATAGRAM_CLOSED:
                    self._call(sock.on_error, sock, OSError(c.fault, os.strerror(c.fault)), True)
                if notices & DATAGRAM_TELL_SENT and sock.on_low_water is not None and c.state == DATAGRAM_OPEN:
                    self._call(sock.on_low_water, sock, None, False)
                if notices & DATAGRAM_TELL_CLOSED:
                    self._let_go(sock)
                    if sock.on_close is not None:
                        number = c.error
                        self._call(sock.on_close, sock, OSError(number, os.strerror(number)) if number else None, True)
                    sock._forget()
        finally:
            if self.c.notice_first != NULL:
                datagrams_ask(&self.c)

    cdef int _call(self, object fn, DatagramSock sock, object argument, bint has_argument) except -1:
        """Call a handler; what it raises is reported, and the socket goes on."""
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

    cdef int _keep(self, DatagramSock sock) except -1:
        """Take a socket in, with a reference to the channel for as long as it is here."""
        if self.channel.c.count >= self.channel.c.max_socks:
            self.channel.c.refused += 1
            raise SockLimitError(
                f"{self.thread!r} has {self.channel.c.count} sockets of {self.device.name!r}; it may have "
                f"{self.channel.c.max_socks}"
            )
        self.channel.channel.ref()
        self.channel.c.count += 1
        sock._set = self
        sock.thread = self.thread
        sock.c.owner = <PyObject *>sock
        self.socks[sock] = None
        Py_INCREF(sock)
        datagram_attach(&self.c, &sock.c)
        return 0

    cdef int _let_go(self, DatagramSock sock) except -1:
        if sock not in self.socks:
            return 0
        datagram_detach(&sock.c)
        del self.socks[sock]
        sock._set = None
        self.channel.c.count -= 1
        self.channel.channel.put()
        Py_DECREF(sock)
        return 0


cdef class DatagramSock:
    """DatagramSock()\n--\n\n\
    A UDP socket of a thread. Comes from `SockGroup.open_datagram`.

    Attributes
    ----------
    on_error : callable or None
        ``on_error(sock, error)`` with an `OSError` that closes nothing: of a datagram that could not be sent and is
        dropped, or one that says that a peer has no such port. Several of one turn are one call with the last; `errors`
        counts them all.
    on_low_water : callable or None
        ``on_low_water(sock)`` when all is sent, after a `send` that was refused.
    on_close : callable or None
        ``on_close(sock, error)``, once, as the last call: None, or an `OSError` when the descriptor was no socket any
        more.
    context : object
        The user's.

    Notes
    -----
    **Thread safety:** the socket's own thread, as whose callbacks the handlers run. SPDK has no datagrams.
    """

    def __cinit__(self):
        self.c.fd = -1

    def __init__(self):
        raise TypeError("a DatagramSock comes from SockGroup.open_datagram")

    def __dealloc__(self):
        if self.c.fd >= 0:
            close(self.c.fd)
        datagram_free(&self.c)

    def __repr__(self):
        where = "no thread" if self.thread is None else repr(self.thread.name)
        return f"<DatagramSock fd {self.c.fd} on {where}, {self.state}, {self.pending_datagrams} datagrams to send>"

    def in_words(self) -> str:
        """What it is, for `SpdkThread.exit_blockers`."""
        text = f"datagram socket fd {self.c.fd} of {self.group.name!r}, {self.state}"
        return f"{text}, {self.pending_datagrams} datagrams to send" if self.pending_datagrams else text

    @property
    def on_batch(self):
        """``on_batch(sock, batch)`` with a `DatagramBatch` of what has been received, at most one a turn. Without a
        handler nothing is read until there is one."""
        return self._on_batch

    @on_batch.setter
    def on_batch(self, fn):
        if fn is not None and not callable(fn):
            raise TypeError(f"on_batch must be callable, got {type(fn).__name__}")
        if self.c.state == DATAGRAM_CLOSED and fn is None:
            return
        self._require("on_batch")
        self._on_batch = fn
        self.c.handled = fn is not None or self.c.on_datagram != NULL
        if fn is not None and self.c.received:
            datagram_tell(&self.c, DATAGRAM_TELL_BATCH)
        datagram_update(&self.c)

    @property
    def state(self) -> str:
        """``"open"``, ``"closing"`` or ``"closed"``."""
        return STATES[self.c.state]

    @property
    def batch(self) -> int:
        """The most datagrams of one batch."""
        return self.c.batch

    @property
    def datagram_bytes(self) -> int:
        """Room for one received datagram; the rest of a longer one is lost, and counted in `truncated`."""
        return self.c.size

    @property
    def pending_datagrams(self) -> int:
        """Datagrams that wait to be sent."""
        return self.c.waiting_end - self.c.waiting_first

    @property
    def pending_bytes(self) -> int:
        """Their bytes."""
        return self.c.pending

    @property
    def datagrams_in(self) -> int:
        """Datagrams received."""
        return self.c.datagrams_in

    @property
    def datagrams_out(self) -> int:
        """Datagrams that the kernel has taken."""
        return self.c.datagrams_out

    @property
    def bytes_in(self) -> int:
        """Bytes received."""
        return self.c.bytes_in

    @property
    def bytes_out(self) -> int:
        """Bytes that the kernel has taken."""
        return self.c.bytes_out

    @property
    def truncated(self) -> int:
        """Datagrams received that were longer than `datagram_bytes`."""
        return self.c.truncated

    @property
    def rejected(self) -> int:
        """Datagrams for which a native handler returned a negative number."""
        return self.c.rejected

    @property
    def errors(self) -> int:
        """Errors that closed nothing, see `on_error`."""
        return self.c.errors

    @property
    def dropped(self) -> int | None:
        """Datagrams that the kernel dropped because its receive buffer was full; None where it does not tell."""
        try:
            numbers = self._ask("getsockopt", socket.SOL_SOCKET, SO_MEMINFO, 4 * MEMINFO_NUMBERS)
        except SockClosedError:
            raise
        except OSError:
            return None
        if len(numbers) < 4 * MEMINFO_NUMBERS:
            return None
        return struct.unpack_from("=I", numbers, 4 * (MEMINFO_NUMBERS - 1))[0]

    @property
    def is_paused(self) -> bool:
        """Whether reading is paused."""
        return self.c.paused

    @property
    def native_address(self) -> int:
        """That of its ``datagram_s``, for native code."""
        return <size_t>&self.c

    def fileno(self) -> int:
        """The descriptor; -1 once it is closed."""
        return self.c.fd

    def sockname(self):
        """The own address, in the form of `socket.socket.getsockname`."""
        return self._ask("getsockname")

    def peername(self):
        """The address that it is connected to, in the form of `socket.socket.getpeername`."""
        return self._ask("getpeername")

    def set_option(self, level: int, option: int, value) -> None:
        """As `socket.socket.setsockopt`."""
        self._ask("setsockopt", level, option, value)

    def join(self, group, interface=None) -> None:
        """Receive what is sent to a multicast group.

        Parameters
        ----------
        group : str
            Its IPv4 or IPv6 address.
        interface : str or int, optional
            That of IPv4 by its address, that of IPv6 by its number. None: the one that the kernel chooses.

        Raises
        ------
        OSError
            What the kernel says: no such interface, a member already, and so on; or `group` is no address.
        """
        self._membership(True, group, interface)

    def leave(self, group, interface=None) -> None:
        """Undo `join`."""
        self._membership(False, group, interface)

    def _membership(self, joins, group, interface):
        request = socket.inet_pton(self.c.family, group)
        if self.c.family == socket.AF_INET6:
            level, option = socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP if joins else socket.IPV6_LEAVE_GROUP
            request += struct.pack("@I", interface or 0)
        else:
            level, option = socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP if joins else socket.IP_DROP_MEMBERSHIP
            request += socket.inet_pton(socket.AF_INET, interface or "0.0.0.0")
        self.set_option(level, option, request)

    def _ask(self, what, *arguments):
        if self.c.fd < 0:
            raise SockClosedError(f"{self!r} has no descriptor")
        view = socket.socket(fileno=self.c.fd)
        try:
            return getattr(view, what)(*arguments)
        finally:
            view.detach()

    def send(self, data, address=None) -> None:
        """Have a datagram sent, together with all others of this turn.

        Parameters
        ----------
        data : bytes-like
            Copied.
        address : (host, port), optional
            A numeric host. None: the address that the socket is connected to.

        Raises
        ------
        SockBufferError
            More would wait than the socket or the group may hold: `max_sock_bytes` and `max_buffered_bytes` of the
            `SockGroup`, where each datagram counts with 48 bytes besides its own. Wait for `on_low_water`.
        OSError
            More than 65,535 bytes; or there is no address. What the kernel says later goes to `on_error`.
        ValueError
            `address` is none.
        SockClosedError
            It is closed.
        WrongThreadError
            On any thread but its own.
        """
        cdef Py_buffer view
        cdef datagram_address out
        self._require("send")
        if address is not None:
            read_address(self, address, &out)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            self._send(view.buf, <size_t>view.len, NULL if address is None else &out)
        finally:
            PyBuffer_Release(&view)

    def send_many(self, data, datagram_bytes, address=None) -> int:
        """Have a buffer sent as datagrams of `datagram_bytes` each, the last of which may be shorter.

        Parameters
        ----------
        data : bytes-like
            A NumPy array of records, for example. Copied.
        datagram_bytes : int
        address : (host, port), optional
            As of `send`, for all of them.

        Returns
        -------
        int
            How many datagrams were taken, in their order; fewer than there are when more may not wait.

        Raises
        ------
        OSError, ValueError, SockClosedError, WrongThreadError
            As `send`.
        """
        cdef Py_buffer view
        cdef datagram_address out
        cdef const datagram_address *to = NULL
        cdef Py_ssize_t size, length, offset = 0
        cdef int failed = 0
        cdef Py_ssize_t taken = 0
        self._require("send_many")
        if isinstance(datagram_bytes, bool) or not isinstance(datagram_bytes, int):
            raise TypeError(f"datagram_bytes must be an int, got {type(datagram_bytes).__name__}")
        if not 0 < datagram_bytes < 65536:
            raise ValueError(f"datagram_bytes must be from 1 to 65535, got {datagram_bytes}")
        size = datagram_bytes
        if address is not None:
            read_address(self, address, &out)
            to = &out
        elif not self._connected:
            self._refuse(errno.EDESTADDRREQ, 0)
        PyObject_GetBuffer(data, &view, PyBUF_SIMPLE)
        try:
            while offset < view.len:
                length = min(size, view.len - offset)
                failed = datagram_send(&self.c, <const char *>view.buf + offset, <size_t>length, to)
                if failed:
                    break
                offset += length
                taken += 1
        finally:
            PyBuffer_Release(&view)
        if failed and failed != -ENOBUFS:
            self._refuse(-failed, <size_t>size)
        return taken

    cdef int _send(self, const void *data, size_t length, const datagram_address *address) except -1:
        cdef int failed
        if address == NULL and not self._connected:
            self._refuse(errno.EDESTADDRREQ, length)
        failed = datagram_send(&self.c, data, length, address)
        if failed:
            self._refuse(-failed, length)
        return 0

    cdef int _refuse(self, int number, size_t length) except -1:
        if number == EPIPE:
            raise SockClosedError(f"{self!r} sends nothing any more")
        if number == ENOBUFS:
            raise SockBufferError(
                f"a datagram of {length} bytes more is too much for {self!r}: it may hold {self.c.limit} bytes, and "
                f"its group {self._set.channel.c.max_buffered}. Wait for on_low_water"
            )
        if number == EMSGSIZE:
            raise OSError(number, f"a datagram of {length} bytes is larger than any can be, of {self!r}")
        if number == errno.EDESTADDRREQ:
            raise OSError(number, f"{self!r} is not connected: send needs an address")
        raise MemoryError(f"no memory for {length} bytes to send on {self!r}")

    def close(self) -> None:
        """Receive no more, send what waits, then close. Idempotent. `on_close` is called when it is done."""
        if self.c.state == DATAGRAM_CLOSED:
            return
        self._require("close")
        self._closed_here = True
        datagram_close(&self.c)

    def abort(self) -> None:
        """Close at once; what waits to be sent is dropped. Idempotent."""
        if self.c.state == DATAGRAM_CLOSED:
            return
        self._require("abort")
        self._closed_here = True
        datagram_abort(&self.c, 0)

    def pause_reading(self) -> None:
        """Have no handler called until `resume_reading`; the kernel drops what its buffer has no room for. Of the batch
        that a native handler is called for the rest still comes."""
        self._require("pause_reading")
        datagram_pause(&self.c, True)

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        self._require("resume_reading")
        datagram_pause(&self.c, False)

    def set_native(self, on_datagram, ctx=None) -> None:
        """Have a native function called with each datagram, without the GIL.

        Parameters
        ----------
        on_datagram : native function
            ``int (*)(void *ctx, datagram_s *sock, const uint8_t *data, size_t length)``, from any of the sources of
            `SpdkThread.send_native`. A negative result counts the datagram as `rejected`. `datagram_reply` of
            ``spdkthread.sock.datagram_core`` answers.
        ctx : None, int or object with a writable buffer
            Its first argument, as for `SpdkThread.send_native`.

        Raises
        ------
        TypeError
            When the function has another signature, or a `ctx` no address.
        """
        cdef NativeCall call = native_call(on_datagram, ctx, DATAGRAM_SIGNATURE)
        self._require("set_native")
        self._native = call
        self.c.ctx = call.ctx
        self.c.on_datagram = <datagram_fn>call.fn
        self.c.handled = True
        if self.c.received:
            datagram_tell(&self.c, DATAGRAM_TELL_BATCH)     # what came before there was a native handler
        datagram_update(&self.c)

    cdef int _require(self, str what) except -1:
        if self._set is None:
            raise SockClosedError(f"{what} of {self!r}: it is closed")
        if current_thread() != &self.thread.c:
            raise WrongThreadError(f"{what} of {self!r} belongs on {self.thread!r}")
        return 0

    cdef int _deliver(self) except -1:
        """Call the handler with what was received."""
        cdef DatagramBatch batch
        cdef BatchMemory memory
        cdef uint32_t index, count = self.c.received
        cdef datagram_block *block = self.c.block
        if not count or self._closed_here or self.c.paused:
            return 0
        if self.c.on_datagram != NULL:
            self.c.received = 0
            for index in range(count):
                self.c.peer = &block.addresses[index]
                if self.c.on_datagram(
                    self.c.ctx, &self.c, block.data + <size_t>index * block.size, block.lengths[index]
                ) < 0:
                    self.c.rejected += 1
                    self._set.c.rejected += 1
                if self.c.state != DATAGRAM_OPEN:
                    break
            self.c.peer = NULL
            return 0
        if self._on_batch is None:
            return 0
        memory = self._memory
        if memory is None:
            memory = self._memory = BatchMemory.__new__(BatchMemory)
            memory.block = block
        batch = DatagramBatch.__new__(DatagramBatch)
        batch.sock = self
        batch.memory = memory
        batch.count = count
        self.c.received = 0
        try:
            self._set._call(self._on_batch, self, batch, True)
        finally:
            batch.count = -1
            if memory.exports:
                memory.is_owner = True
                self._memory = None
                self.c.block = NULL
        return 0

    def _forget(self):
        """Closed: nothing is called any more, and nothing need be kept."""
        self._on_batch = self.on_error = self.on_low_water = self.on_close = None
        self._native = None


def open_datagram_sock(group, SockChannel channel not None, made, on_batch, batch, datagram_bytes, connected):
    """A `DatagramSock` of a socket.socket, whose descriptor it takes; for `SockGroup.open_datagram`."""
    cdef DatagramSock sock = DatagramSock.__new__(DatagramSock)
    cdef DatagramSet owner
    if channel.datagrams is None:
        channel.datagrams = DatagramSet(channel)
    owner = channel.datagrams
    sock.group = group
    sock.c.family = made.family
    sock.c.fd = fd_above_standard(made.detach())
    if sock.c.fd < 0:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    sock.c.batch = batch
    sock.c.size = datagram_bytes
    sock.c.limit = group.max_sock_bytes
    sock._connected = connected
    sock._on_batch = on_batch
    sock.c.handled = on_batch is not None
    owner._keep(sock)
    return sock
