"""The reactor: one OS thread that polls its threads, from start to a stop that drains and reports."""

import contextlib
import gc
import os
import signal
import threading
import time
import weakref

import pytest
from support import PATIENCE_S, OtherThread, eventually, fill, finish, noop, run_python

from spdkthread import (
    Reactor,
    ReactorError,
    SpdkThreadError,
    ThreadExitedError,
    WrongThreadError,
    get_thread,
)
from spdkthread.clock import ManualClock

pytestmark = pytest.mark.gil_off

CORES = sorted(os.sched_getaffinity(0))


def test_a_started_reactor_polls_its_threads(make_reactor):
    reactor = make_reactor()
    assert reactor.start() is reactor
    thread = reactor.create_thread("net")
    assert reactor.threads == (thread,)
    assert thread.call(get_thread).result(PATIENCE_S) is thread


def test_it_polls_in_one_os_thread_of_its_own(reactor):
    first, second = reactor.create_thread(), reactor.create_thread()
    tids = {thread.call(threading.get_native_id).result(PATIENCE_S) for thread in (first, second) for _ in range(3)}
    assert tids == {reactor.tid}
    assert reactor.tid != threading.get_native_id()


def test_its_os_thread_is_a_thread_of_the_threading_module(reactor):
    current = reactor.create_thread().call(threading.current_thread).result(PATIENCE_S)
    assert current in threading.enumerate()
    assert type(current) is not threading._DummyThread


def test_it_is_pinned_to_its_core(make_reactor):
    before = os.sched_getaffinity(0)
    reactor = make_reactor(CORES[-1]).start()
    thread = reactor.create_thread()
    assert reactor.core == CORES[-1]
    assert thread.call(os.sched_getaffinity, 0).result(PATIENCE_S) == {CORES[-1]}
    assert os.sched_getaffinity(0) == before


def test_it_is_not_pinned_when_told_so(make_reactor):
    reactor = make_reactor(pin=False).start()
    thread = reactor.create_thread()
    assert thread.call(os.sched_getaffinity, 0).result(PATIENCE_S) == set(CORES)


def test_reactors_that_choose_their_core_choose_different_ones(make_reactor):
    reactors = [make_reactor() for _ in CORES]
    assert sorted(reactor.core for reactor in reactors) == CORES


def test_a_stopped_reactor_gives_its_core_back(live_lib):
    for _ in range(3):
        reactors = [Reactor(lib=live_lib).start() for _ in CORES]
        assert sorted(reactor.core for reactor in reactors) == CORES
        for reactor in reactors:
            assert reactor.stop(timeout_s=PATIENCE_S).ok


def test_a_reactor_says_what_it_is(make_reactor):
    reactor = make_reactor(CORES[0], name="engine", idle="yield")
    assert reactor.name == "engine"
    assert reactor.core == CORES[0]
    assert reactor.idle == "yield"
    assert reactor.threads == ()
    assert isinstance(reactor.state, str)


def test_reactors_of_one_core_get_names_of_their_own(make_reactor):
    core = make_reactor().core
    reactors = [make_reactor(core) for _ in range(3)]
    names = {reactor.name for reactor in reactors}
    assert len(names) == 3
    assert all(name.startswith(f"reactor_{core}") for name in names)
    assert make_reactor(core, name="mine").name == "mine"


def test_a_reactor_without_a_name_gets_one(make_reactor):
    assert make_reactor().name


@pytest.mark.parametrize("idle", ["poll", "yield"])
def test_every_way_to_idle_delivers_messages(make_reactor, idle):
    thread = make_reactor(idle=idle).start().create_thread()
    assert [thread.call(abs, -number).result(PATIENCE_S) for number in range(50)] == list(range(50))


@pytest.mark.parametrize("idle", ["", "sleepy", None, 1])
def test_an_unknown_way_to_idle_is_refused(live_lib, idle):
    with pytest.raises((TypeError, ValueError)):
        Reactor(idle=idle, lib=live_lib)


