"""The timer queue: ascending deadlines, equal ones in the order they were added, cancelling at any time."""

import gc
import heapq
import random
import time
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from spdkthread.timers import TimerQueue


class Thing:
    """Something that can be watched."""


def pop_all(queue, now):
    popped = []
    while (item := queue.pop_expired(now)) is not None:
        popped.append(item)
    return popped


def test_an_empty_queue_has_no_deadline_and_nothing_expired():
    queue = TimerQueue()
    assert len(queue) == 0
    assert queue.next_deadline is None
    assert queue.pop_expired(2**60) is None


def test_a_timer_expires_at_its_deadline_and_not_one_tick_before():
    queue = TimerQueue()
    queue.add(100, "item")
    assert queue.next_deadline == 100
    assert queue.pop_expired(99) is None
    assert len(queue) == 1
    assert queue.pop_expired(100) == "item"
    assert len(queue) == 0
    assert queue.next_deadline is None


def test_timers_expire_in_the_order_of_their_deadlines():
    queue = TimerQueue()
    for deadline in (5, 1, 4, 2, 3):
        queue.add(deadline, deadline)
    assert queue.next_deadline == 1
    assert pop_all(queue, 10) == [1, 2, 3, 4, 5]


def test_equal_deadlines_expire_in_the_order_they_were_added():
    queue = TimerQueue()
    for number in range(100):
        queue.add(7, number + 1)
    assert pop_all(queue, 7) == list(range(1, 101))


def test_equal_deadlines_stay_in_order_when_others_are_cancelled():
    queue = TimerQueue()
    handles = [queue.add(7, number) for number in range(1, 101)]
    for handle in handles[::3]:
        assert queue.cancel(handle) is True
    kept = [number for number in range(1, 101) if (number - 1) % 3]
    assert pop_all(queue, 7) == kept


def test_a_cancelled_timer_never_expires():
    queue = TimerQueue()
    handle = queue.add(1, "cancelled")
    queue.add(2, "kept")
    assert queue.cancel(handle) is True
    assert len(queue) == 1
    assert queue.next_deadline == 2
    assert pop_all(queue, 10) == ["kept"]


def test_cancelling_twice_is_answered_with_false():
    queue = TimerQueue()
    handle = queue.add(1, "item")
    assert queue.cancel(handle) is True
    assert queue.cancel(handle) is False
    assert len(queue) == 0


def test_cancelling_what_has_expired_is_answered_with_false():
    queue = TimerQueue()
    handle = queue.add(1, "item")
    assert queue.pop_expired(1) == "item"
    assert queue.cancel(handle) is False


def test_an_old_handle_never_cancels_a_newer_timer():
    queue = TimerQueue()
    old = queue.add(1, "old")
    assert queue.pop_expired(1) == "old"
    for number in range(100):
        queue.add(2, number + 1)
    assert queue.cancel(old) is False
    assert len(queue) == 100
    assert len(pop_all(queue, 2)) == 100


def test_the_queue_lets_go_of_what_it_popped_cancelled_or_still_holds():
    queue = TimerQueue()
    things = [Thing() for _ in range(3)]
    watches = [weakref.ref(thing) for thing in things]
    queue.add(1, things[0])
    handle = queue.add(2, things[1])
    queue.add(3, things[2])
    del things
    queue.pop_expired(1)
    queue.cancel(handle)
    del handle
    gc.collect()
    assert [watch() is None for watch in watches] == [True, True, False]
    del queue
    gc.collect()
    assert watches[2]() is None


def test_a_queue_in_a_reference_cycle_is_collected():
    queue = TimerQueue()
    thing = Thing()
    thing.queue = queue
    watch = weakref.ref(thing)
    queue.add(1, thing)
    del queue, thing
    gc.collect()
    assert watch() is None


@pytest.mark.parametrize("base", [1, 2**31 - 5, 2**32 - 5, 2**40, 2**62])
def test_deadlines_are_compared_in_64_bits(base):
    queue = TimerQueue()
    queue.add(base + 10, "later")
    queue.add(base, "sooner")
    assert queue.next_deadline == base
    assert queue.pop_expired(base - 1) is None
    assert pop_all(queue, base + 10) == ["sooner", "later"]


STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 20)),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("expire"), st.integers(0, 5)),
)


@given(st.lists(STEPS, max_size=80))
def test_a_timer_queue_is_a_sorted_list(steps):
    """A list of (deadline, number) kept sorted says what the queue should do; time only moves forward."""
    queue, model, handles, now, number = TimerQueue(), [], [], 0, 0
    for what, value in steps:
        if what == "add":
            number += 1
            handles.append((queue.add(now + value, number), (now + value, number)))
            model.append((now + value, number))
            model.sort()
        elif what == "cancel" and handles:
            handle, entry = handles[value % len(handles)]
            assert queue.cancel(handle) is (entry in model)
            if entry in model:
                model.remove(entry)
        elif what == "expire":
            now += value
            expired = [entry for entry in model if entry[0] <= now]
            assert pop_all(queue, now) == [item for _, item in expired]
            model = [entry for entry in model if entry[0] > now]
        assert len(queue) == len(model)
        assert queue.next_deadline == (model[0][0] if model else None)


