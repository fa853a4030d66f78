"""Schedulers: which thread belongs on which core, decided from a snapshot of the loads.

A scheduler is any object with ``balance(snapshot) -> iterable of Move``. It is called once per period and once when it
is selected (``snapshot.selected``), with nothing but the snapshot: the decisions here are pure functions of it.
"""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

__all__ = [
    "CoreLoad",
    "DynamicScheduler",
    "Move",
    "Scheduler",
    "Snapshot",
    "StaticScheduler",
    "ThreadLoad",
    "make_scheduler",
]


@dataclass(frozen=True)
class ThreadLoad:
    """One thread in a snapshot."""

    id: int
    core: int
    """Where it is now."""
    load: float
    """Percent of one core that it was busy in the last period."""
    previous_load: float | None = None
    """The same for the period before; None for a thread that was not there."""
    cpumask: frozenset[int] | None = None
    bound: bool = False
    first_core: int | None = None
    """Where it was placed when it was created."""


@dataclass(frozen=True)
class CoreLoad:
    """One reactor in a snapshot."""

    core: int
    isolated: bool = False
    """Threads neither leave it nor enter it."""


@dataclass(frozen=True)
class Snapshot:
    """The loads of one period."""

    cores: tuple[CoreLoad, ...]
    threads: tuple[ThreadLoad, ...]
    selected: bool = False
    """The scheduler has just been selected: this is its first round."""


@dataclass(frozen=True)
class Move:
    """Put a thread on another core."""

    thread_id: int
    core: int


@runtime_checkable
class Scheduler(Protocol):
    """What `ReactorGroup` asks of a scheduler."""

    def balance(self, snapshot: Snapshot) -> Iterable[Move]:
        """Decide from a snapshot. Called from one OS thread at a time."""
        ...


class StaticScheduler:
    """Leaves every thread where it is; returns them to their first cores when it is selected."""

    def balance(self, snapshot: Snapshot) -> list[Move]:
        if not snapshot.selected:
            return []
        isolated = {core.core for core in snapshot.cores if core.isolated}
        present = {core.core for core in snapshot.cores}
        return [
            Move(thread.id, thread.first_core)
            for thread in snapshot.threads
            if thread.first_core is not None
            and thread.first_core != thread.core
            and thread.first_core in present
            and not thread.bound
            and not {thread.core, thread.first_core} & isolated
            and (thread.cpumask is None or thread.first_core in thread.cpumask)
        ]


@dataclass(frozen=True)
class DynamicScheduler:
    """Gathers idle threads on the main core, so that the others can sleep, and spreads busy ones.

    A thread counts as busy when it was so in either of the last two periods: one that toggles stays where it is.

    Parameters
    ----------
    load_limit : float, default 20
        Percent of a core below which a thread counts as idle.
    core_limit : float, default 80
        Percent up to which a core is filled.
    core_busy : float, default 95
        Percent from which on a core counts as full: what its threads would use if they could is not known then, and
        each is taken to want an even share of as many cores as there are of them.
    negligible : float, default 1
        Percent below which an idle thread is gathered however full the main core is.
    """

    load_limit: float = 20.0
    core_limit: float = 80.0
    core_busy: float = 95.0
    negligible: float = 1.0

    def balance(self, snapshot: Snapshot) -> list[Move]:
        plan = _Plan(self, snapshot)
        for thread in plan.idle:
            plan.gather(thread)
        for thread in plan.active:
            plan.spread(thread)
        return plan.moves()


