"""App: the frame of a program, from its start to its exit status."""

import inspect
import logging
import signal
import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

from spdkthread import trace
from spdkthread.app.config import load_config, replay
from spdkthread.app.options import AppOptions
from spdkthread.core_claims import CoreClaims
from spdkthread.error_log import describe
from spdkthread.errors import SpdkThreadError
from spdkthread.forks import ReentrantLock
from spdkthread.group import ReactorGroup
from spdkthread.iobuf import IoBufPool
from spdkthread.lib import ThreadLib
from spdkthread.report import ShutdownReport
from spdkthread.rpc.server import Server
from spdkthread.signal_safe_event import SignalSafeEvent
from spdkthread.thread import SpdkThread

__all__ = ["App", "current_app", "run"]

logger = logging.getLogger("spdkthread.app")

_current: "App | None" = None
_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def current_app() -> "App | None":
    """The application that `run` runs in this process. **Thread safety:** any OS thread."""
    return _current


class App:
    """A program that `run` runs.

    Attributes
    ----------
    options : AppOptions
    lib : ThreadLib
    server : rpc.Server
        Without a socket when no ``rpc`` was asked for: `Server.call` and `Server.method` work all the same.
    group : ReactorGroup
        Its reactors, once they run.
    app_thread : SpdkThread
        The thread on which ``main`` began, on the scheduling core.
    report : ShutdownReport or None
        What the end left behind.

    Notes
    -----
    **Thread safety:** every method from any OS thread.
    """

    group: ReactorGroup
    app_thread: SpdkThread

    def __init__(self, options: AppOptions) -> None:
        self.options = options
        self.lib = ThreadLib() if options.lib is None else options.lib
        self.server = Server(options.rpc, lib=self.lib, allowed=options.rpcs_allowed, wait_for_rpc=True)
        self.report: ShutdownReport | None = None
        self._status = 0
        self._stopping = SignalSafeEvent()
        self._wanted = SignalSafeEvent()
        self._interrupted = False
        self._main: Callable[[App], object] | None = None
        self._iobuf_pool: IoBufPool | None = None
        self._iobuf_options: dict[str, Any] = {}
        self._pool_lock = ReentrantLock()

    def __repr__(self) -> str:
        return f"<App {self.options.name!r}>"

    @property
    def iobuf_pool(self) -> IoBufPool:
        """The application's buffers, as ``iobuf_set_options`` asked for; made at the first use, closed at the end."""
        with self._pool_lock:
            if self._iobuf_pool is None:
                self._iobuf_pool = IoBufPool(**self._iobuf_options, lib=self.lib)
            return self._iobuf_pool

    def stop(self, status: int = 0) -> None:
        """End the application; `run` returns the first `status` that is not 0.

        A second call is logged, and its status counts if the first one's was 0.

        Notes
        -----
        **Thread safety:** any OS thread and signal handlers. Answers to ``spdk_app_stop``.
        """
        if self._stopping.is_set():
            logger.warning("%r is being stopped already: stop(%r)", self, status)
        self._status = self._status or status
        self._stopping.set()
        self._wanted.set()

    # The OS thread of run()

    def _run(self, main: Callable[["App"], object]) -> int:
        options = self.options
        self._main = main
        requests = [] if options.config is None else load_config(options.config)
        claims = None
        if options.trace is not None:
            trace.start()
        try:
            startup = self.server.startup
            assert startup is not None
            startup.initialize = self._when_asked
            self.server.start()
            replay(self.server, requests, startup=True)
            if options.wait_for_rpc:
                self._await_rpc()
            if not self._stopping.is_set():
                group = self._make_group(startup.options)
                if options.lock_cores:
                    claims = CoreClaims([one.core for one in group], directory=options.lock_directory)
                    self.server.core_claims = claims
                with self._pool_lock:
                    self._iobuf_options = startup.options.get("iobuf_set_options", {})
                self._run_group(group, requests, startup)
        finally:
            self._end(claims)
        return self._status

    def _when_asked(self) -> Future | None:
        """``framework_start_init`` has come; what it waits for is resolved when the reactors run."""
        self._asked: Future = Future()
        self._wanted.set()
        return self._asked

    def _await_rpc(self) -> None:
        logger.info("%r waits for framework_start_init at %s", self, self.server.path)
        self._wanted.wait()

    def _make_group(self, asked: dict[str, dict[str, Any]]) -> ReactorGroup:
        options, scheduler = self.options, asked.get("framework_set_scheduler", {})
        group = ReactorGroup(
            options.cores,
            scheduler=scheduler.get("scheduler", options.scheduler),
            period_us=scheduler.get("period") or options.period_us,
            idle=options.idle,
            isolated=asked.get("scheduler_set_options", {}).get("isolated"),
            lib=self.lib,
        )
        core = asked.get("scheduler_set_options", {}).get("scheduling_core")
        self._core = min(one.core for one in group) if core is None else core
        return group

    def _run_group(self, group: ReactorGroup, requests: list, startup: Any) -> None:
        with group:
            self.group = group
            self.app_thread = group.create_thread("app_thread", cpumask=[self._core])
            if self.options.wait_for_rpc:
                self._asked.set_result(None)
                startup.initialized.result()
            else:
                startup.initialize = lambda: None
                self.server.call("framework_start_init")
            replay(self.server, requests, startup=False)
            self.app_thread.call(self._begin).add_done_callback(self._begun)
            self._stopping.wait()
            self.server.stop()
            self.report = group.stop()
        if not self.report.ok:
            logger.warning("%r ended and left behind: %s", self, self.report)

    def _begin(self) -> None:
        assert self._main is not None
        outcome = self._main(self)
        if inspect.iscoroutine(outcome):
            self.app_thread.spawn(outcome).add_done_callback(self._begun)

    def _begun(self, done: Future) -> None:
        error = None if done.cancelled() else done.exception(0)
        if error is not None and not self._stopping.is_set():
            logger.error("%s of %r failed", describe(self._main), self, exc_info=error)
            self.stop(1)

    def _on_signal(self, number: int, frame: object) -> None:
        if self._interrupted and number == signal.SIGINT:
            raise KeyboardInterrupt
        self._interrupted = True
        shutdown, thread = self.options.shutdown, getattr(self, "app_thread", None)
        if shutdown is None or thread is None:
            if not self._stopping.is_set():
                self.stop(0)
            return
        try:
            thread.send_msg(shutdown, self)
        except SpdkThreadError:
            self.stop(0)

    def _end(self, claims: CoreClaims | None) -> None:
        self._stopping.set()
        self.server.stop()
        try:
            if self._iobuf_pool is not None:
                self._iobuf_pool.close()
            if self.options.lib is None:
                self.lib.close()
        except SpdkThreadError as error:
            logger.warning("%r: %s", self, error)
        finally:
            if claims is not None:
                claims.release()
            if self.options.trace is not None and trace.is_running():
                trace.stop().save(self.options.trace)


