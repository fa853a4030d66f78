"""An asyncio event loop on an SpdkThread."""

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

from spdkthread.aio.executor import ThreadExecutor
from spdkthread.aio.loop_core import LoopCore
from spdkthread.aio.transport_datagram import DatagramTransport
from spdkthread.aio.transport_pipe import ReadPipeTransport, WritePipeTransport
from spdkthread.aio.transport_server import Listener
from spdkthread.aio.transport_stream import StreamTransport
from spdkthread.aio.transport_tls import TlsProtocol, start_tls
from spdkthread.call_later import Timer
from spdkthread.errors import NestedLoopError
from spdkthread.thread import SpdkThread

__all__ = ["EventLoop", "new_event_loop", "run"]

_T = TypeVar("_T")


class EventLoop(LoopCore, asyncio.SelectorEventLoop):  # type: ignore[misc]
    """asyncio's selector loop, driven by an SpdkThread.

    Transports, subprocesses, signals, executors, debug mode and everything else are the standard library's own. The
    thread's message ring stands in for the self-pipe, its timer queue for the heap, and a reactor's idle strategy for
    the selector's wait. Messages and pollers of the thread, and coroutines spawned on it, run between the callbacks;
    in a callback it is the current SpdkThread.

    Parameters
    ----------
    thread : SpdkThread, optional
        One that no reactor polls. By default the loop makes its own, which exits when the loop is closed.
    selector : selectors.BaseSelector, optional
        By default the best one of the system.
    idle : {"adaptive", "poll", "yield"}, default "adaptive"
        As for a `Reactor`.
    spin_us : float, default 50
        How long ``"adaptive"`` looks for work before it sleeps.

    Raises
    ------
    WrongThreadError
        When a reactor polls `thread`, another loop has it, or it is being driven.
    ThreadExitedError
        When `thread` has exited.
    FdError
        When there is no file descriptor left.
    TypeError, ValueError
        For a bad argument.

    Notes
    -----
    **Thread safety:** as asyncio's loops: `call_soon_threadsafe` from any OS thread, everything else on the OS thread
    that runs the loop. `call_later` and `call_at` from another OS thread, and `cancel` of what they return, do no harm:
    they take effect in the loop's next turn.

    Every source of work has its turn, whatever the others do: see "What waits for what" in ``docs/asyncio.md``.

    Examples
    --------
    >>> asyncio.run(main(), loop_factory=EventLoop)  # doctest: +SKIP
    """

    def __init__(
        self,
        thread: SpdkThread | None = None,
        *,
        selector: selectors.BaseSelector | None = None,
        idle: str = "adaptive",
        spin_us: float = 50,
    ) -> None:
        if thread is not None and not isinstance(thread, SpdkThread):
            raise TypeError(f"thread must be an SpdkThread or None, got {type(thread).__name__}")
        if selector is None:
            selector = selectors.DefaultSelector()
        owned = thread is None
        driven = thread
        self._listeners: dict[Any, Listener] = {}
        try:
            if driven is None:
                driven = SpdkThread("asyncio")
            self._set_up(driven, owned, selector, idle, spin_us)
        except BaseException:
            selector.close()
            if owned and driven is not None:
                with driven:
                    driven.exit()
                    driven.poll()
            raise
        super().__init__(selector)

    @property
    def _nest_patched(self) -> bool:
        # What nest_asyncio looks for first. It would put its own turn and its own run_forever into this class, which
        # know nothing of the thread, its messages and its timers: a loop patched so would sleep through all of them.
        raise NestedLoopError(
            f"nest_asyncio cannot patch {self!r}: it replaces the turn of the loop, and with it the messages, pollers"
            " and timers of its SpdkThread. Await what is to run instead of calling run_until_complete in a callback,"
            " or use asyncio.SelectorEventLoop where a nested run cannot be helped"
        )

    def run_forever(self) -> None:
        """Run until `stop`.

        Raises
        ------
        RuntimeError
            When it is closed, it or another loop runs here already.
        LoopThreadError
            When its SpdkThread is driven by another OS thread, or this is a callback of it.
        LoopExitedError
            When its SpdkThread has exited.
        """
        self._check_closed()  # type: ignore[attr-defined]
        self._check_running()  # type: ignore[attr-defined]
        self._enter()
        try:
            super().run_forever()
        finally:
            self._leave()

    def call_later_native(self, delay: float, fn: Any, ctx: Any = None) -> Timer:
        """As `call_later`, with a native function ``void (*)(void *)`` that runs without the GIL.

        Parameters
        ----------
        delay : float
            Seconds, as everywhere in asyncio.
        fn, ctx
            As for `SpdkThread.send_native`.

        Returns
        -------
        Timer
            That of `SpdkThread.call_later_native`, on the loop's thread.

        Notes
        -----
        **Thread safety:** any OS thread, unlike `call_later`.
        """
        self._check_closed()  # type: ignore[attr-defined]
        return self.thread.call_later_native(delay * 1e6, fn, ctx)

    def close(self) -> None:
        """Close the loop, and have its own thread exit."""
        if self.is_running():
            raise RuntimeError("Cannot close a running event loop")
        if self.is_closed():
            return
        try:
            super().close()
        finally:
            self._listeners.clear()
            self._tear_down()

    def set_default_executor(self, executor: Any) -> None:
        """As ``asyncio.loop.set_default_executor``; a `ThreadExecutor` is taken as well.

        Parameters
        ----------
        executor : concurrent.futures.ThreadPoolExecutor or ThreadExecutor
            Closing the loop shuts it down.

        Raises
        ------
        TypeError
            For any other.

        Notes
        -----
        **Thread safety:** the OS thread that runs the loop.
        """
        if isinstance(executor, ThreadExecutor):
            self._default_executor = executor
        else:
            super().set_default_executor(executor)

    # Transports and servers: ours in the places of asyncio's.

    def _make_socket_transport(
        self, sock: Any, protocol: Any, waiter: Any = None, *, extra: Any = None, server: Any = None
    ) -> StreamTransport:
        return StreamTransport(self, sock, protocol, waiter, extra, server)

    def _make_ssl_transport(
        self,
        rawsock: Any,
        protocol: Any,
        sslcontext: Any,
        waiter: Any = None,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        extra: Any = None,
        server: Any = None,
        ssl_handshake_timeout: Any = None,
        ssl_shutdown_timeout: Any = None,
    ) -> Any:
        tls = TlsProtocol(
            self,
            protocol,
            sslcontext,
            waiter,
            server_side,
            server_hostname,
            ssl_handshake_timeout=ssl_handshake_timeout,
            ssl_shutdown_timeout=ssl_shutdown_timeout,
        )
        StreamTransport(self, rawsock, tls, None, extra, server)
        return tls._app_transport

    async def start_tls(
        self,
        transport: Any,
        protocol: Any,
        sslcontext: Any,
        *,
        server_side: bool = False,
        server_hostname: str | None = None,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> Any:
        """As ``asyncio.loop.start_tls``."""
        return await start_tls(
            self,
            transport,
            protocol,
            sslcontext,
            server_side,
            server_hostname,
            ssl_handshake_timeout,
            ssl_shutdown_timeout,
        )

    def _make_datagram_transport(
        self, sock: Any, protocol: Any, address: Any = None, waiter: Any = None, extra: Any = None
    ) -> DatagramTransport:
        return DatagramTransport(self, sock, protocol, address, waiter, extra)

    def _make_read_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
    ) -> ReadPipeTransport:
        return ReadPipeTransport(self, pipe, protocol, waiter, extra)

    def _make_write_pipe_transport(
        self, pipe: Any, protocol: Any, waiter: Any = None, extra: Any = None
    ) -> WritePipeTransport:
        return WritePipeTransport(self, pipe, protocol, waiter, extra)

    def _start_serving(
        self,
        protocol_factory: Any,
        sock: Any,
        sslcontext: Any = None,
        server: Any = None,
        backlog: int = 100,
        ssl_handshake_timeout: float | None = None,
        ssl_shutdown_timeout: float | None = None,
    ) -> None:
        self._check_closed()  # type: ignore[attr-defined]
        listener = Listener(
            self, protocol_factory, sock, sslcontext, server, backlog, ssl_handshake_timeout, ssl_shutdown_timeout
        )
        listener.start()
        self._listeners[sock] = listener

    def _stop_serving(self, sock: Any) -> None:
        listener = self._listeners.pop(sock, None)
        if listener is not None:
            listener.stop()
        super()._stop_serving(sock)  # type: ignore[misc]

    # A pipe is needed only for signals: the interpreter writes their numbers into it.

    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None
        self._internal_fds += 1  # the wake-up notify_fd

    def _close_self_pipe(self) -> None:
        if self._csock is not None:
            super()._close_self_pipe()  # type: ignore[misc]
        self._internal_fds -= 1

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:  # type: ignore[override]
        """As ``asyncio.loop.add_signal_handler``."""
        if self._csock is None and not self.is_closed():
            super()._make_self_pipe()  # type: ignore[misc]
        super().add_signal_handler(sig, callback, *args)


def new_event_loop() -> EventLoop:
    """An `EventLoop` with an SpdkThread of its own, for an API that takes a loop factory.

    Notes
    -----
    **Thread safety:** any OS thread. Answers to ``asyncio.new_event_loop``.
    """
    return EventLoop()


def run(main: Coroutine[Any, Any, _T], *, debug: bool | None = None) -> _T:
    """Run a coroutine on a fresh `EventLoop` and close the loop.

    Parameters
    ----------
    main : coroutine
    debug : bool, optional
        asyncio's debug mode. None: as the environment says.

    Returns
    -------
    object
        What the coroutine returns.

    Raises
    ------
    RuntimeError
        When a loop is running on this OS thread.
    ValueError
        When `main` is not a coroutine.

    Notes
    -----
    **Thread safety:** any OS thread without a running loop. Answers to ``asyncio.run``.
    """
    with asyncio.Runner(debug=debug, loop_factory=EventLoop) as runner:
        return runner.run(main)
