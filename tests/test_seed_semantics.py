"""What SPDK's thread library does (thread.c of January 2019), sentence by sentence.

Each docstring is the sentence. The rule of our own, where there is one, stands in test_seed_defects.py.
"""

import pytest
from support import drain, elsewhere, noop

from spdkthread import get_thread


def test_allocating_a_thread_does_not_make_it_current(lib):
    """allocate_thread does not make the thread current."""
    lib.create_thread()
    assert get_thread() is None


def test_the_thread_list_is_in_creation_order(lib):
    """The thread list is in creation order."""
    threads = [lib.create_thread() for _ in range(4)]
    assert list(lib.threads) == threads


def test_the_current_thread_is_thread_local(thread):
    """The current thread is thread-local."""
    with thread:
        assert elsewhere(get_thread) is None


def test_a_poll_sets_the_current_thread_and_clears_it_at_its_end(thread):
    """thread_poll sets the current thread, and clears it at the end."""
    seen = []
    thread.send_msg(lambda: seen.append(get_thread()))
    thread.poll()
    assert seen == [thread]
    assert get_thread() is None


@pytest.mark.parametrize(("max_msgs", "runs"), [(1, 1), (7, 7), (8, 8), (9, 8), (10**6, 8), (0, 8)])
def test_a_poll_dequeues_at_most_eight_messages(thread, max_msgs, runs):
    """Dequeue at most min(max_msgs, 8); 0 means 8, larger is capped at 8."""
    thread.send_many(noop, range(20))
    thread.poll(max_msgs)
    assert thread.pending_msgs == 20 - runs


def test_the_batch_is_taken_before_it_runs(thread, lib):
    """The batch is taken before running, so a message sent by a message runs in a later poll."""
    ran = []
    thread.send_msg(lambda: thread.send_msg(ran.append, "sent by a message"))
    thread.send_msg(ran.append, "sent before")
    thread.poll()
    assert ran == ["sent before"]
    thread.poll()
    assert ran == ["sent before", "sent by a message"]


def test_a_batch_frees_its_room_before_it_runs(lib):
    """The batch is taken before running: its slots are free for what its messages send."""
    thread = lib.create_thread(ring_size=2)
    ran = []

    def again(left):
        ran.append(left)
        if left:
            thread.send_msg(again, left - 1)

    thread.send_msg(again, 5)
    thread.send_msg(again, 5)
    drain(thread)
    assert sorted(ran) == sorted([5, 4, 3, 2, 1, 0] * 2)


def test_messages_to_oneself_follow_the_same_rule(thread):
    """Messages to self follow the same rule."""
    ran = []

    def chain(left):
        ran.append(left)
        if left:
            get_thread().send_msg(chain, left - 1)

    thread.send_msg(chain, 3)
    for left in (3, 2, 1, 0):
        thread.poll()
        assert ran[-1] == left
    assert ran == [3, 2, 1, 0]


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


def test_n_pollers_each_run_once_in_n_polls_in_registration_order(thread):
    """N pollers each run once in N polls, in registration order."""
    ran = []
    with thread:
        for number in range(5):
            thread.register_poller(lambda number=number: ran.append(number))
    for _ in range(5):
        thread.poll()
    assert ran == [0, 1, 2, 3, 4]


def test_a_poller_that_unregistered_itself_is_not_appended_again(thread):
    """Re-appended to the tail unless it unregistered itself."""
    ran = []
    with thread:
        first = thread.register_poller(lambda: ran.append("first") or first.unregister())
        thread.register_poller(lambda: ran.append("second"))
    for _ in range(3):
        thread.poll()
    assert ran == ["first", "second", "second"]


def test_a_poller_registered_by_a_message_may_run_in_the_same_poll(thread):
    """One registered by a message in this poll may already run in it."""
    ran = []
    thread.send_msg(lambda: thread.register_poller(lambda: ran.append(1)))
    thread.poll()
    assert ran == [1]


def test_the_clock_is_read_after_the_active_poller(thread, clock):
    """One timed poller: clock read after the active poller."""
    with thread:
        thread.register_poller(lambda: clock.advance(us=10))
        timed = thread.register_poller(noop, 10)
    thread.poll()
    assert timed.run_count == 1


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


def test_a_timed_poller_is_re_armed_with_the_tick_read_before_its_call(thread, clock):
    """Re-inserted at now + period with the tick read before the call."""
    with thread:
        thread.register_poller(lambda: clock.advance(us=3), 10)
    clock.advance(us=12)
    thread.poll()
    assert thread.next_poller_expiration == 22_000


def test_lateness_shifts_the_schedule_without_a_burst(thread, clock):
    """Lateness shifts the schedule; no catch-up burst."""
    with thread:
        timed = thread.register_poller(noop, 10)
    clock.advance(us=95)
    for _ in range(5):
        thread.poll()
    assert timed.run_count == 1
    assert thread.next_poller_expiration == 105_000


def test_one_timed_poller_runs_per_poll(thread, clock):
    """One timed poller per poll."""
    with thread:
        pollers = [thread.register_poller(noop, 10) for _ in range(3)]
    clock.advance(us=10)
    for expected in ([1, 0, 0], [1, 1, 0], [1, 1, 1], [1, 1, 1]):
        thread.poll()
        assert [poller.run_count for poller in pollers] == expected


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


