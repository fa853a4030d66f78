"""Server: JSON-RPC 2.0 on a unix or TCP socket, served by one OS thread that sleeps while no client wants anything."""

import atexit
import contextlib
import errno
import fcntl
import heapq
import inspect
import itertools
import json
import logging
import os
import selectors
import socket
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from spdkthread.core_claims import CoreClaims
from spdkthread.error_log import describe
from spdkthread.errors import SpdkThreadError
from spdkthread.forks import ReentrantLock
from spdkthread.governor import Governor
from spdkthread.lib import ThreadLib, default_lib
from spdkthread.reactor_registry import available_cores
from spdkthread.rpc.address import Address, is_loopback, read_address
from spdkthread.rpc.errors import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
    WRONG_STATE,
    RpcError,
    SocketInUseError,
    invalid_params,
)
from spdkthread.rpc.framing import (
    MAX_REQUEST_BYTES,
    MAX_VALUES,
    JsonObject,
    MalformedError,
    Splitter,
    count_values,
    parse,
)
from spdkthread.rpc.gather import Gatherer
from spdkthread.weak_registry import WeakRegistry

__all__ = ["DEFAULT_PATH", "Server"]

logger = logging.getLogger("spdkthread.rpc")

DEFAULT_PATH = "/var/tmp/spdk.sock"
MAX_CONNECTIONS = 64
BACKLOG = 512
MAX_RESPONSE_BYTES = 32 * 1024 * 1024
# A client that asks without reading its answers is not read from while so much waits for it.
MAX_UNSENT_BYTES = 1024 * 1024
MAX_UNANSWERED = 1024
# Seconds that a stop waits for clients to take what they were answered.
FLUSH_S = 0.5

_Fn = TypeVar("_Fn", bound=Callable[..., Any])

_servers = WeakRegistry()


class Method(NamedTuple):
    """One method: ``run(server, params)`` returns the result, or a Future of it."""

    name: str
    run: Callable[["Server", Any], Any]
    at_startup: bool = False
    """Whether it may be called before the framework is initialized."""
    at_runtime: bool = True
    """Whether it may be called afterwards."""


