"""Stopping: refuse, drain, exit, report; from any place, any number of times, and without deadlock."""

import contextlib
import math
import signal
import threading

import pytest
from support import PATIENCE_S, OtherThread, elsewhere, eventually, fill, finish, noop, run_python

from spdkthread import (
    Reactor,
    ReactorError,
    RingFullError,
    SpdkThread,
    SpdkThreadError,
    ThreadExitedError,
    get_reactor,
    get_thread,
)
from spdkthread.signal_safe_event import SignalSafeEvent


class Held:
    """A callback that stays until it is let go."""

    def __init__(self, thread):
        self.entered, self._leave = threading.Event(), threading.Event()
        thread.send_msg(self)
        assert self.entered.wait(PATIENCE_S)

    def __call__(self):
        self.entered.set()
        assert self._leave.wait(PATIENCE_S)

    def let_go(self):
        self._leave.set()


# The order


def test_the_order_of_a_stop_is_refuse_drain_exit_report(make_reactor):
    reactor = make_reactor().start()
    thread, other = reactor.create_thread("net"), reactor.create_thread("disk")
    log = []
    held = Held(thread)
    thread.send_msg(lambda: log.append(("accepted", reactor.state, thread.state)))
    thread.send_msg(lambda: other.send_msg(lambda: log.append(("from inside", reactor.state, other.state))))
    stopper = OtherThread(reactor.stop)
    held.let_go()
    report = stopper.outcome()
    assert [entry[0] for entry in log] == ["accepted", "from inside"]
    assert {entry[2] for entry in log} == {"running"}, "nothing exits before all has run"
    assert report.ok
    assert (thread.state, other.state, reactor.state) == ("exited", "exited", "stopped")


def test_a_stopping_reactor_takes_no_threads_and_a_stopped_one_does(make_reactor, live_lib):
    reactor = make_reactor(name="engine").start()
    thread = reactor.create_thread()
    newcomer = live_lib.create_thread("newcomer")
    over = threading.Event()

    def stay():
        if not over.is_set():
            thread.send_msg(stay)

    thread.send_msg(stay)
    stopper = OtherThread(reactor.stop)
    try:
        eventually(lambda: reactor.state == "stopping")
        with pytest.raises(ReactorError, match="engine"):
            reactor.add_thread(newcomer)
        with pytest.raises(ReactorError, match="engine"):
            reactor.create_thread()
    finally:
        over.set()
        stopper.outcome()
    reactor.add_thread(newcomer)
    assert reactor.threads == (newcomer,)
    reactor.start()
    assert newcomer.call(get_reactor).result(PATIENCE_S) is reactor


def test_what_is_left_is_reported_by_owner(make_reactor, lib):
    """Messages, pollers, paused ones, timers; each with the name of its thread."""
    reactor = make_reactor()
    net, disk = reactor.create_thread("net", ring_size=4), reactor.create_thread("disk")
    leave = threading.Event()

    def again():
        if not leave.is_set():
            net.send_msg(again)

    net.send_msg(again)
    with contextlib.ExitStack() as cleanup:
        cleanup.callback(lambda: finish(net, disk))
        cleanup.callback(leave.set)
        disk.register_poller(noop, 1e9, name="yearly")
        net.register_poller(noop, name="eager")
        report = reactor.stop(timeout_s=0.05)
        assert not report.ok
        assert [tuple(left) for left in report.leftover_msgs] == [("net", again.__qualname__)]
        assert {tuple(left) for left in report.leftover_pollers} == {("net", "eager"), ("disk", "yearly")}
        for word in ("net", "disk", "again", "eager", "yearly"):
            assert word in str(report)


def test_a_report_counts_many_and_says_so(make_reactor):
    reactor = make_reactor()
    thread = reactor.create_thread("net")
    for number in range(30):
        thread.register_poller(noop, name=f"poller {number}")
    report = reactor.stop()
    assert len(report.leftover_pollers) == 30
    assert "30 in all" in str(report)
    finish(thread)