def test_threads_may_be_made_before_the_start(make_reactor):
    reactor = make_reactor()
    thread = reactor.create_thread("early", ring_size=32, poller_policy="all")
    ran = threading.Event()
    thread.send_msg(ran.set)
    assert (thread.name, thread.ring_size) == ("early", 32)
    assert not ran.is_set()
    reactor.start()
    assert ran.wait(PATIENCE_S)


def test_threads_of_a_reactor_are_threads_of_its_library(make_reactor, live_lib):
    reactor = make_reactor()
    thread = reactor.create_thread("net")
    assert thread.lib is live_lib
    assert live_lib.threads == (thread,)


def test_a_thread_with_messages_and_pollers_may_be_added(make_reactor, live_lib):
    thread = live_lib.create_thread("moving in")
    ran, polled = threading.Event(), threading.Event()
    with thread:
        poller = thread.register_poller(lambda: polled.set() or poller.unregister())
    thread.send_msg(ran.set)
    reactor = make_reactor().start()
    reactor.add_thread(thread)
    assert ran.wait(PATIENCE_S)
    assert polled.wait(PATIENCE_S)
    assert reactor.threads == (thread,)


def test_a_thread_cannot_be_on_two_reactors(make_reactor, live_lib):
    first, second = make_reactor(name="first"), make_reactor(name="second")
    thread = live_lib.create_thread("wanted")
    first.add_thread(thread)
    with pytest.raises(ReactorError, match="wanted"):
        second.add_thread(thread)
    with pytest.raises(ReactorError, match="wanted"):
        first.add_thread(thread)
    assert first.threads == (thread,)
    assert second.threads == ()


def test_a_thread_on_two_running_reactors_is_refused_too(make_reactor):
    first, second = make_reactor().start(), make_reactor().start()
    thread = first.create_thread("wanted")
    with pytest.raises(ReactorError, match="wanted"):
        second.add_thread(thread)


def test_an_exited_thread_cannot_be_added(make_reactor, live_lib):
    thread = live_lib.create_thread("gone")
    with thread:
        thread.exit()
    thread.poll()
    with pytest.raises(SpdkThreadError, match="gone"):
        make_reactor().add_thread(thread)


@pytest.mark.parametrize("thread", [None, 1, "net", object()])
def test_what_is_not_a_thread_cannot_be_added(make_reactor, thread):
    with pytest.raises(TypeError):
        make_reactor().add_thread(thread)


def test_a_second_start_is_refused(make_reactor):
    reactor = make_reactor(name="engine").start()
    with pytest.raises(ReactorError, match="engine"):
        reactor.start()
    thread = reactor.create_thread()
    assert thread.call(abs, -1).result(PATIENCE_S) == 1


def test_running_a_started_reactor_is_refused(reactor):
    with pytest.raises(ReactorError):
        reactor.run()
    with pytest.raises((ReactorError, WrongThreadError)):
        reactor.poll()


@pytest.mark.parametrize("core", [99_999, -1])
def test_an_unavailable_core_is_refused(live_lib, core):
    with pytest.raises(ReactorError, match=str(core)):
        Reactor(core, lib=live_lib)


@pytest.mark.parametrize("core", ["0", 0.5, [0]])
def test_a_core_that_is_not_a_number_is_refused(live_lib, core):
    with pytest.raises(TypeError):
        Reactor(core, lib=live_lib)


