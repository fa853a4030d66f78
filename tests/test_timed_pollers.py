"""Timed pollers: when they are first due, how they are re-armed, and in which order they run."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import finish, noop

from spdkthread import ThreadLib
from spdkthread.testing import ManualClock


def test_a_timed_poller_first_runs_one_period_after_it_was_registered(thread, clock):
    clock.advance(us=100)
    with thread:
        poller = thread.register_poller(noop, period_us=10)
    assert thread.next_poller_expiration == 110_000
    thread.poll()
    clock.advance(ticks=9_999)
    thread.poll()
    assert poller.run_count == 0
    clock.advance(ticks=1)
    thread.poll()
    assert poller.run_count == 1


def test_a_timed_poller_runs_once_per_period(thread, clock):
    ran = []
    with thread:
        thread.register_poller(lambda: ran.append(clock.now), period_us=10)
    for _ in range(35):
        clock.advance(us=1)
        thread.poll()
    assert ran == [10_000, 20_000, 30_000]


def test_lateness_shifts_the_schedule(thread, clock):
    with thread:
        poller = thread.register_poller(noop, period_us=10)
    clock.advance(us=13)
    thread.poll()
    assert poller.run_count == 1
    assert thread.next_poller_expiration == 23_000


def test_there_is_no_burst_to_catch_up(thread, clock):
    with thread:
        poller = thread.register_poller(noop, period_us=10)
    clock.advance(us=1_000)
    for _ in range(5):
        thread.poll()
    assert poller.run_count == 1
    assert thread.next_poller_expiration == 1_010_000


@pytest.mark.parametrize(("late_ticks", "missed"), [(0, 0), (9_999, 0), (10_000, 1), (25_000, 2), (990_000, 99)])
def test_whole_periods_missed_are_counted(thread, clock, late_ticks, missed):
    with thread:
        poller = thread.register_poller(noop, period_us=10)
    clock.advance(us=10, ticks=late_ticks)
    thread.poll()
    assert poller.run_count == 1
    assert poller.overrun_count == missed


def test_a_slow_run_is_measured_from_its_start(thread, clock):
    """Re-armed at the tick read before the call, plus the period: a run longer than that is due again at once."""
    with thread:
        poller = thread.register_poller(lambda: clock.advance(us=25), period_us=10)
    clock.advance(us=10)
    thread.poll()
    assert thread.next_poller_expiration == 20_000
    assert clock.now == 35_000
    thread.poll()
    assert poller.run_count == 2


def test_one_expired_timed_poller_per_poll_with_policy_one(thread, clock):
    ran = []
    with thread:
        for name, period in (("slow", 30), ("fast", 10), ("middle", 20)):
            thread.register_poller(lambda name=name: ran.append(name), period_us=period)
    clock.advance(us=30)
    thread.poll()
    assert ran == ["fast"]
    thread.poll()
    assert ran == ["fast", "middle"]
    thread.poll()
    assert ran == ["fast", "middle", "slow"]
    thread.poll()
    assert ran == ["fast", "middle", "slow"]


def test_every_expired_timed_poller_in_one_poll_with_policy_all(lib, clock):
    thread = lib.create_thread(poller_policy="all")
    ran = []
    with thread:
        for name, period in (("slow", 30), ("fast", 10), ("middle", 20), ("later", 40)):
            thread.register_poller(lambda name=name: ran.append(name), period_us=period)
    clock.advance(us=30)
    thread.poll()
    assert ran == ["fast", "middle", "slow"]
    thread.poll()
    assert ran == ["fast", "middle", "slow"]


def test_an_active_and_a_timed_poller_run_in_the_same_poll(thread, clock):
    ran = []
    with thread:
        thread.register_poller(lambda: ran.append("timed"), 10)
        thread.register_poller(lambda: ran.append("active"))
    clock.advance(us=10)
    thread.send_msg(ran.append, "message")
    thread.poll()
    assert ran == ["message", "active", "timed"]


@pytest.mark.parametrize("policy", ["one", "all"])
def test_equal_deadlines_run_in_the_order_they_were_armed(lib, clock, policy):
    thread = lib.create_thread(poller_policy=policy)
    ran = []
    with thread:
        for number in range(10):
            thread.register_poller(lambda number=number: ran.append(number), 10)
    clock.advance(us=10)
    for _ in range(10):
        thread.poll()
    assert ran == list(range(10))
    clock.advance(us=10)
    for _ in range(10):
        thread.poll()
    assert ran == list(range(10)) * 2


def test_equal_deadlines_of_different_periods_run_in_the_order_they_were_armed(thread, clock):
    ran = []
    with thread:
        thread.register_poller(lambda: ran.append("first"), 20)
        clock.advance(us=10)
        thread.register_poller(lambda: ran.append("second"), 10)
    clock.advance(us=10)
    thread.poll()
    thread.poll()
    assert ran == ["first", "second"]


def test_next_poller_expiration_is_the_earliest_absolute_tick(thread, clock):
    assert thread.next_poller_expiration is None
    clock.advance(us=5)
    with thread:
        thread.register_poller(noop)
        assert thread.next_poller_expiration is None
        late = thread.register_poller(noop, 30)
        assert thread.next_poller_expiration == 35_000
        early = thread.register_poller(noop, 10)
        assert thread.next_poller_expiration == 15_000
        early.unregister()
        assert thread.next_poller_expiration == 35_000
        late.unregister()
    assert thread.next_poller_expiration is None


def test_a_paused_timed_poller_is_not_due(thread, clock):
    with thread:
        poller = thread.register_poller(noop, 10)
        poller.pause()
    assert thread.next_poller_expiration is None
    clock.advance(us=100)
    thread.poll()
    assert poller.run_count == 0
    assert poller.state == "paused"


def test_a_resumed_timed_poller_is_due_one_period_later(thread, clock):
    with thread:
        poller = thread.register_poller(noop, 10)
        poller.pause()
        clock.advance(us=100)
        poller.resume()
    assert thread.next_poller_expiration == 110_000
    thread.poll()
    assert poller.run_count == 0
    clock.advance(us=10)
    thread.poll()
    assert poller.run_count == 1


def test_an_unregistered_timed_poller_never_runs(thread, clock):
    with thread:
        poller = thread.register_poller(noop, 10)
        poller.unregister()
    clock.advance(us=100)
    thread.poll()
    assert poller.run_count == 0


def test_a_timed_poller_may_unregister_itself(thread, clock):
    with thread:
        poller = thread.register_poller(lambda: poller.unregister() or 4, 10)
    clock.advance(us=10)
    assert thread.poll() == 4
    clock.advance(us=100)
    assert thread.poll() == 0
    assert poller.run_count == 1
    assert thread.next_poller_expiration is None


def test_a_timed_poller_may_pause_itself(thread, clock):
    with thread:
        poller = thread.register_poller(lambda: poller.pause(), 10)
    clock.advance(us=10)
    thread.poll()
    clock.advance(us=100)
    thread.poll()
    assert poller.run_count == 1
    assert poller.state == "paused"
    assert thread.next_poller_expiration is None


def test_a_timed_poller_may_pause_and_resume_itself_in_one_run(thread, clock):
    def twice():
        poller.pause()
        poller.resume()

    with thread:
        poller = thread.register_poller(twice, 10)
    for _ in range(30):
        clock.advance(us=1)
        thread.poll()
    assert poller.run_count == 3
    assert thread.pollers == (poller,)


@pytest.mark.parametrize("act", ["unregister", "pause"])
def test_an_expired_poller_stopped_by_an_earlier_one_does_not_run(lib, clock, act):
    thread = lib.create_thread(poller_policy="all")
    with thread:
        thread.register_poller(lambda: getattr(victim, act)(), 10)
        victim = thread.register_poller(noop, 10)
        bystander = thread.register_poller(noop, 10)
    clock.advance(us=10)
    thread.poll()
    assert victim.run_count == 0
    assert bystander.run_count == 1


def test_an_active_poller_may_unregister_an_expired_timed_one(thread, clock):
    with thread:
        thread.register_poller(lambda: victim.unregister())
        victim = thread.register_poller(noop, 10)
    clock.advance(us=10)
    thread.poll()
    assert victim.run_count == 0


def test_a_timed_poller_registered_by_a_timed_poller_waits_for_its_own_period(lib, clock):
    thread = lib.create_thread(poller_policy="all")
    children = []

    def parent():
        children.append(thread.register_poller(noop, 10))

    with thread:
        thread.register_poller(parent, 10)
    clock.advance(us=10)
    thread.poll()
    assert [child.run_count for child in children] == [0]
    clock.advance(us=10)
    thread.poll()
    assert children[0].run_count == 1


def test_the_tick_of_a_poll_does_not_move_with_what_its_pollers_do(lib, clock):
    """With a tick given, a slow timed poller does not make others due in the same poll."""
    thread = lib.create_thread(poller_policy="all")
    with thread:
        slow = thread.register_poller(lambda: clock.advance(us=100), 10)
        other = thread.register_poller(noop, 20)
    thread.poll(now=10_000)
    assert (slow.run_count, other.run_count) == (1, 0)


def test_the_value_of_a_timed_poller_is_the_value_of_the_poll(thread, clock):
    with thread:
        poller = thread.register_poller(lambda: 6, 10)
    assert thread.poll() == 0
    clock.advance(us=10)
    assert thread.poll() == 6
    assert (poller.run_count, poller.busy_count) == (1, 1)


def test_a_timed_poller_that_raises_is_re_armed(thread, clock, errors):
    def fail():
        raise ValueError

    with thread:
        poller = thread.register_poller(fail, 10)
    for _ in range(3):
        clock.advance(us=10)
        thread.poll()
    assert errors.types == [ValueError] * 3
    assert poller.error_count == 3
    assert thread.next_poller_expiration == 40_000


@pytest.mark.parametrize(
    ("period_us", "period_ticks"),
    [(1, 1_000), (1_000_000, 10**9), (1_500_000, 15 * 10**8), (1.5, 1_500), (0.5, 500), (0.001, 1), (10**12, 10**15)],
)
def test_a_period_in_microseconds_becomes_ticks(thread, period_us, period_ticks):
    with thread:
        poller = thread.register_poller(noop, period_us=period_us)
    assert poller.period_ticks == period_ticks
    assert type(poller.period_ticks) is int
    assert poller.period_us == period_us
    assert thread.next_poller_expiration == period_ticks


def test_a_fraction_of_a_tick_is_cut_off(thread):
    with thread:
        poller = thread.register_poller(noop, period_us=0.0015)
    assert poller.period_ticks == 1


@pytest.mark.parametrize("period_us", [-1, -0.001, 0.0009, 1e-300, math.nan, -math.inf])
def test_a_period_below_one_tick_negative_or_nan_is_refused(thread, period_us):
    with thread, pytest.raises(ValueError, match="period"):
        thread.register_poller(noop, period_us=period_us)
    with pytest.raises(ValueError, match="period"):
        thread.register_poller(noop, period_us=period_us)
    assert thread.pollers == ()
    assert thread.pending_msgs == 0


@pytest.mark.parametrize("period_us", [math.inf, 1e300, 10**30])
def test_a_period_beyond_all_time_is_refused(thread, period_us):
    with thread, pytest.raises((ValueError, OverflowError)):
        thread.register_poller(noop, period_us=period_us)
    assert thread.pollers == ()


@settings(max_examples=50)
@given(
    st.lists(st.integers(1, 12), min_size=1, max_size=8),
    st.lists(st.integers(0, 25), max_size=40),
    st.sampled_from(["one", "all"]),
)
def test_timed_pollers_follow_the_schedule_of_the_seed(periods, steps, policy):
    """A list of (deadline, arming, number), kept sorted, says which pollers run in which poll."""
    clock = ManualClock()
    library = ThreadLib(clock=clock)
    thread = library.create_thread(poller_policy=policy)
    ran, armed, model, expected = [], 0, [], []
    with thread:
        for number, period in enumerate(periods):
            thread.register_poller(lambda number=number: ran.append(number), period_us=period / 1000)
            model.append((period, armed, number))
            armed += 1
    for step in steps:
        clock.advance(ticks=step)
        thread.poll()
        model.sort()
        due = [entry for entry in model if entry[0] <= clock.now]
        for entry in due[:1] if policy == "one" else due:
            model.remove(entry)
            expected.append(entry[2])
            model.append((clock.now + periods[entry[2]], armed, entry[2]))
            armed += 1
        assert ran == expected
        assert thread.next_poller_expiration == min(model)[0]
    finish(thread)
    library.close()


def test_ten_thousand_timed_pollers_run_in_the_order_of_their_deadlines(lib, clock):
    thread = lib.create_thread(poller_policy="all")
    ran = []
    with thread:
        for number in range(10_000):
            period = 1 + (number * 7919) % 10_000
            thread.register_poller(lambda period=period: ran.append(period), period_us=period)
    clock.advance(us=10_000)
    thread.poll()
    assert ran == list(range(1, 10_001))


# What was missed


@pytest.mark.parametrize("fixed_rate", [False, True])
@pytest.mark.parametrize("step_us", [1, 30, 99, 100, 101, 120, 199, 200, 250, 1_000, 3_333])
def test_runs_and_overruns_together_are_the_periods_that_went_by(thread, clock, step_us, fixed_rate):
    with thread:
        poller = thread.register_poller(noop, period_us=100, fixed_rate=fixed_rate)
    last_run = 0
    for _ in range(500):
        clock.advance(us=step_us)
        before = poller.run_count
        thread.poll()
        if poller.run_count > before:
            last_run = clock.now
    assert poller.run_count + poller.overrun_count == last_run // 100_000


def test_lateness_of_less_than_a_period_adds_up(thread, clock):
    with thread:
        poller = thread.register_poller(noop, period_us=100)
    seen = []
    for _ in range(12):
        clock.advance(us=125)
        thread.poll()
        seen.append(poller.overrun_count)
    assert seen == [0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3]


def test_time_in_which_a_poller_was_paused_is_no_lateness(thread, clock):
    with thread:
        plain = thread.register_poller(noop, 10)
        fixed = thread.register_poller(noop, 10, fixed_rate=True)
        for poller in (plain, fixed):
            poller.pause()
        clock.advance(us=95)
        for poller in (plain, fixed):
            poller.resume()
    assert (plain.deadline, fixed.deadline) == (105_000, 100_000)
    clock.advance(us=10)
    thread.poll()
    thread.poll()
    assert (plain.run_count, fixed.run_count) == (1, 1)
    assert (plain.overrun_count, fixed.overrun_count) == (0, 0)


# Fixed rate


def test_deadlines_of_fixed_rate_do_not_drift(thread, clock):
    clock.advance(us=7)
    ran = []
    with thread:
        poller = thread.register_poller(lambda: ran.append(clock.now), 10, fixed_rate=True)
    assert poller.fixed_rate
    for _ in range(100):
        clock.advance(us=3)
        thread.poll()
    # The first look at or after 17, 27, 37 ... us, every 3 us from 7.
    assert ran == [(7 + 3 * math.ceil(10 * k / 3)) * 1_000 for k in range(1, 31)]
    assert poller.overrun_count == 0


def test_however_late_a_poll_it_runs_a_poller_of_fixed_rate_once(thread, clock):
    with thread:
        poller = thread.register_poller(noop, 10, fixed_rate=True)
    clock.advance(us=35)
    for _ in range(5):
        thread.poll()
    assert (poller.run_count, poller.overrun_count) == (1, 2)
    assert poller.deadline == thread.next_poller_expiration == 40_000


def test_the_next_deadline_is_after_the_tick_of_the_poll(thread, clock):
    with thread:
        poller = thread.register_poller(noop, 10, fixed_rate=True)
    clock.advance(us=20)
    thread.poll()
    assert (poller.run_count, poller.overrun_count) == (1, 1)
    assert thread.next_poller_expiration == 30_000


def test_a_run_longer_than_the_period_misses_deadlines_of_fixed_rate(thread, clock):
    with thread:
        poller = thread.register_poller(lambda: clock.advance(us=25), 10, fixed_rate=True)
    clock.advance(us=10)
    thread.poll()
    assert thread.next_poller_expiration == 20_000
    thread.poll()
    assert (poller.run_count, poller.overrun_count) == (2, 1)
    assert thread.next_poller_expiration == 40_000


def test_inside_its_function_a_poller_knows_its_deadline(thread, clock):
    seen = []
    with thread:
        poller = thread.register_poller(lambda: seen.append(poller.deadline), 10, fixed_rate=True)
        active = thread.register_poller(noop)
    assert active.deadline is None
    for late in (3, 9, 27):
        clock.advance(us=late)
        thread.poll()
    assert seen == [10_000, 20_000]
    assert poller.deadline == 40_000


def test_pausing_in_its_own_function_leaves_the_deadlines_where_they_are(thread, clock):
    with thread:
        poller = thread.register_poller(lambda: poller.pause(), 10, fixed_rate=True)
        clock.advance(us=12)
        thread.poll()
        clock.advance(us=50)
        poller.resume()
    assert thread.next_poller_expiration == 70_000
    assert poller.overrun_count == 0


def test_a_poller_of_fixed_rate_that_is_paused_before_its_registration_arrives_keeps_its_start(thread, clock):
    poller = thread.register_poller(noop, 10, fixed_rate=True)
    clock.advance(us=5)
    poller.pause()
    thread.poll()
    clock.advance(us=40)
    poller.resume()
    thread.poll()
    assert thread.next_poller_expiration == 55_000


def test_an_active_poller_has_no_fixed_rate(thread):
    with pytest.raises(ValueError, match="fixed_rate"):
        thread.register_poller(noop, fixed_rate=True)
    with thread, pytest.raises(ValueError, match="fixed_rate"):
        thread.register_poller(noop, 0, fixed_rate=True)
    assert thread.pollers == ()
