"""Schedulers: decisions are pure functions of a snapshot; a group applies them."""

import os
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import PATIENCE_S, eventually, noop

from spdkthread import get_reactor
from spdkthread.scheduler import (
    CoreLoad,
    DynamicScheduler,
    Move,
    Scheduler,
    Snapshot,
    StaticScheduler,
    ThreadLoad,
    make_scheduler,
)

CORES = sorted(os.sched_getaffinity(0))
FIRST, LAST = CORES[0], CORES[-1]


class World:
    """Cores that share their time fairly among the threads on them, and threads that want a part of a core."""

    def __init__(self, cores, wants, places=None, isolated=(), masks=None, bound=()):
        self.cores = tuple(CoreLoad(core, core in isolated) for core in range(cores))
        self.wants = dict(enumerate(wants, start=1))
        self.places = dict(enumerate(places or [index % cores for index in range(len(wants))], start=1))
        self.first = dict(self.places)
        self.masks = masks or {}
        self.bound = bound
        self.before = {}
        self.moves = []

    def loads(self):
        """What each thread gets: what it wants, or its share of a core that is too small for all."""
        loads = {}
        for core in self.cores:
            here = sorted((self.wants[id], id) for id, place in self.places.items() if place == core.core)
            room = 100.0
            while here:
                wanted, id = here.pop(0)
                loads[id] = min(wanted, room / (len(here) + 1))
                room -= loads[id]
        return loads

    def period(self, scheduler, selected=False):
        """One period: measure, decide, move."""
        loads = self.loads()
        threads = tuple(
            ThreadLoad(
                id,
                self.places[id],
                loads[id],
                self.before.get(id),
                self.masks.get(id),
                id in self.bound,
                self.first[id],
            )
            for id in sorted(self.places)
        )
        moves = list(scheduler.balance(Snapshot(self.cores, threads, selected)))
        for move in moves:
            self.places[move.thread_id] = move.core
        self.before = loads
        self.moves.append(moves)
        return self

    def settle(self, periods=6):
        scheduler = DynamicScheduler()
        for _ in range(periods):
            self.period(scheduler)
        return list(self.places.values())


def test_three_idle_threads_gather_on_core_0():
    assert World(3, [0, 0, 0]).settle(1) == [0, 0, 0]


def test_three_busy_threads_spread_over_three_cores():
    assert sorted(World(3, [100, 100, 100], places=[0, 0, 0]).settle(2)) == [0, 1, 2]
    assert World(3, [100, 100, 100]).settle(2) == [0, 1, 2], "they are apart already"


def test_90_and_90_and_a_new_10():
    """The two stay apart, and the new one goes where it takes nothing from them."""
    world = World(3, [90, 90], places=[0, 1])
    assert world.settle(2) == [0, 1]
    world.wants[3] = 10
    world.places[3] = world.first[3] = 0
    first, second, third = world.settle(3)
    assert (first, second) == (0, 1)
    assert third == 2
    assert world.moves[-1] == []


def test_90_and_90_and_a_new_10_on_two_cores():
    """There is no core for the third thread alone: the other two stay apart, and none moves back and forth."""
    world = World(2, [90, 90, 10], places=[0, 1, 0])
    first, second, _ = world.settle(4)
    assert {first, second} == {0, 1}
    assert world.moves[-1] == world.moves[-2] == []


@pytest.mark.parametrize("cores", [2, 3])
def test_a_thread_that_toggles_settles_within_two_periods_and_does_not_ping_pong(cores):
    world = World(cores, [100, 0], places=[0, 0])
    for number in range(20):
        world.wants[2] = 100 if number % 2 else 0
        world.period(DynamicScheduler())
    assert all(moves == [] for moves in world.moves[3:]), world.moves
    assert world.places[1] != world.places[2]


def test_when_load_ends_the_threads_gather_again():
    world = World(3, [100, 100, 100], places=[0, 0, 0])
    world.settle(2)
    for id in world.wants:
        world.wants[id] = 0
    assert world.settle(2) == [0, 0, 0]


def test_idle_threads_gather_only_as_far_as_the_main_core_carries_them():
    places = World(2, [15] * 10, places=[1] * 10).settle()
    assert places.count(0) == 5


