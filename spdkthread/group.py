"""ReactorGroup: reactors on several cores, and where their threads go."""

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import TYPE_CHECKING, Literal, Self, TypedDict, Unpack

from spdkthread import late
from spdkthread.balancer import Balancer, note_failed_move
from spdkthread.checks import check_integer, check_number, check_timeout
from spdkthread.cores import parse_cores
from spdkthread.errors import ReactorError
from spdkthread.for_each_reactor import ReactorVisit
from spdkthread.forks import ReentrantLock
from spdkthread.lib import ThreadLib, default_lib
from spdkthread.placement import allowed_reactors, move_inside_mask
from spdkthread.reactor import Reactor
from spdkthread.reactor_registry import available_cores, refuse_missing
from spdkthread.report import ShutdownReport
from spdkthread.scheduler import CoreLoad, Scheduler, Snapshot, ThreadLoad, make_scheduler
from spdkthread.termination import Termination

if TYPE_CHECKING:
    from spdkthread.aio.executor import ThreadExecutor
    from spdkthread.reactor import IdleStrategy
    from spdkthread.thread import SpdkThread

__all__ = ["ReactorGroup"]

logger = logging.getLogger("spdkthread")


class _ThreadOptions(TypedDict, total=False):
    ring_size: int
    poller_policy: Literal["one", "all"]


