"""An asyncio event loop on an SpdkThread."""

import asyncio
import selectors
from typing import Any

from spdkthread.call_later import Timer
from spdkthread.errors import WrongThreadError
from spdkthread.loop_core import LoopCore
from spdkthread.thread import SpdkThread

__all__ = ["EventLoop"]


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
        When a reactor polls `thread`.
    TypeError, ValueError
        For a bad argument.

    Notes
    -----
    **Thread safety:** as asyncio's loops: `call_soon_threadsafe` from any OS thread, everything else on the OS thread
    that runs the loop.

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
        if thread is not None:
            if not isinstance(thread, SpdkThread):
                raise TypeError(f"thread must be an SpdkThread or None, got {type(thread).__name__}")
            if thread._placed_on() is not None:
                raise WrongThreadError(f"{thread!r} is polled by {thread._placed_on()!r} and cannot drive a loop")
        if selector is None:
            selector = selectors.DefaultSelector()
        owned = thread is None
        driven = thread
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

    def run_forever(self) -> None:
        """Run until `stop`."""
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
        super().close()
        self._tear_down()

    # A pipe is needed only for signals: the interpreter writes their numbers into it.

    def _make_self_pipe(self) -> None:
        self._ssock = self._csock = None
        self._internal_fds += 1  # the wake-up bell

    def _close_self_pipe(self) -> None:
        if self._csock is not None:
            super()._close_self_pipe()  # type: ignore[misc]
        self._internal_fds -= 1

    def add_signal_handler(self, sig: int, callback: Any, *args: Any) -> None:  # type: ignore[override]
        """As ``asyncio.loop.add_signal_handler``."""
        if self._csock is None and not self.is_closed():
            super()._make_self_pipe()  # type: ignore[misc]
        super().add_signal_handler(sig, callback, *args)
