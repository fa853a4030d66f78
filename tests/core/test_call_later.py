"""call_later: when a timer runs, in which order, and who may cancel it."""

import gc
import math
import threading
import weakref

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import PATIENCE_S, OtherThread, elsewhere, eventually, finish, noop

from spdkthread import ThreadExitedError, ThreadLib, Timer, get_thread, ticks
from spdkthread.testing import ManualClock


class Thing:
    """Something to hold a weak reference to."""


# When


def test_a_timer_runs_once_at_the_first_poll_at_or_after_its_deadline(thread, clock):
    ran = []
    clock.advance(us=5)
    with thread:
        timer = thread.call_later(10, ran.append, "x")
    assert isinstance(timer, Timer)
    assert (timer.deadline, timer.is_pending, timer.thread) == (15_000, True, thread)
    clock.advance(ticks=9_999)
    assert thread.poll() == 0
    assert ran == []
    clock.advance(ticks=1)
    assert thread.poll() == 1
    assert ran == ["x"]
    assert not timer.is_pending
    assert timer.deadline == 15_000
    clock.advance(us=100)
    assert thread.poll() == 0
    assert ran == ["x"]


@pytest.mark.parametrize("count", [0, 1, 4, 7])
def test_a_timer_gets_its_arguments(thread, count):
    got = []
    with thread:
        thread.call_later(0, lambda *args: got.append(args), *range(count))
    thread.poll()
    assert got == [tuple(range(count))]


@pytest.mark.parametrize("policy", ["one", "all"])
def test_all_that_are_due_run_in_one_poll_in_the_order_of_their_deadlines(lib, clock, policy):
    thread = lib.create_thread(poller_policy=policy)
    ran = []
    with thread:
        for delay in (30, 10, 20, 10, 0, 40, 30):
            thread.call_later(delay, ran.append, (delay, len(thread.timers)))
    clock.advance(us=30)
    thread.poll()
    assert ran == [(0, 4), (10, 1), (10, 3), (20, 2), (30, 0), (30, 6)]
    clock.advance(us=10)
    thread.poll()
    assert ran[-1] == (40, 5)


def test_timers_do_not_take_the_turn_of_a_timed_poller(thread, clock):
    ran = []
    with thread:
        for name in "ab":
            thread.register_poller(lambda name=name: ran.append(name), 10)
        thread.call_later(10, ran.append, 1)
        thread.call_later(5, ran.append, 2)
    clock.advance(us=10)
    thread.poll()
    assert ran == [2, 1, "a"]
    thread.poll()
    assert ran == [2, 1, "a", "b"]


def test_no_delay_means_the_next_poll_and_not_the_one_that_goes_on(thread):
    ran = []

    def again():
        ran.append(len(ran))
        thread.call_later(0, again)

    thread.send_msg(thread.call_later, 0, again)
    for polls in range(5):
        thread.poll()
        assert ran == list(range(polls))
    thread.timers[0].cancel() or pytest.fail("it is pending")
    thread.poll()


def test_what_a_timer_arms_runs_in_a_later_poll(thread, clock):
    ran = []
    with thread:
        thread.call_later(5, lambda: thread.call_later(1, ran.append, clock.advance(us=10)))
    # The tick that was given to this poll lies beyond every deadline.
    thread.poll(now=10**12)
    assert ran == []
    thread.poll(now=10**12)
    assert len(ran) == 1


def test_timers_of_no_delay_keep_their_order_across_the_end_of_a_poll(thread):
    ran = []
    thread.send_msg(lambda: [thread.call_later(0, ran.append, number) for number in range(3)])
    thread.poll()
    with thread:
        thread.call_later(0, ran.append, 3)
    thread.poll()
    assert ran == [0, 1, 2, 3]


def test_a_timer_armed_by_a_message_is_due_in_that_poll_when_its_deadline_has_come(thread, clock):
    ran = []
    thread.send_msg(lambda: (thread.call_later(10, ran.append, "x"), clock.advance(us=10)))
    thread.poll()
    assert ran == ["x"]


@pytest.mark.parametrize(
    ("delay_us", "delay_ticks"),
    [
        (0, 0),
        (0.0, 0),
        (1, 1_000),
        (1.5, 1_500),
        (0.001, 1),
        (1e6, 10**9),
        (np.float64(2.5), 2_500),
        (np.int64(3), 3_000),
    ],
)
def test_a_delay_in_microseconds_becomes_ticks(thread, delay_us, delay_ticks):
    with thread:
        timer = thread.call_later(delay_us, noop)
        assert timer.deadline == delay_ticks
        timer.cancel()


