"""The ring against a deque, the timer queue against a sorted list."""

import bisect
import random
from collections import deque

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule
from support import finish, noop

from spdkthread import ThreadLib
from spdkthread.ring import MessageRing
from spdkthread.testing import ManualClock
from spdkthread.timers import TimerQueue

pytestmark = pytest.mark.state_machine

END = 2**64 - 2


class Ring(RuleBasedStateMachine):
    """Through `MessageRing` and, in batches with the library's own messages, through an `SpdkThread`."""

    @initialize(capacity=st.integers(1, 9))
    def build(self, capacity):
        self.ring, self.model = MessageRing(capacity), deque()
        self.lib = ThreadLib(clock=ManualClock())
        self.thread = self.lib.create_thread(ring_size=capacity)
        self.capacity = self.ring.capacity
        self.waiting, self.overflow, self.ran, self.expected = deque(), deque(), [], []
        self.number = 0

    @rule(count=st.integers(1, 12), arguments=st.integers(0, 6))
    def push(self, count, arguments):
        for _ in range(count):
            message = (noop, *range(self.number, self.number + arguments))
            self.number += 1
            accepted = self.ring.push(*message)
            assert accepted is (len(self.model) < self.capacity)
            if accepted:
                self.model.append(message)

    @rule(count=st.integers(1, 12))
    def pop(self, count):
        for _ in range(count):
            assert self.ring.pop() == (self.model.popleft() if self.model else None)

    @rule(count=st.integers(1, 12))
    def send(self, count):
        for _ in range(count):
            self.number += 1
            room = not self.overflow and len(self.waiting) < self.capacity
            assert self.thread.try_send_msg(self.ran.append, self.number) is room
            if room:
                self.waiting.append(self.number)

    @rule(count=st.integers(0, 20), lazy=st.booleans())
    def send_many(self, count, lazy):
        items = list(range(self.number + 1, self.number + 1 + count))
        self.number += count
        room = 0 if self.overflow else self.capacity - len(self.waiting)
        rest = iter(items)
        taken = self.thread.send_many(self.ran.append, rest if lazy else items)
        assert taken == min(room, count)
        self.waiting.extend(items[:taken])
        if lazy:
            assert list(rest) == items[taken:]

    @rule(count=st.integers(1, 12))
    def send_of_the_library(self, count):
        for _ in range(count):
            self.number += 1
            self.thread._send_library_msg(self.ran.append, self.number)
            full = self.overflow or len(self.waiting) >= self.capacity
            (self.overflow if full else self.waiting).append(self.number)

    @rule(limit=st.integers(0, 9))
    def poll(self, limit):
        asked, limit = limit, min(limit or 8, 8)
        for queue in (self.waiting, self.overflow):
            while queue and limit:
                self.expected.append(queue.popleft())
                limit -= 1
        self.thread.poll(max_msgs=asked)

    @invariant()
    def the_same(self):
        if not hasattr(self, "ring"):
            return
        assert len(self.ring) == len(self.model)
        assert self.ran == self.expected
        assert self.thread.pending_msgs == len(self.waiting) + len(self.overflow)

    def teardown(self):
        if hasattr(self, "thread"):
            while self.thread.pending_msgs:
                self.thread.poll()
            self.expected += [*self.waiting, *self.overflow]
            assert self.ran == self.expected
            finish(self.thread)


class Timers(RuleBasedStateMachine):
    handles = Bundle("handles")

    def __init__(self):
        super().__init__()
        self.queue, self.model, self.serial = TimerQueue(), [], 0
        self.now = 0

    deadlines = st.one_of(
        st.integers(0, 300),
        st.integers(0, END),
        st.integers(2**63 - 70, 2**63 + 70),
        st.integers(END - 70, END),
        st.builds(
            lambda level, digit, plus: min(END, (digit << 6 * level) + plus),
            st.integers(0, 10),
            st.integers(0, 15),
            st.integers(0, 3),
        ),
    )

    @rule(target=handles, deadline=deadlines)
    def add(self, deadline):
        self.serial += 1
        entry = (deadline, self.serial)
        bisect.insort(self.model, entry)
        return self.queue.add(deadline, entry), entry

    @rule(target=handles, plus=st.integers(0, 200))
    def add_soon(self, plus):
        return self.add(min(self.now + plus, END))

    @rule(handle=handles)
    def cancel(self, handle):
        handle, entry = handle
        pending = entry in self.model
        assert handle.pending is pending
        assert self.queue.cancel(handle) is pending
        if pending:
            self.model.remove(entry)

    @rule(now=deadlines, limit=st.integers(1, 50))
    def expire(self, now, limit):
        """`now` may also go back."""
        self.now = now
        for _ in range(limit):
            expected = self.model.pop(0) if self.model and self.model[0][0] <= now else None
            assert self.queue.pop_expired(now) == expected
            if expected is None:
                break

    @invariant()
    def the_same(self):
        assert len(self.queue) == len(self.model)

    @rule()
    def look(self):
        assert self.queue.next_deadline == (self.model[0][0] if self.model else None)


TestRing = Ring.TestCase
TestTimers = Timers.TestCase
TestRing.settings = TestTimers.settings = settings(stateful_step_count=60)


def test_a_hundred_thousand_timers_expire_in_the_order_of_their_deadlines():
    check_many_timers(100_000)


def check_many_timers(count):
    """Near tick 2⁶³, in any order, three in ten of them cancelled."""
    choose = random.Random(7)
    queue, base = TimerQueue(), 2**63 - 10**6
    queue.pop_expired(base)
    entries = []
    for serial in range(count):
        deadline = base + choose.choice([choose.randrange(1000), choose.randrange(2 * 10**6), choose.randrange(10**15)])
        entries.append((deadline, serial, queue.add(deadline, (deadline, serial))))
    choose.shuffle(entries)
    for _, _, handle in entries[: count * 3 // 10]:
        assert queue.cancel(handle)
    expected = sorted((deadline, serial) for deadline, serial, _ in entries[count * 3 // 10 :])
    got, now = [], base
    while len(queue):
        assert queue.next_deadline == expected[len(got)][0]
        now = max(now + choose.randrange(5000), queue.next_deadline if choose.random() < 0.5 else 0)
        while (entry := queue.pop_expired(now)) is not None:
            assert entry[0] <= now
            got.append(entry)
    assert got == expected
