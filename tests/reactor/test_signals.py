"""Signals: Ctrl-C stops gracefully, a second one at once; a storm of them, and handlers that raise, lose nothing."""

import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support import PATIENCE_S, OtherThread, eventually, noop, run_python

pytestmark = [
    pytest.mark.no_tsan(
        reason="ThreadSanitizer hands a signal on at the next call that it knows, which may never come"
    ),
    pytest.mark.no_coverage(reason="the tracer keeps a second press of Ctrl-C from being seen"),
]


def press(reactor, ready=None):
    """Ctrl-C, once `ready` says so."""
    eventually(ready or (lambda: reactor.stats.turns > 10))
    signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)


IDLES = ["adaptive", "poll", "yield"]


@pytest.mark.parametrize("idle", IDLES)
def test_the_first_ctrl_c_runs_what_was_accepted_and_leaves_run(make_reactor, idle):
    """In the middle of a callback: it is not broken off, and those behind it run."""
    reactor = make_reactor(idle=idle)
    thread = reactor.create_thread()
    ran = []

    def stay():
        signal.raise_signal(signal.SIGINT)
        ran.extend(range(1000))

    thread.send_msg(stay)
    for number in range(1000, 1020):
        thread.send_msg(ran.append, number)
    with pytest.raises(KeyboardInterrupt):
        reactor.run()
    assert ran == list(range(1020))
    assert thread.is_exited
    assert reactor.state == "stopped"


@pytest.mark.parametrize("idle", IDLES)
def test_ctrl_c_while_nothing_happens(make_reactor, idle):
    reactor = make_reactor(idle=idle)
    thread = reactor.create_thread()
    presser = OtherThread(press, reactor)
    with pytest.raises(KeyboardInterrupt):
        reactor.run()
    presser.outcome()
    assert thread.is_exited


def test_ctrl_c_ends_a_sleep_at_once_wherever_it_comes(make_reactor):
    """Right before the sleep, or to another OS thread: no sleep has a time limit here, so a lost one would be seen."""
    for number in range(100):
        reactor = make_reactor(spin_us=0 if number % 2 else 50)
        reactor.create_thread()

        def fire(reactor=reactor, number=number):
            eventually(lambda: reactor.stats.parks > 0)
            target = threading.get_ident() if number % 3 == 0 else threading.main_thread().ident
            signal.pthread_kill(target, signal.SIGINT)

        presser = OtherThread(fire)
        with pytest.raises(KeyboardInterrupt):
            reactor.run()
        presser.outcome()


def test_a_reactor_on_the_main_thread_sleeps_without_a_time_limit(make_reactor):
    reactor = make_reactor(spin_us=0)
    thread = reactor.create_thread()

    def watch():
        eventually(lambda: reactor.stats.parks > 0)
        turns = []

        def still():
            turns.append(reactor.stats.turns)
            return len(turns) > 50 and turns[-1] == turns[-50]

        eventually(still)
        thread.send_msg(reactor.stop)

    watcher = OtherThread(watch)
    assert reactor.run().ok
    watcher.outcome()


def test_a_second_ctrl_c_ends_it_at_once(make_reactor):
    """A thread that never comes to an end: messages that send themselves again."""
    reactor = make_reactor()
    thread = reactor.create_thread("restless")

    over = threading.Event()

    def again():
        if not over.is_set():
            thread.send_msg(again)

    again()

    def presses():
        press(reactor)
        press(reactor, lambda: reactor.state == "stopping")

    presser = OtherThread(presses)
    with pytest.raises(KeyboardInterrupt):
        reactor.run()
    presser.outcome()
    over.set()
    assert reactor.state == "stopped"
    assert not thread.is_exited


def test_a_second_ctrl_c_breaks_off_a_callback_that_does_not_end(make_reactor):
    reactor = make_reactor()
    thread = reactor.create_thread()
    broken_off = []

    def endless():
        try:
            while True:
                noop()
        except KeyboardInterrupt:
            broken_off.append(1)
            raise

    thread.send_msg(endless)
    entered = threading.Event()
    thread.send_msg(noop)

    def presses():
        eventually(lambda: reactor.stats.turns >= 0 and thread.stats.msgs_run > 0)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        eventually(lambda: signal.getsignal(signal.SIGINT) is not signal.default_int_handler)
        while not broken_off and reactor.state != "stopped":
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            entered.wait(0.01)

    presser = OtherThread(presses)
    with pytest.raises(KeyboardInterrupt):
        reactor.run()
    # One press may still be on its way.
    try:
        presser.outcome()
    except KeyboardInterrupt:
        presser.outcome()
    assert broken_off == [1]