def test_leftover_messages_are_still_there_to_be_run(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread()
    held = Held(thread)
    ran = []
    for number in range(20):
        thread.send_msg(ran.append, number)
    report = reactor.stop(timeout_s=0.01)
    assert report.still_running == (reactor.name,)
    assert len(report.leftover_msgs) == 20
    held.let_go()
    reactor.join(timeout_s=PATIENCE_S)
    assert thread.state in ("running", "exiting")
    finish(thread)
    assert ran == list(range(20))


@pytest.mark.parametrize("timeout_s", [math.nan, -1, -0.001])
def test_a_bad_timeout_is_refused(reactor, timeout_s):
    for wait in (reactor.stop, reactor.join):
        with pytest.raises(ValueError, match="timeout_s"):
            wait(timeout_s)
        with pytest.raises(TypeError, match="timeout_s must be a number of seconds or None, got str"):
            wait("soon")
    assert reactor.state == "running"


@pytest.mark.parametrize(("timeout_s", "kind"), [(math.nan, ValueError), (-1, ValueError), ("soon", TypeError)])
def test_a_bad_timeout_of_a_group_is_refused(make_group, timeout_s, kind):
    group = make_group(1).start()
    for wait in (group.stop, group.join):
        with pytest.raises(kind, match="timeout_s"):
            wait(timeout_s)
    assert [reactor.state for reactor in group] == ["running"]


# From anywhere


def test_a_stop_from_its_own_callback(reactor):
    thread = reactor.create_thread()
    report = thread.call(reactor.stop).result(PATIENCE_S)
    assert report.still_running == (reactor.name,)
    assert reactor.join(PATIENCE_S)
    assert thread.is_exited


def test_a_stop_from_its_own_poller(reactor):
    thread = reactor.create_thread()

    def fn():
        reactor.stop()
        get_thread().pollers[0].unregister()

    thread.register_poller(fn)
    assert reactor.join(PATIENCE_S)
    assert thread.is_exited


def test_a_stop_from_another_reactor_does_not_hold_that_one_up(make_reactor):
    first, second = make_reactor().start(), make_reactor().start()
    thread, other = first.create_thread(), second.create_thread()
    held = Held(other)
    report = thread.call(second.stop).result(PATIENCE_S)
    assert report.still_running == (second.name,)
    assert thread.call(abs, -1).result(PATIENCE_S) == 1
    held.let_go()
    assert second.join(PATIENCE_S)
    assert other.is_exited


def test_two_reactors_that_stop_each_other(make_reactor):
    reactors = [make_reactor().start() for _ in range(2)]
    threads = [reactor.create_thread() for reactor in reactors]
    for thread, other in zip(threads, reactors[::-1], strict=True):
        thread.send_msg(other.stop)
    for reactor in reactors:
        assert reactor.join(PATIENCE_S)


def test_a_stop_from_a_signal_handler(reactor):
    """The handler waits for the end, in the middle of whatever the main thread was doing."""
    thread = reactor.create_thread()
    reports = []
    before = signal.signal(signal.SIGUSR1, lambda *_: reports.append(reactor.stop()))
    try:
        signal.raise_signal(signal.SIGUSR1)
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert [report.ok for report in reports] == [True]
    assert thread.is_exited


def test_a_stop_from_a_signal_handler_inside_a_stop(make_reactor):
    """Nested where a lock would be waited for by its owner: signals rain on a main thread that stops reactors."""
    stop_rain = threading.Event()
    current = []
    before = signal.signal(signal.SIGUSR1, lambda *_: [one.stop(timeout_s=PATIENCE_S) for one in current])

    def rain():
        while not stop_rain.is_set():
            signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            stop_rain.wait(0.0002)

    rainmaker = OtherThread(rain)
    try:
        for _ in range(30):
            reactor = make_reactor()
            reactor.start()
            current[:] = [reactor]
            reactor.stop(timeout_s=PATIENCE_S)
            assert reactor.state == "stopped"
            current.clear()
    finally:
        stop_rain.set()
        rainmaker.outcome()
        signal.signal(signal.SIGUSR1, before)


def test_a_stop_from_an_atexit_hook():
    done = run_python(
        """
import atexit, spdkthread
reactor = spdkthread.Reactor().start()
thread = reactor.create_thread()
ran = []
thread.send_many(ran.append, range(1000))

@atexit.register
def hook():
    print(reactor.stop().ok, len(ran), thread.state)
"""
    )
    assert (done.stdout, done.stderr, done.returncode) == ("True 1000 exited\n", "", 0)


def test_stops_from_many_os_threads_at_once_agree(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread(ring_size=8_192)
    ran = []
    thread.send_many(ran.append, range(5_000))
    stoppers = [OtherThread(reactor.stop) for _ in range(8)]
    assert all(stopper.outcome().ok for stopper in stoppers)
    assert len(ran) == 5_000


def test_a_second_stop_returns_the_same_report(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread("net")
    thread.register_poller(noop, name="endless")
    first = reactor.stop()
    assert first.leftover_pollers
    assert reactor.stop() == first == reactor.stop(timeout_s=0)
    finish(thread)


def test_start_and_stop_from_many_os_threads(make_reactor):
    reactor = make_reactor()

    def toggle():
        for _ in range(20):
            with contextlib.suppress(ReactorError):
                reactor.start()
            reactor.stop(timeout_s=PATIENCE_S)

    for one in [OtherThread(toggle) for _ in range(4)]:
        one.outcome()
    assert reactor.state == "stopped"
    reactor.start()
    assert reactor.create_thread().call(abs, -1).result(PATIENCE_S) == 1


def test_a_stop_request_of_an_earlier_run_does_not_end_the_next(make_reactor):
    reactor = make_reactor()
    for _ in range(50):
        reactor.start()
        stoppers = [OtherThread(reactor.stop) for _ in range(2)]
        for stopper in stoppers:
            stopper.outcome()
        reactor.start()
        assert reactor.create_thread().call(abs, -1).result(PATIENCE_S) == 1
        reactor.stop()


def test_a_start_that_fails_leaves_everything_as_it_was(make_reactor, monkeypatch):
    reactor = make_reactor(name="engine")
    thread = reactor.create_thread("net")

    def refuse(pid, cores):
        raise OSError(22, "no such core")

    with monkeypatch.context() as patch:
        patch.setattr("os.sched_setaffinity", refuse)
        with pytest.raises(ReactorError, match=r"engine.*no such core"):
            reactor.start()
        with pytest.raises(ReactorError, match=r"engine.*no such core"):
            reactor.run()
    assert reactor.state == "new"
    assert reactor.threads == (thread,)
    reactor.start()
    assert thread.call(abs, -1).result(PATIENCE_S) == 1


# By hand


def test_an_embedded_reactor_is_stopped_by_its_own_callback_in_the_polls_that_follow(make_reactor, lib):
    reactor = make_reactor(lib=lib)
    thread = reactor.create_thread()
    ran = []
    thread.send_msg(reactor.stop)
    for number in range(20):
        thread.send_msg(ran.append, number)
    for _ in range(100):
        reactor.poll()
        if reactor.state == "stopped":
            break
    assert reactor.state == "stopped"
    assert ran == list(range(20))
    assert thread.is_exited


def test_many_os_threads_polling_one_reactor_take_turns(make_reactor):
    reactor = make_reactor()
    thread = reactor.create_thread(ring_size=4096)
    ran = []
    thread.send_many(ran.append, range(2_000))

    def drive():
        while len(ran) < 2_000:
            with contextlib.suppress(ReactorError):
                reactor.poll()

    for driver in [OtherThread(drive) for _ in range(3)]:
        driver.outcome()
    assert ran == list(range(2_000))


def test_polling_one_reactor_inside_a_callback_of_another(make_reactor):
    outer, inner = make_reactor(), make_reactor()
    place = []

    def nested():
        inner.poll()
        place.append(get_reactor())
        with pytest.raises(ReactorError):
            outer.poll()

    inner.create_thread().send_msg(lambda: place.append(get_reactor()))
    outer.create_thread().send_msg(nested)
    outer.poll()
    assert place == [inner, outer]
    assert get_reactor() is None


def test_a_keyboard_interrupt_while_draining_by_hand_leaves_a_stopped_reactor(make_reactor):
    def interrupt():
        raise KeyboardInterrupt

    reactor = make_reactor()
    thread = reactor.create_thread()
    thread.send_msg(interrupt)
    with pytest.raises(KeyboardInterrupt):
        reactor.stop()
    assert reactor.state == "stopped"
    finish(thread)


# Requests


def test_what_was_asked_of_a_loop_survives_an_exception_in_it(make_reactor, caplog):
    """A call between turns that raises SystemExit: the others still run, moves resolve."""
    first, second = make_reactor().start(), make_reactor().start()
    thread, mover = first.create_thread(), first.create_thread()
    ran = []

    def leave():
        raise SystemExit

    def ask():
        first._call_on_loop(leave)
        first._call_on_loop(lambda: ran.append(1))
        return first.move_thread(mover, second)

    future = thread.call(ask).result(PATIENCE_S)
    error = future.exception(PATIENCE_S)
    assert error is None or isinstance(error, ReactorError)
    assert first.join(PATIENCE_S)
    assert ran == [1]
    assert "SystemExit" in caplog.text


# No deadlock


def test_two_reactors_with_rings_full_of_messages_to_each_other_stop(make_group):
    """Each callback sends as much as the other's ring takes; the stop drains both."""
    group = make_group(2 if len(make_group(None)) > 1 else 1).start()
    left, right = group.create_thread("left", ring_size=8), group.create_thread("right", ring_size=8)
    refused = []
    life = [2_000]

    def reply(there, here):
        for _ in range(2):
            try:
                if life[0] > 0:
                    life[0] -= 1
                    there.send_msg(reply, here, there)
            except RingFullError:
                refused.append(1)

    held = Held(left), Held(right)
    assert fill(left, reply, right, left) == fill(right, reply, left, right) == 8
    stopper = OtherThread(group.stop)
    for one in held:
        one.let_go()
    assert stopper.outcome().ok
    assert left.is_exited
    assert right.is_exited
    assert refused


def test_two_reactors_stop_one_after_the_other_with_full_rings(make_reactor):
    first, second = make_reactor().start(), make_reactor().start()
    left, right = first.create_thread(ring_size=8), second.create_thread(ring_size=8)
    held = Held(left), Held(right)

    def reply(there):
        with contextlib.suppress(SpdkThreadError):
            there.send_msg(noop)

    fill(left, reply, right)
    fill(right, reply, left)
    stoppers = [OtherThread(reactor.stop) for reactor in (first, second)]
    for one in held:
        one.let_go()
    assert all(stopper.outcome().ok for stopper in stoppers)


def test_waiting_senders_are_told_when_the_reactor_stops(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread("net", ring_size=2)
    held = Held(thread)
    fill(thread)
    waiting = OtherThread(thread.send_msg_wait, noop)
    stopper = OtherThread(reactor.stop)
    held.let_go()
    with contextlib.suppress(ThreadExitedError):
        waiting.outcome()
    assert stopper.outcome().ok


# Bad objects


def test_a_thread_whose_init_never_ran_is_refused(make_reactor):
    reactor = make_reactor()
    with pytest.raises(SpdkThreadError, match="never initialised"):
        reactor.add_thread(SpdkThread.__new__(SpdkThread))
    reactor.poll()


def test_a_reactor_whose_init_never_ran_refuses_everything(live_lib):
    raw = Reactor.__new__(Reactor)
    thread = live_lib.create_thread()
    for act in (raw.start, raw.run, raw.poll, raw.stop, raw.join):
        with pytest.raises(ReactorError):
            act()
    with pytest.raises(ReactorError):
        raw.add_thread(thread)


def test_a_reactor_is_initialised_once(make_reactor):
    with pytest.raises(ReactorError, match="initialised already"):
        make_reactor().__init__()


# The event that the waiting is made of


def test_a_signal_safe_event_lets_every_waiter_go_on():
    event = SignalSafeEvent()
    waiting = [OtherThread(event.wait) for _ in range(5)]
    assert not event.wait(timeout_s=0.01)
    event.set()
    assert all(one.outcome() for one in waiting)
    assert event.is_set()
    assert event.wait(timeout_s=0)
    event.clear()
    assert not event.wait(timeout_s=0)
    assert elsewhere(event.wait, 0) is False


def test_a_signal_safe_event_that_is_set_while_a_waiter_comes_is_never_missed():
    for _ in range(300):
        event = SignalSafeEvent()
        waiting = [OtherThread(event.wait, PATIENCE_S) for _ in range(2)]
        event.set()
        assert all(one.outcome() for one in waiting)
