"""The overflow list beside a full ring: bounded by what there is to wait for, and in the order of sending."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import drain, fill, finish, noop

from spdkthread import ThreadLib
from spdkthread.testing import ManualClock

pytestmark = pytest.mark.races


def test_any_number_of_requests_to_a_poller_waits_as_one(lib):
    thread = lib.create_thread("narrow", ring_size=4)
    with thread:
        poller = thread.register_poller(noop)
    fill(thread)
    for _ in range(1000):
        poller.pause()
        poller.resume()
    poller.pause()
    assert thread.pending_msgs == 5
    drain(thread)
    assert poller.state == "paused"
    with thread:
        poller.unregister()


def test_an_unregistration_is_not_taken_back_by_a_later_request(lib):
    thread = lib.create_thread("narrow", ring_size=4)
    with thread:
        poller = thread.register_poller(noop)
    fill(thread)
    poller.unregister()
    poller.resume()
    drain(thread)
    assert poller.state == "unregistered"
    assert thread.pollers == ()


def test_any_number_of_exits_waits_as_one(lib):
    thread = lib.create_thread("narrow", ring_size=4)
    fill(thread)
    for _ in range(1000):
        thread.exit()
    assert thread.pending_msgs == 5
    drain(thread)
    assert thread.is_exited


def test_a_full_ring_does_not_count_requests_as_refused(lib):
    thread = lib.create_thread("narrow", ring_size=4)
    with thread:
        poller = thread.register_poller(noop)
    fill(thread)
    before = thread.stats.ring_full
    poller.unregister()
    assert thread.stats.ring_full == before
    drain(thread)


STEPS = st.one_of(st.sampled_from(["send", "send", "library"]), st.integers(0, 8))


@given(st.integers(1, 8), st.lists(STEPS, max_size=60))
def test_an_overflow_message_never_overtakes_its_senders_messages(ring_size, steps):
    """Library messages that did not fit, users' ones, and polls: the order is the order of sending."""
    lib = ThreadLib(clock=ManualClock())
    thread = lib.create_thread("net", ring_size=ring_size)
    accepted, ran = [], []
    for number, step in enumerate(steps):
        if step == "send":
            if thread.try_send_msg(ran.append, number):
                accepted.append(number)
        elif step == "library":
            thread._send_library_msg(ran.append, number)
            accepted.append(number)
        else:
            thread.poll(max_msgs=step)
    while thread.pending_msgs:
        thread.poll()
    assert ran == accepted
    finish(thread)