def test_run_gives_the_signal_handler_and_the_wake_up_descriptor_back(make_reactor):
    ear, bell = os.pipe()
    os.set_blocking(bell, False)
    mine = signal.set_wakeup_fd(bell)
    handler = signal.getsignal(signal.SIGINT)
    try:
        reactor = make_reactor()
        thread = reactor.create_thread()
        thread.send_msg(reactor.stop)
        assert reactor.run().ok
        assert signal.getsignal(signal.SIGINT) is handler
        assert signal.set_wakeup_fd(bell) == bell
    finally:
        signal.set_wakeup_fd(mine)
        os.close(ear)
        os.close(bell)


def test_what_another_user_of_the_wake_up_descriptor_is_owed_is_passed_on(make_reactor):
    ear, bell = os.pipe()
    os.set_blocking(bell, False)
    mine = signal.set_wakeup_fd(bell)
    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    try:
        reactor = make_reactor()
        thread = reactor.create_thread()
        thread.send_msg(signal.raise_signal, signal.SIGUSR1)
        thread.send_msg(reactor.stop)
        assert reactor.run().ok
        assert os.read(ear, 10) == bytes([signal.SIGUSR1])
    finally:
        signal.signal(signal.SIGUSR1, before)
        signal.set_wakeup_fd(mine)
        os.close(ear)
        os.close(bell)


def test_a_handler_of_ones_own_stays_and_may_stop_the_reactor(make_reactor):
    reactor = make_reactor(spin_us=0)
    thread = reactor.create_thread()
    before = signal.signal(signal.SIGINT, lambda *_: reactor.stop())
    presser = OtherThread(press, reactor, lambda: reactor.stats.parks > 0)
    try:
        assert reactor.run().ok
    finally:
        signal.signal(signal.SIGINT, before)
    presser.outcome()
    assert thread.is_exited


def test_an_exception_of_a_signal_handler_leaves_run_after_a_graceful_stop(make_reactor):
    class Alarm(Exception):
        pass

    def handle(*_):
        raise Alarm

    reactor = make_reactor(spin_us=0)
    thread = reactor.create_thread()
    before = signal.signal(signal.SIGUSR1, handle)

    def fire():
        eventually(lambda: reactor.stats.parks > 0)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)

    firing = OtherThread(fire)
    try:
        with pytest.raises(Alarm):
            reactor.run()
    finally:
        signal.signal(signal.SIGUSR1, before)
    firing.outcome()
    assert thread.is_exited


def test_run_on_another_os_thread_leaves_signals_alone(make_reactor):
    handler = signal.getsignal(signal.SIGINT)
    reactor = make_reactor()
    thread = reactor.create_thread()
    runner = OtherThread(reactor.run)
    thread.call(noop).result(PATIENCE_S)
    assert signal.getsignal(signal.SIGINT) is handler
    assert reactor.stop().ok
    assert runner.outcome().ok


# With reactors on other threads, in a process of its own

GROUP = """
import os, time, spdkthread
ran = []
def slow(number):
    {slow}
    ran.append(number)
try:
    with spdkthread.ReactorGroup(1) as group:
        thread = group.create_thread("worker")
        for number in range(20):
            thread.send_msg(slow, number)
        os.write(1, b"ready\\n")
        {wait}
except KeyboardInterrupt:
    print("interrupted", len(ran), [reactor.state for reactor in group], flush=True)
"""


