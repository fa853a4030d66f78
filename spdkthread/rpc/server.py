"""Server: JSON-RPC 2.0 on a unix socket, served by one OS thread that sleeps while no client wants anything."""

import atexit
import contextlib
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
import weakref
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import Future
from types import TracebackType
from typing import Any, NamedTuple, Self, TypeVar

from spdkthread.error_log import describe
from spdkthread.errors import SpdkThreadError
from spdkthread.lib import ThreadLib, default_lib
from spdkthread.reactor_registry import available_cores
from spdkthread.rpc.errors import (
    INTERNAL_ERROR,
    INVALID_REQUEST,
    METHOD_NOT_FOUND,
    PARSE_ERROR,
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

__all__ = ["DEFAULT_PATH", "Server"]

logger = logging.getLogger("spdkthread.rpc")

DEFAULT_PATH = "/var/tmp/spdk.sock"
MAX_CONNECTIONS = 64
BACKLOG = 512
MAX_PATH_BYTES = 107
MAX_RESPONSE_BYTES = 32 * 1024 * 1024
# A client that asks without reading its answers is not read from while so much waits for it.
MAX_UNSENT_BYTES = 1024 * 1024
MAX_UNANSWERED = 1024
# Seconds that a stop waits for clients to take what they were answered.
FLUSH_S = 0.5

_Fn = TypeVar("_Fn", bound=Callable[..., Any])

_servers: "weakref.WeakSet[Server]" = weakref.WeakSet()


class Method(NamedTuple):
    """One method: ``run(server, params)`` returns the result, or a Future of it."""

    name: str
    run: Callable[["Server", Any], Any]
    startup_only: bool = False


class Server:
    """Shows and changes the threads, pollers, channels and reactors of a library, to SPDK's tools and to one's own.

    Parameters
    ----------
    path : str, default "/var/tmp/spdk.sock"
        Of the unix socket, at most 107 bytes. Beside it lies ``path + ".lock"`` while the server runs. Both can be
        used by the process's user only.
    lib : ThreadLib, optional
        What it shows; by default the library of the process.
    allowed : iterable of str, optional
        The methods that may be called. None: all of them.

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

    def __init__(self, path: str = DEFAULT_PATH, *, lib: ThreadLib | None = None, allowed: Iterable[str] | None = None):
        if lib is not None and not isinstance(lib, ThreadLib):
            raise TypeError(f"lib must be a ThreadLib or None, got {type(lib).__name__}")
        self.path = os.path.abspath(os.fsdecode(os.fspath(path)))
        if len(os.fsencode(self.path)) > MAX_PATH_BYTES:
            raise ValueError(
                f"path must have at most {MAX_PATH_BYTES} bytes, which is what a unix socket's can, got {path!r}"
            )
        if isinstance(allowed, str):
            raise TypeError("allowed must be names of methods, got one string")
        self.lib = default_lib() if lib is None else lib
        self.allowed = None if allowed is None else frozenset(allowed)
        self._methods: dict[str, Method] = {}
        self._lock = threading.Lock()
        self._loop: _Loop | None = None
        from spdkthread.rpc import methods, own_methods

        for table in (methods.METHODS, own_methods.METHODS):
            for method in table:
                self._methods[method.name] = method
        _servers.add(self)

    def __repr__(self) -> str:
        return f"<Server at {self.path!r}, {'running' if self.is_running else 'stopped'}>"

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

    def method_names(self, *, current_only: bool = False) -> list[str]:
        """The methods that may be called, the latest first; with `current_only` those that now do something."""
        return [
            method.name
            for method in reversed(list(self._methods.values()))
            if self._may_call(method.name) and not (current_only and method.startup_only)
        ]

    def _may_call(self, name: str) -> bool:
        return self.allowed is None or name in self.allowed

    def _run(self, name: str, params: Any) -> Any:
        method = self._methods.get(name)
        if method is None or not self._may_call(name):
            raise RpcError(METHOD_NOT_FOUND, "Method not found")
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
        self._lock = threading.Lock()
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
        self._lock_fd = _lock_path(server.path)
        self._wake_in, self._wake_out = -1, -1
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self._listen(server.path)
            self._wake_in, self._wake_out = os.pipe()
            os.set_blocking(self._wake_in, False)
            os.set_blocking(self._wake_out, False)
            self._selector.register(self._wake_in, selectors.EVENT_READ, self._drain_wakes)
        except BaseException:
            self._close_sockets()
            raise

    def _listen(self, path: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            if not stat.S_ISSOCK(os.lstat(path).st_mode):
                raise SocketInUseError(f"{path!r} is there and no socket: remove it, or give the server another path")
            # The lock is ours, so no server serves it.
            os.unlink(path)
        self._listener.setblocking(False)
        self._listener.bind(path)
        # Before it listens: no connection is made with any other permissions.
        os.chmod(path, 0o600)
        found = os.lstat(path)
        self._path_identity = found.st_dev, found.st_ino
        self._listener.listen(BACKLOG)
        self._accept_again()

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
        if self._accepting:
            self._accepting = False
            self._selector.unregister(self._listener)

    def _accept_again(self) -> None:
        if not self._accepting:
            self._accepting = True
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def forget(self, connection: "_Connection") -> None:
        self._connections.discard(connection)
        if not self._over:
            self._accept_again()

    def _close_sockets(self) -> None:
        if self.pid == os.getpid() and self._path_identity is not None:
            with contextlib.suppress(OSError):
                found = os.lstat(self.server.path)
                if (found.st_dev, found.st_ino) == self._path_identity:
                    os.unlink(self.server.path)
            with contextlib.suppress(OSError):
                os.unlink(self.server.path + ".lock")
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        self._selector.close()
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

    The server that ends unlinks the file while it has the lock; who opened it before that has locked a file that no
    path leads to, and begins again.
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
    for server in list(_servers):
        server.stop()


def _close_in_child() -> None:
    for server in list(_servers):
        server._close_in_child()


os.register_at_fork(after_in_child=_close_in_child)
