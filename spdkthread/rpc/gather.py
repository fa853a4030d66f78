"""The state of threads and reactors, each read by its own OS thread between two callbacks.

A reader sends one message to each thread and one call to each reactor, all at once, and goes on when the last answer
has come. What does not answer in time, because a callback holds it up or nothing polls it, is read from here instead:
the counters can be read anywhere, they are only not all of one moment then, and the snapshot says so.
"""

import itertools
import time
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from spdkthread.clock import ticks
from spdkthread.errors import SpdkThreadError
from spdkthread.lib import ThreadLib
from spdkthread.reactor import Reactor
from spdkthread.reactor_registry import all_reactors
from spdkthread.stats import ReactorStats, ThreadStats
from spdkthread.thread import SpdkThread

__all__ = ["ChannelView", "Gather", "Gatherer", "PollerView", "ReactorView", "ThreadView"]

PATIENCE_S = 0.25
"""How long a thread or reactor may take to answer, in seconds: long beside a healthy callback, short to a reader."""


class PollerView(NamedTuple):
    id: int
    name: str
    state: str
    run_count: int
    busy_count: int
    error_count: int
    overrun_count: int
    period_ticks: int


class ChannelView(NamedTuple):
    name: str
    ref_count: int


class ThreadView(NamedTuple):
    """One `SpdkThread`."""

    id: int
    name: str
    state: str
    cpumask: frozenset[int] | None
    stats: ThreadStats
    ring_size: int
    pending_msgs: int
    pollers: tuple[PollerView, ...]
    channels: tuple[ChannelView, ...]
    answered: bool
    """Read by its own OS thread, all at one moment."""


class ReactorView(NamedTuple):
    """One `Reactor`."""

    lcore: int
    """The core, or a number above every core's where that is another reactor's already."""
    name: str
    core: int
    state: str
    idle: str
    tid: int
    stats: ReactorStats
    threads: tuple[tuple[int, str, frozenset[int] | None, int], ...]
    """Id, name, cpumask and ticks since the thread came to this reactor."""
    running: str | None
    """The callback that runs, when it did not answer."""
    answered: bool


class Gather:
    """One reading under way: complete when the last answer is there or the time is over.

    An answer may come inside a signal handler or a destructor that interrupts another one, so there is no lock: each
    step is one operation of a list, and the reading is completed by the step that takes `done` out of its list.
    """

    def __init__(self, done: Callable[[], object]):
        self._missing: list[None] = [None]  # one for each answer, and the one that `close_list` takes out
        self._done = [done]
        self.deadline = time.monotonic() + PATIENCE_S

    def expect(self) -> None:
        self._missing.append(None)

    def arrived(self) -> None:
        self._missing.pop()
        if not self._missing:
            self.give_up()

    close_list = arrived

    def give_up(self) -> None:
        """Do with what is there."""
        try:
            done = self._done.pop()
        except IndexError:
            return
        done()


class _Probe:
    """A question that waits in the ring of a thread or at the loop of a reactor. Later readers join the one that
    waits: it has not been answered, so its answer is new enough for them, and a thread that does not run collects one
    message and not one for each reader.

    There is no lock, as in `Gather`. A reader is answered by what takes it out of the dict. One that comes late, when
    the answer may have emptied the dict already, takes itself out again.
    """

    def __init__(self, read: Callable[[bool], Any]):
        self._read: Callable[[bool], Any] | None = read
        self._serials = itertools.count()
        self._readers: dict[int, tuple[Gather, dict, Any]] = {}

    def join(self, gather: Gather, into: dict, key: Any) -> bool:
        """Wait for the answer. False: it is given already."""
        if self._read is None:
            return False
        gather.expect()
        serial = next(self._serials)
        self._readers[serial] = gather, into, key
        return self._read is not None or not self._take_back(serial)

    def answer(self) -> None:
        """On the OS thread of what was asked."""
        read, self._read = self._read, None
        if read is None:
            return
        readers = []
        while self._readers:
            try:
                readers.append(self._readers.popitem()[1])
            except KeyError:
                break  # it has just taken itself out
        try:
            view = read(True)
            for _, into, key in readers:
                into[key] = view
        finally:
            for gather, _, _ in readers:
                gather.arrived()

    def withdraw(self, gather: Gather) -> None:
        """There will be no answer."""
        for serial, reader in self._readers.copy().items():
            if reader[0] is gather:
                self._take_back(serial)

    def _take_back(self, serial: int) -> bool:
        reader = self._readers.pop(serial, None)
        if reader is not None:
            reader[0].arrived()
        return reader is not None


