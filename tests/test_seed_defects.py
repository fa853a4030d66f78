"""The defects of the seed revision that concern threads, and the rule that we keep instead.

The numbers are the rows of the defect table. Rows 2, 3, 5, 10-13, 15, 16 are about I/O devices and channels.
"""

import gc
import sys
import threading
import time

import pytest
from support import PATIENCE_S, OtherThread, drain, elsewhere, fill, finish, noop, run_python

from spdkthread import (
    NoThreadError,
    RingFullError,
    SpdkThreadError,
    ThreadLib,
    WrongThreadError,
    get_thread,
)
from spdkthread.timers import TimerQueue


def test_1_for_each_thread_without_a_current_thread_raises_and_holds_no_lock(lib, thread):
    """Seed: returns with the mutex held; the whole process deadlocks."""
    for _ in range(3):
        with pytest.raises(NoThreadError):
            lib.for_each_thread(noop, noop)
    other = elsewhere(lib.create_thread, "after")
    assert elsewhere(lambda: lib.threads) == (thread, other)
    assert elsewhere(lib.get_thread_by_id, 1) is thread


def test_4_an_iteration_completes_when_its_next_target_exits_in_between():
    """Seed: the lock is released before the hop is sent; the target may exit in between, and it never completes."""
    for victims in ([1], [2, 3], [5], [1, 2, 3, 4, 5]):
        library = ThreadLib()
        threads = [library.create_thread(f"t{number}") for number in range(6)]
        visited, done = [], []
        with threads[0]:
            library.for_each_thread(lambda: visited.append(get_thread().name), lambda: done.append(1))  # noqa: B023
        threads[0].poll(max_msgs=1)
        for victim in victims:
            with threads[victim]:
                threads[victim].exit()
        drain(*threads)
        assert done == [1]
        for victim in victims[1:]:
            assert f"t{victim}" not in visited
        finish(*threads)
        library.close()


def test_4_an_iteration_completes_while_threads_on_reactors_come_and_go(make_reactor, live_lib):
    reactors = [make_reactor().start() for _ in range(2)]
    home = reactors[0].create_thread("home")

    def come_and_go():
        # So many and no more: an iteration visits whatever is added meanwhile, so it ends when this ends.
        for _ in range(200):
            reactors[1].create_thread(ring_size=2).exit()

    restless = OtherThread(come_and_go)
    completed = 0
    while restless.is_alive() or completed < 20:
        home.call(live_lib.for_each_thread, noop).result(PATIENCE_S).result(PATIENCE_S)
        completed += 1
    restless.outcome()


def test_6_a_full_ring_is_an_answer_and_not_a_silent_drop(lib):
    """Seed: silent drop on a full ring."""
    thread = lib.create_thread("narrow", ring_size=4)
    ran = []
    assert fill(thread, ran.append, 1) == 4
    with pytest.raises(RingFullError, match="narrow"):
        thread.send_msg(ran.append, 2)
    assert thread.try_send_msg(ran.append, 3) is False
    with pytest.raises(TimeoutError):
        thread.send_msg_wait(ran.append, 4, timeout_s=0)
    assert thread.stats.ring_full >= 3
    drain(thread)
    assert ran == [1] * 4


def test_7_a_thread_with_work_left_does_not_end_until_the_work_is_done(lib):
    """Seed: freeing a thread with messages, pollers or an iteration in flight leaks, loses work and dangles."""
    thread, other = lib.create_thread("leaving"), lib.create_thread("other")
    ran = []
    with thread:
        poller = thread.register_poller(noop)
        lib.for_each_thread(lambda: ran.append("visit"), lambda: ran.append("done"))
        thread.exit()
    thread.send_many(ran.append, range(20))
    for _ in range(10):
        thread.poll()
    assert thread.state == "exiting"
    assert [entry for entry in ran if isinstance(entry, int)] == list(range(20))
    with thread:
        poller.unregister()
    thread.poll()
    assert thread.state == "exiting", "the iteration waits for the other thread"
    drain(thread, other)
    thread.poll()
    assert ran[-1] == "done"
    assert thread.state == "exited"


def test_7_leftovers_are_reported_in_an_exception(lib):
    thread = lib.create_thread("leftover")
    with pytest.raises(SpdkThreadError, match="leftover"):
        lib.close()
    finish(thread)


