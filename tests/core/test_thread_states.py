"""The exit machine: running, exiting, exited, and what stands between them."""

import gc
import threading
import weakref

import pytest
from support import PATIENCE_S, OtherThread, drain, elsewhere, fill, finish, noop

from spdkthread import SpdkThreadError, ThreadExitedError, ThreadLib, get_thread


def flags(thread):
    return thread.state, thread.is_running, thread.is_exited


RUNNING = ("running", True, False)
EXITING = ("exiting", False, False)
EXITED = ("exited", False, True)


def test_a_new_thread_is_running(thread):
    assert flags(thread) == RUNNING


def test_exit_on_its_own_thread_takes_effect_at_once(thread):
    with thread:
        assert thread.exit() is None
        assert flags(thread) == EXITING
    assert flags(thread) == EXITING


def test_an_idle_exiting_thread_is_exited_at_the_end_of_its_next_poll(thread):
    with thread:
        thread.exit()
    assert thread.poll() == 0
    assert flags(thread) == EXITED


def test_exit_from_elsewhere_is_a_message_in_order_with_those_before(thread):
    seen = []
    thread.send_msg(lambda: seen.append(thread.state))
    thread.exit()
    thread.send_msg(lambda: seen.append(thread.state))
    assert flags(thread) == RUNNING
    assert thread.pending_msgs == 3
    thread.poll()
    assert seen == ["running", "exiting"]
    assert flags(thread) == EXITED


def test_exit_from_another_os_thread_is_a_message(thread):
    elsewhere(thread.exit)
    assert flags(thread) == RUNNING
    thread.poll()
    assert flags(thread) == EXITED


def test_exit_from_elsewhere_does_not_fail_on_a_full_ring(lib):
    ran = []
    thread = lib.create_thread(ring_size=2)
    fill(thread, ran.append, "message")
    thread.exit()
    for _ in range(4):
        thread.poll()
    assert ran == ["message", "message"]
    assert flags(thread) == EXITED


def test_exit_inside_a_message_ends_the_thread_with_that_poll(thread):
    seen = []

    def leave():
        thread.exit()
        seen.append(thread.state)

    thread.send_msg(leave)
    assert thread.poll() == 1
    assert seen == ["exiting"]
    assert flags(thread) == EXITED


def test_exit_inside_a_poller_works_too(thread):
    def leave():
        poller.unregister()
        thread.exit()

    with thread:
        poller = thread.register_poller(leave)
    thread.poll()
    assert flags(thread) == EXITED


def test_an_exiting_thread_still_runs_what_was_sent_before(thread):
    ran = []
    for number in range(20):
        thread.send_msg(ran.append, number)
    with thread:
        thread.exit()
    for expected in (8, 16):
        thread.poll()
        assert len(ran) == expected
        assert flags(thread) == EXITING
    thread.poll()
    assert ran == list(range(20))
    assert flags(thread) == EXITED


def test_an_exiting_thread_still_accepts_messages(thread):
    ran = []
    with thread:
        thread.exit()
        thread.send_msg(ran.append, 1)
        assert thread.try_send_msg(ran.append, 2)
        thread.send_critical_msg(lambda: ran.append(0))
        future = thread.call(ran.append, 3)
    thread.poll()
    assert ran == [0, 1, 2, 3]
    assert future.done()
    assert flags(thread) == EXITED


def test_a_critical_message_keeps_an_exiting_thread_from_being_exited(thread):
    ran = []

    def last():
        ran.append("last")
        thread.send_critical_msg(lambda: ran.append("very last"))

    thread.send_critical_msg(last)
    with thread:
        thread.exit()
    thread.poll()
    assert flags(thread) == EXITING
    thread.poll()
    assert ran == ["last", "very last"]
    assert flags(thread) == EXITED


def test_a_message_that_sends_the_next_keeps_the_thread_alive(thread):
    ran = []

    def chain(left):
        ran.append(left)
        if left:
            thread.send_msg(chain, left - 1)

    thread.send_msg(chain, 3)
    with thread:
        thread.exit()
    for _ in range(3):
        thread.poll()
        assert flags(thread) == EXITING
    thread.poll()
    assert ran == [3, 2, 1, 0]
    assert flags(thread) == EXITED


def test_an_exiting_thread_still_accepts_and_runs_pollers(thread, clock):
    with thread:
        thread.exit()
        active = thread.register_poller(noop)
        timed = thread.register_poller(noop, 10)
    clock.advance(us=10)
    thread.poll()
    assert (active.run_count, timed.run_count) == (1, 1)
    assert flags(thread) == EXITING
    with thread:
        active.unregister()
    thread.poll()
    assert flags(thread) == EXITING, "the timed one is still there"
    with thread:
        timed.unregister()
    thread.poll()
    assert flags(thread) == EXITED


def test_a_paused_poller_keeps_the_thread_from_exiting(thread):
    with thread:
        poller = thread.register_poller(noop)
        poller.pause()
        thread.exit()
    for _ in range(3):
        thread.poll()
    assert flags(thread) == EXITING
    with thread:
        poller.unregister()
    thread.poll()
    assert flags(thread) == EXITED


