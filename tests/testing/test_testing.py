"""spdkthread.testing: simulated time that passes, and polling until nothing is left."""

import math

import pytest
from support import finish, noop

from spdkthread import NotIdleError, SpdkThreadError, ThreadLib, WrongThreadError, aio
from spdkthread.testing import ManualClock, poll_until_idle, run_for


def test_time_passes_from_deadline_to_deadline(lib, thread, clock):
    seen = []
    clock.advance(us=3)
    with thread:
        thread.register_poller(lambda: seen.append(("poller", clock.now)), 10)
        thread.register_poller(lambda: seen.append(("fixed", clock.now)), 7, fixed_rate=True)
        thread.call_later(12.5, lambda: seen.append(("timer", clock.now)))
    assert run_for(clock, [thread], us=22) == 6
    assert clock.now == 25_000
    assert seen == [
        ("fixed", 10_000),
        ("poller", 13_000),
        ("timer", 15_500),
        ("fixed", 17_000),
        ("poller", 23_000),
        ("fixed", 24_000),
    ]


def test_a_deadline_at_the_very_end_is_reached(thread, clock):
    seen = []
    with thread:
        thread.call_later(10, seen.append, "x")
        later = thread.call_later(10.001, seen.append, "y")
    run_for(clock, [thread], us=10)
    assert (seen, clock.now) == (["x"], 10_000)
    assert later.cancel() or pytest.fail("it is pending")
    thread.poll()


def test_time_passes_without_any_deadline(thread, clock):
    assert run_for(clock, [thread], us=1.5) == 0
    assert run_for(clock, [], us=0.5) == 0
    assert clock.now == 2_000


def test_no_time_is_polling_until_idle(thread, clock):
    seen = []
    thread.send_msg(seen.append, "message")
    with thread:
        thread.call_later(0, seen.append, "timer")
    run_for(clock, [thread], us=0)
    assert sorted(seen) == ["message", "timer"]
    assert clock.now == 0


def test_every_due_poller_runs_although_a_poll_takes_one(thread, clock):
    with thread:
        pollers = [thread.register_poller(noop, 10) for _ in range(5)]
    run_for(clock, [thread], us=30)
    assert [poller.run_count for poller in pollers] == [3] * 5


def test_polling_until_idle_is_not_over_while_a_poller_is_due(thread, clock):
    with thread:
        pollers = [thread.register_poller(noop, 10) for _ in range(5)]
    clock.advance(us=10)
    poll_until_idle([thread])
    assert [poller.run_count for poller in pollers] == [1] * 5


def test_messages_between_threads_arrive_at_the_tick_at_which_they_were_sent(lib, clock):
    a, b = lib.create_thread("a"), lib.create_thread("b")
    seen = []
    with a:
        a.register_poller(lambda: b.send_msg(lambda: a.send_msg(lambda: seen.append(clock.now))), 10)
    run_for(clock, [b, a], us=35)
    assert seen == [10_000, 20_000, 30_000]


def test_coroutines_sleep_in_simulated_time(thread, clock):
    seen = []

    async def main():
        for _ in range(3):
            await aio.sleep_us(10)
            seen.append(clock.now)

    future = thread.spawn(main())
    run_for(clock, [thread], us=100)
    assert seen == [10_000, 20_000, 30_000]
    assert future.done()


def test_threads_created_meanwhile_take_part_when_a_library_is_given(lib, clock):
    seen = []

    def create():
        new = lib.create_thread("new")
        with new:
            new.call_later(5, lambda: seen.append(clock.now))
            new.exit()

    first = lib.create_thread("first")
    with first:
        first.call_later(10, create)
    run_for(clock, lib, us=100)
    assert seen == [15_000]
    assert [one.name for one in lib.threads] == ["first"]


def test_threads_created_meanwhile_are_not_polled_when_threads_are_given(lib, clock):
    made = []
    first = lib.create_thread("first")
    with first:
        first.call_later(10, lambda: made.append(lib.create_thread("new")))
    run_for(clock, [first], us=100)
    assert made[0].stats.polls == 0


def test_a_thread_that_exits_meanwhile_is_left_alone(lib, clock):
    thread = lib.create_thread()
    with thread:
        thread.call_later(10, thread.exit)
    run_for(clock, [thread], us=100)
    assert thread.is_exited
    assert clock.now == 100_000


def test_a_callback_that_moves_the_clock_itself_is_allowed(thread, clock):
    with thread:
        poller = thread.register_poller(lambda: clock.advance(us=25), 10)
    run_for(clock, [thread], us=100)
    assert clock.now == 135_000
    assert poller.run_count == 5


@pytest.mark.parametrize("how", ["message", "timer", "active poller"])
def test_work_that_never_ends_is_refused_by_name(lib, clock, how):
    thread = lib.create_thread("busy")

    def again():
        if not over:
            thread.send_msg(again) if how == "message" else thread.call_later(0, again)
        return 1

    over = []
    with thread:
        thread.register_poller(again) if how == "active poller" else again()
    for call in (lambda: run_for(clock, [thread], us=10, max_rounds=50), lambda: poll_until_idle([thread], 50)):
        with pytest.raises(NotIdleError, match=r"(?s)still busy after 50 rounds.*busy") as info:
            call()
        assert isinstance(info.value, SpdkThreadError)
        assert isinstance(info.value, RuntimeError)
    assert clock.now == 0
    over.append(True)
    finish(thread)


@pytest.mark.parametrize("us", [-1, math.nan, math.inf])
def test_time_does_not_pass_backwards(thread, clock, us):
    with pytest.raises(ValueError, match="us must be"):
        run_for(clock, [thread], us=us)


@pytest.mark.parametrize("us", [True, "1", None])
def test_time_is_a_number(thread, clock, us):
    with pytest.raises(TypeError, match="us must be"):
        run_for(clock, [thread], us=us)


def test_a_thread_with_another_clock_is_refused(thread, clock, live_lib):
    other = live_lib.create_thread("other")
    with pytest.raises(ValueError, match="other"):
        run_for(clock, [thread, other], us=1)
    with pytest.raises(ValueError, match="net"):
        run_for(ManualClock(), [thread], us=1)
    with pytest.raises(TypeError, match="ManualClock"):
        run_for(live_lib, [thread], us=1)
    assert clock.now == 0


def test_a_thread_on_a_reactor_is_refused(reactor, live_lib):
    with pytest.raises(WrongThreadError):
        poll_until_idle([reactor.create_thread()])


def test_threads_on_the_real_clock_are_idle_although_time_goes_on():
    lib = ThreadLib()
    thread = lib.create_thread()
    with thread:
        poller = thread.register_poller(noop, 0.001)
    assert poll_until_idle([thread]) < 10
    assert poller.run_count >= 1
    finish(thread)
    lib.close()