def start(source):
    process = subprocess.Popen(
        [sys.executable, "-c", source], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    return process


@pytest.mark.parametrize("wait", ["while True: time.sleep(0.01)", "group.join()", "group.reactors[0].join()"])
def test_ctrl_c_on_the_main_thread_stops_reactors_on_others_gracefully(wait):
    process = start(GROUP.format(slow="time.sleep(0.01)", wait=wait))
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (out, err, process.returncode) == ("interrupted 20 ['stopped']\n", "", 0)


def test_a_second_ctrl_c_does_not_wait_for_the_reactors():
    """The stop waits for a callback that takes for ever; the second leaves the waiting, and the program ends."""
    process = start(GROUP.format(slow="os.write(1, b'in\\n'); time.sleep(1000)", wait="while True: time.sleep(0.01)"))
    assert {process.stdout.readline(), process.stdout.readline()} == {"ready\n", "in\n"}
    process.send_signal(signal.SIGINT)
    interrupted = threading.Event()

    def press_again():
        while not interrupted.wait(0.2):
            process.send_signal(signal.SIGINT)

    presser = OtherThread(press_again)
    line = process.stdout.readline()
    interrupted.set()
    presser.outcome()
    assert line.startswith("interrupted 0"), line
    process.communicate(timeout=PATIENCE_S)


def test_ctrl_c_with_run_on_main_and_reactors_on_others():
    done = run_python(
        """
import os, signal, spdkthread
others = [spdkthread.Reactor().start() for _ in range(2)]
main = spdkthread.Reactor()
thread = main.create_thread()
echo = others[0].create_thread()
thread.send_msg(echo.send_msg, thread.send_msg, os.kill, os.getpid(), signal.SIGINT)
try:
    main.run()
except KeyboardInterrupt:
    print([reactor.state for reactor in (main, *others)])
for reactor in others:
    print(reactor.stop().ok)
"""
    )
    assert (done.stdout, done.stderr, done.returncode) == ("['stopped', 'running', 'running']\nTrue\nTrue\n", "", 0)


@pytest.fixture
def storm():
    """A signal every 200 µs, to the process, with a Python handler that counts."""
    count = [0]

    def handle(signum, frame):
        count[0] += 1

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0002, 0.0002)
    yield count
    signal.setitimer(signal.ITIMER_REAL, 0)
    signal.signal(signal.SIGALRM, before)


@pytest.mark.parametrize("idle", ["adaptive", "poll", "yield"])
@pytest.mark.faults
def test_signals_all_the_time_disturb_no_thread(make_reactor, storm, idle):
    """On the main thread under run(), which polls, sleeps and is woken by them, and on another OS thread."""
    mine, other = make_reactor(idle=idle, spin_us=0), make_reactor(idle=idle, spin_us=0).start()
    here, there = mine.create_thread("here", ring_size=8), other.create_thread("there", ring_size=8)
    seen = {here: [], there: []}
    timer = here.register_poller(lambda: seen[here].append("timer") if len(seen[here]) < 3 else None, 100)

    def send():
        try:
            for number in range(300):
                for thread, got in seen.items():
                    thread.send_msg_wait(got.append, number, timeout_s=PATIENCE_S)
                if number % 50 == 0:
                    time.sleep(0.003)  # both fall asleep in between
            over = threading.Semaphore(0)
            timer.unregister()
            for thread in seen:
                thread.send_msg_wait(over.release, timeout_s=PATIENCE_S)
                assert over.acquire(timeout=PATIENCE_S)
        finally:
            mine.stop(0)

    sender = OtherThread(send)
    assert mine.run().ok
    sender.outcome()
    assert [one for one in seen[here] if one != "timer"] == list(range(300))
    assert seen[there] == list(range(300))
    assert storm[0] > 0


@pytest.mark.faults
def test_signals_all_the_time_and_polls_by_hand(thread, storm, clock):
    ran, ticks = [], []
    with thread:
        timer = thread.register_poller(lambda: ticks.append(1), 1)
    number = 0
    while storm[0] < 50 or number < 500:
        thread.send_msg(ran.append, number)
        number += 1
        clock.advance(us=1)
        thread.poll()
    while thread.pending_msgs:
        thread.poll()
    assert ran == list(range(number))
    assert len(ticks) >= number
    with thread:
        timer.unregister()


@pytest.mark.faults
def test_a_handler_that_raises_in_any_place_of_a_poll_loses_nothing(lib):
    """The exception leaves poll(); the messages that have not run yet run in the next one, none of them twice."""
    thread, raised = lib.create_thread("net"), 0
    armed = [False]

    class Alarm(KeyboardInterrupt):
        pass

    def handle(signum, frame):
        if armed[0]:
            armed[0] = False
            raise Alarm

    before = signal.signal(signal.SIGALRM, handle)
    begun = []

    def note(number):
        begun.append(number)

    def poll_until_it_rings():
        # A function of its own: the end of a try block is a place where its own handler does not catch.
        armed[0] = True
        signal.setitimer(signal.ITIMER_REAL, 0.00005)
        while thread.pending_msgs:
            thread.poll()
        armed[0] = False

    try:
        for number in range(3000):
            thread.send_msg(note, number)
        while thread.pending_msgs:
            try:
                poll_until_it_rings()
            except Alarm:
                raised += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    # A message that an exception broke off has been called: it may lack its entry, and never has two.
    assert begun == sorted(set(begun))
    assert len(begun) >= 3000 - raised