def test_there_is_no_forced_exit(thread, clock):
    with thread:
        thread.register_poller(noop)
        thread.exit()
    for _ in range(100):
        clock.advance(us=1_000_000)
        thread.poll()
    assert flags(thread) == EXITING


def test_an_iteration_of_its_own_in_flight_keeps_the_thread_from_exiting(lib, thread):
    other = lib.create_thread("other")
    log = []
    with thread:
        lib.for_each_thread(noop, lambda: log.append("done"))
        thread.exit()
    for _ in range(3):
        thread.poll()
    assert flags(thread) == EXITING
    other.poll()
    thread.poll()
    assert log == ["done"]
    assert flags(thread) == EXITED


def test_an_iteration_of_another_does_not_keep_it(lib, thread):
    other = lib.create_thread("other")
    with other:
        lib.for_each_thread(noop)
    with thread:
        thread.exit()
    thread.poll()
    thread.poll()
    assert flags(thread) == EXITED
    other.poll()
    other.poll()


def test_a_second_exit_does_nothing(thread):
    with thread:
        thread.exit()
        thread.exit()
    thread.exit()
    thread.poll()
    assert flags(thread) == EXITED
    thread.exit()
    elsewhere(thread.exit)
    assert flags(thread) == EXITED


SENDS = {
    "send_msg": lambda thread: thread.send_msg(noop),
    "try_send_msg": lambda thread: thread.try_send_msg(noop),
    "send_msg_wait": lambda thread: thread.send_msg_wait(noop, timeout_s=1),
    "send_many": lambda thread: thread.send_many(noop, [1, 2]),
    "send_critical_msg": lambda thread: thread.send_critical_msg(noop),
    "call": lambda thread: thread.call(noop),
    "exec_msg": lambda thread: thread.exec_msg(noop),
    "register_poller": lambda thread: thread.register_poller(noop),
}


@pytest.mark.parametrize("send", SENDS)
def test_an_exited_thread_takes_nothing(thread, send):
    finish(thread)
    with pytest.raises(ThreadExitedError, match="net"):
        SENDS[send](thread)
    assert thread.pending_msgs == 0


def test_polling_an_exited_thread_does_nothing(thread):
    finish(thread)
    polls = thread.stats.polls
    for _ in range(3):
        assert thread.poll() == 0
    assert thread.stats.polls == polls


def test_an_exited_thread_still_tells_about_itself(thread, lib):
    thread.send_msg(noop)
    finish(thread)
    assert thread.name == "net"
    assert thread.id == 1
    assert thread.lib is lib
    assert thread.pollers == ()
    assert thread.pending_msgs == 0
    assert thread.next_poller_expiration is None
    assert thread.is_idle
    assert thread.stats.msgs_run >= 1
    assert repr(thread)


def test_a_thread_that_fell_out_of_use_is_freed_once_exited(lib):
    thread = lib.create_thread()
    finish(thread)
    watch = weakref.ref(thread)
    del thread
    gc.collect()
    assert watch() is None


def test_the_library_keeps_a_running_thread_alive(lib):
    number = lib.create_thread("kept").id
    gc.collect()
    assert lib.get_thread_by_id(number).name == "kept"


def test_a_thread_may_exit_another(lib, thread):
    other = lib.create_thread("other")
    thread.send_msg(other.exit)
    thread.poll()
    assert flags(other) == RUNNING
    other.poll()
    assert flags(other) == EXITED
    assert flags(thread) == RUNNING


def test_messages_left_in_a_thread_that_is_abandoned_are_reported(clock, caplog, errors):
    """Never silently lost: the library that loses a thread says which one, and how many messages it held."""
    from spdkthread import ThreadLib

    lib = ThreadLib(clock=clock, exception_handler=errors)
    thread = lib.create_thread("orphan")
    for _ in range(3):
        thread.send_msg(noop)
    del thread, lib
    gc.collect()
    reports = [record.getMessage() for record in caplog.records] + [context["message"] for context in errors]
    assert any("orphan" in report and "3" in report for report in reports), reports


@pytest.mark.seed
def test_a_thread_with_work_left_does_not_end_until_the_work_is_done(lib):
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


@pytest.mark.seed
def test_leftovers_are_reported_in_an_exception(lib):
    thread = lib.create_thread("leftover")
    with pytest.raises(SpdkThreadError, match="leftover"):
        lib.close()
    finish(thread)


@pytest.mark.seed
def test_a_message_may_end_its_own_thread_and_drop_the_last_reference():
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


@pytest.mark.seed
def test_a_poll_on_a_temporary_reference_survives_the_end_of_its_thread():
    library = ThreadLib()
    library.create_thread("only in the library")

    def end():
        get_thread().exit()
        gc.collect()

    library.threads[0].send_msg(end)
    library.threads[0].poll()
    assert library.threads == ()


@pytest.mark.seed
def test_a_message_to_a_thread_of_another_os_thread_is_never_lost_at_its_exit():
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


@pytest.mark.parametrize("attribute", ["name", "id", "state", "ring_size", "pending_msgs", "stats", "pollers", "lib"])
def test_what_a_thread_tells_about_itself_cannot_be_set(thread, attribute):
    with pytest.raises(AttributeError):
        setattr(thread, attribute, getattr(thread, attribute))
