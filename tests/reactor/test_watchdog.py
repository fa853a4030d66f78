"""The stall watchdog: reports a callback that runs too long, once, with its name and stack."""

import ctypes
import math
import os
import sys
import threading
import time

import pytest
from support import PATIENCE_S, eventually, noop

from spdkthread import Reactor, ReactorGroup
from spdkthread.watchdog import DEFAULT_STALL_MS, Watchdog


def stall_here(entered, leave):
    entered.set()
    while not leave.is_set():
        pass


def reports(caplog):
    return [record.getMessage() for record in caplog.records if "stalls" in record.getMessage()]


@pytest.fixture
def watched(make_reactor):
    return make_reactor(name="engine", stall_ms=20).start()


def stalled(reactor, thread):
    """Stall a thread until the watchdog has seen it; what is then let go is over."""
    entered, leave = threading.Event(), threading.Event()
    before = reactor.stats.stalls
    thread.send_msg(stall_here, entered, leave)
    try:
        assert entered.wait(PATIENCE_S)
        eventually(lambda: reactor.stats.stalls > before)
    finally:
        leave.set()
    thread.call(noop).result(PATIENCE_S)


def test_a_message_that_runs_too_long_is_reported_with_names_and_stack(watched, caplog):
    stalled(watched, watched.create_thread("net"))
    eventually(lambda: reports(caplog))
    (report,) = reports(caplog)
    for word in ("engine", "net", "stall_here", "message", "limit 20 ms", "test_watchdog.py"):
        assert word in report, report


def test_a_stall_is_reported_once(watched, caplog):
    thread = watched.create_thread()
    entered, leave = threading.Event(), threading.Event()
    thread.send_msg(stall_here, entered, leave)
    try:
        eventually(lambda: watched.stats.stalls == 1)
        began = time.monotonic()
        eventually(lambda: time.monotonic() > began + 0.2)  # ten times the limit
        assert watched.stats.stalls == 1
    finally:
        leave.set()
    assert len(reports(caplog)) == 1


def test_every_stall_is_reported(watched, caplog):
    thread = watched.create_thread()
    for count in range(1, 4):
        stalled(watched, thread)
        assert watched.stats.stalls >= count
    eventually(lambda: len(reports(caplog)) >= 3)


def test_a_poller_that_runs_too_long_is_reported_by_name(watched, caplog):
    thread = watched.create_thread("net")
    leave = threading.Event()

    def slow():
        while not leave.is_set():
            time.sleep(0.001)

    poller = thread.register_poller(slow, name="sluggish")
    try:
        eventually(lambda: reports(caplog))
    finally:
        leave.set()
        poller.unregister()
    assert "poller 'sluggish' of thread 'net'" in reports(caplog)[0]


def test_a_handler_of_a_descriptor_is_reported(watched, caplog):
    ear, mouth = os.pipe()
    thread = watched.create_thread("net")
    leave = threading.Event()

    def slow():
        os.read(ear, 1)
        assert leave.wait(PATIENCE_S)

    handler = thread.register_fd(ear, slow)
    os.write(mouth, b"x")
    try:
        eventually(lambda: reports(caplog))
    finally:
        leave.set()
        handler.unregister()
    thread.call(noop).result(PATIENCE_S)
    assert f"slow' of fd {ear} of thread 'net'" in reports(caplog)[0]
    os.close(ear)
    os.close(mouth)


def test_an_idle_reactor_and_short_callbacks_are_no_stall(watched, caplog):
    thread = watched.create_thread()
    for _ in range(50):
        thread.call(noop).result(PATIENCE_S)
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 0.1)
    assert not [report for report in reports(caplog) if "noop" not in report]


def test_a_group_watches_all_its_reactors(make_group, caplog):
    group = make_group(1, stall_ms=20).start()
    stalled(group.reactors[0], group.create_thread("net"))
    eventually(lambda: "net" in "".join(reports(caplog)))


def test_with_an_infinite_limit_nothing_watches(make_reactor):
    before = threading.active_count()
    reactor = make_reactor(stall_ms=math.inf).start()
    assert threading.active_count() == before + 1
    assert reactor.stats.stalls == 0


def test_without_a_limit_a_callback_of_over_a_second_is_reported(make_reactor, caplog):
    reactor = make_reactor(name="engine").start()
    stalled(reactor, reactor.create_thread("net"))
    eventually(lambda: reports(caplog))
    (report,) = reports(caplog)
    for word in ("engine", "net", "stall_here", "limit 1000 ms"):
        assert word in report, report


def test_one_os_thread_watches_all_reactors(make_group, make_reactor):
    before = threading.active_count()
    reactors = [make_reactor(stall_ms=limit).start() for limit in (None, 20, 30, None)]
    assert threading.active_count() == before + len(reactors) + 1
    for reactor in reactors[1:3]:
        stalled(reactor, reactor.create_thread())
    for reactor in reactors:
        assert threading.active_count() > before
        reactor.stop()
    assert threading.active_count() == before


def test_a_reactor_that_stops_at_once_leaves_no_watchdog(make_reactor):
    before = threading.active_count()
    for _ in range(20):
        reactor = make_reactor()
        reactor.create_thread().send_msg(reactor.stop)
        reactor.start()
        assert reactor.join(PATIENCE_S)
        reactor.stop()
    assert threading.active_count() == before


def test_the_watchdog_looks_at_idle_reactors_once_per_limit():
    assert Watchdog(None).period_s * 1000 == DEFAULT_STALL_MS == 1000
    assert Watchdog(None, 20).period_s * 1000 == 5