class ReactorGroup:
    """One reactor on each of several cores.

    Parameters
    ----------
    cores : None, int, str or iterable of int
        None: every allowed core; an int: so many of them; ``"0-3,6"``; a mask ``"0x4f"``; or the core numbers.
    scheduler : {"static", "dynamic"} or object, default "static"
        Where threads go while they run. An object has ``balance(snapshot)``: see `spdkthread.scheduler`.
    period_us : float, default 1_000_000
        How often the scheduler looks. 0: never. The static one looks when it is selected, whatever the period.
    idle, lib, stall_ms
        As for `Reactor`.
    isolated : None, str or iterable of int
        Cores of the group that threads neither enter nor leave, unless they are created with a cpumask for them.

    Raises
    ------
    ReactorError
        For a core that this process may not use.
    TypeError, ValueError
        For anything that cannot be read.

    Notes
    -----
    **Thread safety:** every method from any OS thread. Answers to ``spdk_reactors_init``.
    """

    def __init__(
        self,
        cores: int | str | Iterable[int] | None = None,
        *,
        scheduler: 'Literal["static", "dynamic"] | Scheduler' = "static",
        period_us: float = 1_000_000,
        idle: 'Literal["adaptive", "poll", "yield"] | IdleStrategy' = "adaptive",
        lib: ThreadLib | None = None,
        stall_ms: float | None = None,
        isolated: str | Iterable[int] | None = None,
        spin_us: float = 50,
    ) -> None:
        if lib is not None and not isinstance(lib, ThreadLib):
            raise TypeError(f"lib must be a ThreadLib or None, got {type(lib).__name__}")
        if not 0 <= check_number("period_us", period_us, "microseconds") < 1e15:
            raise ValueError(f"period_us must not be negative, and below 1e15, got {period_us!r}")
        numbers = _core_numbers(cores)
        self.lib = default_lib() if lib is None else lib
        self.isolated = frozenset() if isolated is None else parse_cores(isolated)
        if not self.isolated <= set(numbers):
            raise ReactorError(f"isolated cores {sorted(self.isolated)} are not all among {numbers}")
        self.period_us = period_us
        self._scheduler = make_scheduler(scheduler)
        self._reactors = {
            core: Reactor(core, idle=idle, spin_us=spin_us, lib=self.lib, stall_ms=stall_ms) for core in numbers
        }
        for reactor in self._reactors.values():
            reactor._group = self
        self._lock = ReentrantLock()  # one round of the scheduler at a time
        self._turn = itertools.count()
        self._first_cores: dict[int, int] = {}
        self._loads: dict[int, tuple[int, int, float | None]] = {}
        self._balancer: Balancer | None = None

    def __repr__(self) -> str:
        return f"<ReactorGroup of cores {list(self._reactors)}>"

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *exc_info: object) -> None:
        report = self.stop()
        if not report.ok:
            logger.warning("%r stopped and left behind: %s", self, report)

    async def __aenter__(self) -> Self:
        """Under asyncio: start, without blocking its loop."""
        return await late.find("async_start")(self)

    async def __aexit__(self, *exc_info) -> None:
        """Under asyncio: stop, without blocking its loop."""
        await late.find("async_stop")(self)

    def __len__(self) -> int:
        return len(self._reactors)

    def __iter__(self) -> Iterator[Reactor]:
        return iter(self._reactors.values())

    def __getitem__(self, core: int) -> Reactor:
        try:
            return self._reactors[core]
        except KeyError:
            raise KeyError(f"core {core!r} is not one of {self!r}") from None

    # Lifecycle

    def start(self) -> Self:
        """Start every reactor; if one cannot be started, none is. Returns the group."""
        begun = []
        try:
            for reactor in self:
                reactor.start()
                begun.append(reactor)
        except BaseException:
            for reactor in begun:
                reactor.stop()
            raise
        self._balancer = Balancer(self)
        self._balancer.start()
        return self

    def stop(self, timeout_s: float | None = None) -> ShutdownReport:
        """Stop every reactor: refuse messages from outside, run what was accepted anywhere, then exit the threads.

        No thread exits before all have run what they accepted: what is under way between two of them arrives.
        Parameters, returns and safety as for `Reactor.stop`.
        """
        check_timeout(timeout_s)
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        if self._balancer is not None:
            self._balancer.stop()
        termination = Termination(self)
        for reactor in self:
            reactor._stop_together(termination)
        report = ShutdownReport()
        for reactor in self:
            left = None if give_up is None else max(0.0, give_up - time.monotonic())
            report += reactor.stop(left)
        return report

    def join(self, timeout_s: float | None = None) -> bool:
        """Wait until every reactor has ended. False: not within `timeout_s` seconds. As `Reactor.join`."""
        check_timeout(timeout_s)
        give_up = None if timeout_s is None else time.monotonic() + timeout_s
        return all(
            [reactor.join(None if give_up is None else max(0.0, give_up - time.monotonic())) for reactor in self]
        )

    # Threads

    def create_thread(
        self,
        name: str | None = None,
        *,
        cpumask: str | Iterable[int] | None = None,
        **kw: Unpack[_ThreadOptions],
    ) -> "SpdkThread":
        """Create an SpdkThread on the next core, round-robin, inside its cpumask.

        Raises
        ------
        ReactorError
            When the cpumask has no core of this group.
        TypeError, ValueError, SpdkThreadError
            As `ThreadLib.create_thread`.

        Notes
        -----
        Answers to ``spdk_thread_create`` with the event framework's placement.
        """
        mask = None if cpumask is None else parse_cores(cpumask)
        allowed = allowed_reactors(self.reactors, mask, self.isolated, f"thread {name!r}")
        chosen = allowed[next(self._turn) % len(allowed)]
        thread = chosen.create_thread(name, cpumask=mask, **kw)
        self._first_cores[thread.id] = chosen.core
        return thread

    def _place_again(self, thread, cpumask) -> Future:
        """Move a thread whose new cpumask forbids the core it is on."""
        return move_inside_mask(self, thread, cpumask)

    def executor(self) -> "ThreadExecutor":
        """A ``concurrent.futures.Executor`` that runs each call on the least loaded of the group's threads."""
        return late.find("executor")(lambda: tuple(thread for reactor in self for thread in reactor.threads))

    def for_each_reactor(self, fn: Callable[[], object], cpl: Callable[[], object] | None = None) -> Future[None]:
        """Run ``fn()`` on every reactor in the order of the cores, one after the other, between two of its turns.

        `get_reactor` says on which one it runs; there is no current SpdkThread.

        Parameters
        ----------
        fn : callable
        cpl : callable, optional
            Runs at the end: on the calling reactor, or on the first one when called from outside.

        Returns
        -------
        concurrent.futures.Future
            Resolves to None after `cpl`; to `ReactorError` when a reactor stops before its turn.

        Raises
        ------
        ReactorError
            When the group does not run.

        Notes
        -----
        Answers to ``spdk_for_each_reactor``.
        """
        if not callable(fn):
            raise TypeError(f"fn must be callable, got {type(fn).__name__}")
        if cpl is not None and not callable(cpl):
            raise TypeError(f"cpl must be callable or None, got {type(cpl).__name__}")
        if any(reactor.state != "running" for reactor in self):
            raise ReactorError(f"{self!r} does not run")
        visit = ReactorVisit(self, fn, cpl)
        future = visit.future
        visit.hop()
        return future

    # Scheduling

    @property
    def scheduler(self) -> Scheduler:
        """The scheduler. Setting one, by name or object, selects it: its first round runs at once."""
        return self._scheduler

    @scheduler.setter
    def scheduler(self, scheduler: 'Literal["static", "dynamic"] | Scheduler') -> None:
        self._scheduler = make_scheduler(scheduler)
        if self._balancer is not None:
            self._balancer.look_again()
        self.balance(selected=True)

    def snapshot(self, selected: bool = False) -> Snapshot:
        """The loads since the last snapshot, as the scheduler sees them."""
        now = time.perf_counter_ns()
        threads = []
        loads: dict[int, tuple[int, int, float | None]] = {}
        for reactor in self:
            for thread in reactor.threads:
                busy = thread.stats.busy_ticks
                then, before, previous = self._loads.get(thread.id, (now, busy, None))
                passed = now - then
                load = min(100.0, max(0.0, 100.0 * (busy - before) / passed)) if passed > 0 else 0.0
                loads[thread.id] = (now, busy, load)
                self._first_cores.setdefault(thread.id, reactor.core)
                threads.append(
                    ThreadLoad(
                        thread.id,
                        reactor.core,
                        load,
                        previous,
                        thread.cpumask,
                        thread.is_bound,
                        self._first_cores.get(thread.id),
                    )
                )
        self._loads = loads
        self._first_cores = {id: core for id, core in self._first_cores.items() if id in loads}
        cores = tuple(CoreLoad(reactor.core, reactor.core in self.isolated) for reactor in self)
        return Snapshot(cores, tuple(sorted(threads, key=lambda thread: thread.id)), selected)

    def balance(self, selected: bool = False) -> "list[Future[SpdkThread]]":
        """One round of the scheduler: a snapshot, its decision, the moves. Returns the futures of the moves."""
        with self._lock:
            moves = list(self._scheduler.balance(self.snapshot(selected)))
        futures = []
        for move in moves:
            thread = self.lib.get_thread_by_id(move.thread_id)
            source = None if thread is None else thread._placed_on()
            if thread is None or source is None or thread.is_bound or {source.core, move.core} & self.isolated:
                continue
            if thread.cpumask is not None and move.core not in thread.cpumask:
                continue
            try:
                future = source.move_thread(thread, self[move.core])
                future.add_done_callback(note_failed_move)
                futures.append(future)
            except ReactorError:
                # It has moved, exited or been stopped since the snapshot.
                logger.debug("%r was not moved to core %d", thread, move.core)
        return futures

    @property
    def reactors(self) -> tuple[Reactor, ...]:
        """The reactors in the order of their cores."""
        return tuple(self._reactors.values())


def _core_numbers(cores) -> list[int]:
    allowed = sorted(available_cores())
    if cores is None:
        return allowed
    if not isinstance(cores, str) and not hasattr(type(cores), "__iter__"):
        cores = check_integer("cores, when it is no string and no iterable,", cores)
        if cores < 1:
            raise ValueError(f"a group needs at least one core, got {cores}")
        if cores > len(allowed):
            raise ReactorError(f"{cores} cores are not available; this process may use {allowed}")
        return allowed[:cores]
    numbers = sorted(parse_cores(cores))
    refuse_missing(numbers, allowed)
    return numbers
