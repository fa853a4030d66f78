"""Pollers: registered, run, paused, resumed and unregistered, by themselves, by others and from elsewhere."""

import enum
import gc
import weakref

import pytest
from support import drain, elsewhere, fill, finish, lasting_repr, noop, still_works

from spdkthread import Poller, ThreadLib, get_thread


class Busy(enum.IntEnum):
    IDLE = 0
    BUSY = 1


def names(pollers):
    return sorted(poller.name for poller in pollers)


def test_an_active_poller_runs_in_every_poll(thread):
    ran = []
    with thread:
        poller = thread.register_poller(lambda: ran.append(get_thread()), name="beat")
    for _ in range(3):
        thread.poll()
    assert ran == [thread] * 3
    assert poller.run_count == 3
    assert thread.stats.pollers_run == 3


def test_a_poller_says_what_it_is(thread):
    with thread:
        poller = thread.register_poller(noop, period_us=2.5, name="beat")
    assert poller.name == "beat"
    assert poller.thread is thread
    assert poller.state == "waiting"
    assert poller.period_us == 2.5
    assert poller.period_ticks == 2_500
    assert (poller.run_count, poller.busy_count, poller.error_count, poller.overrun_count) == (0, 0, 0, 0)


def test_an_active_poller_has_no_period(thread):
    with thread:
        poller = thread.register_poller(noop)
    assert poller.period_us == 0
    assert poller.period_ticks == 0


def test_a_poller_without_a_name_gets_one(thread):
    with thread:
        poller = thread.register_poller(noop)
    assert isinstance(poller.name, str)
    assert poller.name


def test_poller_ids_differ(thread):
    with thread:
        pollers = [thread.register_poller(noop) for _ in range(5)]
    ids = [poller.id for poller in pollers]
    assert ids == sorted(set(ids))


def test_pollers_run_one_per_poll_in_turn_by_default(thread):
    ran = []
    with thread:
        for name in "abc":
            thread.register_poller(lambda name=name: ran.append(name))
    for _ in range(7):
        thread.poll()
    assert ran == list("abcabca")


def test_with_policy_all_every_active_poller_runs_in_every_poll(lib):
    thread = lib.create_thread(poller_policy="all")
    ran = []
    with thread:
        for name in "abc":
            thread.register_poller(lambda name=name: ran.append(name))
    thread.poll()
    assert ran == list("abc")
    thread.poll()
    assert ran == list("abcabc")


def test_policy_one_is_the_default_and_may_be_asked_for(lib):
    thread = lib.create_thread(poller_policy="one")
    ran = []
    with thread:
        thread.register_poller(lambda: ran.append("a"))
        thread.register_poller(lambda: ran.append("b"))
    thread.poll()
    assert ran == ["a"]


@pytest.mark.parametrize(
    ("returned", "polled", "busy"),
    [
        (0, 0, 0),
        (None, 0, 0),
        (False, 0, 0),
        (True, 1, 1),
        (1, 1, 1),
        (5, 5, 1),
        (-1, 0, 0),
        (-(2**31), 0, 0),
        (2**31 - 1, 2**31 - 1, 1),
        (Busy.IDLE, 0, 0),
        (Busy.BUSY, 1, 1),
    ],
)
def test_a_poll_returns_what_its_poller_returned_but_never_less_than_zero(thread, errors, returned, polled, busy):
    with thread:
        poller = thread.register_poller(lambda: returned)
    result = thread.poll()
    assert result == polled
    assert type(result) is int
    assert poller.run_count == 1
    assert poller.busy_count == busy
    assert errors == []


def test_a_poll_returns_the_larger_of_message_and_poller(thread):
    values = iter([0, -3, 1, 7])
    with thread:
        thread.register_poller(lambda: next(values))
    for expected in (1, 1, 1, 7):
        thread.send_msg(noop)
        assert thread.poll() == expected


def test_with_policy_all_a_poll_returns_the_largest_value(lib):
    thread = lib.create_thread(poller_policy="all")
    with thread:
        for value in (2, 9, -4, 3):
            thread.register_poller(lambda value=value: value)
    assert thread.poll() == 9


