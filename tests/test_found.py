"""Defects that the proof of the invariants has found, each as what a user saw."""

import gc
import threading
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import OtherThread, elsewhere, finish, noop, run_python

from spdkthread import IoChannel, IoChannelIter, SpdkThread, SpdkThreadError, ThreadLib, WrongThreadError, get_thread
from spdkthread.testing import ManualClock


@pytest.mark.parametrize("period_us", [0, 5])
@pytest.mark.parametrize("policy", ["one", "all"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_poller_may_unregister_itself_and_then_end_the_poll(lib, clock, period_us, policy, stop):
    thread = lib.create_thread("net", poller_policy=policy)

    def last_run():
        poller.unregister()
        raise stop

    with thread:
        poller = thread.register_poller(last_run, period_us)
    clock.advance(us=10)
    with pytest.raises(stop):
        thread.poll()
    assert (poller.state, thread.pollers) == ("unregistered", ())
    ran = []
    thread.send_msg(ran.append, 1)
    thread.poll()
    assert ran == [1]


@pytest.mark.parametrize("now", [2**63, 2**64 - 2, 2**64])
def test_a_tick_after_the_end_of_the_clock_is_refused(lib, now):
    """A deadline one period after such a tick wrapped round, and policy "all" ran the poller for ever."""
    thread = lib.create_thread("net", poller_policy="all")
    with thread:
        poller = thread.register_poller(noop, 1)
    with pytest.raises(ValueError, match="now"):
        thread.poll(now=now)
    thread.poll(now=2**63 - 1)
    assert poller.run_count == 1


@pytest.mark.parametrize("start", [2**63, 2**64 - 1, 2**70])
def test_a_manual_clock_does_not_start_after_its_end(start):
    with pytest.raises(ValueError, match="start"):
        ManualClock(start)


class NoRepr:
    def __call__(self):
        raise ValueError("no repr")

    def __repr__(self):
        raise RuntimeError("has no repr")


class StrangeName:
    def __init__(self):
        self.__qualname__ = 5

    def __call__(self):
        raise ValueError("strange name")


class NoAttributes:
    def __getattr__(self, name):
        raise RuntimeError("has no attributes")

    def __call__(self):
        raise ValueError("no attributes")


NAMELESS = [NoRepr, StrangeName, NoAttributes]


@pytest.mark.parametrize("kind", NAMELESS)
def test_a_function_that_cannot_say_its_name_still_has_its_exception_reported(lib, thread, errors, kind):
    thread.send_msg(kind())
    thread.send_critical_msg(kind())
    with thread:
        thread.register_poller(kind())
        lib.for_each_thread(kind())
    for _ in range(3):
        thread.poll()
    assert set(errors.types) == {ValueError}
    assert len(errors) == 6


@pytest.mark.parametrize("kind", NAMELESS)
def test_messages_that_cannot_say_their_names_are_counted_and_let_go_when_their_thread_ends(kind):
    lib = ThreadLib()
    thread = lib.create_thread("net")
    functions = [kind() for _ in range(3)]
    watches = [weakref.ref(function) for function in functions]
    for function in functions:
        thread.send_msg(function)
    future = thread.call(kind())
    thread._abandon()
    assert lib.lost_msgs == 4
    assert future.done()
    del functions, function, future
    gc.collect()
    assert [watch() for watch in watches] == [None] * 3
    thread.exit()
    with thread:
        thread.exit()
    while not thread.is_exited:
        thread.poll()


def test_threads_are_left_in_the_reverse_order_of_entering(lib):
    first, second = lib.create_thread("first"), lib.create_thread("second")
    first.__enter__()
    second.__enter__()
    with pytest.raises(WrongThreadError, match="second"):
        first.__exit__(None, None, None)
    assert get_thread() is second
    second.__exit__(None, None, None)
    assert get_thread() is first
    first.__exit__(None, None, None)
    assert get_thread() is None


def test_a_thread_that_is_entered_stays_alive_after_its_exit():
    done = run_python(
        """
import gc, spdkthread
thread = spdkthread.ThreadLib().create_thread("current")
thread.__enter__()
thread.exit()
thread.poll()
del thread
gc.collect()
others = [spdkthread.ThreadLib().create_thread("other") for _ in range(50)]
print(spdkthread.get_thread())
"""
    )
    assert done.stdout == "<SpdkThread 'current' id=1 exited>\n", done.stderr


def test_a_thread_entered_in_a_callback_does_not_outlive_it_as_the_current_one(lib):
    outer, inner = lib.create_thread("outer"), lib.create_thread("inner")
    outer.send_msg(inner.__enter__)
    outer.poll()
    assert get_thread() is None
    with inner:
        assert get_thread() is inner
    assert get_thread() is None
    inner.__exit__(None, None, None)
    assert get_thread() is None
    elsewhere(inner.poll)


@pytest.mark.parametrize("timeout_s", [float("nan"), "soon", float("-inf")])
def test_a_wait_for_room_has_an_end(lib, timeout_s):
    thread = lib.create_thread("full", ring_size=1)
    thread.send_msg(noop)
    with pytest.raises((ValueError, TypeError, SpdkThreadError)):
        thread.send_msg_wait(noop, timeout_s=timeout_s)


def test_a_thread_whose_library_refused_it_takes_no_messages():
    lib = ThreadLib()
    lib.close()
    thread = SpdkThread.__new__(SpdkThread)
    with pytest.raises(SpdkThreadError):
        thread.__init__("late", lib=lib)
    with pytest.raises(SpdkThreadError):
        thread.send_msg(noop)
    assert thread.ring_size == 0


def test_the_number_of_waiting_messages_is_never_nonsense_while_they_run(live_lib, make_reactor):
    """It was read as a difference of two words, which the reactor changes without the GIL."""
    reactor = make_reactor(idle="poll").start()
    thread = reactor.create_thread("busy")
    over = threading.Event()

    def send():
        while not over.is_set():
            thread.send_many(noop, [None] * 100)

    sender = OtherThread(send)
    seen = {thread.pending_msgs > thread.ring_size + 8 for _ in range(100_000)}
    over.set()
    sender.outcome()
    assert seen == {False}


STEPS = st.one_of(st.sampled_from(["send", "send", "library"]), st.integers(0, 8))


@given(st.integers(1, 8), st.lists(STEPS, max_size=60))
def test_a_spilled_message_never_overtakes_its_senders_messages(ring_size, steps):
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


@pytest.mark.parametrize("kind", [IoChannel, IoChannelIter])
def test_what_only_the_library_makes_cannot_be_made_half(kind):
    """Its repr followed a NULL."""
    for make in (kind, lambda: kind.__new__(kind), lambda: type("Sub", (kind,), {})(), lambda: object.__new__(kind)):
        with pytest.raises(TypeError):
            make()
