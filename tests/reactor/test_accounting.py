"""Counters: they never go back, their sums neither, and waiting for the GIL is no thread's busy time."""

import os
import sys
import threading
import time

from support import PATIENCE_S, OtherThread, eventually, fill, noop

from spdkthread import ReactorGroup
from spdkthread.testing import poll_until_idle

CORES = sorted(os.sched_getaffinity(0))
FIRST, LAST = CORES[0], CORES[-1]


def assert_never_back(read, rounds):
    """`read()` gives tuples of counters: none of them, nor their sum, is ever below an earlier look."""
    last = read()
    for _ in range(rounds):
        now = read()
        for field, before, after in zip(now._fields, last, now, strict=True):
            assert after >= before, (field, before, after)
        last = now


def test_counters_of_a_thread_that_rests_do_not_go_back(make_reactor):
    thread = make_reactor(idle="yield").start().create_thread()
    poller = thread.register_poller(lambda: 1)
    eventually(lambda: poller.run_count > 1000)
    poller.unregister()
    thread.call(noop).result(PATIENCE_S)
    assert_never_back(lambda: thread.stats, 30_000)


def test_counters_read_by_several_while_they_move_do_not_go_back(make_reactor):
    reactor = make_reactor().start()
    thread, other = reactor.create_thread(ring_size=64), reactor.create_thread()
    pollers = [thread.register_poller(lambda: 1), other.register_poller(lambda: 0, period_us=50)]
    readers = [
        OtherThread(assert_never_back, lambda: thread.stats, 5_000),
        OtherThread(assert_never_back, lambda: reactor.stats, 5_000),
        OtherThread(assert_never_back, lambda: other.stats, 5_000),
    ]
    while any(reader.is_alive() for reader in readers):
        fill(thread)
        for poller in pollers:
            poller.pause()
            poller.resume()
    for reader in readers:
        reader.outcome()
    for poller in pollers:
        poller.unregister()


def test_counters_of_a_thread_that_travels_do_not_go_back(make_reactor):
    here, there = make_reactor(FIRST).start(), make_reactor(LAST).start()
    thread = here.create_thread()
    poller = thread.register_poller(lambda: 1)
    reader = OtherThread(assert_never_back, lambda: thread.stats, 5_000)
    while reader.is_alive():
        here.move_thread(thread, there).result(PATIENCE_S)
        here, there = there, here
    reader.outcome()
    poller.unregister()


def test_a_reactor_that_is_started_again_goes_on_counting(make_reactor):
    reactor = make_reactor()
    last = reactor.stats
    for _ in range(3):
        reactor.start()
        reactor.create_thread().call(sum, range(10_000)).result(PATIENCE_S)
        reactor.stop()
        now = reactor.stats
        assert all(after >= before for before, after in zip(last, now, strict=True))
        assert now.busy_ticks > last.busy_ticks
        later = reactor.stats
        assert later.busy_ticks + later.idle_ticks - now.busy_ticks - now.idle_ticks < 10_000, "it is stopped"
        last = later


def test_a_callback_that_has_not_returned_is_neither_busy_nor_idle_yet(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread()
    thread.call(noop).result(PATIENCE_S)
    entered, leave = threading.Event(), threading.Event()

    def long():
        entered.set()
        leave.wait(PATIENCE_S)

    began = time.perf_counter_ns()
    thread.send_msg(long)
    assert entered.wait(PATIENCE_S)
    idle = thread.stats.idle_ticks, reactor.stats.idle_ticks
    eventually(lambda: time.perf_counter_ns() > began + 20_000_000)
    assert (thread.stats.idle_ticks, reactor.stats.idle_ticks) == idle
    busy = thread.stats.busy_ticks
    leave.set()
    thread.call(noop).result(PATIENCE_S)
    eventually(lambda: thread.stats.busy_ticks - busy > 15_000_000)
    assert reactor.stats.busy_ticks >= 15_000_000


def test_a_full_ring_counts_refusals_and_nothing_else(thread):
    with thread:
        poller = thread.register_poller(noop)
    fill(thread)
    before = thread.stats.ring_full
    seen = []
    thread.lib.exception_handler = seen.append
    OtherThread(poller.pause).outcome()
    OtherThread(poller.unregister).outcome()
    assert thread.stats.ring_full == before
    poll_until_idle([thread])


def test_the_high_water_mark_stays(thread):
    for _ in range(5):
        thread.send_msg(noop)
    assert thread.stats.high_water == 5
    poll_until_idle([thread])
    assert thread.stats.high_water == 5


def hold_the_gil(for_ns=10_000_000):
    end = time.perf_counter_ns() + for_ns
    while time.perf_counter_ns() < end:
        pass


class PatientInterpreter:
    """Other Python threads get the GIL only when it is let go of."""

    def __enter__(self):
        self.before = sys.getswitchinterval()
        sys.setswitchinterval(60)

    def __exit__(self, *exc_info):
        sys.setswitchinterval(self.before)


def send_and_hold(thread, count):
    """Send messages each of which waits 10 ms for the GIL and then runs in no time. Returns the ns held."""
    began = time.perf_counter_ns()
    for _ in range(count):
        done = threading.Event()
        thread.send_msg(done.set)
        hold_the_gil()
        assert done.wait(PATIENCE_S)
    return time.perf_counter_ns() - began


def test_waiting_for_the_gil_is_not_busy(make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread()
    thread.call(noop).result(PATIENCE_S)
    before, of_reactor = thread.stats.busy_ticks, reactor.stats.busy_ticks
    with PatientInterpreter():
        held = send_and_hold(thread, 20)
    thread.call(noop).result(PATIENCE_S)
    assert thread.stats.busy_ticks - before < held / 4
    assert reactor.stats.busy_ticks - of_reactor < held / 4


def test_the_dynamic_scheduler_takes_a_thread_that_waits_for_the_gil_for_idle(make_group):
    group = make_group([FIRST, LAST], scheduler="dynamic").start()
    first, waiting = group.create_thread(), group.create_thread()
    for future in group.balance():
        future.result(PATIENCE_S)
    assert {thread._placed_on().core for thread in (first, waiting)} == {FIRST}
    group.snapshot()
    with PatientInterpreter():
        send_and_hold(waiting, 20)
    loads = {thread.id: thread.load for thread in group.snapshot().threads}
    assert loads[waiting.id] < 20


def test_the_static_scheduler_looks_at_nothing_between_its_selections(make_group, monkeypatch):
    looks = []
    snapshot = ReactorGroup.snapshot

    def counted(self, selected=False):
        looks.append(selected)
        return snapshot(self, selected)

    monkeypatch.setattr(ReactorGroup, "snapshot", counted)
    group = make_group([FIRST], scheduler="static", period_us=500).start()
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 0.05)
    assert looks == []
    group.scheduler = "dynamic"
    eventually(lambda: looks.count(False) > 3)
    group.scheduler = "static"
    assert looks.count(True) == 2
    eventually(lambda: not group._balancer._changed.is_set())
    quiet = len(looks)
    began = time.monotonic()
    eventually(lambda: time.monotonic() > began + 0.05)
    assert len(looks) <= quiet + 1  # one may have been under way