def test_8_a_message_may_end_its_own_thread_and_drop_the_last_reference():
    """Seed: poll continues on freed memory."""
    library = ThreadLib()
    holder = [library.create_thread("suicidal")]
    ran = []

    def end():
        holder[0].exit()
        holder.clear()
        gc.collect()
        ran.append("ended")

    holder[0].send_msg(end)
    for number in range(20):
        holder[0].send_msg(ran.append, number)
    poll = holder[0].poll
    for _ in range(4):
        poll()
    assert ran == ["ended", *range(20)]
    assert library.threads == ()
    library.close()


def test_8_a_poll_on_a_temporary_reference_survives_the_end_of_its_thread():
    library = ThreadLib()
    library.create_thread("only in the library")

    def end():
        get_thread().exit()
        gc.collect()

    library.threads[0].send_msg(end)
    library.threads[0].poll()
    assert library.threads == ()


def test_9_unregistering_from_another_thread_leaves_the_wrong_list_alone(lib):
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


def test_9_a_second_unregister_of_a_poller_that_unregistered_itself_is_harmless(thread):
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


def seconds_per_timer(pending, sample=2_000):
    """CPU time of adding and cancelling one timer among `pending`, at deadlines spread over all of them."""
    queue = TimerQueue()
    for number in range(pending):
        queue.add((number * 7919) % pending, number)
    best = float("inf")
    for _ in range(5):
        before = time.thread_time_ns()
        handles = [queue.add((number * 104_729) % pending, number) for number in range(sample)]
        for handle in handles:
            queue.cancel(handle)
        best = min(best, time.thread_time_ns() - before)
    return best / sample


def test_14_a_timer_costs_the_same_among_few_and_among_many():
    """Seed: O(n) insertion. A thousand times as many timers may cost caches, but not a thousand times as much."""
    assert seconds_per_timer(200_000) < 25 * seconds_per_timer(200)


def test_17_one_poller_per_poll_is_a_policy_and_not_the_only_one(lib):
    """Seed: a poll can report idle while others have work."""
    one, every = lib.create_thread(poller_policy="one"), lib.create_thread(poller_policy="all")
    for thread in (one, every):
        with thread:
            for value in (0, 0, 1):
                thread.register_poller(lambda value=value: value)
    assert [one.poll() for _ in range(6)] == [0, 0, 1, 0, 0, 1]
    assert [every.poll() for _ in range(2)] == [1, 1]
    assert not one.is_idle


def test_18_a_nested_poll_restores_the_current_thread(lib):
    """Seed: clears it; only a debug assert."""
    outer, inner = lib.create_thread("outer"), lib.create_thread("inner")
    seen = []

    def nest():
        inner.poll()
        seen.append(get_thread())
        get_thread().register_poller(noop, name="registered after the nested poll")

    inner.send_msg(noop)
    outer.send_msg(nest)
    outer.poll()
    assert seen == [outer]
    assert [poller.name for poller in outer.pollers] == ["registered after the nested poll"]


def test_19_checks_are_exceptions_in_optimised_runs_too():
    """Seed: checks are mostly assert, absent in release builds."""
    done = run_python(
        """
import spdkthread
lib = spdkthread.ThreadLib()
thread = lib.create_thread("net", ring_size=2)
mistakes = [
    lambda: lib.for_each_thread(print, print),
    lambda: [thread.send_msg(print) for _ in range(3)],
    lambda: thread.send_msg(None),
    lambda: thread.register_poller(print, -1),
    lambda: lib.create_thread(ring_size=0),
    lambda: lib.close(),
]
for mistake in mistakes:
    try:
        mistake()
    except Exception as error:
        print(type(error).__name__)
    else:
        print("nothing")
assert False, "this interpreter does not check assertions"
""",
        "-OO",
    )
    assert done.stdout.split() == [
        "NoThreadError",
        "RingFullError",
        "TypeError",
        "ValueError",
        "ValueError",
        "SpdkThreadError",
    ]
    assert done.returncode == 0, done.stderr


def test_20_closing_twice_is_harmless():
    """Seed: frees the pool twice; re-init possible with stale state."""
    library = ThreadLib()
    finish(library.create_thread())
    library.close()
    library.close()
    with pytest.raises(SpdkThreadError):
        library.create_thread()


def test_20_another_library_starts_from_nothing():
    library = ThreadLib()
    finish(library.create_thread())
    library.close()
    fresh = ThreadLib()
    assert fresh.threads == ()
    thread = fresh.create_thread()
    assert thread.id == 1
    finish(thread)
    fresh.close()


def test_21_an_iteration_that_cannot_start_raises_and_nothing_of_it_stays_behind(lib, thread):
    """Seed: without a current thread the completion goes to NULL, dropped, and the iterator is leaked."""
    with pytest.raises(NoThreadError):
        lib.for_each_thread(noop, noop)
    assert thread.pending_msgs == 0
    assert thread.is_idle