def test_a_mask_is_always_respected():
    only_1, not_0 = frozenset([1]), frozenset([1, 2])
    assert World(3, [0, 0, 0], masks={1: only_1, 2: not_0}).settle() == [1, 1, 0]
    assert World(3, [100, 100, 100], places=[1, 1, 1], masks={1: only_1, 2: only_1}).settle()[:2] == [1, 1]


def test_bound_threads_stay():
    assert World(3, [0, 0, 0], places=[2, 1, 1], bound=[1]).settle() == [2, 0, 0]
    places = World(3, [100, 100, 100], places=[0, 0, 0], bound=[1, 2]).settle()
    assert places[:2] == [0, 0]
    assert places[2] != 0


def test_isolated_cores_are_never_touched():
    world = World(3, [0, 0, 100], places=[1, 2, 2], isolated=[2])
    assert world.settle() == [0, 2, 2]
    assert World(2, [100, 100], places=[0, 0], isolated=[1]).settle() == [0, 0]


def test_the_main_core_is_the_first_that_is_not_isolated():
    assert World(3, [0, 0], places=[1, 2], isolated=[0]).settle() == [1, 1]


def test_nothing_to_do_is_no_move():
    assert list(DynamicScheduler().balance(Snapshot((), ()))) == []
    assert World(1, [100, 0, 50], places=[0, 0, 0]).settle() == [0, 0, 0]


def test_the_static_scheduler_returns_threads_to_their_first_cores_when_selected():
    world = World(3, [100, 0, 0], places=[0, 1, 2])
    scheduler = StaticScheduler()
    world.places.update({1: 2, 3: 0})
    assert world.period(scheduler).moves[-1] == []
    assert set(world.period(scheduler, selected=True).moves[-1]) == {Move(1, 0), Move(3, 2)}


def test_the_static_scheduler_leaves_bound_masked_and_isolated_ones():
    scheduler = StaticScheduler()
    world = World(3, [0, 0, 0], places=[0, 0, 0], bound=[1], masks={2: frozenset([1])}, isolated=[2])
    world.places.update({1: 1, 2: 1, 3: 2})
    assert world.period(scheduler, selected=True).moves[-1] == []


@st.composite
def worlds(draw):
    cores = draw(st.integers(1, 5))
    count = draw(st.integers(0, 8))
    core = st.integers(0, cores - 1)
    return World(
        cores,
        draw(st.lists(st.sampled_from([0, 0.5, 5, 15, 30, 50, 90, 100]), min_size=count, max_size=count)),
        places=draw(st.lists(core, min_size=count, max_size=count)) or None,
        isolated=draw(st.sets(core)),
        masks=draw(st.dictionaries(st.integers(1, 8), st.frozensets(core, min_size=1))),
        bound=draw(st.sets(st.integers(1, 8))),
    )


@given(worlds())
def test_no_move_breaks_a_rule_and_a_steady_load_settles(world):
    isolated = {core.core for core in world.cores if core.isolated}
    before = dict(world.places)
    for _ in range(10):
        world.period(DynamicScheduler())
        for move in world.moves[-1]:
            assert move.thread_id not in world.bound
            assert move.core not in isolated
            assert before[move.thread_id] not in isolated
            assert move.core in world.masks.get(move.thread_id, {move.core})
        before = dict(world.places)
    assert world.moves[-1] == [], "a steady load settles"


def test_the_names_of_schedulers():
    assert isinstance(make_scheduler("static"), StaticScheduler)
    assert isinstance(make_scheduler("dynamic"), DynamicScheduler)
    with pytest.raises(ValueError, match="clever"):
        make_scheduler("clever")
    with pytest.raises(TypeError, match="balance"):
        make_scheduler(1)


# Live


class Recorder:
    """A scheduler of the user's own."""

    def __init__(self, *moves):
        self.snapshots = []
        self.moves = list(moves)

    def balance(self, snapshot):
        self.snapshots.append(snapshot)
        return self.moves


def where(thread):
    return thread.call(get_reactor).result(PATIENCE_S).core