@pytest.mark.parametrize("returned", ["busy", 1.0, [], (), object(), b"", 1j], ids=lasting_repr)
def test_a_poller_that_returns_anything_else_is_reported(thread, errors, returned):
    with thread:
        poller = thread.register_poller(lambda: returned, name="odd")
    assert thread.poll() == 0
    assert errors.types == [TypeError]
    assert errors[0]["poller"] is poller
    assert "odd" in str(errors[0]["exception"]) + errors[0]["message"]
    assert poller.state == "waiting"
    assert poller.error_count == 1
    thread.poll()
    assert poller.run_count == 2


def test_a_poller_with_an_absurdly_large_result_does_no_harm(thread, lib):
    with thread:
        poller = thread.register_poller(lambda: 2**100)
    assert thread.poll() >= 0
    thread.poll()
    assert poller.run_count == 2


def test_a_poller_is_running_while_it_runs(thread):
    seen = []
    with thread:
        poller = thread.register_poller(lambda: seen.append(poller.state))
    assert poller.state == "waiting"
    thread.poll()
    assert seen == ["running"]
    assert poller.state == "waiting"


def test_a_thread_keeps_its_pollers_alive(thread):
    ran = []
    with thread:
        thread.register_poller(lambda: ran.append(1))
    gc.collect()
    thread.poll()
    assert ran == [1]


def test_a_thread_lists_its_pollers(thread):
    assert thread.pollers == ()
    with thread:
        active = thread.register_poller(noop, name="active")
        timed = thread.register_poller(noop, 5, name="timed")
        paused = thread.register_poller(noop, name="paused")
        paused.pause()
    assert isinstance(thread.pollers, tuple)
    assert names(thread.pollers) == ["active", "paused", "timed"]
    with thread:
        active.unregister()
    assert names(thread.pollers) == ["paused", "timed"]
    with thread:
        timed.unregister()
        paused.unregister()
    assert thread.pollers == ()


def test_the_running_poller_is_among_the_pollers(thread):
    seen = []
    with thread:
        poller = thread.register_poller(lambda: seen.append(thread.pollers))
    thread.poll()
    assert seen == [(poller,)]


def test_has_pollers_and_has_active_pollers(thread):
    assert (thread.has_pollers, thread.has_active_pollers) == (False, False)
    with thread:
        timed = thread.register_poller(noop, 5)
        assert (thread.has_pollers, thread.has_active_pollers) == (True, False)
        active = thread.register_poller(noop)
        assert (thread.has_pollers, thread.has_active_pollers) == (True, True)
        timed.unregister()
        assert (thread.has_pollers, thread.has_active_pollers) == (True, True)
        active.unregister()
    assert (thread.has_pollers, thread.has_active_pollers) == (False, False)


def test_a_thread_is_idle_without_messages_and_unpaused_pollers(thread):
    assert thread.is_idle
    thread.send_msg(noop)
    assert not thread.is_idle
    thread.poll()
    assert thread.is_idle
    with thread:
        poller = thread.register_poller(noop)
        assert not thread.is_idle
        poller.pause()
        assert thread.is_idle
        poller.resume()
        assert not thread.is_idle
        poller.unregister()
    assert thread.is_idle


def test_a_paused_poller_does_not_run_until_it_is_resumed(thread):
    with thread:
        poller = thread.register_poller(noop)
        poller.pause()
    assert poller.state == "paused"
    for _ in range(3):
        assert thread.poll() == 0
    assert poller.run_count == 0
    with thread:
        poller.resume()
    assert poller.state == "waiting"
    thread.poll()
    assert poller.run_count == 1


def test_pause_and_resume_are_idempotent(thread):
    with thread:
        poller = thread.register_poller(noop)
        poller.resume()
        poller.pause()
        poller.pause()
        poller.resume()
        poller.resume()
    for _ in range(3):
        thread.poll()
    assert poller.run_count == 3
    assert thread.pollers == (poller,)


def test_an_unregistered_poller_never_runs_again(thread):
    with thread:
        poller = thread.register_poller(noop)
        thread.poll()
        poller.unregister()
    assert poller.state == "unregistered"
    for _ in range(3):
        thread.poll()
    assert poller.run_count == 1


