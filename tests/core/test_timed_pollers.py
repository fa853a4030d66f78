"""Timed pollers: when they are first due, how they are re-armed, and in which order they run."""

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import finish, noop, run_python

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


@pytest.mark.seed
def test_a_period_below_one_tick_is_refused(thread):
    """Seed: silently becomes busy polling."""
    with thread, pytest.raises(ValueError, match="period"):
        thread.register_poller(noop, 0.0005)
    assert not thread.has_active_pollers


@pytest.mark.seed
def test_the_expiration_is_absolute_and_none_without_a_timer(thread, clock):
    """Seed: documented as relative, and 0 for none."""
    assert thread.next_poller_expiration is None
    clock.advance(us=100)
    with thread:
        thread.register_poller(noop, 10)
    assert thread.next_poller_expiration == 110_000


@pytest.mark.seed
def test_the_clock_is_read_after_the_active_poller(thread, clock):
    """One timed poller: clock read after the active poller."""
    with thread:
        thread.register_poller(lambda: clock.advance(us=10))
        timed = thread.register_poller(noop, 10)
    thread.poll()
    assert timed.run_count == 1


@pytest.mark.seed
def test_a_timed_poller_runs_when_now_reaches_its_next_run(thread, clock):
    """If now >= next_run of the head: removed, run."""
    with thread:
        timed = thread.register_poller(noop, 10)
    clock.advance(ticks=9_999)
    thread.poll()
    assert timed.run_count == 0
    clock.advance(ticks=1)
    thread.poll()
    assert timed.run_count == 1


@pytest.mark.seed
def test_a_timed_poller_is_re_armed_with_the_tick_read_before_its_call(thread, clock):
    """Re-inserted at now + period with the tick read before the call."""
    with thread:
        thread.register_poller(lambda: clock.advance(us=3), 10)
    clock.advance(us=12)
    thread.poll()
    assert thread.next_poller_expiration == 22_000


@pytest.mark.seed
def test_lateness_shifts_the_schedule_without_a_burst(thread, clock):
    """Lateness shifts the schedule; no catch-up burst."""
    with thread:
        timed = thread.register_poller(noop, 10)
    clock.advance(us=95)
    for _ in range(5):
        thread.poll()
    assert timed.run_count == 1
    assert thread.next_poller_expiration == 105_000


@pytest.mark.seed
def test_one_timed_poller_runs_per_poll(thread, clock):
    """One timed poller per poll."""
    with thread:
        pollers = [thread.register_poller(noop, 10) for _ in range(3)]
    clock.advance(us=10)
    for expected in ([1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]):
        thread.poll()
        assert [poller.run_count for poller in pollers] == expected


@pytest.mark.seed
def test_timers_are_in_ascending_order_and_equal_keys_keep_insertion_order(thread, clock):
    """Ascending next_run; equal keys keep insertion order."""
    ran = []
    with thread:
        for name, period in (("c1", 30), ("a1", 10), ("b1", 20), ("a2", 10), ("c2", 30), ("b2", 20)):
            thread.register_poller(lambda name=name: ran.append(name), period)
    clock.advance(us=30)
    for _ in range(6):
        thread.poll()
    assert ran == ["a1", "a2", "b1", "b2", "c1", "c2"]


@pytest.mark.seed
@pytest.mark.parametrize("period_us", [1, 999_999, 1_000_000, 1_000_001, 123_456_789, 86_400_000_000])
def test_a_period_in_ticks(thread, period_us):
    """Period in ticks = hz * floor(us/1e6) + hz * (us mod 1e6)/1e6, truncated."""
    with thread:
        poller = thread.register_poller(noop, period_us)
    hz = 10**9
    assert poller.period_ticks == hz * (period_us // 10**6) + hz * (period_us % 10**6) // 10**6


@pytest.mark.seed
def test_next_poller_expiration_is_the_absolute_tick_of_the_head(thread, clock):
    """Absolute tick of the head."""
    clock.advance(us=1_000)
    with thread:
        thread.register_poller(noop, 50)
        thread.register_poller(noop, 20)
    assert thread.next_poller_expiration == 1_020_000


@pytest.mark.seed
def test_a_timed_poller_is_first_due_at_now_plus_period(thread, clock):
    """Timed: first due now + period."""
    clock.advance(us=77)
    with thread:
        thread.register_poller(noop, 10)
    assert thread.next_poller_expiration == 87_000


JUMPS = [1, 10**3, 10**9, 2**40, 2**62]


@pytest.mark.parametrize("policy", ["one", "all"])
@pytest.mark.parametrize("jump", JUMPS)
@pytest.mark.faults
def test_a_clock_that_jumps_runs_each_timer_once_in_the_order_of_the_deadlines(lib, clock, policy, jump):
    thread = lib.create_thread(poller_policy=policy)
    ran = []
    with thread:
        pollers = [thread.register_poller(lambda n=n: ran.append(n), 0.001 * (n + 1)) for n in range(5)]
    clock.advance(ticks=jump)
    due = min(5, jump)
    for _ in range(due if policy == "one" else 1):
        thread.poll()
    assert ran == list(range(due))
    clock.advance(ticks=0)
    before = len(ran)
    thread.poll(now=clock.now)
    assert len(ran) == before or jump > 10
    with thread:
        for poller in pollers:
            poller.unregister()


@pytest.mark.faults
def test_a_clock_at_its_end_runs_and_arms_timers_still(lib, clock):
    thread = lib.create_thread()
    ran = []
    clock.advance(ticks=2**63 - 1 - clock.now - 10)
    with thread:
        poller = thread.register_poller(lambda: ran.append(clock.now), 0.004)
    for _ in range(20):
        try:
            clock.advance(ticks=1)
        except (ValueError, OverflowError):
            break
        thread.poll()
    assert ran[0] == 2**63 - 1 - 6
    assert len(ran) == 2
    with pytest.raises((ValueError, OverflowError)):
        clock.advance(ticks=1)
    thread.send_msg(ran.append, "still")
    thread.poll()
    assert ran[-1] == "still"
    with thread:
        poller.unregister()
    finish(thread)


@pytest.mark.faults
def test_a_clock_that_goes_back_runs_nothing_early(lib, clock):
    """`poll` may be given a tick by hand, also one before the last."""
    thread = lib.create_thread(poller_policy="all")
    ran = []
    with thread:
        poller = thread.register_poller(lambda: ran.append(1), 10)
    for now, count in [(9_999, 0), (10_000, 1), (5_000, 1), (0, 1), (19_999, 1), (20_000, 2), (1, 2)]:
        thread.poll(now=now)
        assert len(ran) == count, now
    with thread:
        poller.unregister()


@pytest.mark.parametrize("policy", ["one", "all"])
@pytest.mark.parametrize("now", [2**63, 2**64 - 10_001, 2**64 - 2, 2**64 - 1])
def test_a_tick_so_late_that_the_next_deadline_would_wrap_is_refused(policy, now):
    """A clock ends at tick 2**63. Beyond it a deadline could not be told from one that is long past."""
    done = run_python(
        f"""
import spdkthread
from spdkthread.testing import ManualClock
thread = spdkthread.ThreadLib(clock=ManualClock()).create_thread("net", poller_policy={policy!r})
with thread:
    poller = thread.register_poller(lambda: 0, 10)
try:
    thread.poll(now={now})
except (ValueError, OverflowError):
    print("refused")
print(poller.run_count, thread.next_poller_expiration)
"""
    )
    assert done.stdout == "refused\n0 10000\n", done.stderr