def test_stop_runs_what_was_accepted_and_reports_nothing_left(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread(ring_size=16_384)
    ran = []
    accepted = thread.send_many(ran.append, range(10_000))
    report = reactor.stop()
    assert accepted == 10_000
    assert ran == list(range(10_000))
    assert report.ok
    assert not report.leftover_msgs
    assert not report.leftover_pollers
    assert not report.leftover_channels
    assert thread.is_exited


def test_stop_exits_the_threads(make_reactor, live_lib):
    reactor = make_reactor().start()
    threads = [reactor.create_thread() for _ in range(5)]
    assert reactor.stop(timeout_s=PATIENCE_S).ok
    assert all(thread.is_exited for thread in threads)
    assert live_lib.threads == ()
    assert reactor.threads == ()


def test_stop_lets_messages_from_inside_finish_their_chain(make_reactor):
    reactor = make_reactor().start()
    first, second = reactor.create_thread("first"), reactor.create_thread("second")
    stopping, ran = threading.Event(), []

    def chain(left, here, there):
        if left == 100:
            assert stopping.wait(PATIENCE_S)
        ran.append(left)
        if left:
            there.send_msg(chain, left - 1, there, here)

    first.send_msg(chain, 100, first, second)
    stopper = OtherThread(reactor.stop)
    stopping.set()
    assert stopper.outcome().ok
    assert ran == list(range(100, -1, -1))


def test_stop_names_a_poller_that_is_left_and_leaves_its_thread_to_be_driven_by_hand(make_reactor):
    reactor = make_reactor(name="engine").start()
    thread = reactor.create_thread("stubborn")
    poller = thread.register_poller(noop, name="endless")
    thread.call(noop).result(PATIENCE_S)
    report = reactor.stop()
    assert not report.ok
    assert not report.leftover_msgs
    assert not report.leftover_channels
    ((owner, name),) = report.leftover_pollers
    assert (owner, name) == ("stubborn", "endless")
    assert "stubborn" in str(report)
    assert "endless" in str(report)
    assert thread.state == "exiting"
    assert reactor.threads == ()
    runs = poller.run_count
    thread.poll()
    assert poller.run_count == runs + 1
    with thread:
        poller.unregister()
    thread.poll()
    assert thread.is_exited


def test_a_paused_poller_is_left_over_too(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread("stubborn")
    thread.register_poller(noop, name="waking")
    thread.register_poller(noop, name="napping").pause()
    thread.call(noop).result(PATIENCE_S)
    report = reactor.stop()
    assert [left.name for left in report.leftover_pollers] == ["waking", "napping"]


def keep_busy(thread, leave):
    """A message that sends itself again until `leave` is set."""
    if not leave.is_set():
        thread.send_msg(keep_busy, thread, leave)


def test_stop_gives_up_in_time_and_names_the_messages_that_are_left(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread("restless")
    leave = threading.Event()
    thread.send_msg(keep_busy, thread, leave)
    report = reactor.stop(timeout_s=0.05)
    assert not report.ok
    assert [tuple(left) for left in report.leftover_msgs] == [("restless", "keep_busy")]
    assert thread.pending_msgs == 1
    leave.set()
    thread.poll()
    assert thread.pending_msgs == 0


def test_a_stopping_reactor_refuses_messages_from_outside(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread("restless")
    leave = threading.Event()
    thread.send_msg(keep_busy, thread, leave)
    stopper = OtherThread(reactor.stop)
    try:
        eventually(lambda: reactor.state == "stopping")
        eventually(lambda: refuses(thread))
        for send in (thread.send_msg, thread.try_send_msg, thread.send_msg_wait, thread.call, thread.exec_msg):
            with pytest.raises(ThreadExitedError, match="restless"):
                send(noop)
        with pytest.raises(ThreadExitedError, match="restless"):
            thread.send_many(noop, [1])
        with pytest.raises(ThreadExitedError, match="restless"):
            thread.register_poller(noop)
        with pytest.raises(ThreadExitedError, match="restless"):
            thread.send_critical_msg(noop)
        with pytest.raises(ReactorError):
            reactor.create_thread()
        assert stopper.is_alive()
    finally:
        leave.set()
        report = stopper.outcome()
    assert report.ok
    assert thread.is_exited


def refuses(thread):
    try:
        thread.send_msg(noop)
    except ThreadExitedError:
        return True
    return False


def test_a_callback_that_does_not_return_is_not_waited_for_longer_than_asked(make_reactor):
    reactor = make_reactor(name="engine").start()
    thread = reactor.create_thread("busy")
    entered, leave = threading.Event(), threading.Event()
    ran = []

    def stay():
        entered.set()
        assert leave.wait(PATIENCE_S)

    thread.send_msg(stay)
    assert entered.wait(PATIENCE_S)
    for number in range(5):
        thread.send_msg(ran.append, number)
    try:
        report = reactor.stop(timeout_s=0.05)
        assert not report.ok
        assert report.still_running == ("engine",)
        assert len(report.leftover_msgs) == 5
        assert {left.thread for left in report.leftover_msgs} == {"busy"}
    finally:
        leave.set()
    reactor.stop(timeout_s=PATIENCE_S)
    finish(thread)
    assert ran == list(range(5)), "what was accepted is still there, to be polled by hand"


def test_every_message_accepted_while_a_reactor_stops_has_run(make_reactor):
    """Senders race with the stop: each send either raises or runs."""
    reactor = make_reactor().start()
    thread = reactor.create_thread(ring_size=256)
    ran = []
    started = threading.Barrier(4)

    def send(sender):
        started.wait(PATIENCE_S)
        accepted = 0
        with contextlib.suppress(ThreadExitedError):
            while True:
                accepted += thread.try_send_msg(ran.append, sender)
        return accepted

    senders = [OtherThread(send, sender) for sender in range(3)]
    started.wait(PATIENCE_S)
    eventually(lambda: len(ran) > 100)
    assert reactor.stop(timeout_s=PATIENCE_S).ok
    accepted = [sender.outcome() for sender in senders]
    assert [ran.count(sender) for sender in range(3)] == accepted


def test_stopping_twice_is_quiet(make_reactor):
    reactor = make_reactor().start()
    assert reactor.stop().ok
    assert reactor.stop().ok


def test_a_stopped_reactor_may_be_started_again(make_reactor):
    reactor = make_reactor()
    for number in range(3):
        reactor.start()
        thread = reactor.create_thread()
        assert thread.call(abs, -number).result(PATIENCE_S) == number
        assert reactor.stop().ok
        assert thread.is_exited


def test_stop_on_its_own_os_thread_only_begins_the_stop(reactor):
    thread = reactor.create_thread()
    report = thread.call(reactor.stop).result(PATIENCE_S)
    assert report.still_running == (reactor.name,)
    assert reactor.join(timeout_s=PATIENCE_S)
    assert reactor.stop().ok
    assert thread.is_exited


def test_the_states_of_a_reactor(make_reactor):
    reactor = make_reactor()
    assert reactor.state == "new"
    assert reactor.tid is None
    reactor.start()
    assert reactor.state == "running"
    reactor.stop()
    assert reactor.state == "stopped"
    assert reactor.tid is None


def test_sending_after_the_stop_raises(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread("late")
    reactor.stop()
    with pytest.raises(ThreadExitedError, match="late"):
        thread.send_msg(noop)


def test_join_waits_for_the_stop(make_reactor):
    reactor = make_reactor().start()
    joiner = OtherThread(reactor.join)
    thread = reactor.create_thread()
    thread.call(noop).result(PATIENCE_S)
    assert joiner.is_alive()
    assert reactor.stop().ok
    assert joiner.outcome() is True
    assert reactor.join(timeout_s=PATIENCE_S) is True


def test_join_gives_up_in_time(reactor):
    assert reactor.join(timeout_s=0.01) is False


def test_a_reactor_cannot_wait_for_its_own_end(reactor):
    with pytest.raises(WrongThreadError):
        reactor.create_thread().call(reactor.join).result(PATIENCE_S)


def test_the_context_manager_starts_and_stops(live_lib):
    with Reactor(lib=live_lib) as reactor:
        thread = reactor.create_thread()
        assert thread.call(abs, -1).result(PATIENCE_S) == 1
        ran = []
        thread.send_many(ran.append, range(100))
    assert ran == list(range(100))
    assert thread.is_exited


def test_the_context_manager_stops_when_its_block_raises(live_lib):
    with pytest.raises(ZeroDivisionError), Reactor(lib=live_lib) as reactor:
        thread = reactor.create_thread()
        divmod(1, 0)
    assert thread.is_exited


def test_poll_is_one_turn_of_the_loop(make_reactor, lib, clock):
    reactor = make_reactor(lib=lib)
    first, second = reactor.create_thread(), reactor.create_thread()
    ran = []
    first.send_msg(ran.append, "first")
    second.send_msg(ran.append, "second")
    timed = first.register_poller(lambda: ran.append("timed"), 10)
    assert reactor.poll() > 0
    assert ran == ["first", "second"]
    assert not reactor.poll()
    clock.advance(us=10)
    reactor.poll()
    assert ran == ["first", "second", "timed"]
    first.send_msg(timed.unregister)
    reactor.poll()
    assert get_thread() is None


def test_a_turn_runs_a_batch_of_eight_on_each_thread(make_reactor, lib):
    reactor = make_reactor(lib=lib)
    threads = [reactor.create_thread() for _ in range(3)]
    for thread in threads:
        thread.send_many(noop, range(10))
    reactor.poll()
    assert [thread.pending_msgs for thread in threads] == [2, 2, 2]
    reactor.poll()
    assert [thread.pending_msgs for thread in threads] == [0, 0, 0]


def test_a_reactor_that_is_only_polled_may_be_stopped(make_reactor, lib):
    reactor = make_reactor(lib=lib)
    thread = reactor.create_thread()
    ran = []
    thread.send_many(ran.append, range(20))
    reactor.poll()
    report = reactor.stop(timeout_s=PATIENCE_S)
    assert report.ok
    assert ran == list(range(20))
    assert thread.is_exited


def test_run_polls_in_the_calling_os_thread_until_stop(make_reactor):
    reactor = make_reactor()
    thread = reactor.create_thread()
    call = thread.call(threading.get_ident)
    stopper = OtherThread(lambda: (call.result(PATIENCE_S), reactor.stop()))
    report = reactor.run()
    ident, stop_report = stopper.outcome()
    assert ident == threading.get_ident()
    assert report.ok
    assert stop_report.ok
    assert thread.is_exited


def test_run_may_be_ended_by_a_callback(make_reactor):
    reactor = make_reactor()
    thread = reactor.create_thread()
    thread.send_msg(reactor.stop, 0)
    assert reactor.run().ok
    assert thread.is_exited


def test_run_gives_the_calling_os_thread_its_cores_back(make_reactor):
    before = os.sched_getaffinity(0)
    reactor = make_reactor(CORES[0])
    thread = reactor.create_thread()
    thread.send_msg(reactor.stop, 0)
    reactor.run()
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_leave_run(make_reactor, errors, kind):
    def interrupt():
        raise kind

    reactor = make_reactor()
    thread = reactor.create_thread()
    thread.send_msg(interrupt)
    with pytest.raises(kind):
        reactor.run()
    assert errors == []
    assert get_thread() is None


@pytest.mark.no_tsan(reason="ThreadSanitizer hands a signal on at the next call that it knows, which may never come")
def test_ctrl_c_leaves_run_even_when_nothing_happens(make_reactor):
    reactor = make_reactor()
    reactor.create_thread()
    pressed = threading.Event()

    def press():
        eventually(lambda: reactor.stats.turns > 10)
        pressed.set()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    presser = OtherThread(press)
    with pytest.raises(KeyboardInterrupt):
        reactor.run()
    presser.outcome()
    assert pressed.is_set()


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_stop_a_started_reactor(make_reactor, kind):
    def interrupt():
        raise kind

    reactor = make_reactor().start()
    thread = reactor.create_thread()
    ran = []
    entered, leave = threading.Event(), threading.Event()

    def stay():
        entered.set()
        assert leave.wait(PATIENCE_S)

    thread.send_msg(stay)
    assert entered.wait(PATIENCE_S)
    thread.send_msg(interrupt)
    thread.send_msg(ran.append, "sent before the interrupt ran")
    leave.set()
    with contextlib.suppress(kind):
        reactor.join(timeout_s=PATIENCE_S)
    eventually(lambda: thread.is_exited)
    assert ran == ["sent before the interrupt ran"]


def test_an_exception_in_a_callback_does_not_stop_the_reactor(reactor, errors):
    thread = reactor.create_thread()
    thread.send_msg(divmod, 1, 0)
    assert thread.call(abs, -1).result(PATIENCE_S) == 1
    assert errors.types == [ZeroDivisionError]


def test_a_thread_that_exits_leaves_its_reactor(reactor, live_lib):
    staying, leaving = reactor.create_thread("staying"), reactor.create_thread("leaving")
    leaving.exit()
    eventually(lambda: leaving.is_exited)
    eventually(lambda: reactor.threads == (staying,))
    assert live_lib.threads == (staying,)
    with pytest.raises(ThreadExitedError):
        leaving.send_msg(noop)


def test_threads_come_and_go_while_the_reactor_runs(reactor):
    for number in range(200):
        thread = reactor.create_thread(ring_size=2)
        assert thread.call(abs, -number).result(PATIENCE_S) == number
        thread.exit()
    eventually(lambda: reactor.threads == ())


def test_a_callback_may_make_threads_on_its_own_reactor(reactor):
    thread = reactor.create_thread("parent")
    child = thread.call(reactor.create_thread, "child").result(PATIENCE_S)
    assert child.call(get_thread).result(PATIENCE_S) is child
    assert set(reactor.threads) == {thread, child}


def test_active_and_timed_pollers_run_on_a_reactor(reactor):
    thread = reactor.create_thread()
    active = thread.register_poller(noop)
    timed = thread.register_poller(noop, period_us=100)
    eventually(lambda: active.run_count > 10 and timed.run_count > 10)
    active.unregister()
    timed.unregister()


def test_two_reactors_play_ping_pong(make_reactor):
    ping, pong = (make_reactor().start().create_thread(name) for name in ("ping", "pong"))
    hits, over = [], threading.Event()

    def hit(here, there, left):
        hits.append(get_thread().name)
        if left:
            there.send_msg(hit, there, here, left - 1)
        else:
            over.set()

    ping.send_msg(hit, ping, pong, 999)
    assert over.wait(PATIENCE_S)
    assert hits == ["ping", "pong"] * 500


def test_reactors_flood_each_other_and_lose_nothing(make_reactor):
    """Bounded rings both ways, every refused send tried again by a poller: no deadlock, no loss, no reordering."""
    total = 5_000
    first, second = (make_reactor().start().create_thread(ring_size=16) for _ in range(2))
    seen = {first: [], second: []}
    over = {first: threading.Event(), second: threading.Event()}

    def receive(here, number):
        seen[here].append(number)
        if number == total - 1:
            over[here].set()

    def flood(there):
        number = 0

        def fn():
            nonlocal number
            sent = 0
            while number < total and there.try_send_msg(receive, there, number):
                number += 1
                sent += 1
            if number == total:
                poller.unregister()
            return sent

        poller = get_thread().register_poller(fn)

    first.send_msg(flood, second)
    second.send_msg_wait(flood, first)  # the flood of the other one may be there first
    for event in over.values():
        assert event.wait(PATIENCE_S)
    assert seen[first] == seen[second] == list(range(total))


def test_a_full_ring_of_a_reactors_thread_is_an_answer(reactor):
    thread = reactor.create_thread(ring_size=4)
    entered, leave = threading.Event(), threading.Event()

    def stay():
        entered.set()
        assert leave.wait(PATIENCE_S)

    thread.send_msg(stay)
    assert entered.wait(PATIENCE_S)
    assert fill(thread) == 4
    leave.set()
    thread.send_msg_wait(noop, timeout_s=PATIENCE_S)


def test_statistics_of_a_running_reactor_grow(reactor):
    thread = reactor.create_thread()
    before = reactor.stats.turns
    thread.call(noop).result(PATIENCE_S)
    eventually(lambda: reactor.stats.turns > before + 10)
    stats = reactor.stats
    for name in ("busy_ticks", "idle_ticks", "turns", "parks", "wakes", "gil_waits", "gil_wait_ticks"):
        assert getattr(stats, name) >= 0, name
    eventually(lambda: reactor.stats.idle_ticks > 0)


def test_a_busy_reactor_lets_other_python_threads_run(make_reactor):
    """An active Python poller asks for the GIL in every turn; this test is one of the others."""
    reactor = make_reactor(idle="poll").start()
    poller = reactor.create_thread().register_poller(lambda: 1)
    eventually(lambda: poller.run_count > 1_000)
    progress = 0
    while progress < 100_000:
        progress += 1
    poller.unregister()


def test_a_stopped_reactor_without_a_reference_is_freed(live_lib):
    reactor = Reactor(lib=live_lib)
    with reactor:
        reactor.create_thread()
    watch = weakref.ref(reactor)
    del reactor
    gc.collect()
    assert watch() is None


def test_a_reactor_never_started_is_freed_and_gives_its_core_back(live_lib):
    for _ in range(len(CORES) * 3):
        Reactor(lib=live_lib)
        gc.collect()
    assert Reactor(lib=live_lib).core in CORES


def test_a_program_may_end_while_a_reactor_runs():
    done = run_python(
        """
import spdkthread
reactor = spdkthread.Reactor().start()
thread = reactor.create_thread("still here")
thread.call(print, "hello").result()
thread.register_poller(lambda: 1)
"""
    )
    assert done.stdout == "hello\n"
    assert done.returncode == 0, done.stderr


def test_a_program_may_be_interrupted_while_its_main_thread_runs_a_reactor():
    done = run_python(
        """
import os, signal, spdkthread
reactor = spdkthread.Reactor()
thread = reactor.create_thread()
thread.register_poller(lambda: 1)
thread.send_msg(os.kill, os.getpid(), signal.SIGINT)
try:
    reactor.run()
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert done.stdout == "interrupted\n", done.stderr
    assert done.returncode == 0, done.stderr


def test_stop_on_a_reactor_that_never_ran_is_quick(make_reactor):
    reactor = make_reactor()
    before = time.monotonic()
    assert reactor.stop(timeout_s=PATIENCE_S).ok
    assert time.monotonic() - before < PATIENCE_S


def test_threads_that_are_no_os_threads_are_refused(make_reactor, monkeypatch):
    """What a monkey patch puts in the place of Python's threads would run the loop on the OS thread that waits for it."""
    for name in ("_start_joinable_thread", "_start_new_thread"):
        if hasattr(threading, name):
            monkeypatch.setattr(threading, name, lambda *args, **kw: None)
    reactor = make_reactor(name="engine")
    with pytest.raises(ReactorError, match=r"engine.*test_reactor has replaced the threads"):
        reactor.start()
    monkeypatch.undo()
    assert reactor.start().create_thread().call(abs, -1).result(PATIENCE_S) == 1


def test_a_reactor_tells_how_often_its_os_thread_left_its_core(make_reactor):
    reactor = make_reactor()
    with pytest.raises(ReactorError, match="start it first"):
        reactor.context_switches()
    reactor.start()
    thread = reactor.create_thread()
    before = reactor.context_switches()
    for _ in range(3):
        parks = reactor.stats.parks
        thread.call(noop).result(PATIENCE_S)
        eventually(lambda parks=parks: reactor.stats.parks > parks)
    thread.call(noop).result(PATIENCE_S)
    after = reactor.context_switches()
    assert after.voluntary > before.voluntary
    assert after.involuntary >= before.involuntary


@pytest.mark.faults
def test_a_reactor_on_a_clock_that_jumps(lib, clock, make_reactor):
    reactor = make_reactor(lib=lib, pin=False, spin_us=0).start()
    thread = reactor.create_thread()
    passed = threading.Semaphore(0)
    poller = thread.register_poller(passed.release, 1e6)
    thread.call(noop).result(PATIENCE_S)
    for step_us in (1e6, 5e9, 1e6):
        clock.advance(us=int(step_us))
        thread.send_msg(noop)
        assert passed.acquire(timeout=PATIENCE_S)
    poller.unregister()
    assert isinstance(clock, ManualClock)