def test_unregister_is_idempotent_and_pause_and_resume_do_not_bring_a_poller_back(thread):
    with thread:
        poller = thread.register_poller(noop)
        for act in (poller.unregister, poller.unregister, poller.pause, poller.resume, poller.unregister):
            act()
            assert poller.state == "unregistered"
    thread.poll()
    assert poller.run_count == 0
    assert thread.pollers == ()


def test_a_paused_poller_may_be_unregistered(thread):
    with thread:
        poller = thread.register_poller(noop)
        poller.pause()
        poller.unregister()
        poller.resume()
    thread.poll()
    assert poller.state == "unregistered"
    assert poller.run_count == 0


def test_a_poller_may_unregister_itself(thread):
    def once():
        poller.unregister()
        seen.append(poller.state)
        return 3

    seen = []
    with thread:
        poller = thread.register_poller(once)
    assert thread.poll() == 3, "the value of the last run still counts"
    assert seen == ["unregistered"]
    assert thread.poll() == 0
    assert poller.run_count == poller.busy_count == 1
    assert thread.pollers == ()


def test_a_poller_may_pause_itself(thread):
    with thread:
        poller = thread.register_poller(lambda: poller.pause())
    thread.poll()
    thread.poll()
    assert poller.state == "paused"
    assert poller.run_count == 1
    with thread:
        poller.resume()
    thread.poll()
    assert poller.run_count == 2


def test_a_poller_may_pause_and_resume_itself_in_one_run(thread):
    def twice():
        poller.pause()
        poller.resume()

    with thread:
        poller = thread.register_poller(twice)
    for _ in range(3):
        thread.poll()
    assert poller.run_count == 3
    assert poller.state == "waiting"


def test_a_poller_may_unregister_and_register_itself_anew(thread):
    ran = []

    def reborn():
        nonlocal poller
        ran.append(poller.id)
        poller.unregister()
        poller = thread.register_poller(reborn)

    with thread:
        poller = thread.register_poller(reborn)
    for _ in range(4):
        thread.poll()
    assert len(set(ran)) == 4
    assert thread.pollers == (poller,)


@pytest.mark.parametrize("policy", ["one", "all"])
@pytest.mark.parametrize("act", ["unregister", "pause"])
@pytest.mark.parametrize("victim", [0, 1, 2, 3, 4])
def test_a_poller_may_stop_any_other_from_inside_its_own_function(lib, policy, act, victim):
    """Poller 2 stops another in its first run; no other poller misses a turn or runs twice."""
    thread = lib.create_thread(poller_policy=policy)
    ran = []

    def run(number):
        ran.append(number)
        if number == 2 and ran.count(2) == 1:
            getattr(pollers[victim], act)()

    with thread:
        pollers = [thread.register_poller(lambda number=number: run(number)) for number in range(5)]
    rounds = 3
    for _ in range(rounds * 5 if policy == "one" else rounds):
        thread.poll()
    others = [number for number in range(5) if number != victim]
    first_round = [number for number in range(5) if number != victim or number <= 2]
    expected = first_round + others * 5
    assert ran == expected[: len(ran)]
    assert len(ran) >= len(first_round) + len(others) * (rounds - 1)


@pytest.mark.parametrize("policy", ["one", "all"])
def test_a_poller_may_resume_another_from_inside_its_own_function(lib, policy):
    thread = lib.create_thread(poller_policy=policy)
    with thread:
        sleeper = thread.register_poller(noop, name="sleeper")
        sleeper.pause()
        thread.register_poller(lambda: sleeper.resume(), name="waker")
    for _ in range(6):
        thread.poll()
    assert sleeper.state == "waiting"
    assert sleeper.run_count >= 2


@pytest.mark.parametrize("policy", ["one", "all"])
def test_a_poller_may_register_others_from_inside_its_own_function(lib, policy):
    thread = lib.create_thread(poller_policy=policy)
    made = []

    def spawn():
        if len(made) < 20:
            made.append(thread.register_poller(noop))

    with thread:
        thread.register_poller(spawn)
    for _ in range(600):
        thread.poll()
    assert len(made) == 20
    assert all(poller.run_count > 1 for poller in made)


