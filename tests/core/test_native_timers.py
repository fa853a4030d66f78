"""Native timers, native pollers of fixed rate, and what native code knows about its deadline."""

import gc
import weakref

import numpy as np
import pytest
from compiled import compiled
from native_sources import atoi
from support import PATIENCE_S, elsewhere, eventually, finish, noop

from spdkthread import aio

RECORD = [("runs", "u8"), ("deadline", "u8"), ("period", "u8")]


@pytest.fixture(scope="module")
def module(tmp_path_factory):
    return compiled("timer_probe", tmp_path_factory.mktemp("timer_probe"))


@pytest.fixture
def probe(module):
    module.reset()
    return module


@pytest.fixture
def record():
    return np.zeros((), RECORD)


# From Python


def test_a_native_timer_runs_once_and_knows_its_deadline(thread, clock, probe, record):
    with thread:
        timer = thread.call_later_native(10, probe.__pyx_capi__["note"], record)
    assert timer.name == "native"
    assert probe.deadline_of(timer) == timer.deadline == 10_000
    clock.advance(us=9)
    thread.poll()
    assert record["runs"] == 0
    clock.advance(us=4)
    assert thread.poll() == 1
    assert (int(record["runs"]), int(record["deadline"])) == (1, 10_000)
    assert not timer.is_pending
    assert (thread.timers, thread.is_idle) == ((), True)
    clock.advance(us=100)
    thread.poll()
    assert record["runs"] == 1


def test_native_and_python_timers_run_in_one_order(thread, clock, probe, record):
    seen = []
    with thread:
        for delay in (40, 10, 30, 20):
            if delay % 20:
                thread.call_later(delay, lambda: seen.append(int(record["runs"])))
            else:
                thread.call_later_native(delay, probe.__pyx_capi__["note"], record)
    clock.advance(us=100)
    thread.poll()
    assert seen == [0, 1]
    assert record["runs"] == 2


@pytest.mark.parametrize("end", ["run", "cancel", "cancel elsewhere"])
def test_a_native_timer_keeps_its_context_as_long_as_it_may_run(thread, probe, end):
    record = np.zeros((), RECORD)
    seen = weakref.ref(record)
    with thread:
        timer = thread.call_later_native(0, probe.__pyx_capi__["note"], record)
        del record
        gc.collect()
        assert seen() is not None
        if end == "cancel":
            assert timer.cancel()
            assert seen() is None
        elif end == "cancel elsewhere":
            assert elsewhere(timer.cancel)
            assert seen() is None
    thread.poll()
    assert seen() is None
    assert not timer.cancel()
    assert thread.is_idle


def test_a_native_timer_from_elsewhere_comes_by_a_message(thread, clock, probe, record):
    timer = thread.call_later_native(5, probe.__pyx_capi__["note"], record)
    assert timer.is_pending
    clock.advance(us=5)
    thread.poll()
    assert record["runs"] == 1


def test_native_timers_run_on_a_reactor(reactor, probe, record):
    thread = reactor.create_thread()
    timers = [thread.call_later_native(10 * number, probe.__pyx_capi__["note"], record) for number in range(100)]
    eventually(lambda: record["runs"] == 100)
    assert not any(timer.is_pending for timer in timers)
    assert thread.call(lambda: thread.timers).result(PATIENCE_S) == ()


def test_a_native_timer_keeps_an_exiting_thread(thread, clock, probe, record):
    with thread:
        thread.call_later_native(10, probe.__pyx_capi__["note"], record)
        thread.exit()
    thread.poll()
    assert thread.state == "exiting"
    assert thread.exit_blockers == ("timer 'native' at tick 10000",)
    clock.advance(us=10)
    thread.poll()
    assert thread.is_exited
    assert record["runs"] == 1


def test_a_native_poller_is_no_native_timer(thread, probe):
    with pytest.raises(TypeError, match="signature"):
        thread.call_later_native(1, atoi())
    with pytest.raises(ValueError, match="delay_us"):
        thread.call_later_native(-1, probe.__pyx_capi__["note"])
    assert thread.is_idle


