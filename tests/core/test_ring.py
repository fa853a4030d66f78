"""The message ring: bounded, allocated once, FIFO, many senders and one receiver."""

import gc
import sys
import threading
import time
import weakref
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import OtherThread, drain, fill, finish, noop

from spdkthread import RingFullError, SpdkThread, ThreadLib
from spdkthread.ring import MessageRing
from spdkthread.testing import ManualClock

pytestmark = pytest.mark.races


class Thing:
    """Something that can be watched."""


@pytest.mark.parametrize(("asked", "given_"), [(2, 2), (3, 4), (4, 4), (5, 8), (1000, 1024), (65_536, 65_536)])
def test_a_capacity_that_is_not_a_power_of_two_is_rounded_up(asked, given_):
    assert MessageRing(asked).capacity == given_


@pytest.mark.parametrize("capacity", [1, 2, 4, 8, 64])
def test_a_ring_holds_exactly_its_capacity(capacity):
    ring = MessageRing(capacity)
    assert ring.capacity >= capacity
    for number in range(ring.capacity):
        assert len(ring) == number
        assert ring.push(noop, number) is True
    assert ring.push(noop, "one too many") is False
    assert len(ring) == ring.capacity


def test_an_empty_ring_has_nothing_to_pop():
    ring = MessageRing(8)
    assert len(ring) == 0
    assert ring.pop() is None


@pytest.mark.parametrize("count", range(9))
def test_a_message_keeps_its_function_and_all_its_arguments(count):
    ring = MessageRing(4)
    args = tuple(Thing() for _ in range(count))
    assert ring.push(noop, *args)
    assert ring.pop() == (noop, *args)
    assert ring.pop() is None


def test_a_refused_push_has_no_effect():
    ring = MessageRing(2)
    while ring.push(noop, "kept"):
        pass
    refused = Thing()
    watch = weakref.ref(refused)
    assert not ring.push(noop, refused)
    del refused
    gc.collect()
    assert watch() is None
    assert [ring.pop() for _ in range(len(ring))] == [(noop, "kept")] * ring.capacity


def test_a_ring_goes_round_and_round():
    ring = MessageRing(4)
    for number in range(1_000):
        assert ring.push(noop, number)
        assert ring.push(noop, -number)
        assert ring.pop() == (noop, number)
        assert ring.pop() == (noop, -number)
    assert len(ring) == 0


@given(st.integers(1, 16), st.lists(st.one_of(st.just("pop"), st.integers(0, 6))))
def test_a_ring_is_a_bounded_queue(capacity, steps):
    """Each step pops, or pushes a message with that many arguments; a deque says what should come out."""
    ring, model = MessageRing(capacity), deque()
    for number, step in enumerate(steps):
        if step == "pop":
            assert ring.pop() == (model.popleft() if model else None)
        else:
            message = (noop, *[(number, i) for i in range(step)])
            accepted = ring.push(*message)
            assert accepted is (len(model) < ring.capacity)
            if accepted:
                model.append(message)
        assert len(ring) == len(model)


def test_a_popped_message_is_no_longer_held_by_the_ring():
    ring = MessageRing(4)
    args = [Thing() for _ in range(6)]
    watches = [weakref.ref(arg) for arg in args]
    ring.push(noop, *args)
    ring.push(noop, *args[:2])
    del args
    gc.collect()
    assert all(watch() is not None for watch in watches)
    ring.pop()
    ring.pop()
    gc.collect()
    assert all(watch() is None for watch in watches)


def test_a_ring_that_goes_away_lets_go_of_what_it_holds():
    ring = MessageRing(8)
    args = [Thing() for _ in range(6)]
    watches = [weakref.ref(arg) for arg in args]
    ring.push(noop, *args[:3])
    ring.push(noop, *args)
    del args
    del ring
    gc.collect()
    assert all(watch() is None for watch in watches)


def test_pushing_and_popping_leaves_reference_counts_as_they_were():
    ring = MessageRing(4)
    thing = Thing()
    before = sys.getrefcount(thing)
    for _ in range(100):
        ring.push(noop, thing, thing, thing, thing, thing)
        ring.push(noop, thing)
        ring.pop()
        ring.pop()
    assert sys.getrefcount(thing) == before


def test_many_senders_and_one_receiver_lose_nothing_and_keep_each_senders_order():
    senders, each = 4, 5_000
    ring = MessageRing(64)
    start = threading.Barrier(senders)

    def send(sender):
        start.wait()
        for number in range(each):
            while not ring.push(noop, sender, number):
                time.sleep(0)

    threads = [OtherThread(send, sender) for sender in range(senders)]
    seen = [[] for _ in range(senders)]
    received = 0
    while received < senders * each:
        message = ring.pop()
        if message is None:
            time.sleep(0)
            continue
        _, sender, number = message
        seen[sender].append(number)
        received += 1
    for thread in threads:
        thread.outcome()
    assert ring.pop() is None
    assert seen == [list(range(each))] * senders