class Gatherer:
    """Reads the threads and the reactors of one library.

    Notes
    -----
    **Thread safety:** one OS thread, that of no reactor.
    """

    def __init__(self, lib: ThreadLib, post: Callable[[Callable[[], object]], object]):
        self.lib = lib
        # Hands a function to the reader's OS thread: what the last answer completes is not the answering thread's work.
        self._post = post
        self._thread_probes: dict[int, _Probe] = {}
        self._reactor_probes: dict[int, _Probe] = {}
        self._lcores: dict[int, int] = {}
        self._polls: dict[int, int] = {}
        self._came: dict[int, tuple[int, int]] = {}

    def reactors(self) -> list[Reactor]:
        """The reactors of the library that exist in this process, by core."""
        mine = [one for one in all_reactors() if one.lib is self.lib and one.state != "dead"]
        return sorted(mine, key=lambda one: (one.core, one.name))

    def threads(self, then: Callable[[list[ThreadView]], object]) -> Gather:
        """Have ``then(views)`` run on the reader's OS thread when the answers are there; views in creation order."""
        threads = self.lib.threads
        views: dict[int, ThreadView] = {}

        def finish() -> None:
            for thread in threads:
                if thread.id not in views:
                    views[thread.id] = _read_thread(thread, False)
            then([views[thread.id] for thread in threads if views[thread.id].state != "exited"])

        gather = Gather(lambda: self._post(finish))
        for gone in self._thread_probes.keys() - {thread.id for thread in threads}:
            del self._thread_probes[gone]
        for gone in self._polls.keys() - {thread.id for thread in threads}:
            del self._polls[gone]
        for thread in threads:
            if self._is_polled(thread):
                self._ask_thread(thread, gather, views)
        gather.close_list()
        return gather

    def reactor_views(self, then: Callable[[list[ReactorView]], object]) -> Gather:
        """Have ``then(views)`` run, as `threads` does; views by number."""
        reactors = self.reactors()
        lcores = self._number(reactors)
        views: dict[int, tuple] = {}

        def finish() -> None:
            for one in reactors:
                if id(one) not in views:
                    views[id(one)] = _read_reactor(one, False)
            made = sorted(self._view(lcores[id(one)], views[id(one)]) for one in reactors)
            there = {thread_id for view in made for thread_id, *_ in view.threads}
            self._came = {thread_id: came for thread_id, came in self._came.items() if thread_id in there}
            then(made)

        gather = Gather(lambda: self._post(finish))
        for key in self._reactor_probes.keys() - {id(one) for one in reactors}:
            del self._reactor_probes[key]
        for one in reactors:
            if one.state == "running" and one.tid is not None:
                self._ask_reactor(one, gather, views)
        gather.close_list()
        return gather

    def _ask_thread(self, thread: SpdkThread, gather: Gather, views: dict[int, ThreadView]) -> None:
        probe = self._thread_probes.get(thread.id)
        if probe is not None and probe.join(gather, views, thread.id):
            return
        probe = self._thread_probes[thread.id] = _Probe(lambda answered: _read_thread(thread, answered))
        probe.join(gather, views, thread.id)
        try:
            thread._send_library_msg(probe.answer)
        except SpdkThreadError:
            # It has exited meanwhile, or it takes nothing any more.
            probe.withdraw(gather)

    def _ask_reactor(self, reactor: Reactor, gather: Gather, views: dict[int, tuple]) -> None:
        key = id(reactor)
        probe = self._reactor_probes.get(key)
        if probe is not None and probe.join(gather, views, key):
            return
        probe = self._reactor_probes[key] = _Probe(lambda answered: _read_reactor(reactor, answered))
        probe.join(gather, views, key)
        reactor._call_on_loop(probe.answer)

    def _is_polled(self, thread: SpdkThread) -> bool:
        """Whether a message will be run soon. One in the ring of a thread that nothing polls would only be lost."""
        reactor = thread._placed_on()
        if reactor is not None:
            return reactor.state == "running" and reactor.tid is not None
        polls = thread.stats.polls
        before = self._polls.get(thread.id, 0)
        self._polls[thread.id] = polls
        return bool(thread._os_thread()) or polls != before  # type: ignore[attr-defined]

    def _number(self, reactors: Iterable[Reactor]) -> dict[int, int]:
        """Each reactor its own number: tools of SPDK's take two with one number for the same."""
        known = {id(one): self._lcores[id(one)] for one in reactors if id(one) in self._lcores}
        for one in reactors:
            if id(one) not in known:
                taken = set(known.values())
                number = one.core
                if number in taken:
                    number = max(1024, 1 + max(taken))
                known[id(one)] = number
        self._lcores = known
        return known

    def _view(self, lcore: int, view: tuple) -> ReactorView:
        now = ticks()
        threads = []
        for thread_id, name, cpumask, age in view[-3]:
            place, since = self._came.get(thread_id, (lcore, now - age))
            if place != lcore:
                since = now
            self._came[thread_id] = (lcore, since)
            threads.append((thread_id, name, cpumask, max(0, now - since)))
        return ReactorView._make((lcore, *view[:-3], tuple(threads), *view[-2:]))


def _read_thread(thread: SpdkThread, answered: bool) -> ThreadView:
    pollers = tuple(
        PollerView(
            one.id,
            one.name,
            one.state,
            one.run_count,
            one.busy_count,
            one.error_count,
            one.overrun_count,
            one.period_ticks,
        )
        for one in thread.pollers
    )
    channels = tuple(ChannelView(one.device.name, one.ref_count) for one in thread.io_channels)
    return ThreadView(
        thread.id,
        thread.name,
        thread.state,
        thread.cpumask,
        thread.stats,
        thread.ring_size,
        thread.pending_msgs,
        pollers,
        channels,
        answered,
    )


def _read_reactor(reactor: Reactor, answered: bool) -> tuple:
    threads = []
    for thread in reactor.threads:
        stats = thread.stats
        threads.append((thread.id, thread.name, thread.cpumask, stats.busy_ticks + stats.idle_ticks))
    state = reactor.state
    running = reactor._running_now() if not answered and state == "running" else None  # type: ignore[attr-defined]
    idle = reactor.idle if isinstance(reactor.idle, str) else type(reactor.idle).__name__
    return reactor.name, reactor.core, state, idle, reactor.tid or 0, reactor.stats, threads, running, answered
