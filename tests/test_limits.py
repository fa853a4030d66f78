"""At the limits: no file descriptors, no memory, signals all the time, clocks that jump."""

import signal
import threading
import time

import pytest
from support import PATIENCE_S, OtherThread, finish, noop, run_python

from spdkthread.clock import ManualClock

# File descriptors. Each program runs with room for n more of them, for n from 0 until it succeeds.

DESCRIPTORS = """
import gc, os, resource, socket, sys
from spdkthread import Reactor, ReactorGroup, SpdkThreadError, ThreadLib
from spdkthread.aio import EventLoop
import asyncio, selectors
from spdkthread.testing import leak_counters

def a_reactor():
    reactor = Reactor(lib=lib, pin=False).start()
    try:
        assert reactor.create_thread().call(abs, -1).result(60) == 1
    finally:
        assert reactor.stop(60).ok

def a_group():
    group = ReactorGroup(1, lib=lib, period_us=0)
    group.start()
    try:
        assert group.create_thread().call(abs, -1).result(60) == 1
    finally:
        assert group.stop(60).ok

def a_descriptor_by_hand():
    thread = lib.create_thread()
    try:
        reading, writing = os.pipe()
        try:
            with thread:
                seen = []
                handler = thread.register_fd(reading, lambda: seen.append(os.read(reading, 1)))
                os.write(writing, b"x")
                thread.poll()
                assert seen == [b"x"]
                handler.unregister()
        finally:
            os.close(reading)
            os.close(writing)
    finally:
        with thread:
            thread.exit()
        thread.poll()

def a_descriptor_on_a_reactor():
    reading, writing = os.pipe()
    try:
        reactor = Reactor(lib=lib, pin=False).start()
        try:
            thread = reactor.create_thread()
            arrived = []
            def register():
                arrived.append(thread.register_fd(reading, lambda: arrived.append(os.read(reading, 1))))
            thread.call(register).result(60)
            os.write(writing, b"x")
            import time
            give_up = time.monotonic() + 60
            while len(arrived) < 2 and time.monotonic() < give_up:
                time.sleep(0.001)
            assert arrived[1] == b"x"
            thread.call(arrived[0].unregister).result(60)
        finally:
            report = reactor.stop(60)
            assert report.ok, report
    finally:
        os.close(reading)
        os.close(writing)

def a_move_with_a_descriptor():
    reading, writing = os.pipe()
    try:
        first, second = [Reactor(lib=lib, pin=False).start() for _ in range(2)]
        try:
            thread = first.create_thread()
            handler = thread.call(thread.register_fd, reading, lambda: os.read(reading, 1)).result(60)
            try:
                first.move_thread(thread, second).result(60)
            finally:
                assert thread.call(abs, -1).result(60) == 1
                thread.call(handler.unregister).result(60)
        finally:
            assert first.stop(60).ok and second.stop(60).ok
    finally:
        os.close(reading)
        os.close(writing)

def a_loop():
    loop = EventLoop()
    try:
        loop.run_until_complete(asyncio.sleep(0.001))
    finally:
        loop.close()

def open_now():
    return len(os.listdir("/proc/self/fd"))

lib = ThreadLib(exception_handler=lambda context: None)
task = globals()[sys.argv[1]]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
failures = 0
for room in range(30):
    gc.collect()
    before, counters = open_now(), leak_counters()
    highest = max(map(int, os.listdir("/proc/self/fd")))
    spare = [os.dup(0) for _ in range(highest)]     # no gaps below the limit
    top = max(spare)
    # As many as `room` may be opened.
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1 + room, hard))
    outcome = None
    try:
        task()
        outcome = "ok"
    except (SpdkThreadError, OSError) as error:
        assert str(error)
        outcome = type(error).__name__
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in spare:
            os.close(fd)
    gc.collect()
    assert leak_counters() == counters, (room, outcome, counters, leak_counters())
    if outcome == "ok":
        break
    failures += 1
    task_again = task()     # with room it works at once
assert outcome == "ok"
gc.collect()
print("failures", failures > 0)
lib.close()
"""

TASKS = [
    "a_reactor",
    "a_group",
    "a_descriptor_by_hand",
    "a_descriptor_on_a_reactor",
    "a_move_with_a_descriptor",
    "a_loop",
]


@pytest.mark.parametrize("task", TASKS)
def test_without_file_descriptors_there_is_a_named_error_and_with_them_it_works_again(task):
    done = run_python(DESCRIPTORS.replace("sys.argv[1]", repr(task)))
    assert (done.returncode, done.stdout) == (0, "failures True\n"), done.stdout + done.stderr


MEMORY = """
import resource
from spdkthread import Reactor, SpdkThreadError, ThreadLib
from spdkthread.testing import ManualClock

def address_space():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

lib, live = ThreadLib(clock=ManualClock()), ThreadLib()
reactor = Reactor(lib=live, pin=False).start()
busy = reactor.create_thread("busy")
ran = []
resource.setrlimit(resource.RLIMIT_AS, (address_space() + (64 << 20), -1))
threads, refused = [], 0
for number in range(200):
    try:
        threads.append(lib.create_thread(ring_size=65_536))       # 4 MiB of address space each
    except MemoryError as error:
        assert "no memory for a message ring of 65536 slots" in str(error), error
        refused += 1
    busy.send_msg_wait(ran.append, number)
assert threads and refused, (len(threads), refused)
for thread in threads:
    for number in range(100):
        thread.send_msg(ran.append, number)
for thread in threads:
    with thread:
        thread.exit()
    while not thread.is_exited:
        thread.poll()
assert busy.call(abs, -1).result(60) == 1
assert len(ran) == 200 + 100 * len(threads)
del thread
threads.clear()
threads.append(lib.create_thread(ring_size=65_536))       # there is room again
with threads[0]:
    threads[0].exit()
threads[0].poll()
assert reactor.stop(60).ok
lib.close()
print("fine")
"""


def test_an_address_space_that_is_used_up_refuses_new_threads_and_nothing_else():
    done = run_python(MEMORY)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# Signals


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
def test_signals_all_the_time_disturb_nobody(make_reactor, storm, idle):
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


# Clocks

JUMPS = [1, 10**3, 10**9, 2**40, 2**62]


@pytest.mark.parametrize("policy", ["one", "all"])
@pytest.mark.parametrize("jump", JUMPS)
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