PAST_STEPS = st.one_of(
    st.tuples(st.just("add"), st.integers(-60, 30)),
    st.tuples(st.just("cancel"), st.integers(0, 50)),
    st.tuples(st.just("expire"), st.integers(0, 20)),
    st.tuples(st.just("pop"), st.integers(0, 20)),
)


@given(st.lists(PAST_STEPS, max_size=120))
def test_with_deadlines_in_the_past_too_a_timer_queue_is_a_sorted_list(steps):
    queue, model, handles, now, number = TimerQueue(), [], [], 1000, 0
    queue.pop_expired(now)
    for what, value in steps:
        if what == "add":
            number += 1
            handles.append((queue.add(now + value, number), (now + value, number)))
            model.append((now + value, number))
            model.sort()
        elif what == "cancel" and handles:
            handle, entry = handles[value % len(handles)]
            assert handle.pending is (entry in model)
            assert queue.cancel(handle) is (entry in model)
            if entry in model:
                model.remove(entry)
        elif what == "expire":
            now += value
            assert pop_all(queue, now) == [item for deadline, item in model if deadline <= now]
            model = [entry for entry in model if entry[0] > now]
        elif what == "pop":
            now += value
            due = model and model[0][0] <= now
            assert queue.pop_expired(now) == (model.pop(0)[1] if due else None)
        assert len(queue) == len(model)
        assert queue.next_deadline == (model[0][0] if model else None)


@pytest.mark.parametrize("order", ["rising", "falling", "shuffled", "equal"])
def test_overdue_timers_expire_in_the_order_of_their_deadlines_before_all_others(order):
    queue = TimerQueue()
    for number in range(20_000):
        queue.add(10_000_000 + number, ("pending", number))
    assert queue.pop_expired(9_999_999) is None
    deadlines = {
        "rising": list(range(20_000)),
        "falling": list(range(20_000, 0, -1)),
        "shuffled": random.Random(3).sample(range(1_000_000), 20_000),
        "equal": [5] * 20_000,
    }[order]
    entries = [(deadline, number) for number, deadline in enumerate(deadlines)]
    handles = [queue.add(deadline, ("overdue", number)) for deadline, number in entries]
    for handle in handles[::3]:
        assert queue.cancel(handle)
    left = sorted(entry for place, entry in enumerate(entries) if place % 3)
    assert queue.next_deadline == left[0][0]
    assert pop_all(queue, 9_999_999) == [("overdue", number) for _, number in left]
    assert len(queue) == 20_000
    assert queue.next_deadline == 10_000_000


def test_a_deadline_in_the_past_touches_none_of_those_that_are_pending():
    """Against one in the future beside as many: in proportion to them, it would be thousands of times as long."""

    def seconds(queue, deadlines):
        begun = time.perf_counter()
        for deadline in deadlines:
            queue.cancel(queue.add(deadline, None))
        return time.perf_counter() - begun

    queue = TimerQueue()
    for number in range(100_000):
        queue.add(10**9 + number * 1000, number)
    assert queue.pop_expired(10**9 - 1) is None
    future = min(seconds(queue, range(2 * 10**9, 2 * 10**9 + 300)) for _ in range(5))
    past = min(seconds(queue, range(10**8, 10**8 - 300, -1)) for _ in range(5))
    assert past < 50 * future


def test_a_hundred_thousand_timers_expire_in_order():
    shuffle = random.Random(1)
    queue, model = TimerQueue(), []
    handles = []
    for number in range(1, 100_001):
        deadline = shuffle.randrange(1_000_000)
        handles.append((queue.add(deadline, number), (deadline, number)))
    cancelled = set()
    for handle, entry in shuffle.sample(handles, 50_000):
        assert queue.cancel(handle)
        cancelled.add(entry)
    model = [entry for _, entry in handles if entry not in cancelled]
    heapq.heapify(model)
    assert len(queue) == len(model) == 50_000
    for now in range(0, 1_000_001, 997):
        expected = []
        while model and model[0][0] <= now:
            expected.append(heapq.heappop(model)[1])
        assert pop_all(queue, now) == expected
    assert pop_all(queue, 1_000_000) == [heapq.heappop(model)[1] for _ in range(len(model))]


def seconds_per_timer(pending, sample=2_000):
    """CPU time of adding and cancelling one timer among `pending`, at deadlines spread over all of them."""
    queue = TimerQueue()
    for number in range(pending):
        queue.add((number * 7919) % pending, number)
    best = float("inf")
    for _ in range(5):
        before = time.thread_time_ns()
        handles = [queue.add((number * 104_729) % pending, number) for number in range(sample)]
        for handle in handles:
            queue.cancel(handle)
        best = min(best, time.thread_time_ns() - before)
    return best / sample


@pytest.mark.seed
def test_a_timer_costs_the_same_among_few_and_among_many():
    """Seed: O(n) insertion. A thousand times as many timers may cost caches, but not a thousand times as much."""
    assert seconds_per_timer(200_000) < 25 * seconds_per_timer(200)