def test_an_event_loop_has_native_timers(probe, record):
    loop = aio.EventLoop()
    timer = loop.call_later_native(0.001, probe.__pyx_capi__["note"], record)
    loop.call_later(0.002, loop.stop)
    loop.run_forever()
    assert record["runs"] == 1
    assert not timer.is_pending
    assert loop.time() * 1e9 >= timer.deadline
    loop.close()


# From native code


def test_native_code_arms_and_cancels_timers_in_its_own_memory(thread, clock, probe):
    with thread:
        assert probe.arm(10_000) == 0
        assert thread.next_expiration == 10_000
        assert not thread.is_idle
        assert probe.arm(10_000) == -1, "it is pending"
        assert probe.cancel()
        assert not probe.cancel()
        assert thread.next_expiration is None
        assert probe.arm(20_000) == 0
    clock.advance(us=25)
    assert thread.poll() == 1
    assert probe.read() == (1, 20_000)
    with thread:
        assert not probe.cancel()
    assert thread.is_idle


def test_a_native_timer_may_arm_itself_again(thread, clock, probe):
    with thread:
        probe.arm_again(10_000)
    for _ in range(35):
        clock.advance(us=1)
        thread.poll()
    assert probe.read() == (3, 30_000)
    with thread:
        assert probe.cancel()


def test_a_native_timer_of_no_delay_that_arms_itself_again_runs_once_a_poll(thread, probe):
    with thread:
        probe.arm_again(0)
    for polls in range(1, 6):
        thread.poll()
        assert probe.read()[0] == polls
    with thread:
        assert probe.cancel()


def test_native_code_arms_timers_on_the_current_thread_only(lib, thread, probe):
    other = lib.create_thread("other")
    assert probe.arm(1) == -1, "no current thread"
    with other:
        assert probe.arm(1, thread) == -1
        assert not probe.cancel()
    finish(other)
    assert thread.next_expiration is None


def test_a_timer_in_native_memory_keeps_an_exiting_thread(thread, clock, probe):
    with thread:
        probe.arm(10_000)
        thread.exit()
    thread.poll()
    assert thread.state == "exiting"
    clock.advance(us=10)
    thread.poll()
    assert thread.is_exited


# Deadlines


def test_native_pollers_know_their_deadline(thread, clock, probe, record):
    plain, active = np.zeros((), RECORD), np.zeros((), RECORD)
    with thread:
        fn = probe.__pyx_capi__["note_poll"]
        pollers = [
            thread.register_native_poller(fn, record, 10, fixed_rate=True),
            thread.register_native_poller(fn, plain, 10),
            thread.register_native_poller(fn, active),
        ]
    for late in (13, 20, 0):
        clock.advance(us=late)
        for _ in range(3):
            thread.poll()
    # Fixed: 10, then 20 (30 is missed) at 33. Plain: 10, then 23 at 33.
    assert (int(record["runs"]), int(record["deadline"])) == (2, 20_000)
    assert (int(plain["runs"]), int(plain["deadline"])) == (2, 23_000)
    assert int(active["deadline"]) == 2**64 - 1
    assert [poller.overrun_count for poller in pollers] == [1, 1, 0]
    with thread:
        for poller in pollers:
            poller.unregister()


def test_python_functions_have_a_current_deadline_too(thread, clock, probe):
    seen = []

    def look():
        seen.append(probe.deadline_here())

    with thread:
        thread.call_later(10, look)
        poller = thread.register_poller(look, 20)
    thread.send_msg(look)
    for _ in range(2):
        clock.advance(us=12)
        thread.poll()
    assert seen == [None, 10_000, 20_000]
    assert probe.deadline_here() is None
    with thread:
        assert probe.deadline_here() is None
        poller.unregister()
    thread.send_msg(noop)
    thread.poll()
