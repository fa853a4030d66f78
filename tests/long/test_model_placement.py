"""Placement against a model: which reactor polls which thread, in any order of adding, moving, masking and exiting.

The reactors do not run; the test polls them, so that each step has one outcome. In the second machine they run, and
what the model says holds whenever the moves that were asked for have been made.
"""

import os

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from support import PATIENCE_S, finish

from spdkthread import Reactor, ReactorError, RingFullError, ThreadExitedError, ThreadLib, WrongThreadError, get_reactor
from spdkthread.testing import ManualClock

pytestmark = pytest.mark.state_machine

CORES = sorted(os.sched_getaffinity(0))
REACTORS = st.integers(0, 2)
NUMBERS = st.integers(0, 5)
MASKS = st.sampled_from([None, {0}, {1}, {0, 1}])
BATCH = 8


class ModelThread:
    def __init__(self, thread, place, mask, capacity):
        self.thread, self.place, self.mask, self.capacity = thread, place, mask, capacity
        self.waiting, self.ran, self.timers_run = [], [], 0
        self.state = "running"
        self.seen = []  # (message, reactor) as it really ran
        self.timer = None


def core_of(reactor):
    """Two reactors on the first core, the third one on the last."""
    return CORES[0] if reactor < 2 else CORES[-1]


def cores_of(mask):
    return None if mask is None else frozenset(CORES[0] if one == 0 else CORES[-1] for one in mask)


class Placement(RuleBasedStateMachine):
    """Reactors that the test polls."""

    def __init__(self):
        super().__init__()
        self.clock = ManualClock()
        self.lib = ThreadLib(clock=self.clock)
        self.reactors = [Reactor(core_of(n), idle="yield", lib=self.lib, pin=False) for n in range(3)]
        self.threads = []
        self.number = 0

    def pick(self, number):
        return self.threads[number % len(self.threads)]

    def fits(self, mask, place):
        return mask is None or core_of(place) in cores_of(mask)

    @initialize(capacity=st.sampled_from([1, 16]))
    def first(self, capacity):
        self.make(0, None, capacity)

    @rule(place=REACTORS, mask=MASKS, capacity=st.sampled_from([1, 4, 64]))
    def make(self, place, mask, capacity):
        if len(self.threads) >= 6:
            return
        options = {"cpumask": cores_of(mask), "ring_size": capacity}
        if not self.fits(mask, place):
            refused(ReactorError, self.reactors[place].create_thread, **options)
            return
        self.threads.append(ModelThread(self.reactors[place].create_thread(**options), place, mask, capacity))

    @rule(mask=MASKS)
    def make_on_none(self, mask):
        if len(self.threads) < 6:
            self.threads.append(ModelThread(self.lib.create_thread(cpumask=cores_of(mask), ring_size=8), None, mask, 8))

    @rule(number=NUMBERS, place=REACTORS)
    def add(self, number, place):
        one = self.pick(number)
        add = self.reactors[place].add_thread
        if not self.fits(one.mask, place) or one.place is not None:
            refused(ReactorError, add, one.thread)
        elif one.state == "exited":
            refused(ThreadExitedError, add, one.thread)
        else:
            add(one.thread)
            one.place = place

    @rule(number=NUMBERS, source=st.one_of(st.none(), REACTORS), to=REACTORS)
    def move(self, number, source, to):
        one = self.pick(number)
        if source is None:
            source = one.place if one.place is not None else 0
        move = self.reactors[source].move_thread
        if one.place != source or not self.fits(one.mask, to):
            refused(ReactorError, move, one.thread, self.reactors[to])
            return
        future = move(one.thread, self.reactors[to])
        if one.state == "exited" and to != source:
            assert isinstance(future.exception(0), (ThreadExitedError, ReactorError))
            return
        assert future.result(0) is one.thread
        one.place = to

    @rule(number=NUMBERS, mask=MASKS)
    def set_mask(self, number, mask):
        one = self.pick(number)
        if one.place is not None and not self.fits(mask, one.place):
            refused(ReactorError, one.thread.set_cpumask, cores_of(mask))
            return
        assert one.thread.set_cpumask(cores_of(mask)).result(0) is one.thread
        one.mask = mask

    @rule(number=NUMBERS, count=st.integers(1, 12))
    def send(self, number, count):
        one = self.pick(number)
        for _ in range(count):
            self.number += 1
            sent = (one.thread.send_msg, self.note, one, self.number)
            if one.state == "exited":
                refused(ThreadExitedError, *sent)
            elif len(one.waiting) >= one.capacity:
                refused(RingFullError, *sent)
            else:
                one.thread.send_msg(self.note, one, self.number)
                one.waiting.append(self.number)

    def note(self, one, number):
        reactor = get_reactor()
        one.seen.append((number, None if reactor is None else self.reactors.index(reactor)))

    @precondition(lambda self: any(len(one.waiting) < one.capacity for one in self.threads))
    @rule(number=NUMBERS)
    def exit(self, number):
        one = self.pick(number)
        if len(one.waiting) < one.capacity and one.state == "running":
            one.thread.exit()
            one.waiting.append("exit")
            one.state = "asked"

    @rule(number=NUMBERS, period_us=st.sampled_from([1, 3]))
    def register(self, number, period_us):
        """On the thread: at once. Where a reactor polls it, that is not for the test."""
        one = self.pick(number)
        if one.place is not None:
            refused(WrongThreadError, one.thread.__enter__)
        elif one.timer is None and one.state == "running":
            with one.thread:
                one.timer = one.thread.register_poller(lambda: self.note(one, "timer"), period_us)

    @rule(number=NUMBERS)
    def unregister(self, number):
        one = self.pick(number)
        if one.timer is not None and one.place is None:
            with one.thread:
                one.timer.unregister()
            one.timer = None

    def step(self, one):
        """What a poll of this thread does."""
        if one.state == "exited":
            return
        batch, one.waiting = one.waiting[:BATCH], one.waiting[BATCH:]
        for message in batch:
            if message == "exit":
                one.state = "exiting"
            else:
                one.ran.append((message, one.place))
        if one.timer is not None and one.timer_due <= self.clock.now:
            one.ran.append(("timer", one.place))
        if one.state == "exiting" and not one.waiting and one.timer is None:
            one.state = "exited"

    def look_at_timers(self):
        for one in self.threads:
            one.timer_due = one.thread.next_poller_expiration if one.timer is not None else None

    @rule(place=REACTORS, step=st.sampled_from([0, 500, 1000, 5000]))
    def poll_reactor(self, place, step):
        self.clock.advance(ticks=step)
        self.look_at_timers()
        for one in self.threads:
            if one.place == place:
                self.step(one)
        self.reactors[place].poll()
        for one in self.threads:
            if one.place == place and one.state == "exited":
                one.place = None

    @rule(number=NUMBERS)
    def poll_thread(self, number):
        one = self.pick(number)
        if one.place is not None:
            refused(WrongThreadError, one.thread.poll)
            return
        self.look_at_timers()
        self.step(one)
        one.thread.poll()

    @invariant()
    def they_agree(self):
        for place, reactor in enumerate(self.reactors):
            expected = {one.thread for one in self.threads if one.place == place and one.state != "exited"}
            assert set(reactor.threads) == expected
        for one in self.threads:
            assert one.seen == one.ran
            assert one.thread.is_exited == (one.state == "exited")
            assert one.thread.pending_msgs == len(one.waiting)
            assert one.thread.cpumask == cores_of(one.mask)

    def teardown(self):
        for reactor in self.reactors:
            for one in self.threads:
                if one.timer is not None and one.place is not None:
                    one.timer.unregister()
                    one.timer = None
            assert reactor.stop(PATIENCE_S).ok
        finish(*[one.thread for one in self.threads])
        self.lib.close()


