import concurrent.futures
from collections.abc import Callable, Coroutine, Iterable
from types import TracebackType
from typing import Any, Literal, Protocol, Self, type_check_only

from spdkthread.lib import ThreadLib
from spdkthread.report import ShutdownReport
from spdkthread.stats import ContextSwitches, ReactorStats
from spdkthread.thread import SpdkThread

__all__ = ["Reactor", "get_reactor"]

@type_check_only
class IdleStrategy(Protocol):
    def idle(self, work_count: int, /) -> object: ...
    def reset(self) -> object: ...

class Reactor:
    def __init__(
        self,
        core: int | None = None,
        *,
        name: str | None = None,
        idle: Literal["adaptive", "poll", "yield"] | IdleStrategy = "adaptive",
        spin_us: float = 50,
        lib: ThreadLib | None = None,
        pin: bool = True,
        stall_ms: float | None = None,
    ) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def __aenter__(self) -> Coroutine[Any, Any, Self]: ...
    def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> Coroutine[Any, Any, None]: ...
    def start(self) -> Self: ...
    def run(self) -> ShutdownReport: ...
    def poll(self) -> int: ...
    def stop(self, timeout_s: float | None = None) -> ShutdownReport: ...
    def join(self, timeout_s: float | None = None) -> bool: ...
    def create_thread(
        self,
        name: str | None = None,
        *,
        cpumask: str | Iterable[int] | None = None,
        ring_size: int = 4096,
        poller_policy: Literal["one", "all"] = "one",
    ) -> SpdkThread: ...
    def add_thread(self, thread: SpdkThread) -> None: ...
    def move_thread(self, thread: SpdkThread, to: Reactor) -> concurrent.futures.Future[SpdkThread]: ...
    @property
    def lib(self) -> ThreadLib:
        """The library of its threads."""

    @property
    def core(self) -> int:
        """The core that it is for."""

    @property
    def name(self) -> str:
        """Its name, which its OS thread has as well."""

    @property
    def idle(self) -> str | IdleStrategy:
        """What it does in a turn without work, as it was given."""

    @property
    def spin_us(self) -> float:
        """How long it looks for work before it sleeps, in microseconds."""

    @property
    def pin(self) -> bool:
        """Whether its OS thread is bound to its core."""

    @property
    def threads(self) -> tuple[SpdkThread, ...]: ...
    @property
    def state(self) -> Literal["new", "running", "stopping", "stopped", "dead"]: ...
    @property
    def tid(self) -> int | None: ...
    def context_switches(self) -> ContextSwitches: ...
    @property
    def stats(self) -> ReactorStats: ...
    # For the modules around it.
    _group: Any
    def _stop_together(self, termination: Any) -> None: ...
    def _call_on_loop(self, fn: Callable[[], object]) -> None: ...
    def _serve_now(self) -> None: ...
    def _cores_before(self) -> frozenset[int]: ...
    def _abort(self) -> None: ...
    def _die(self) -> None: ...

def get_reactor() -> Reactor | None: ...
