"""SockGroup: the device whose channel on a thread is the thread's group of sockets."""

import errno
import logging
import os
import socket
import stat
import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from typing import Any, TypeAlias

from spdkthread.errors import NoThreadError
from spdkthread.io_device import IoDevice
from spdkthread.lib import ThreadLib
from spdkthread.sock.datagram import DatagramSock, open_datagram_sock
from spdkthread.sock.errors import SockBackendError
from spdkthread.sock.sock import Listener, Sock, close_channel, make_channel, open_listener, open_sock, uring_refusal
from spdkthread.thread import SpdkThread, get_thread

__all__ = ["SockGroup"]

BACKENDS = ("epoll", "io_uring", "auto")

logger = logging.getLogger("spdkthread")

_Address: TypeAlias = tuple[Any, ...] | str | os.PathLike[str]


class SockGroup(IoDevice):
    """Sockets on SpdkThreads: a device, whose channel on a thread is the thread's group of sockets.

    A thread's sockets are polled by its reactor while that is awake and wake it when it sleeps: one look at the kernel
    a turn for all of them, one send a turn for each that was written to.

    Parameters
    ----------
    name : str, optional
    backend : {"epoll", "io_uring", "auto"}
        How the kernel is asked. ``"epoll"`` (kqueue elsewhere than on Linux) is the default; see "Backends" in
        ``docs/sockets.md`` for when ``"io_uring"`` is faster. ``"auto"``: io_uring where the kernel lets this process
        have one, else epoll; `backend` and `refusal` of the group say which, and why.
    max_socks : int, default 65536
        Sockets that one thread may have. Further connections are refused: closed as soon as they are accepted.
    max_buffered_bytes : int, default 256 MiB
        Bytes that wait to be sent, over all sockets of one thread.
    max_sock_bytes : int, default 16 MiB
        Bytes that wait to be sent on one socket. `Sock.write` refuses more.
    high_water_bytes, low_water_bytes : int, default 64 KiB and 16 KiB
        Marks of new sockets, see `Sock.set_water_marks`.
    read_bytes : int, default 64 KiB
        Received at once from one socket; over io_uring 8 KiB at most.
    no_delay, keep_alive : bool
        ``TCP_NODELAY`` (default True) and ``SO_KEEPALIVE`` (default False) of TCP connections.
    lib : ThreadLib, optional

    Raises
    ------
    SockBackendError
        When `backend` is ``"io_uring"`` and the kernel refuses it.
    TypeError, ValueError
        For a bad argument.

    Attributes
    ----------
    backend : str
        ``"epoll"`` or ``"io_uring"``.
    refusal : str or None
        With ``backend="auto"``: the name of the errno with which the kernel refused io_uring.

    Notes
    -----
    A socket holds a reference to the channel of its thread: an exiting thread goes on serving its sockets until they
    are closed, and `SpdkThread.exit_blockers` names them. In the child of a fork the sockets are closed, without a word
    to the peers, whose connections are the parent's.

    **Thread safety:** `listen`, `connect` and `open_datagram` on the SpdkThread that is to have the socket; all else as
    `IoDevice`. Answers to ``lib/sock``.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        backend: str = "epoll",
        max_socks: int = 65536,
        max_buffered_bytes: int = 256 << 20,
        max_sock_bytes: int = 16 << 20,
        high_water_bytes: int = 64 << 10,
        low_water_bytes: int = 16 << 10,
        read_bytes: int = 64 << 10,
        no_delay: bool = True,
        keep_alive: bool = False,
        lib: ThreadLib | None = None,
    ) -> None:
        if not isinstance(backend, str):
            raise TypeError(f"backend must be a str, got {type(backend).__name__}")
        if backend not in BACKENDS:
            raise ValueError(f"backend must be 'epoll', 'io_uring' or 'auto', got {backend!r}")
        for what, value, least in (
            ("max_socks", max_socks, 1),
            ("max_buffered_bytes", max_buffered_bytes, 1),
            ("max_sock_bytes", max_sock_bytes, 1),
            ("high_water_bytes", high_water_bytes, 0),
            ("low_water_bytes", low_water_bytes, 0),
            ("read_bytes", read_bytes, 4096),
        ):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{what} must be an int, got {type(value).__name__}")
            if not least <= value < 1 << 31 + 31 * (what != "max_socks"):
                raise ValueError(f"{what} must be at least {least}, got {value}")
        if low_water_bytes > high_water_bytes:
            raise ValueError(f"low_water_bytes {low_water_bytes} is above high_water_bytes {high_water_bytes}")
        self.refusal = None if backend == "epoll" else uring_refusal()
        if self.refusal is not None and backend == "io_uring":
            raise SockBackendError(
                f"the kernel refuses io_uring for sockets with {self.refusal}: use backend='epoll', or 'auto' for "
                "whichever is to be had"
            )
        super().__init__(name, lib=lib)
        self.backend = "epoll" if backend == "epoll" or self.refusal is not None else "io_uring"
        self.max_socks = max_socks
        self.max_buffered_bytes = max_buffered_bytes
        self.max_sock_bytes = max_sock_bytes
        self.high_water_bytes = high_water_bytes
        self.low_water_bytes = low_water_bytes
        self.read_bytes = read_bytes
        self.no_delay = no_delay
        self.keep_alive = keep_alive
        self._logged: set[str] = set()

    def create_channel(self, channel):
        """A `SockChannel`."""
        return make_channel(self, channel)

    def destroy_channel(self, channel):
        """Close what the channel has."""
        close_channel(channel.ctx)

    def listen(
        self,
        address: _Address,
        on_accept: Callable[[Sock], object],
        *,
        backlog: int = 1024,
        reuse_port: bool = False,
        threads: Iterable[SpdkThread] = (),
    ) -> Listener:
        """Listen on the current thread.

        Parameters
        ----------
        address : (host, port), str or path
            A tuple for TCP, port 0 for any free one; a str for a unix socket, which takes the place of a stale one.
        on_accept : callable
            ``on_accept(sock)`` with each accepted `Sock`, on the thread that it belongs to; sets its handlers.
        backlog : int, default 1024
        reuse_port : bool, default False
            ``SO_REUSEPORT``: each thread listens on one port, and the kernel spreads the connections.
        threads : iterable of SpdkThread, optional
            Hand the accepted connections over to these, in turn. Without any they stay here.

        Returns
        -------
        Listener
            `Sock.sockname` of it tells the port, `Sock.close` ends it.

        Raises
        ------
        OSError
            What the kernel says: the address is in use, and so on.
        NoThreadError
            When no SpdkThread is current.
        """
        targets = tuple(threads)
        for thread in targets:
            if not isinstance(thread, SpdkThread):
                raise TypeError(f"threads must be SpdkThreads, got {type(thread).__name__}")
        if not callable(on_accept):
            raise TypeError(f"on_accept must be callable, got {type(on_accept).__name__}")
        where: tuple[Any, ...] | str
        path = None
        if isinstance(address, tuple):
            family, where = socket.AF_INET6 if ":" in address[0] else socket.AF_INET, address
        else:
            family, where = socket.AF_UNIX, os.fspath(address)
            path = where
        with self._here() as channel:
            with socket.socket(family, socket.SOCK_STREAM) as made:
                made.setblocking(False)
                if path is None:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                    if reuse_port:
                        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                else:
                    remove_stale(path)
                made.bind(where)
                made.listen(backlog)
                return open_listener(self, channel.ctx, made, on_accept, targets, path)

    def connect(
        self,
        address: _Address,
        *,
        on_connect: Callable[[Sock], object] | None = None,
        on_data: Callable[[Sock, memoryview], object] | None = None,
        on_close: Callable[[Sock, OSError | None], object] | None = None,
    ) -> Sock:
        """Begin a connection of the current thread.

        Parameters
        ----------
        address : (host, port), str or path
            Names are resolved on an OS thread of their own, and the addresses tried in their order.
        on_connect, on_data, on_close : callable, optional
            See `Sock`. A connection that cannot be made is an `OSError` to `on_close`.

        Returns
        -------
        Sock
            What is written to it before it is connected is sent then.
        """
        with self._here() as channel:
            sock: Any = open_sock(self, channel.ctx)
        sock.on_connect = on_connect
        sock.on_data = on_data
        sock.on_close = on_close
        if not isinstance(address, tuple):
            path = os.fspath(address)
            sock._resolved([(socket.AF_UNIX, socket.SOCK_STREAM, 0, "", path)], None)
            return sock
        try:
            found = socket.getaddrinfo(
                address[0], address[1], type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            )
        except socket.gaierror:
            threading.Thread(target=resolve, args=(get_thread(), sock, address), daemon=True).start()
            return sock
        sock._resolved(found, None)
        return sock

    def open_datagram(
        self,
        local: tuple[str, int] | None = None,
        *,
        remote: tuple[str, int] | None = None,
        on_batch: Callable[..., Any] | None = None,
        batch: int = 64,
        datagram_bytes: int = 2048,
        reuse_port: bool = False,
        receive_buffer_bytes: int | None = None,
    ) -> DatagramSock:
        """Open a UDP socket of the current thread.

        Parameters
        ----------
        local : (host, port), optional
            Where it receives; numeric, port 0 for any free one. None: any port, for a socket that sends first.
        remote : (host, port), optional
            Connect it: it receives from there only, and `DatagramSock.send` needs no address.
        on_batch : callable, optional
            See `DatagramSock.on_batch`. Without any, nothing is received until there is a handler.
        batch : int, default 64
            The most datagrams that are received at once.
        datagram_bytes : int, default 2048
            Room for each of them. A longer one is cut off there, and counted. ``batch * datagram_bytes`` is the memory
            of a socket that has received.
        reuse_port : bool, default False
            ``SO_REUSEPORT``: several sockets have one port, among which the kernel spreads the senders; those of a
            multicast group get everything each.
        receive_buffer_bytes : int, optional
            ``SO_RCVBUF``: what waits in the kernel meanwhile, which has a limit of its own for it.

        Returns
        -------
        DatagramSock
            `DatagramSock.sockname` tells the port, `DatagramSock.close` ends it.

        Raises
        ------
        OSError
            What the kernel says, or an address is not numeric: names are not resolved.
        SockLimitError
            When the thread has `max_socks` sockets.
        NoThreadError
            When no SpdkThread is current.
        """
        for what, value, most in (("batch", batch, 1024), ("datagram_bytes", datagram_bytes, 65536)):
            if isinstance(value, bool) or not isinstance(value, int):
                raise TypeError(f"{what} must be an int, got {type(value).__name__}")
            if not 1 <= value <= most:
                raise ValueError(f"{what} must be from 1 to {most}, got {value}")
        if on_batch is not None and not callable(on_batch):
            raise TypeError(f"on_batch must be callable, got {type(on_batch).__name__}")
        flags = socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
        found = {}
        for what, address in (("local", local), ("remote", remote)):
            if address is not None:
                host, port = numeric(what, address)
                found[what] = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM, flags=flags)[0]
        family = next((one[0] for one in found.values()), socket.AF_INET)
        with self._here() as channel:
            with socket.socket(family, socket.SOCK_DGRAM) as made:
                made.setblocking(False)
                if reuse_port:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                if receive_buffer_bytes is not None:
                    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer_bytes)
                if local is not None:
                    made.bind(found["local"][4])
                if remote is not None:
                    made.connect(found["remote"][4])
                return open_datagram_sock(self, channel.ctx, made, on_batch, batch, datagram_bytes, remote is not None)

    def close_all(self) -> Future[int]:
        """Abort every socket of the group on every thread, listeners included.

        Returns
        -------
        concurrent.futures.Future
            Resolves when all threads have been visited.
        """

        def visit(iteration):
            for sock in iteration.channel.ctx.sockets:
                sock.abort()

        return self.for_each_channel(visit)

    def _here(self):
        if get_thread() is None:
            raise NoThreadError(f"{self!r}: a socket belongs to an SpdkThread, and none is current on this OS thread")
        return self.get_io_channel()

    def _set_options(self, made):
        if made.family != socket.AF_UNIX:
            if self.no_delay:
                made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            if self.keep_alive:
                made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def _set_accepted_options(self, fd):
        made = socket.socket(fileno=fd)
        try:
            self._set_options(made)
        finally:
            made.detach()

    def _log_once(self, kind, text, *args):
        """The first of a kind: a peer must not be able to fill the log."""
        if kind not in self._logged:
            self._logged.add(kind)
            logger.warning(text + "; further ones are not logged", *args)


def numeric(what, address):
    """Host and port of an address for `SockGroup.open_datagram`."""
    if not isinstance(address, tuple) or len(address) < 2:
        raise TypeError(f"{what} must be a tuple (host, port), got {address!r}")
    return address[:2]


def resolve(thread, sock, address):
    """On an OS thread of its own: resolve names and tell `thread`."""
    try:
        found, error = socket.getaddrinfo(*address[:2], type=socket.SOCK_STREAM), None
    except OSError as failure:
        found, error = None, failure
    except Exception as failure:
        found, error = None, OSError(errno.EINVAL, str(failure))
    thread._send_library_msg(sock._resolved, found, error)


def remove_stale(path):
    """Remove the socket file of a listener that is gone."""
    try:
        if not stat.S_ISSOCK(os.stat(path).st_mode):
            return
    except OSError:
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        if probe.connect_ex(path) == errno.ECONNREFUSED:
            os.unlink(path)