@pytest.mark.parametrize("period_us", [1, 999_999, 1_000_000, 1_000_001, 123_456_789, 86_400_000_000])
def test_a_period_in_ticks(thread, period_us):
    """Period in ticks = hz * floor(us/1e6) + hz * (us mod 1e6)/1e6, truncated."""
    with thread:
        poller = thread.register_poller(noop, period_us)
    hz = 10**9
    assert poller.period_ticks == hz * (period_us // 10**6) + hz * (period_us % 10**6) // 10**6


def test_next_poller_expiration_is_the_absolute_tick_of_the_head(thread, clock):
    """Absolute tick of the head."""
    clock.advance(us=1_000)
    with thread:
        thread.register_poller(noop, 50)
        thread.register_poller(noop, 20)
    assert thread.next_poller_expiration == 1_020_000


def test_has_active_pollers(thread):
    """has_active_pollers 1/0."""
    assert thread.has_active_pollers is False
    with thread:
        thread.register_poller(noop, 10)
        assert thread.has_active_pollers is False
        thread.register_poller(noop)
    assert thread.has_active_pollers is True


def test_sending_is_always_asynchronous(thread):
    """send_msg: asynchronous always."""
    ran = []
    with thread:
        thread.send_msg(ran.append, 1)
        assert ran == []
    thread.poll()
    assert ran == [1]


def test_messages_are_fifo_per_target(lib, thread):
    """FIFO per target."""
    ran = []
    other = lib.create_thread("other")
    other.send_msg(lambda: [thread.send_msg(ran.append, number) for number in range(5)])
    other.poll()
    for number in range(5, 10):
        thread.send_msg(ran.append, number)
    drain(thread)
    assert ran == list(range(10))


def test_sending_works_from_any_os_thread_with_or_without_a_current_thread(lib, thread):
    """Callable from any OS thread, with or without a current SPDK thread."""
    other = lib.create_thread("other")
    ran = []

    def with_a_current_thread():
        with other:
            thread.send_msg(ran.append, 3)

    thread.send_msg(ran.append, 1)
    elsewhere(thread.send_msg, ran.append, 2)
    elsewhere(with_a_current_thread)
    thread.poll()
    assert ran == [1, 2, 3]


def test_a_timed_poller_is_first_due_at_now_plus_period(thread, clock):
    """Timed: first due now + period."""
    clock.advance(us=77)
    with thread:
        thread.register_poller(noop, 10)
    assert thread.next_poller_expiration == 87_000


def test_unregistering_a_running_poller_still_counts_its_value(thread):
    """Running poller: marked, freed when its function returns, its rc still counted."""
    with thread:
        poller = thread.register_poller(lambda: poller.unregister() or 9)
    assert thread.poll() == 9
    assert thread.pollers == ()


def test_unregistering_a_waiting_poller_unlinks_it_at_once(thread):
    """Otherwise unlinked immediately."""
    with thread:
        poller = thread.register_poller(noop)
        poller.unregister()
        assert thread.pollers == ()
        assert not thread.has_pollers


def test_for_each_thread_starts_with_the_first_listed_thread(lib):
    """First message goes to the first listed thread."""
    threads = [lib.create_thread() for _ in range(3)]
    with threads[2]:
        lib.for_each_thread(noop)
    assert [thread.pending_msgs for thread in threads] == [1, 0, 0]
    drain(*threads)


def test_each_hop_runs_fn_then_looks_up_the_next(lib):
    """Each hop runs fn, then looks up the next."""
    threads = [lib.create_thread(name) for name in "ab"]
    names = []

    def visit():
        names.append(get_thread().name)
        if len(names) == 2:
            threads.append(lib.create_thread("c"))

    with threads[0]:
        lib.for_each_thread(visit)
    drain(*threads)
    drain(*threads)
    assert names == list("abc")


def test_threads_added_meanwhile_are_visited_at_the_tail(lib):
    """Threads added meanwhile are visited (tail)."""
    threads = [lib.create_thread(name) for name in "ab"]
    names = []
    with threads[0]:
        lib.for_each_thread(lambda: names.append(get_thread().name))
    threads.append(lib.create_thread("late"))
    drain(*threads)
    assert names == ["a", "b", "late"]


def test_fn_runs_on_each_thread_and_never_inline(lib):
    """fn runs on each thread, never inline."""
    threads = [lib.create_thread() for _ in range(3)]
    seen = []
    with threads[0]:
        lib.for_each_thread(lambda: seen.append(get_thread()))
        assert seen == []
    drain(*threads)
    assert seen == threads


def test_fn_count_is_threads_and_then_one_cpl_at_the_origin(lib):
    """Then cpl is sent to the origin: fn count = threads, then one cpl."""
    threads = [lib.create_thread() for _ in range(5)]
    log = []
    with threads[3]:
        lib.for_each_thread(lambda: log.append("fn"), lambda: log.append(get_thread()))
    drain(*threads)
    assert log == ["fn"] * 5 + [threads[3]]