@pytest.mark.parametrize("policy", ["one", "all"])
def test_a_poller_may_unregister_every_poller(lib, policy):
    thread = lib.create_thread(poller_policy=policy)

    def last_one():
        for poller in thread.pollers:
            poller.unregister()

    with thread:
        for _ in range(3):
            thread.register_poller(noop)
            thread.register_poller(noop, 1)
        thread.register_poller(last_one)
        for _ in range(3):
            thread.register_poller(noop)
    for _ in range(8):
        thread.poll()
    assert thread.pollers == ()
    assert not thread.has_pollers


def test_an_unregistered_poller_lets_go_of_its_function(thread):
    def fn():
        pass

    watch = weakref.ref(fn)
    with thread:
        poller = thread.register_poller(fn)
    del fn
    thread.poll()
    assert watch() is not None
    with thread:
        poller.unregister()
    del poller
    thread.poll()
    gc.collect()
    assert watch() is None


def test_a_poller_registered_from_elsewhere_starts_by_a_message(thread):
    ran = []
    thread.send_msg(ran.append, "before")
    poller = thread.register_poller(lambda: ran.append("poller"), name="remote")
    thread.send_msg(ran.append, "after")
    assert thread.pending_msgs == 3
    assert poller.name == "remote"
    assert poller.thread is thread
    thread.poll()
    assert ran == ["before", "after", "poller"]
    assert thread.pollers == (poller,)


def test_register_poller_from_another_os_thread_returns_the_poller(thread):
    poller = elsewhere(thread.register_poller, noop)
    drain(thread)
    thread.poll()
    assert poller.run_count >= 1


def test_a_timed_poller_registered_from_elsewhere_is_due_one_period_after_it_took_effect(thread, clock):
    poller = thread.register_poller(noop, period_us=10)
    clock.advance(us=100)
    thread.poll()
    assert poller.run_count == 0
    assert thread.next_poller_expiration == 110_000
    clock.advance(us=10)
    thread.poll()
    assert poller.run_count == 1


@pytest.mark.parametrize(("act", "state"), [("pause", "paused"), ("unregister", "unregistered"), ("resume", "waiting")])
def test_changes_from_elsewhere_take_effect_in_order_with_messages(thread, act, state):
    seen = []
    with thread:
        poller = thread.register_poller(noop)
        if act == "resume":
            poller.pause()
    before = poller.state
    thread.send_msg(lambda: seen.append(poller.state))
    getattr(poller, act)()
    thread.send_msg(lambda: seen.append(poller.state))
    assert poller.state == before
    thread.poll()
    assert seen == [before, state]


def test_a_poller_unregistered_from_elsewhere_before_it_ever_started_never_runs(thread):
    poller = thread.register_poller(noop)
    poller.unregister()
    for _ in range(3):
        thread.poll()
    assert poller.state == "unregistered"
    assert poller.run_count == 0


def test_unregistering_from_elsewhere_and_by_itself_at_once_is_harmless(thread):
    with thread:
        poller = thread.register_poller(lambda: poller.unregister())
    poller.unregister()
    poller.unregister()
    drain(thread)
    thread.poll()
    assert poller.state == "unregistered"


def test_registering_from_elsewhere_does_not_fail_on_a_full_ring(lib):
    """The library's own messages cannot fail for want of room, and keep their place."""
    ran = []
    thread = lib.create_thread(ring_size=4)
    fill(thread, ran.append, "message")
    poller = thread.register_poller(lambda: ran.append("poller") or poller.unregister())
    thread.poll(max_msgs=3)
    assert "poller" not in ran
    drain(thread)
    for _ in range(3):
        thread.poll()
    assert ran == ["message"] * 4 + ["poller"]


@pytest.mark.parametrize("act", ["pause", "unregister"])
def test_stopping_a_poller_from_elsewhere_does_not_fail_on_a_full_ring(lib, act):
    thread = lib.create_thread(ring_size=4)
    with thread:
        poller = thread.register_poller(noop)
    fill(thread)
    for _ in range(20):
        getattr(poller, act)()
    drain(thread)
    count = poller.run_count
    thread.poll()
    assert poller.run_count == count
    assert poller.state in ("paused", "unregistered")


def test_a_poller_of_another_thread_is_changed_by_a_message(lib, thread):
    """The current thread is not the poller's: the wrong list must not be touched."""
    other = lib.create_thread("other")
    with thread:
        poller = thread.register_poller(noop)
    with other:
        poller.unregister()
        assert poller.state == "waiting"
        assert thread.pending_msgs == 1
    thread.poll()
    assert poller.state == "unregistered"