class Server:
    """Shows and changes the threads, pollers, channels and reactors of a library, to SPDK's tools and to one's own.

    Parameters
    ----------
    path : str or None, default "/var/tmp/spdk.sock"
        Of the unix socket, at most 107 bytes. Beside it lies ``path + ".lock"`` while the server runs. Both can be
        used by the process's user only. ``"127.0.0.1:5260"`` or ``"[::1]:5260"`` is TCP instead: every process of the
        machine can then call every method, and with another host every machine that reaches it; port 0 takes a free
        one. None: no socket; `call` is the only client.
    lib : ThreadLib, optional
        What it shows; by default the library of the process.
    allowed : iterable of str, optional
        The methods that may be called. None: all of them.
    wait_for_rpc : bool, default False
        Begin in the start-up state: methods that show a running framework are refused until ``framework_start_init``
        is called, and those that set options are not.

    Raises
    ------
    TypeError, ValueError
        For a bad argument.

    Notes
    -----
    It has an OS thread of its own, which sleeps while no client asks. That thread asks SpdkThreads by messages and
    reactors between two of their turns, so that each answers for itself; one that does not answer within 250 ms is
    read from outside instead. Up to 64 clients are served at once; the next ones wait to be accepted.

    **Thread safety:** every method from any OS thread. Answers to ``spdk_rpc_initialize``.

    Examples
    --------
    >>> server = Server("/tmp/mine.sock")
    >>> @server.method("add")
    ... def add(a, b):
    ...     return a + b
    """

    def __init__(
        self,
        path: str | os.PathLike[str] | None = DEFAULT_PATH,
        *,
        lib: ThreadLib | None = None,
        allowed: Iterable[str] | None = None,
        wait_for_rpc: bool = False,
    ):
        if lib is not None and not isinstance(lib, ThreadLib):
            raise TypeError(f"lib must be a ThreadLib or None, got {type(lib).__name__}")
        self._address = None if path is None else read_address(path)
        if isinstance(allowed, str):
            raise TypeError("allowed must be names of methods, got one string")
        self.lib = default_lib() if lib is None else lib
        self.allowed = None if allowed is None else frozenset(allowed)
        self.startup = Startup() if wait_for_rpc else None
        self.governor: Governor | None = None
        self.core_claims: CoreClaims | None = None
        self.sock_options: dict[str, Any] = {}
        self._methods: dict[str, Method] = {}
        self._aliases: dict[str, str] = {}
        self._warned_aliases: set[str] = set()
        self._lock = ReentrantLock()
        self._loop: _Loop | None = None
        for table in _tables:
            for method in table.methods:
                self._methods[method.name] = method
            self._aliases.update(table.aliases)
        _servers.add(self)

    def __repr__(self) -> str:
        where = "without a socket" if self.path is None else f"at {self.path!r}"
        state = "stopped" if not self.is_running else "running" if self.startup is None else "waiting to be initialized"
        return f"<Server {where}, {state}>"

    @property
    def path(self) -> str | None:
        """The unix socket's path, ``"host:port"`` of a TCP one, or None."""
        return None if self._address is None else str(self._address)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.stop()

    @property
    def is_running(self) -> bool:
        """Whether clients can connect."""
        return self._loop is not None

    def start(self) -> Self:
        """Open the socket and serve it. Returns the server.

        Raises
        ------
        SocketInUseError
            When another server has the path. What a server that is gone has left there is removed.
        SpdkThreadError
            When it runs already.
        OSError
            When the socket cannot be made.
        """
        with self._lock:
            if self._loop is not None:
                raise SpdkThreadError(f"{self!r} runs already")
            loop = _Loop(self)
            loop.start()
            self._loop = loop
        return self

    def stop(self) -> None:
        """Close the socket and every connection. A second call does nothing.

        Called from a method of its own, it returns at once and the server ends after that method.
        """
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is not None:
            loop.stop()

    def method(self, name: str) -> Callable[[_Fn], _Fn]:
        """Decorator: answer `name` with what the function returns.

        The members of the request's params become its keyword arguments, the elements of an array its positional
        ones. It runs on the server's OS thread and must not block; it may return a ``concurrent.futures.Future``, for
        instance that of ``thread.call``, whose result is then the answer. `RpcError` raised in it is answered as it
        is, any other exception with -32603 and its text.

        Raises
        ------
        ValueError
            When there is a method of that name.
        """
        if not isinstance(name, str) or not name:
            raise TypeError(f"a method's name must be a str and not empty, got {name!r}")
        if name in self._methods:
            raise ValueError(f"{self!r} has a method {name!r} already")

        def add(fn: _Fn) -> _Fn:
            self._methods[name] = Method(name, _with_arguments(name, fn))
            return fn

        return add

    def call(self, name: str, params: Any = None, *, timeout_s: float | None = None) -> Any:
        """Call a method as a client would, from this process.

        Parameters
        ----------
        name : str
        params : dict or list, optional
        timeout_s : float, optional
            Seconds to wait for the result; None: for ever.

        Returns
        -------
        object
            The result.

        Raises
        ------
        RpcError
            What a client would be answered.
        TimeoutError
            When it is not there within `timeout_s`.
        SpdkThreadError
            When the server does not run, or on its own OS thread, which has to run the method.

        Notes
        -----
        **Thread safety:** any OS thread but the server's own.
        """
        loop = self._loop
        if loop is None:
            raise SpdkThreadError(f"{self!r} does not run: start() it first")
        if loop.is_here():
            raise SpdkThreadError(f"a method of {self!r} waits for its own OS thread: return a Future instead")
        outcome: Future = Future()

        def begin() -> None:
            try:
                result = self._run(name, params)
            except BaseException as error:
                outcome.set_exception(error)
                return
            if isinstance(result, Future):
                result.add_done_callback(lambda done: _copy_outcome(done, outcome))
            else:
                outcome.set_result(result)

        loop.post(begin)
        return outcome.result(timeout_s)

    def method_names(self, *, current_only: bool = False, include_aliases: bool = False) -> list[str]:
        """The methods that may be called, the latest first.

        Parameters
        ----------
        current_only : bool
            Leave out those that are refused in the present state.
        include_aliases : bool
            Add the older names under which SPDK's methods still answer.
        """
        starting = self.startup is not None
        shown = {
            method.name
            for method in self._methods.values()
            if self._may_call(method.name)
            and not (current_only and not (method.at_startup if starting else method.at_runtime))
        }
        names = [name for name in reversed(list(self._methods)) if name in shown]
        if include_aliases:
            names += [alias for alias, name in self._aliases.items() if name in shown]
        return names

    def is_startup_method(self, name: str) -> bool:
        """Whether the method, or what an alias means, may be called in the start-up state."""
        method = self._methods.get(self._aliases.get(name, name))
        return method is not None and method.at_startup

    def _may_call(self, name: str) -> bool:
        return self.allowed is None or name in self.allowed

    def _run(self, name: str, params: Any) -> Any:
        if name not in self._methods and name in self._aliases:
            if name not in self._warned_aliases:
                self._warned_aliases.add(name)
                logger.warning("%r: %s is deprecated, use %s", self, name, self._aliases[name])
            name = self._aliases[name]
        method = self._methods.get(name)
        if method is None or not self._may_call(name):
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
        if self.startup is None and not method.at_runtime:
            raise RpcError(
                WRONG_STATE,
                "Method may only be called before framework is initialized. Use --wait-for-rpc command line parameter "
                "and then issue this RPC before the framework_start_init RPC.",
            )
        if self.startup is not None and not method.at_startup:
            raise RpcError(
                WRONG_STATE, "Method may only be called after framework is initialized using framework_start_init RPC."
            )
        return method.run(self, params)

    @property
    def _running(self) -> "_Loop":
        """For methods, which run on the loop."""
        loop = self._loop
        if loop is None:
            raise RpcError(INTERNAL_ERROR, "The server is being stopped")
        return loop

    def _close_in_child(self) -> None:
        """In the child of a fork: the socket is the parent's."""
        loop, self._loop = self._loop, None
        if loop is not None:
            loop.close_in_child()