@pytest.mark.parametrize("delay_us", [-1, -0.001, math.nan, math.inf, -math.inf, 10**30, -(10**30), 1e300])
def test_a_delay_that_is_no_time_to_come_is_refused(thread, delay_us):
    with pytest.raises(ValueError, match="delay_us"):
        thread.call_later(delay_us, noop)
    with thread, pytest.raises(ValueError, match="delay_us"):
        thread.call_later(delay_us, noop)
    assert (thread.timers, thread.pending_msgs) == ((), 0)


@pytest.mark.parametrize("delay_us", [True, False, np.True_, "1", None, [], 1j])
def test_a_delay_that_is_no_number_is_refused(thread, delay_us):
    with pytest.raises(TypeError, match="delay_us"):
        thread.call_later(delay_us, noop)


def test_what_cannot_be_called_is_refused(thread):
    with pytest.raises(TypeError, match="callable"):
        thread.call_later(1, None)
    with pytest.raises(TypeError):
        thread.call_later(1)
    with pytest.raises(TypeError):
        Timer()


@settings(max_examples=60)
@given(
    st.lists(st.tuples(st.sampled_from(["arm", "arm", "step", "cancel", "nested"]), st.integers(0, 30)), max_size=60),
    st.sampled_from(["one", "all"]),
)
def test_timers_follow_a_sorted_list(program, policy):
    clock = ManualClock()
    library = ThreadLib(clock=clock)
    thread = library.create_thread(poller_policy=policy)
    ran, expected, model, timers, numbers = [], [], [], {}, iter(range(1_000))

    def arm(delay, then=None):
        number = next(numbers)
        model.append((clock.now + delay, number, then))

        def fire():
            ran.append(number)
            if then is not None:
                arm(then)

        timers[number] = thread.call_later(delay / 1000, fire)

    with thread:
        thread.register_poller(noop, 0.007)
        for what, value in program:
            if what == "arm":
                arm(value)
            elif what == "nested":
                arm(value, value // 2)
            elif what == "cancel" and model:
                entry = sorted(model)[value % len(model)]
                model.remove(entry)
                assert timers[entry[1]].cancel()
                assert not timers[entry[1]].cancel()
            elif what == "step":
                clock.advance(ticks=value)
                due = sorted(entry[:2] for entry in model if entry[0] <= clock.now)
                model[:] = [entry for entry in model if entry[0] > clock.now]
                expected += [number for _, number in due]
                thread.poll()
                assert ran == expected
            assert [timer.deadline for timer in thread.timers] == sorted(entry[0] for entry in model)
            due = min([entry[0] for entry in model] + [thread.next_poller_expiration])
            assert thread.next_expiration == due
        for timer in thread.timers:
            assert timer.cancel()
        assert thread.next_expiration == thread.next_poller_expiration
    finish(thread)
    library.close()


def test_a_hundred_thousand_timers_run_in_the_order_of_their_deadlines(thread, clock):
    ran = []
    with thread:
        for number in range(100_000):
            thread.call_later(1 + number * 7919 % 100_000, ran.append, 1 + number * 7919 % 100_000)
    for _ in range(10):
        clock.advance(us=10_000)
        thread.poll()
        assert len(ran) == clock.now // 1_000
    assert ran == list(range(1, 100_001))


# Expirations


def test_the_next_poller_expiration_is_that_of_pollers_only(thread, clock):
    assert thread.next_expiration is None
    with thread:
        timer = thread.call_later(10, noop)
        assert thread.next_poller_expiration is None
        assert thread.next_expiration == 10_000
        assert not thread.has_pollers
        assert not thread.is_idle
        poller = thread.register_poller(noop, 20)
        assert (thread.next_poller_expiration, thread.next_expiration) == (20_000, 10_000)
        timer.cancel()
        assert (thread.next_poller_expiration, thread.next_expiration) == (20_000, 20_000)
        poller.unregister()
    assert thread.next_expiration is None
    assert thread.is_idle


# Cancel


def test_a_cancelled_timer_never_runs(thread, clock):
    ran = []
    with thread:
        timer = thread.call_later(10, ran.append, "x")
        assert timer.cancel() is True
        assert timer.cancel() is False
        assert not timer.is_pending
        assert thread.timers == ()
        assert thread.next_expiration is None
    clock.advance(us=20)
    thread.poll()
    assert ran == []


def test_a_timer_that_has_run_cannot_be_cancelled(thread):
    with thread:
        timer = thread.call_later(0, noop)
    thread.poll()
    assert timer.cancel() is False
    assert elsewhere(timer.cancel) is False


def test_a_timer_cannot_be_cancelled_in_its_own_function(thread):
    seen = []
    with thread:
        timer = thread.call_later(0, lambda: seen.append((timer.is_pending, timer.cancel())))
    thread.poll()
    assert seen == [(False, False)]


def test_a_timer_may_cancel_one_that_is_due_behind_it(thread, clock):
    ran = []
    with thread:
        thread.call_later(10, lambda: ran.append(victim.cancel()))
        victim = thread.call_later(10, ran.append, "victim")
        thread.call_later(10, ran.append, "bystander")
    clock.advance(us=10)
    thread.poll()
    assert ran == [True, "bystander"]


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_a_cancelled_timer_lets_go_of_what_it_held_at_once(thread, where):
    fn, argument = Thing(), Thing()
    seen = [weakref.ref(fn), weakref.ref(argument)]
    fn.__class__ = type("Callable", (Thing,), {"__call__": lambda self, *args: None})
    with thread:
        timer = thread.call_later(10, fn, argument)
        del fn, argument
        gc.collect()
        assert all(ref() is not None for ref in seen)
        assert timer.cancel() if where == "here" else elsewhere(timer.cancel)
        assert [ref() for ref in seen] == [None, None]


def test_cancel_from_elsewhere_is_true_at_once_and_the_run_does_not_happen(thread, clock):
    ran = []
    with thread:
        timer = thread.call_later(10, ran.append, "x")
    assert elsewhere(timer.cancel) is True
    assert not timer.is_pending
    assert thread.timers == ()
    assert timer.cancel() is False
    clock.advance(us=20)
    thread.poll()
    assert ran == []
    assert thread.next_expiration is None


def test_cancel_from_elsewhere_works_when_the_ring_is_full(lib):
    thread = lib.create_thread(ring_size=2)
    with thread:
        timers = [thread.call_later(10, noop) for _ in range(10)]
    while thread.try_send_msg(noop):
        pass
    assert [elsewhere(timer.cancel) for timer in timers] == [True] * 10
    while thread.pending_msgs:
        thread.poll()
    assert thread.next_expiration is None


def test_of_a_run_and_a_cancel_at_once_one_wins(live_lib, reactor):
    """Each timer either ran or was cancelled, whatever the OS threads did."""
    thread = reactor.create_thread(ring_size=16_384)
    ran = set()
    cancelled = set()
    for _ in range(20):
        timers = [thread.call_later(20 * (n % 7), ran.add, ticks() + n) for n in range(200)]
        cancelled |= {timer for timer in timers if timer.cancel()}
        eventually(lambda timers=timers: not any(timer.is_pending for timer in timers))
    thread.call(noop).result(PATIENCE_S)
    eventually(lambda: len(ran) + len(cancelled) == 4_000)
    eventually(lambda: thread.next_expiration is None)


def test_two_os_threads_that_cancel_the_same_timers_share_them(thread):
    with thread:
        timers = [thread.call_later(10, noop) for _ in range(500)]
    start = threading.Barrier(2)

    def cancel_all():
        start.wait(PATIENCE_S)
        return [timer.cancel() for timer in timers]

    both = [OtherThread(cancel_all) for _ in range(2)]
    first, second = (other.outcome() for other in both)
    assert [a + b for a, b in zip(first, second, strict=True)] == [1] * 500
    while thread.pending_msgs:
        thread.poll()
    assert thread.is_idle


# From elsewhere


def test_from_elsewhere_a_timer_comes_by_a_message_in_order(thread, clock):
    ran = []
    thread.send_msg(ran.append, "before")
    timer = thread.call_later(0, ran.append, "timer")
    thread.send_msg(ran.append, "after")
    assert timer.is_pending
    assert thread.timers == ()
    assert thread.next_expiration is None
    assert thread.poll() == 1
    assert ran == ["before", "after", "timer"]


def test_from_elsewhere_the_delay_counts_from_the_call(thread, clock):
    ran = []
    timer = thread.call_later(10, ran.append, "x")
    assert timer.deadline == 10_000
    clock.advance(us=50)
    thread.poll()
    assert ran == ["x"]


def test_a_timer_cancelled_before_its_message_arrived_never_runs(thread, clock):
    ran = []
    timer = thread.call_later(10, ran.append, "x")
    assert timer.cancel()
    clock.advance(us=50)
    thread.poll()
    assert ran == []
    assert thread.is_idle


def test_a_sleeping_reactor_wakes_for_a_timer(reactor):
    thread = reactor.create_thread()
    parked = reactor.stats.parks
    eventually(lambda: reactor.stats.parks > parked)
    done = threading.Event()
    timer = thread.call_later(20_000, done.set)
    assert done.wait(PATIENCE_S)
    assert ticks() >= timer.deadline
    eventually(lambda: reactor.stats.parks > parked + 1)


def test_a_timer_runs_on_its_thread(reactor):
    thread = reactor.create_thread()
    seen = []
    done = threading.Event()
    thread.call_later(1, lambda: (seen.append(get_thread()), done.set()))
    assert done.wait(PATIENCE_S)
    assert seen == [thread]


def test_an_exited_thread_takes_no_timer(lib):
    thread = lib.create_thread()
    finish(thread)
    with pytest.raises(ThreadExitedError):
        thread.call_later(1, noop)


# Endings


def test_a_pending_timer_keeps_an_exiting_thread(thread, clock):
    ran = []
    with thread:
        thread.call_later(10, ran.append, "x")
        thread.exit()
    for _ in range(3):
        thread.poll()
    assert thread.state == "exiting"
    (blocker,) = thread.exit_blockers
    assert "timer" in blocker
    assert "append" in blocker
    clock.advance(us=10)
    thread.poll()
    assert ran == ["x"]
    assert thread.is_exited


@pytest.mark.parametrize("where", ["here", "elsewhere"])
def test_an_exiting_thread_ends_when_its_last_timer_is_cancelled(thread, where):
    with thread:
        timer = thread.call_later(10, noop)
        thread.exit()
        thread.poll()
        assert timer.cancel() if where == "here" else elsewhere(timer.cancel)
    thread.poll()
    assert thread.is_exited


def test_a_reactor_that_stops_reports_pending_timers(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread("late")
    timer = thread.call(thread.call_later, 3_600_000_000, noop).result(PATIENCE_S)
    report = reactor.stop(timeout_s=1)
    assert not report.ok
    assert [(left.thread, left.kind) for left in report.leftover_others] == [("late", "timer")]
    assert "'noop'" in report.leftover_others[0].name
    timer.cancel()
    finish(thread)


def test_a_closed_library_names_timers(lib, thread):
    with thread:
        thread.call_later(10, noop)
    with pytest.raises(Exception, match="timer 'noop'"):
        lib.close()
    with thread:
        thread.timers[0].cancel()


def test_timers_of_a_thread_that_is_dropped_are_reported_and_freed(clock, caplog):
    lib = ThreadLib(clock=clock)
    thread = lib.create_thread("dropped")
    with thread:
        timer = thread.call_later(10, noop, Thing())
        seen = weakref.ref(timer)
    del thread, timer, lib
    gc.collect()
    assert seen() is None
    assert "timers that never ran: noop" in caplog.text


# Errors


def test_what_a_timer_raises_goes_to_the_exception_handler(thread, errors):
    def fail():
        raise LookupError("gone")

    ran = []
    with thread:
        thread.call_later(0, fail)
        thread.call_later(0, ran.append, "next")
    thread.poll()
    (context,) = errors
    assert isinstance(context["exception"], LookupError)
    assert context["fn"] is fail
    assert context["thread"] is thread
    assert "timer" in context["message"]
    assert ran == ["next"]
    assert thread.stats.errors == 1


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_poll_leaves_the_other_timers_for_the_next(thread, stop):
    def fail():
        raise stop

    ran = []
    with thread:
        for what in (fail, lambda: ran.append("rest")):
            thread.call_later(0, what)
    with pytest.raises(stop):
        thread.poll()
    assert ran == []
    thread.poll()
    assert ran == ["rest"]
    assert thread.is_idle


def test_a_timer_moves_with_its_thread(make_reactor):
    first, second = make_reactor().start(), make_reactor().start()
    thread = first.create_thread()
    done = threading.Event()
    timer = thread.call_later(30_000, done.set)
    first.move_thread(thread, second).result(PATIENCE_S)
    assert done.wait(PATIENCE_S)
    assert ticks() >= timer.deadline