def test_a_poller_that_raises_stays_registered(thread, errors):
    def fail():
        raise ValueError("not today")

    with thread:
        poller = thread.register_poller(fail)
    for _ in range(3):
        assert thread.poll() == 0
    assert poller.error_count == 3
    assert poller.state == "waiting"
    assert errors.types == [ValueError] * 3


def test_a_raising_poller_does_not_keep_the_others_from_running(lib, errors):
    thread = lib.create_thread(poller_policy="all")
    ran = []

    def fail():
        raise ValueError

    with thread:
        thread.register_poller(lambda: ran.append("a"))
        thread.register_poller(fail)
        thread.register_poller(lambda: ran.append("b"))
    thread.poll()
    thread.poll()
    assert ran == ["a", "b", "a", "b"]
    assert errors.types == [ValueError, ValueError]


def test_a_poller_that_unregisters_itself_and_raises_is_gone(thread, errors):
    def fail():
        poller.unregister()
        raise ValueError

    with thread:
        poller = thread.register_poller(fail)
    thread.poll()
    thread.poll()
    assert errors.types == [ValueError]
    assert poller.state == "unregistered"


def test_a_poller_may_be_registered_many_times_over(thread):
    ran = []

    def fn():
        ran.append(1)

    with thread:
        first, second = thread.register_poller(fn), thread.register_poller(fn)
    thread.poll()
    thread.poll()
    assert (first.run_count, second.run_count) == (1, 1)
    with thread:
        first.unregister()
    thread.poll()
    assert second.run_count == 2


def test_changes_to_a_poller_of_an_exited_thread_do_nothing(thread):
    with thread:
        poller = thread.register_poller(noop)
    finish(thread)
    poller.unregister()
    assert poller.state == "unregistered"


@pytest.mark.seed
def test_unregistering_from_another_thread_leaves_the_wrong_list_alone(lib):
    """Seed: unlinks it from the wrong list."""
    first, second = lib.create_thread("first"), lib.create_thread("second")
    with first:
        mine = [first.register_poller(noop) for _ in range(3)]
    with second:
        theirs = [second.register_poller(noop) for _ in range(3)]
        mine[1].unregister()
        mine[0].pause()
    assert set(second.pollers) == set(theirs)
    drain(first, second)
    for _ in range(3):
        first.poll()
        second.poll()
    assert set(first.pollers) == {mine[0], mine[2]}
    assert mine[1].run_count == 0
    assert all(poller.run_count >= 1 for poller in theirs)


@pytest.mark.seed
def test_a_second_unregister_of_a_poller_that_unregistered_itself_is_harmless(thread):
    """Seed: double free."""

    def twice():
        poller.unregister()
        poller.unregister()

    with thread:
        poller = thread.register_poller(twice)
        thread.poll()
        poller.unregister()
        thread.poll()
        poller.unregister()
    assert poller.state == "unregistered"
    assert poller.run_count == 1


@pytest.mark.seed
def test_one_poller_per_poll_is_a_policy_and_not_the_only_one(lib):
    """Seed: a poll can report idle while others have work."""
    one, every = lib.create_thread(poller_policy="one"), lib.create_thread(poller_policy="all")
    for thread in (one, every):
        with thread:
            for value in (0, 0, 1):
                thread.register_poller(lambda value=value: value)
    assert [one.poll() for _ in range(6)] == [0, 0, 1, 0, 0, 1]
    assert [every.poll() for _ in range(2)] == [1, 1]
    assert not one.is_idle


@pytest.mark.seed
def test_one_active_poller_runs_per_poll_and_goes_to_the_tail(thread):
    """One active poller: removed from the head, called, re-appended to the tail."""
    ran = []
    with thread:
        for name in "ab":
            thread.register_poller(lambda name=name: ran.append(name))
        thread.poll()
        thread.register_poller(lambda: ran.append("c"))
    for _ in range(5):
        thread.poll()
    assert ran == list("abacba")