@dataclass
class _Plan:
    """One round of `DynamicScheduler`: where every thread goes, and how full that makes the cores."""

    limits: DynamicScheduler
    snapshot: Snapshot
    planned_core: dict[int, int] = field(default_factory=dict)
    demand: dict[int, float] = field(default_factory=dict)
    idle: list[ThreadLoad] = field(default_factory=list)
    active: list[ThreadLoad] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.cores = [core.core for core in self.snapshot.cores]
        self.free = [core.core for core in self.snapshot.cores if not core.isolated]
        self.main = self.free[0] if self.free else None
        self.planned_core = {thread.id: thread.core for thread in self.snapshot.threads}
        for thread in self.snapshot.threads:
            self.demand[thread.id] = max(thread.load, thread.previous_load or 0.0)
        self._estimate_crowded_cores()
        movable = [thread for thread in self.snapshot.threads if not thread.bound and thread.core in self.free]
        self.idle = [thread for thread in movable if self.demand[thread.id] < self.limits.load_limit]
        self.active = [thread for thread in movable if self.demand[thread.id] >= self.limits.load_limit]
        # The heaviest first: they are the hardest to planned_core. Ties in the order of creation.
        self.active.sort(key=lambda thread: (-self.demand[thread.id], thread.id))

    def _estimate_crowded_cores(self) -> None:
        for core in self.cores:
            here = [thread for thread in self.snapshot.threads if thread.core == core]
            if sum(thread.load for thread in here) < self.limits.core_busy:
                continue
            busy = [thread for thread in here if self.demand[thread.id] >= self.limits.load_limit]
            for thread in busy:
                self.demand[thread.id] = min(100.0, self.demand[thread.id] * len(busy))

    def allowed(self, thread: ThreadLoad) -> list[int]:
        """The cores on which a thread may be placed, lowest first."""
        return [core for core in self.free if thread.cpumask is None or core in thread.cpumask]

    def load(self, core: int, without: ThreadLoad | None = None) -> float:
        """How full a core is by the plan so far."""
        return sum(
            self.demand[thread.id]
            for thread in self.snapshot.threads
            if self.planned_core[thread.id] == core and thread is not without
        )

    def gather(self, thread: ThreadLoad) -> None:
        """An idle thread: to the main core, or the lowest one of its mask, where its load still fits."""
        allowed = self.allowed(thread)
        need = self.demand[thread.id]
        for core in allowed:
            others = self.load(core, without=thread)
            if need < self.limits.negligible or others == 0 or others + need <= self.limits.core_limit:
                self.planned_core[thread.id] = core
                return
        if allowed and self.planned_core[thread.id] not in allowed:
            self.planned_core[thread.id] = min(allowed, key=lambda core: (self.load(core), core))

    def spread(self, thread: ThreadLoad) -> None:
        """A busy thread: stays while its core is not overfull, else goes where it fits, else to the emptiest core."""
        here = self.planned_core[thread.id]
        need = self.demand[thread.id]
        allowed = self.allowed(thread)
        others_here = self.load(here, without=thread)
        if not allowed or (here in allowed and (others_here == 0 or others_here + need <= self.limits.core_limit)):
            return
        for core in allowed:
            if core == here:
                continue
            others = self.load(core)
            if others == 0 or others + need <= self.limits.core_limit:
                self.planned_core[thread.id] = core
                return
        emptiest = min(allowed, key=lambda core: (self.load(core, without=thread), core))
        # Only for a real gain: two cores that are about equally overfull would pass it back and forth.
        if here not in allowed or self.load(emptiest, without=thread) + self.limits.load_limit < others_here:
            self.planned_core[thread.id] = emptiest

    def moves(self) -> list[Move]:
        return [
            Move(thread.id, self.planned_core[thread.id])
            for thread in self.snapshot.threads
            if self.planned_core[thread.id] != thread.core
        ]


def make_scheduler(scheduler) -> Scheduler:
    """The scheduler that a name stands for, or the object itself.

    Raises
    ------
    ValueError
        For an unknown name.
    TypeError
        For an object without ``balance``.
    """
    if isinstance(scheduler, str):
        if scheduler == "static":
            return StaticScheduler()
        if scheduler == "dynamic":
            return DynamicScheduler()
        raise ValueError(f"scheduler must be 'static', 'dynamic' or an object with balance(), got {scheduler!r}")
    if not callable(getattr(scheduler, "balance", None)):
        raise TypeError(f"a scheduler must have balance(snapshot), got {type(scheduler).__name__}")
    return scheduler
