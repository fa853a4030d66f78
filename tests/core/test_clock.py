"""The clock: ticks of one nanosecond, and the simulated clock that stands in for it."""

import time

import pytest
from support import finish, noop

from spdkthread import TICKS_HZ, SpdkThread, ThreadLib, ticks
from spdkthread.testing import ManualClock


def test_one_tick_is_one_nanosecond():
    assert TICKS_HZ == 1_000_000_000


def test_ticks_is_the_clock_of_perf_counter_ns():
    before = time.perf_counter_ns()
    now = ticks()
    after = time.perf_counter_ns()
    assert type(now) is int
    assert before <= now <= after


def test_ticks_never_go_back():
    readings = [ticks() for _ in range(10_000)]
    assert readings == sorted(readings)
    assert readings[0] < readings[-1]


def test_ticks_are_read_without_a_python_call(monkeypatch):
    monkeypatch.setattr(time, "perf_counter_ns", lambda: 0)
    assert ticks() > 0


def test_a_manual_clock_starts_at_zero():
    assert ManualClock().now == 0


def test_a_manual_clock_starts_where_it_is_told():
    assert ManualClock(start=42).now == 42
    assert ManualClock(42).now == 42


def test_a_manual_clock_never_moves_by_itself():
    clock = ManualClock()
    seen = ticks()
    while ticks() == seen:
        pass
    assert clock.now == 0


def test_a_manual_clock_advances_by_microseconds_and_by_ticks():
    clock = ManualClock()
    clock.advance(us=3)
    assert clock.now == 3_000
    clock.advance(ticks=7)
    assert clock.now == 3_007
    clock.advance(us=1, ticks=1)
    assert clock.now == 4_008
    clock.advance()
    assert clock.now == 4_008


def test_a_manual_clock_holds_times_beyond_32_bits():
    clock = ManualClock(start=2**40)
    clock.advance(us=2**40)
    assert clock.now == 2**40 + 2**40 * 1_000


@pytest.mark.parametrize("start", [-1, 2**63, 2**64 - 2, 2**64])
def test_a_manual_clock_starts_between_zero_and_the_end_of_time(start):
    """Time ends at tick 2**63: beyond it, the sum of a tick and a period could wrap."""
    with pytest.raises((ValueError, OverflowError)):
        ManualClock(start)


def test_a_manual_clock_neither_goes_back_nor_beyond_the_end_of_time():
    clock = ManualClock(5)
    with pytest.raises(ValueError, match="backwards"):
        clock.advance(us=-1)
    with pytest.raises(ValueError, match="2\\*\\*63"):
        clock.advance(ticks=2**63)
    assert clock.now == 5


def test_everything_in_a_library_with_a_manual_clock_reads_that_clock_only(lib, clock, thread):
    ran = []
    with thread:
        thread.register_poller(lambda: ran.append(clock.now), period_us=1)
    seen = ticks()
    while ticks() < seen + 100_000:
        thread.poll()
    assert ran == []
    clock.advance(us=1)
    thread.poll()
    assert ran == [1_000]


def test_two_libraries_have_two_clocks():
    clocks = ManualClock(), ManualClock()
    libs = [ThreadLib(clock=clock) for clock in clocks]
    threads = [library.create_thread() for library in libs]
    ran = []
    for number, thread in enumerate(threads):
        with thread:
            thread.register_poller(lambda number=number: ran.append(number), period_us=5)
    clocks[1].advance(us=5)
    for thread in threads:
        thread.poll()
    assert ran == [1]
    finish(*threads)


def test_a_library_without_a_clock_of_its_own_uses_ticks(live_lib):
    thread = live_lib.create_thread()
    with thread:
        before = ticks()
        thread.register_poller(lambda: 0, period_us=1_000_000)
        after = ticks()
    assert before <= thread.next_poller_expiration - TICKS_HZ <= after


def test_the_default_library_is_on_the_real_clock():
    thread = SpdkThread("real")
    with thread:
        before = ticks()
        thread.register_poller(lambda: 0, period_us=1_000_000)
    assert thread.next_poller_expiration >= before + TICKS_HZ
    finish(thread)


def test_poll_takes_the_tick_that_it_is_given(thread, clock):
    ran = []
    with thread:
        poller = thread.register_poller(lambda: ran.append(1), period_us=10)
    thread.poll(now=9_999)
    assert ran == []
    thread.poll(now=10_000)
    assert ran == [1]
    assert thread.next_poller_expiration == 20_000
    assert clock.now == 0
    assert poller.run_count == 1


def test_a_clock_that_is_not_one_is_refused():
    with pytest.raises(TypeError):
        ThreadLib(clock=time.perf_counter_ns)
    with pytest.raises(TypeError):
        ThreadLib(clock=0)


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