def _with_arguments(name: str, fn: Callable[..., Any]) -> Callable[[Server, Any], Any]:
    signature = inspect.signature(fn)

    def run(server: Server, params: Any) -> Any:
        positional, named = (params, {}) if isinstance(params, list) else ([], params or {})
        if getattr(named, "repeated", False):
            raise invalid_params("Invalid parameters: a name came twice")
        try:
            signature.bind(*positional, **named)
        except TypeError as error:
            raise invalid_params(f"Invalid parameters: {name}: {error}") from None
        return fn(*positional, **named)

    return run


class Startup:
    """The start-up state of a server: what its clients have set, and the calls that wait for its end.

    Notes
    -----
    **Thread safety:** the server's OS thread, but for `initialize`, which is set before the server starts.
    """

    def __init__(self) -> None:
        self.options: dict[str, dict[str, Any]] = {}
        """By method, the parameters that it was last called with."""
        self.initialize: Callable[[], Future | None] = lambda: None
        """Makes what the options ask for; a Future when that takes time."""
        self.initialized: Future = Future()
        self.begun = False


class Table(NamedTuple):
    """Methods that every server has."""

    methods: list[Method]
    aliases: dict[str, str]


_tables: list[Table] = []


def add_table(methods: list[Method], aliases: dict[str, str] | None = None) -> None:
    """Give every server made from now on these methods. For modules, while they are imported."""
    _tables.append(Table(methods, aliases or {}))


def _copy_outcome(done: Future, outcome: Future) -> None:
    error = done.exception()
    if error is not None:
        outcome.set_exception(error)
    else:
        outcome.set_result(done.result())