@pytest.mark.seed
def test_n_pollers_each_run_once_in_n_polls_in_registration_order(thread):
    """N pollers each run once in N polls, in registration order."""
    ran = []
    with thread:
        for number in range(5):
            thread.register_poller(lambda number=number: ran.append(number))
    for _ in range(5):
        thread.poll()
    assert ran == [0, 1, 2, 3, 4]


@pytest.mark.seed
def test_a_poller_that_unregistered_itself_is_not_appended_again(thread):
    """Re-appended to the tail unless it unregistered itself."""
    ran = []
    with thread:
        first = thread.register_poller(lambda: ran.append("first") or first.unregister())
        thread.register_poller(lambda: ran.append("second"))
    for _ in range(3):
        thread.poll()
    assert ran == ["first", "second", "second"]


@pytest.mark.seed
def test_a_poller_registered_by_a_message_may_run_in_the_same_poll(thread):
    """One registered by a message in this poll may already run in it."""
    ran = []
    thread.send_msg(lambda: thread.register_poller(lambda: ran.append(1)))
    thread.poll()
    assert ran == [1]


@pytest.mark.seed
@pytest.mark.parametrize(
    ("messages", "active", "timed", "result"),
    [
        (0, 0, 0, 0),
        (1, 0, 0, 1),
        (3, 0, 0, 1),
        (0, 5, 0, 5),
        (1, 5, 0, 5),
        (0, 5, 7, 7),
        (0, 7, 5, 7),
        (1, -1, -1, 1),
        (0, -1, 0, 0),
        (0, -1, -1, 0),
        (0, -1, 2, 2),
        (0, 2, -1, 2),
    ],
)
def test_the_result_of_a_poll(thread, clock, messages, active, timed, result):
    """Result: 0; 1 if at least one message ran; else raised to any larger poller rc (rc 5 gives 5). rc -1 changes
    nothing."""
    with thread:
        thread.register_poller(lambda: active)
        thread.register_poller(lambda: timed, 10)
    clock.advance(us=10)
    thread.send_many(noop, range(messages))
    assert thread.poll() == result


@pytest.mark.seed
def test_has_active_pollers(thread):
    """has_active_pollers 1/0."""
    assert thread.has_active_pollers is False
    with thread:
        thread.register_poller(noop, 10)
        assert thread.has_active_pollers is False
        thread.register_poller(noop)
    assert thread.has_active_pollers is True


@pytest.mark.seed
def test_unregistering_a_running_poller_still_counts_its_value(thread):
    """Running poller: marked, freed when its function returns, its rc still counted."""
    with thread:
        poller = thread.register_poller(lambda: poller.unregister() or 9)
    assert thread.poll() == 9
    assert thread.pollers == ()


@pytest.mark.seed
def test_unregistering_a_waiting_poller_unlinks_it_at_once(thread):
    """Otherwise unlinked immediately."""
    with thread:
        poller = thread.register_poller(noop)
        poller.unregister()
        assert thread.pollers == ()
        assert not thread.has_pollers


@pytest.mark.parametrize("period_us", [0, 5])
@pytest.mark.parametrize("policy", ["one", "all"])
@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.races
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


@pytest.mark.parametrize("period_us", ["10", None, [], 1j])
def test_a_period_that_is_not_a_number_is_refused(thread, period_us):
    with thread, pytest.raises(TypeError):
        thread.register_poller(noop, period_us)
    still_works(thread)


@pytest.mark.parametrize("attribute", ["name", "id", "state", "period_us", "run_count", "thread"])
def test_what_a_poller_tells_about_itself_cannot_be_set(thread, attribute):
    with thread:
        poller = thread.register_poller(noop)
    with pytest.raises(AttributeError):
        setattr(poller, attribute, getattr(poller, attribute))


def test_a_poller_cannot_be_made_by_hand():
    with pytest.raises(TypeError):
        Poller()


def test_a_poller_fn_that_drops_everything_does_no_harm(clock):
    library = ThreadLib(clock=clock)
    holder = {"lib": library, "thread": library.create_thread("last")}
    del library

    def drop():
        thread = holder.pop("thread")
        for poller in thread.pollers:
            poller.unregister()
        thread.exit()
        holder.clear()
        return 1

    poll = holder["thread"].poll
    with holder["thread"]:
        holder["thread"].register_poller(drop)
    assert poll() == 1
    assert poll() == 0