def test_the_watchdog_ends_with_its_reactor_and_begins_again(make_reactor):
    before = threading.active_count()
    reactor = make_reactor(stall_ms=20)
    for _ in range(3):
        reactor.start()
        assert threading.active_count() == before + 2
        stalled(reactor, reactor.create_thread())
        reactor.stop()
        assert threading.active_count() == before


def test_a_watched_reactor_on_the_calling_os_thread(make_reactor, caplog):
    reactor = make_reactor(stall_ms=20)
    thread = reactor.create_thread("net")

    def slow():
        give_up = time.monotonic() + PATIENCE_S
        while not reactor.stats.stalls and time.monotonic() < give_up:
            pass
        reactor.stop()

    thread.send_msg(slow)
    assert reactor.run().ok
    assert "net" in reports(caplog)[0]


def test_a_watchdog_under_load_does_no_harm(make_group):
    """It looks into threads that come, go and move, with a limit that everything exceeds."""
    group = make_group(2 if len(make_group()) > 1 else 1, stall_ms=0.01).start()
    for _ in range(30):
        threads = [group.create_thread() for _ in range(4)]
        pollers = [thread.register_poller(lambda: sum(range(500))) for thread in threads]
        for thread in threads:
            thread.send_many(sum, [(1, 2)] * 20)
        for poller in pollers:
            poller.unregister()
        for thread in threads:
            thread.exit()
        for thread in threads:
            eventually(lambda thread=thread: thread.is_exited)


@pytest.mark.parametrize("stall_ms", [0, -1, float("nan"), -math.inf, 1e12])
def test_a_bad_limit_is_refused(live_lib, stall_ms):
    with pytest.raises(ValueError, match="stall_ms"):
        Reactor(stall_ms=stall_ms, lib=live_lib)
    with pytest.raises(ValueError, match="stall_ms"):
        ReactorGroup(1, stall_ms=stall_ms, lib=live_lib)


def test_many_native_callbacks_in_a_row_are_no_stall(make_reactor, caplog):
    reactor = make_reactor(stall_ms=600).start()
    thread = reactor.create_thread(poller_policy="all")
    libc = ctypes.CDLL(None)
    message = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(("usleep", libc))
    poller = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("usleep", libc))

    def one_batch():  # taken at once, because it is sent by one message
        for _ in range(8):
            thread.send_native(message, 100_000)

    thread.call(one_batch).result(PATIENCE_S)
    thread.call(noop).result(PATIENCE_S)
    pollers = thread.call(lambda: [thread.register_native_poller(poller, 100_000) for _ in range(8)]).result(PATIENCE_S)
    eventually(lambda: pollers[-1].run_count > 0)
    for each in pollers:
        each.unregister()
    thread.call(noop).result(PATIENCE_S)
    assert reports(caplog) == []


class Worker:
    """Bound methods, each of which stalls until the watchdog has spoken."""

    def __init__(self, reactor):
        self.reactor = reactor

    def slow(self, *args):
        before = self.reactor.stats.stalls
        give_up = time.monotonic() + PATIENCE_S
        while self.reactor.stats.stalls == before and time.monotonic() < give_up:
            pass

    def poll(self):
        self.slow()
        self.poller.unregister()

    def read(self):
        os.read(self.ear, 1)
        self.slow()


def send_by(way, thread, worker):
    """Have `worker.slow` run on `thread`, and wait until it has."""
    if way == "send_many":
        assert thread.send_many(worker.slow, [1]) == 1
    elif way == "exec_msg":
        thread.exec_msg(worker.slow, 1, 2)
    elif way == "five arguments":
        thread.send_msg(worker.slow, 1, 2, 3, 4, 5)
    elif way == "critical":
        thread.send_critical_msg(worker.slow)
    elif way == "call":
        thread.call(worker.slow, 1).result(PATIENCE_S)
    else:
        thread.send_msg(worker.slow, *range(int(way)))
    thread.call(noop).result(PATIENCE_S)


@pytest.mark.parametrize(
    "way", ["0", "1", "2", "3", "4", "five arguments", "send_many", "exec_msg", "critical", "call"]
)
def test_a_bound_method_is_reported_by_its_name(watched, caplog, way):
    send_by(way, watched.create_thread("net"), Worker(watched))
    eventually(lambda: reports(caplog))
    assert "message 'Worker.slow' of thread 'net'" in reports(caplog)[0]


def test_a_bound_method_is_reported_by_its_name_as_poller_and_as_handler(watched, caplog):
    thread, worker = watched.create_thread("net"), Worker(watched)
    worker.poller = thread.call(lambda: thread.register_poller(worker.poll)).result(PATIENCE_S)
    eventually(lambda: "poller 'Worker.poll' of thread 'net'" in "".join(reports(caplog)))
    worker.ear, mouth = os.pipe()
    handler = thread.register_fd(worker.ear, worker.read)
    os.write(mouth, b"x")
    eventually(lambda: f"handler 'Worker.read' of fd {worker.ear} of thread 'net'" in "".join(reports(caplog)))
    handler.unregister()
    thread.call(noop).result(PATIENCE_S)
    os.close(worker.ear)
    os.close(mouth)


def test_a_wait_for_the_gil_is_not_blamed_on_the_callback(make_reactor):
    """Nothing is under way for the watchdog while the reactor's OS thread waits for the GIL with a message in hand."""
    reactor = make_reactor(stall_ms=60_000).start()
    thread = reactor.create_thread()
    thread.call(noop).result(PATIENCE_S)
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    before = sys.getswitchinterval()
    sys.setswitchinterval(60)
    try:
        for _ in range(5):
            thread.send_msg(noop)
            end = time.perf_counter() + 0.01
            blamed = []
            while time.perf_counter() < end:  # the GIL stays here
                blamed.append(reactor._progress())
            assert not has_gil or blamed.count(None) == len(blamed)
    finally:
        sys.setswitchinterval(before)