class LivePlacement(RuleBasedStateMachine):
    """Reactors that run: after a move has resolved, the thread runs there and nowhere else, and all of it."""

    def __init__(self):
        super().__init__()
        self.lib = ThreadLib()
        self.reactors = [Reactor(core_of(n), lib=self.lib, spin_us=0, pin=False).start() for n in range(3)]
        self.threads, self.places, self.sent, self.seen = [], [], [], []

    @rule(place=REACTORS, capacity=st.sampled_from([1, 64]))
    def make(self, place, capacity):
        if len(self.threads) < 4:
            self.threads.append(self.reactors[place].create_thread(ring_size=capacity))
            self.places.append(place)
            self.sent.append(0)
            self.seen.append([])

    @precondition(lambda self: self.threads)
    @rule(number=NUMBERS, count=st.integers(1, 40))
    def send(self, number, count):
        number %= len(self.threads)
        for _ in range(count):
            self.threads[number].send_msg_wait(self.seen[number].append, self.sent[number], timeout_s=PATIENCE_S)
            self.sent[number] += 1

    @precondition(lambda self: self.threads)
    @rule(number=NUMBERS, path=st.lists(REACTORS, min_size=1, max_size=4))
    def travel(self, number, path):
        number %= len(self.threads)
        for place in path:
            source = self.reactors[self.places[number]]
            assert source.move_thread(self.threads[number], self.reactors[place]).result(PATIENCE_S)
            self.places[number] = place

    @precondition(lambda self: self.threads)
    @rule(number=NUMBERS)
    def ask_where(self, number):
        number %= len(self.threads)
        reactor = None
        while reactor is None:
            try:
                reactor = self.threads[number].call(get_reactor).result(PATIENCE_S)
            except RingFullError:
                pass
        assert reactor is self.reactors[self.places[number]]
        assert self.seen[number] == list(range(self.sent[number]))

    @invariant()
    def each_is_on_one(self):
        found = [thread for reactor in self.reactors for thread in reactor.threads]
        assert sorted(thread.id for thread in found) == sorted(thread.id for thread in self.threads)

    def teardown(self):
        for reactor in self.reactors:
            assert reactor.stop(PATIENCE_S).ok
        assert self.seen == [list(range(count)) for count in self.sent]
        self.lib.close()


def refused(kind, call, *args, **options):
    try:
        call(*args, **options)
    except kind:
        return
    raise AssertionError(f"{call} was not refused")


TestPlacement = Placement.TestCase
TestPlacement.settings = settings(stateful_step_count=50)
TestLivePlacement = LivePlacement.TestCase
TestLivePlacement.settings = settings(stateful_step_count=15, max_examples=min(25, settings().max_examples))