def test_a_scheduler_of_ones_own_sees_loads_and_moves_threads(make_group):
    recorder = Recorder()
    assert isinstance(recorder, Scheduler)
    group = make_group([FIRST, LAST], scheduler=recorder).start()
    assert group.scheduler is recorder
    idle, busy = group.create_thread("idle"), group.create_thread("busy")
    poller = busy.register_poller(lambda: 1)
    group.balance()

    def measured():
        before = poller.run_count
        eventually(lambda: poller.run_count > before + 100)
        group.balance()
        loads = {thread.id: thread for thread in recorder.snapshots[-1].threads}
        return loads[busy.id].load > loads[idle.id].load + 1

    eventually(measured)
    recorder.moves.append(Move(idle.id, LAST))
    for future in group.balance():
        assert future.result(PATIENCE_S) is idle
    assert where(idle) == LAST
    recorder.moves.clear()
    poller.unregister()


def test_moves_that_a_group_does_not_make(make_group):
    recorder = Recorder()
    group = make_group([FIRST, LAST], scheduler=recorder, isolated=[LAST] if FIRST != LAST else []).start()
    bound, masked, free = group.create_thread(), group.create_thread(cpumask=[FIRST]), group.create_thread()
    bound.bind()
    assert bound.is_bound
    for thread in (bound, masked, free):
        recorder.moves.append(Move(thread.id, LAST))
    recorder.moves.append(Move(10**9, FIRST))
    for future in group.balance():
        future.result(PATIENCE_S)
    assert {where(thread) for thread in (bound, masked, free)} == {FIRST}


def test_a_scheduler_is_called_once_per_period(make_group):
    recorder = Recorder()
    make_group([FIRST], scheduler=recorder, period_us=2_000).start()
    eventually(lambda: len(recorder.snapshots) > 3)
    assert not any(snapshot.selected for snapshot in recorder.snapshots)


def test_a_scheduler_that_fails_is_logged_and_asked_again(make_group, caplog):
    class Failing(Recorder):
        def balance(self, snapshot):
            super().balance(snapshot)
            raise ZeroDivisionError

    failing = Failing()
    group = make_group([FIRST], scheduler=failing, period_us=2_000).start()
    eventually(lambda: len(failing.snapshots) > 2)
    group.stop()
    assert "ZeroDivisionError" in caplog.text


def test_dynamic_gathers_idle_threads_and_static_sends_them_home(make_group):
    group = make_group([FIRST, LAST], scheduler="dynamic").start()
    threads = [group.create_thread() for _ in range(4)]
    home = [where(thread) for thread in threads]

    def gathered():
        for future in group.balance():
            future.result(PATIENCE_S)
        return {where(thread) for thread in threads} == {FIRST}

    eventually(gathered)
    group.scheduler = "static"
    eventually(lambda: [where(thread) for thread in threads] == home)


def test_dynamic_spreads_busy_threads_over_the_cores(make_group):
    group = make_group([FIRST, LAST], scheduler="dynamic").start()
    threads = [group.create_thread(cpumask=[FIRST]) for _ in range(2)]
    pollers = [thread.register_poller(lambda: 1) for thread in threads]
    for thread in threads:
        thread.set_cpumask(None).result(PATIENCE_S)

    def spread():
        before = [poller.run_count for poller in pollers]
        eventually(lambda: all(poller.run_count > count + 200 for poller, count in zip(pollers, before, strict=True)))
        for future in group.balance():
            future.result(PATIENCE_S)
        return {where(thread) for thread in threads} == {FIRST, LAST}

    eventually(spread)
    for poller in pollers:
        poller.unregister()
    threads[0].call(noop).result(PATIENCE_S)


def test_threads_that_travel_all_the_time_lose_nothing(make_group):
    """A scheduler without sense, and messages in order all the same."""
    group = make_group([FIRST, LAST]).start()
    threads = [group.create_thread() for _ in range(3)]
    flip = Recorder()
    group.scheduler = flip
    seen = {thread: [] for thread in threads}
    for number in range(500):
        for thread in threads:
            thread.send_msg_wait(seen[thread].append, number)
        flip.moves = [Move(thread.id, CORES[number % len(CORES)]) for thread in threads]
        group.balance()
    for thread in threads:
        thread.call(noop).result(PATIENCE_S)
    assert all(numbers == list(range(500)) for numbers in seen.values())
    # One reactor is asked after the other, so a thread on its way may be missed by a snapshot.
    assert any(later.threads for _, later in pairwise(flip.snapshots))