def run(main: Callable[[App], object], options: AppOptions | None = None, /, **changes: Any) -> int:
    """Run an application until it is stopped, and return its exit status.

    Starts the reactors, then ``main(app)`` on the app thread: a function, or a coroutine function, which is spawned
    there. When it returns the application goes on; ``app.stop()`` ends it, and so do SIGINT and SIGTERM. An exception
    that leaves it stops the application with status 1.

    Parameters
    ----------
    main : callable
    options : AppOptions, optional
    **changes
        Fields of `AppOptions` that take the place of those in `options`.

    Returns
    -------
    int
        The first status other than 0 of `App.stop`, or 0.

    Raises
    ------
    SpdkThreadError
        When an application runs in this process already.
    CoreInUseError
        When another program has claimed one of the cores.
    ConfigError
        When the configuration cannot be read, or one of its RPCs fails.
    ReactorError
        For a core that this process may not use.

    Notes
    -----
    Signals are handled when it is called on the main thread. It can be called again after it has returned.

    **Thread safety:** any OS thread but a reactor's. Answers to ``spdk_app_start`` and ``spdk_app_fini``.

    Examples
    --------
    >>> def main(app):
    ...     app.app_thread.register_poller(work, period_us=1000)
    >>> sys.exit(run(main, cores="0-1", rpc="/var/tmp/spdk.sock"))  # doctest: +SKIP
    """
    global _current
    if not callable(main):
        raise TypeError(f"main must be callable, got {type(main).__name__}")
    if _current is not None:
        raise SpdkThreadError(f"{_current!r} runs in this process already: one application at a time")
    app = App(replace(options if options is not None else AppOptions(), **changes))
    _current = app
    before = {}
    try:
        if threading.current_thread() is threading.main_thread():
            before = {number: signal.signal(number, app._on_signal) for number in _SIGNALS}
        return app._run(main)
    finally:
        for number, handler in before.items():
            if signal.getsignal(number) == app._on_signal:
                signal.signal(number, handler)
        _current = None