@pytest.mark.parametrize(("asked", "given_"), [(2, 2), (3, 4), (6, 8), (100, 128)])
def test_a_threads_ring_size_is_rounded_up_to_a_power_of_two(lib, asked, given_):
    assert lib.create_thread(ring_size=asked).ring_size == given_


def test_a_threads_ring_size_is_4096_unless_said_otherwise(lib):
    assert lib.create_thread().ring_size == 4_096


@pytest.mark.parametrize("asked", [1, 2, 4, 32])
def test_a_thread_takes_as_many_messages_as_its_ring_size_says(lib, asked):
    thread = lib.create_thread(ring_size=asked)
    assert fill(thread) == thread.ring_size
    assert thread.pending_msgs == thread.ring_size


def test_a_thread_refuses_the_message_after_the_last_slot(lib):
    ran = []
    thread = lib.create_thread(ring_size=4)
    for number in range(4):
        thread.send_msg(ran.append, number)
    with pytest.raises(RingFullError):
        thread.send_msg(ran.append, "refused")
    drain(thread)
    assert ran == [0, 1, 2, 3]


def test_one_poll_makes_room_again(lib):
    ran = []
    thread = lib.create_thread(ring_size=4)
    fill(thread, ran.append, "old")
    thread.poll(max_msgs=1)
    assert thread.try_send_msg(ran.append, "new")
    assert not thread.try_send_msg(ran.append, "refused")
    drain(thread)
    assert ran == ["old"] * 4 + ["new"]


@settings(max_examples=50)
@given(st.integers(1, 16), st.lists(st.integers(-9, 9)))
def test_a_thread_runs_what_it_accepted_in_order(size, steps):
    """A positive step sends that many messages, the others poll for at most so many (zero: eight)."""
    library = ThreadLib(clock=ManualClock())
    thread = library.create_thread(ring_size=size)
    ran, expected, waiting, sent = [], [], deque(), 0
    for step in steps:
        if step > 0:
            for _ in range(step):
                accepted = thread.try_send_msg(ran.append, sent)
                assert accepted is (len(waiting) < thread.ring_size)
                if accepted:
                    waiting.append(sent)
                sent += 1
        else:
            batch = min(-step or 8, 8)
            busy = thread.poll(max_msgs=-step)
            assert busy == (1 if waiting else 0)
            expected += [waiting.popleft() for _ in range(min(batch, len(waiting)))]
        assert ran == expected
        assert thread.pending_msgs == len(waiting)
    drain(thread)
    assert ran == expected + list(waiting)
    finish(thread)
    library.close()


def test_refused_sends_are_counted(lib):
    thread = lib.create_thread(ring_size=2)
    assert thread.stats.ring_full == 0
    fill(thread)
    assert thread.stats.ring_full == 1
    for _ in range(3):
        with pytest.raises(RingFullError):
            thread.send_msg(noop)
    assert thread.stats.ring_full == 4


def test_the_high_water_mark_is_the_most_messages_found_waiting(lib):
    thread = lib.create_thread()
    for _ in range(20):
        thread.send_msg(noop)
    drain(thread)
    assert thread.stats.high_water == 20
    for _ in range(5):
        thread.send_msg(noop)
    drain(thread)
    assert thread.stats.high_water == 20


@pytest.mark.parametrize("ring_size", [0, -1, -(2**63)])
def test_a_ring_size_that_is_not_positive_is_refused(lib, ring_size):
    with pytest.raises(ValueError, match="ring_size"):
        lib.create_thread("bad", ring_size=ring_size)
    assert lib.threads == ()


@pytest.mark.parametrize("ring_size", [2**40, 2**48, 2**58, 2**62, 2**63 - 1, 2**63, 2**64, 2**100])
def test_an_absurdly_large_ring_is_a_memory_error(lib, ring_size):
    with pytest.raises(MemoryError):
        lib.create_thread("huge", ring_size=ring_size)
    assert lib.threads == ()
    with pytest.raises(MemoryError):
        MessageRing(ring_size)


@pytest.mark.parametrize("ring_size", ["8", 8.0, None, [8]])
def test_a_ring_size_that_is_not_an_integer_is_refused(lib, ring_size):
    with pytest.raises(TypeError):
        lib.create_thread("bad", ring_size=ring_size)
    assert lib.threads == ()


def test_the_rounding_of_the_ring_size_is_said_in_the_docstring():
    assert "power of two" in (SpdkThread.__doc__ or "") + (SpdkThread.__init__.__doc__ or "")