class _Loop:
    """The sockets of a server that runs, and the OS thread that serves them."""

    def __init__(self, server: Server):
        self.server = server
        self.pid = os.getpid()
        self.gatherer = Gatherer(server.lib, self.post)
        self.started_ns = time.perf_counter_ns()
        self.state: dict[str, Any] = {}
        self._selector = selectors.DefaultSelector()
        self._posted: deque[Callable[[], object]] = deque()
        self._timers: list[tuple[float, int, Callable[[], object]]] = []
        self._numbers = itertools.count()
        self._connections: set[_Connection] = set()
        self._accepting = False
        self._over = False
        self._path_identity: tuple[int, int] | None = None
        self._thread = threading.Thread(target=self._main, name="spdk_rpc", daemon=True)
        self._lock_fd = -1
        self._wake_in, self._wake_out = -1, -1
        self._listener: socket.socket | None = None
        try:
            if server._address is not None:
                self._listen(server._address)
            self._wake_in, self._wake_out = os.pipe()
            os.set_blocking(self._wake_in, False)
            os.set_blocking(self._wake_out, False)
            self._selector.register(self._wake_in, selectors.EVENT_READ, self._drain_wakes)
        except BaseException:
            self._close_sockets()
            raise

    def _listen(self, address: Address) -> None:
        if address.path is not None:
            self._lock_fd = _lock_path(address.path)
            with contextlib.suppress(FileNotFoundError):
                if not stat.S_ISSOCK(os.lstat(address.path).st_mode):
                    raise SocketInUseError(
                        f"{address.path!r} is there and no socket: remove it, or give the server another path"
                    )
                # The lock is ours, so no server serves it.
                os.unlink(address.path)
        self._listener = socket.socket(address.family, socket.SOCK_STREAM)
        self._listener.setblocking(False)
        if address.path is None:
            self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            self._listener.bind(address.sockaddr)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise SocketInUseError(f"{address} is in use: give this server another address") from None
            raise
        if address.path is not None:
            # Before it listens: no connection is made with any other permissions.
            os.chmod(address.path, 0o600)
            found = os.lstat(address.path)
            self._path_identity = found.st_dev, found.st_ino
        else:
            self.server._address = address.bound_to(self._listener.getsockname())
            if not is_loopback(address):
                logger.warning("%r: every process that reaches %s can call its methods", self.server, self.server.path)
        self._listener.listen(BACKLOG)
        self._accept_again()

    def is_here(self) -> bool:
        """Whether this is the server's OS thread."""
        return threading.current_thread() is self._thread

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._over = True
        self._wake()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def post(self, fn: Callable[[], object]) -> None:
        """Have ``fn()`` run on the server's OS thread. From any OS thread."""
        self._posted.append(fn)
        self._wake()

    def at(self, deadline: float, fn: Callable[[], object]) -> None:
        """Have ``fn()`` run at a ``time.monotonic()``. On the server's OS thread."""
        heapq.heappush(self._timers, (deadline, next(self._numbers), fn))

    def _wake(self) -> None:
        # A full pipe wakes as well, and a closed one has nothing to wake.
        with contextlib.suppress(OSError):
            os.write(self._wake_out, b"\0")

    def _drain_wakes(self, events: int) -> None:
        with contextlib.suppress(BlockingIOError):
            while os.read(self._wake_in, 4096):
                pass

    # The OS thread

    def _main(self) -> None:
        # The OS thread that started this one may be a reactor's, bound to its core.
        if hasattr(os, "sched_setaffinity"):
            with contextlib.suppress(OSError):
                os.sched_setaffinity(0, available_cores())
        try:
            while not self._over:
                self._turn()
            self._flush()
        except BaseException:
            logger.exception("%r ends", self.server)
            self.server._loop = None
        finally:
            for connection in list(self._connections):
                connection.close()
            self._close_sockets()
            self._posted.clear()
            self._timers.clear()

    def _turn(self) -> None:
        timeout_s = max(0.0, self._timers[0][0] - time.monotonic()) if self._timers else None
        for key, events in self._selector.select(0 if self._posted else timeout_s):
            key.data(events)
        for _ in range(len(self._posted)):
            self._posted.popleft()()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()

    def _flush(self) -> None:
        give_up = time.monotonic() + FLUSH_S
        while any(one.unsent for one in self._connections) and time.monotonic() < give_up:
            for key, events in self._selector.select(0.05):
                if events & selectors.EVENT_WRITE:
                    key.data(events & selectors.EVENT_WRITE)

    def _accept(self, events: int) -> None:
        assert self._listener is not None
        while len(self._connections) < MAX_CONNECTIONS:
            try:
                accepted, _ = self._listener.accept()
            except (BlockingIOError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptors, for instance: the client waits until some have been closed.
                logger.warning("%r cannot accept a client: %s", self.server, error)
                self._refuse_for_now()
                self.at(time.monotonic() + 1.0, self._accept_again)
                return
            accepted.setblocking(False)
            self._connections.add(_Connection(self, accepted))
        self._refuse_for_now()

    def _refuse_for_now(self) -> None:
        if self._accepting and self._listener is not None:
            self._accepting = False
            self._selector.unregister(self._listener)

    def _accept_again(self) -> None:
        if not self._accepting and self._listener is not None:
            self._accepting = True
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def forget(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        if not self._over:
            self._accept_again()

    def _close_sockets(self) -> None:
        path = None if self.server._address is None else self.server._address.path
        if self.pid == os.getpid() and path is not None and self._lock_fd >= 0:
            with contextlib.suppress(OSError):
                found = os.lstat(path)
                if (found.st_dev, found.st_ino) == self._path_identity:
                    os.unlink(path)
            with contextlib.suppress(OSError):
                os.unlink(path + ".lock")
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        self._selector.close()
        if self._listener is not None:
            self._listener.close()
        wakes, self._wake_in, self._wake_out = (self._wake_in, self._wake_out), -1, -1
        lock, self._lock_fd = self._lock_fd, -1
        for fd in (*wakes, lock):
            if fd >= 0:
                os.close(fd)

    def close_in_child(self) -> None:
        for connection in self._connections:
            connection.socket.close()
        self._close_descriptors()


class _Connection:
    """One client: what it has sent, what it has not been answered, what it has not taken."""

    def __init__(self, loop: _Loop, accepted: socket.socket):
        self.socket = accepted
        self.unsent = bytearray()
        self._loop = loop
        self._requests = Splitter()
        self._unanswered = 0
        self._termination = False  # nothing more is read: close when all is sent
        self._closed = False
        self._interest = selectors.EVENT_READ
        loop._selector.register(accepted, self._interest, self._ready)

    def _ready(self, events: int) -> None:
        if events & selectors.EVENT_WRITE:
            self._send()
        if events & selectors.EVENT_READ and not self._closed:
            self._receive()
        self._look_for()

    def _receive(self) -> None:
        try:
            data = self.socket.recv(1 << 16)
        except BlockingIOError:
            return
        except OSError:
            self.close()
            return
        if not data:
            # It may only have ended its own direction: what it has asked is answered.
            self._termination = True
            return
        self._requests.feed(data)
        self._serve()

    def _serve(self) -> None:
        """Start every request that is whole, as long as the client takes its answers."""
        while not self._closed and not self._termination and not self._held_back():
            try:
                text = self._requests.next()
                request = None if text is None else parse(text)
            except MalformedError:
                self._put(_error(None, PARSE_ERROR, "Parse error"))
                self._termination = True
                return
            if text is None:
                if len(self._requests) > MAX_REQUEST_BYTES:
                    logger.warning("%r: a request larger than %d bytes", self._loop.server, MAX_REQUEST_BYTES)
                    self.close()
                return
            if len(text) > MAX_REQUEST_BYTES:
                self.close()
                return
            self._take(request)

    def _held_back(self) -> bool:
        return len(self.unsent) > MAX_UNSENT_BYTES or self._unanswered >= MAX_UNANSWERED

    def _take(self, request: Any) -> None:
        if count_values(request) > MAX_VALUES:
            self._put(_error(None, INVALID_REQUEST, "Invalid request"))
        elif isinstance(request, list):
            _Batch(self, request)
        else:
            self._start(request, self._put)

    def _start(self, request: Any, put: Callable[[bytes | None], object]) -> None:
        """Run one request; ``put(text)`` takes its response, or None when there is to be none."""
        id = None
        try:
            id, name, params = _read_envelope(request)
            result = self._loop.server._run(name, params)
        except Exception as error:
            put(_failure(id, error))
            return
        if not isinstance(result, Future):
            put(_response(id, result))
            return
        self._unanswered += 1
        result.add_done_callback(lambda done: self._loop.post(lambda: self._finish(id, done, put)))

    def _finish(self, id: Any, done: Future, put: Callable[[bytes | None], object]) -> None:
        self._unanswered -= 1
        if self._closed:
            logger.debug("%r: a client went before it was answered", self._loop.server)
            return
        try:
            text = _response(id, done.result())
        except BaseException as error:
            text = _failure(id, error)
        put(text)
        self._serve()
        self._look_for()

    def _put(self, text: bytes | None) -> None:
        if text is not None and not self._closed:
            self.unsent += text
            self.unsent += b"\n"
            self._send()

    def _send(self) -> None:
        try:
            while self.unsent:
                del self.unsent[: self.socket.send(self.unsent[: 1 << 18])]
        except BlockingIOError:
            pass
        except OSError:
            # The client is gone.
            self.close()
            return
        if not self._held_back() and len(self._requests):
            self._loop.post(self._go_on)

    def _go_on(self) -> None:
        self._serve()
        self._look_for()

    def _look_for(self) -> None:
        """What the kernel is to tell of next."""
        if self._closed:
            return
        if self._termination and not self.unsent and not self._unanswered:
            self.close()
            return
        interest = selectors.EVENT_WRITE if self.unsent else 0
        if not self._termination and not self._held_back():
            interest |= selectors.EVENT_READ
        if interest == self._interest:
            return
        if not self._interest:
            self._loop._selector.register(self.socket, interest, self._ready)
        elif not interest:
            self._loop._selector.unregister(self.socket)
        else:
            self._loop._selector.modify(self.socket, interest, self._ready)
        self._interest = interest

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self._interest:
            self._loop._selector.unregister(self.socket)
            self._interest = 0
        self.socket.close()
        self.unsent.clear()
        self._loop.forget(self)


class _Batch:
    """An array of requests: one array of responses, in the order in which they were done."""

    def __init__(self, connection: _Connection, requests: list[Any]):
        self._connection = connection
        self._responses: list[bytes] = []
        self._missing = len(requests)
        if not requests:
            connection._put(_error(None, INVALID_REQUEST, "Invalid request"))
        for request in requests:
            connection._start(request, self._put)

    def _put(self, text: bytes | None) -> None:
        self._missing -= 1
        if text is not None:
            self._responses.append(text)
        if not self._missing and self._responses:
            self._connection._put(b"[" + b",".join(self._responses) + b"]")


def _read_envelope(request: Any) -> tuple[Any, str, Any]:
    """Id, method and params of a request; `RpcError` for what is none."""
    invalid = RpcError(INVALID_REQUEST, "Invalid request")
    if not isinstance(request, JsonObject) or request.repeated or not request.keys() <= _MEMBERS:
        raise invalid
    id = request.get("id")
    if isinstance(id, bool) or not isinstance(id, (str, int, float, type(None))):
        raise invalid
    method = request.get("method")
    params = request.get("params")
    if "jsonrpc" in request and request["jsonrpc"] != "2.0":
        raise _Identified(id, invalid)
    if not isinstance(method, str) or not isinstance(params, (dict, list, type(None))):
        raise _Identified(id, invalid)
    return id, method, params


_MEMBERS = {"jsonrpc", "id", "method", "params"}


class _Identified(Exception):
    """An error in a request whose id could be read."""

    def __init__(self, id: Any, error: RpcError):
        super().__init__(id, error)
        self.id = id
        self.error = error


def _response(id: Any, result: Any) -> bytes | None:
    if id is None:
        return None
    try:
        text = _dumps({"jsonrpc": "2.0", "id": id, "result": result})
    except (TypeError, ValueError, RecursionError) as error:
        logger.exception("a result that is not JSON")
        return _error(id, INTERNAL_ERROR, f"The result cannot be written as JSON: {error}")
    if len(text) > MAX_RESPONSE_BYTES:
        return _error(id, INTERNAL_ERROR, f"The result is larger than {MAX_RESPONSE_BYTES} bytes")
    return text


def _failure(id: Any, error: BaseException) -> bytes:
    if isinstance(error, _Identified):
        id, error = error.id, error.error
    if isinstance(error, RpcError):
        return _error(id, error.code, error.message)
    if not isinstance(error, SpdkThreadError):
        logger.error("a method failed", exc_info=error)
    return _error(id, INTERNAL_ERROR, str(error) or describe(type(error)))


def _error(id: Any, code: int, message: str) -> bytes:
    return _dumps({"jsonrpc": "2.0", "id": id, "error": {"code": int(code), "message": str(message)}})


def _dumps(value: Any) -> bytes:
    # ASCII, compact: one line.
    return json.dumps(value, separators=(",", ":"), allow_nan=False).replace("\x7f", "\\u007F").encode("ascii")


def _lock_path(path: str) -> int:
    """The descriptor of the lock file of a socket, locked.

    The server that ends unlinks the file while it has the lock; a process that opened it before has locked a file
    that no path leads to, and begins again.
    """
    lock = path + ".lock"
    while True:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | getattr(os, "O_NOFOLLOW", 0), 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(fd), os.lstat(lock)):
                    return fd
        except BlockingIOError:
            os.close(fd)
            raise SocketInUseError(
                f"the socket {path!r} is in use by another server: stop that, or give this one another path"
            ) from None
        except BaseException:
            os.close(fd)
            raise
        os.close(fd)


@atexit.register
def _stop_forgotten() -> None:
    """Interpreter exit: no socket is left behind that nothing serves."""
    for server in _servers.all():
        server.stop()


def _close_in_child() -> None:
    for server in _servers.all():
        server._close_in_child()


os.register_at_fork(after_in_child=_close_in_child)