def test_22_a_thread_may_be_made_inside_a_thread(lib, thread):
    """Seed: refused."""
    made = []
    thread.send_msg(lambda: made.append(lib.create_thread("child")))
    with thread:
        made.append(lib.create_thread("sibling"))
    thread.poll()
    assert [child.name for child in made] == ["sibling", "child"]
    assert get_thread() is None


def os_name():
    with open(f"/proc/self/task/{threading.get_native_id()}/comm") as file:
        return file.read()


def test_23_naming_a_thread_does_not_rename_the_os_thread(lib):
    """Seed: naming an SPDK thread renames the OS thread."""
    before = os_name(), threading.current_thread().name
    thread = lib.create_thread("renamer")
    seen = []
    thread.send_msg(lambda: seen.append((os_name(), threading.current_thread().name)))
    with thread:
        thread.poll()
    assert seen == [before]
    assert (os_name(), threading.current_thread().name) == before


def test_24_a_message_of_up_to_four_arguments_takes_no_memory(thread):
    """Seed: every message takes from a shared pool, under its lock."""
    args = (1, 2, 3, 4)
    for _ in range(100):
        thread.send_msg(noop, *args)
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(2_000):
            thread.send_msg(noop, *args)
        grown = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    assert grown < 100
    drain(thread)


def test_25_an_iteration_never_completes_to_a_dead_thread(lib):
    """Seed: a completion can arrive at a thread that is gone. A pending count keeps the asker from exiting."""
    asker, slow = lib.create_thread("asker"), lib.create_thread("slow")
    done = []
    asker.send_msg(lambda: lib.for_each_thread(noop, lambda: done.append(get_thread())))
    asker.poll()
    asker.exit()
    for _ in range(10):
        asker.poll()
    assert asker.state == "exiting"
    slow.poll()
    asker.poll()
    assert done == [asker]
    assert asker.is_exited


def test_26_a_period_below_one_tick_is_refused(thread):
    """Seed: silently becomes busy polling."""
    with thread, pytest.raises(ValueError, match="period"):
        thread.register_poller(noop, 0.0005)
    assert not thread.has_active_pollers


def test_26_the_expiration_is_absolute_and_none_without_a_timer(thread, clock):
    """Seed: documented as relative, and 0 for none."""
    assert thread.next_poller_expiration is None
    clock.advance(us=100)
    with thread:
        thread.register_poller(noop, 10)
    assert thread.next_poller_expiration == 110_000


def test_head_an_exited_thread_at_the_front_does_not_stop_an_iteration(lib):
    """HEAD: for_each_thread sends to the first listed thread without checking its state."""
    first, second = lib.create_thread("first"), lib.create_thread("second")
    names = []
    with first:
        first.register_poller(noop)
        first.exit()
    with second:
        future = lib.for_each_thread(lambda: names.append(get_thread().name))
    drain(first, second)
    assert names == ["second"]
    assert future.done()
    finish(first)
    with second:
        future = lib.for_each_thread(lambda: names.append(get_thread().name))
    drain(second)
    assert names == ["second", "second"]
    assert future.done()


def test_head_a_thread_found_by_id_outlives_its_exit(lib):
    """HEAD: get_by_id returns a pointer with no protection after unlocking."""
    found = lib.get_thread_by_id(lib.create_thread("found").id)
    finish(found)
    gc.collect()
    assert found.name == "found"
    assert found.poll() == 0


def test_head_a_message_to_a_thread_of_another_os_thread_is_never_lost_at_its_exit():
    """A sender that races with the exit of its target: accepted means run, otherwise it is told."""
    for _ in range(20):
        library = ThreadLib()
        thread = library.create_thread()
        ran = []
        start = threading.Barrier(2)

        def send(thread=thread, ran=ran, start=start):
            start.wait(PATIENCE_S)
            accepted = 0
            try:
                while True:
                    accepted += thread.try_send_msg(ran.append, 1)
            except SpdkThreadError:
                return accepted

        sender = OtherThread(send)
        start.wait(PATIENCE_S)
        thread.poll()
        thread.exit()
        while not thread.is_exited:
            thread.poll()
        assert sender.outcome() == len(ran)
        library.close()


def test_head_a_refused_poll_raises_instead_of_going_on(thread):
    caught = []

    def again():
        try:
            thread.poll()
        except WrongThreadError as error:
            caught.append(type(error))

    thread.send_msg(again)
    thread.poll()
    assert caught == [WrongThreadError]
