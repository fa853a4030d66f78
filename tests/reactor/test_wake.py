"""Sleep and wake: no wake-up is ever lost.

A reactor that sleeps here has no time limit, so one lost wake-up is a message that never runs, and the test that sent
it says so. ``SPDKTHREAD_SLEEPS=5000000`` makes a long search of what is short by default; the short form of ``verify``
sets fewer, because a sleep costs 2 ms under ThreadSanitizer on a busy machine.
"""

import os
import random
import threading
import time

import pytest
from support import PATIENCE_S, OtherThread, eventually, noop

from spdkthread import Reactor, get_reactor
from spdkthread.testing import ManualClock

SLEEPS = int(os.environ.get("SPDKTHREAD_SLEEPS", "100000"))
CORES = sorted(os.sched_getaffinity(0))
# A part of the long search, too.
SOME = max(300, SLEEPS // 100)

# A lost wake-up ends a test after PATIENCE_S; the limit is for all the sleeps of a test, on a slow machine.
pytestmark = [pytest.mark.races, pytest.mark.timeout(max(600, SLEEPS // 100))]


def sleepers(make_reactor, count=2, spin_us=0):
    """Reactors that sleep as soon as they can."""
    return [make_reactor(spin_us=spin_us).start() for _ in range(count)]


def sleeping(reactor):
    """Wait until a reactor is asleep: nothing changes any more."""
    seen = [-1]

    def still():
        seen.append(reactor.stats.turns)
        return seen[-1] == seen[-2] and reactor.stats.parks

    eventually(still)


def parks(reactors):
    return sum(reactor.stats.parks for reactor in reactors)


def test_reactors_that_wake_each_other_lose_no_wake_up(make_reactor):
    """Two reactors that wake each other: each hop finds the other asleep, or on its way to or from sleep."""
    reactors = sleepers(make_reactor)
    left, right = (reactor.create_thread(ring_size=16) for reactor in reactors)
    hops = 0
    dice = random.Random(1)

    def hop(here, there, count):
        # Now and then a little late, so that the other is met at every stage of falling asleep.
        for _ in range(dice.randrange(40) if count & 1 else 0):
            pass
        if count:
            there.send_msg(hop, there, here, count - 1)
        else:
            arrived.set()

    while parks(reactors) < SLEEPS:
        arrived = threading.Event()
        left.send_msg(hop, left, right, 2_000)
        assert arrived.wait(PATIENCE_S), f"lost after {parks(reactors)} sleeps and {hops} hops"
        hops += 2_000
    assert parks(reactors) >= SLEEPS


def test_a_sender_that_waits_a_random_while_always_wakes(make_reactor):
    """Each message is sent when the reactor is about to sleep, asleep, or just awake; each is answered."""
    (reactor,) = sleepers(make_reactor, 1, spin_us=20)
    thread = reactor.create_thread()
    dice = random.Random(2)
    for _ in range(SOME):
        ran = threading.Lock()
        ran.acquire()
        thread.send_msg(ran.release)
        assert ran.acquire(timeout=PATIENCE_S)
        pause = time.perf_counter() + dice.random() * 60e-6
        while time.perf_counter() < pause:
            pass


def test_several_senders_at_once_wake_one_sleeper(make_reactor):
    (reactor,) = sleepers(make_reactor, 1)
    thread = reactor.create_thread(ring_size=1024)

    def send(seed):
        dice = random.Random(seed)
        for _ in range(SOME):
            ran = threading.Lock()
            ran.acquire()
            for _ in range(dice.randrange(3)):
                thread.send_msg(noop)
            thread.send_msg(ran.release)
            assert ran.acquire(timeout=PATIENCE_S)

    for sender in [OtherThread(send, seed) for seed in range(3)]:
        sender.outcome()


def test_a_message_to_a_thread_that_moves_between_sleepers_is_never_slept_on(make_reactor):
    """The sender may hold the wake-up state of the reactor that the thread has just left."""
    first, second = sleepers(make_reactor)
    thread = first.create_thread()
    over = threading.Event()

    def travel():
        here, there = first, second
        while not over.is_set():
            here.move_thread(thread, there).result(PATIENCE_S)
            here, there = there, here

    traveller = OtherThread(travel)
    try:
        for _ in range(SOME):
            ran = threading.Lock()
            ran.acquire()
            thread.send_msg(ran.release)
            assert ran.acquire(timeout=PATIENCE_S)
    finally:
        over.set()
        traveller.outcome()


def test_every_kind_of_work_ends_a_sleep(make_reactor, make_group):
    (reactor,) = sleepers(make_reactor, 1)
    thread = reactor.create_thread(ring_size=2)

    def ends(act):
        sleeping(reactor)
        woken = threading.Event()
        act(woken)
        assert woken.wait(PATIENCE_S)

    for _ in range(5):
        ends(lambda woken: thread.send_msg(woken.set))
        ends(lambda woken: thread.send_many(lambda _: woken.set(), [1]))
        ends(lambda woken: thread.send_critical_msg(woken.set))
        ends(lambda woken: reactor._call_on_loop(woken.set))
        ends(lambda woken: reactor.create_thread().send_msg(woken.set))
        ends(lambda woken: thread.register_poller(once(thread, woken), period_us=100))
        ends(lambda woken: thread.register_poller(once(thread, woken)))


def once(thread, woken):
    def fn():
        woken.set()
        for poller in thread.pollers:
            poller.unregister()

    return fn


def test_a_stop_ends_a_sleep(make_reactor):
    for _ in range(50):
        (reactor,) = sleepers(make_reactor, 1)
        thread = reactor.create_thread()
        sleeping(reactor)
        assert reactor.stop(timeout_s=PATIENCE_S).ok
        assert thread.is_exited


def test_for_each_reactor_wakes_sleepers(make_group):
    group = make_group(min(2, len(CORES)), spin_us=0).start()
    for _ in range(SOME):
        assert group.for_each_reactor(noop).result(PATIENCE_S) is None


def test_a_timer_ends_a_sleep_and_is_never_early(make_reactor):
    (reactor,) = sleepers(make_reactor, 1)
    thread = reactor.create_thread()
    late = []
    due = [0]
    over = threading.Event()

    def fn():
        now = time.perf_counter_ns()
        late.append(now - due[0])
        due[0] = now + 2_000_000
        if len(late) == 50:
            poller.unregister()
            over.set()

    def begin():
        nonlocal poller
        due[0] = time.perf_counter_ns() + 2_000_000
        poller = thread.register_poller(fn, period_us=2_000)

    poller = None
    thread.send_msg(begin)
    assert over.wait(PATIENCE_S)
    # The first deadline counts from the registration; later ones from the poll's own tick, a little before the call.
    assert late[0] >= 0
    assert min(late) > -2_000_000
    assert reactor.stats.parks >= 25, "it slept between them"


def test_the_earliest_of_many_timers_ends_the_sleep(make_reactor):
    (reactor,) = sleepers(make_reactor, 1)
    threads = [reactor.create_thread() for _ in range(5)]
    far = [thread.register_poller(noop, period_us=1e9) for thread in threads]
    near = threads[3].register_poller(noop, period_us=500)
    eventually(lambda: near.run_count > 10)
    assert [poller.run_count for poller in far] == [0] * 5
    for poller in (*far, near):
        poller.unregister()


def test_a_thread_with_a_manual_clock_is_looked_at_while_asleep(make_reactor, lib, clock):
    reactor = make_reactor(lib=lib, spin_us=0).start()
    thread = reactor.create_thread()
    poller = thread.register_poller(noop, period_us=10)
    thread.call(noop).result(PATIENCE_S)  # now it is registered
    sleeping(reactor)
    clock.advance(us=10)
    eventually(lambda: poller.run_count == 1)
    poller.unregister()
    assert isinstance(clock, ManualClock)


def test_nothing_is_armed_until_the_sleep_is_certain(make_reactor):
    """A reactor that has work, or an active poller, never goes as far as a system call for its sleep."""
    (reactor,) = sleepers(make_reactor, 1)
    thread = reactor.create_thread()
    poller = thread.register_poller(noop)
    eventually(lambda: poller.run_count > 100)
    parked = reactor.stats.parks
    before = poller.run_count
    eventually(lambda: poller.run_count > before + 1_000)
    assert reactor.stats.parks == parked
    poller.unregister()


def test_the_idle_strategies_that_never_sleep(make_reactor):
    for idle in ("poll", "yield"):
        reactor = make_reactor(idle=idle).start()
        reactor.create_thread().call(noop).result(PATIENCE_S)
        before = reactor.stats.turns
        eventually(lambda reactor=reactor, before=before: reactor.stats.turns > before + 1_000)
        assert (reactor.stats.parks, reactor.stats.wakes) == (0, 0)
        reactor.stop()


def test_a_sender_to_a_reactor_that_never_sleeps_rings_no_bell(make_reactor):
    reactor = make_reactor(idle="poll").start()
    thread = reactor.create_thread()
    for _ in range(100):
        thread.call(noop).result(PATIENCE_S)
    assert reactor.stats.wakes == 0


# The user's own idle strategy


class Idle:
    """Counts, and naps."""

    def __init__(self):
        self.idled, self.resets, self.counts, self.places = 0, 0, set(), set()

    def idle(self, work_count):
        self.idled += 1
        self.counts.add(work_count)
        self.places.add(get_reactor())
        time.sleep(0.0001)

    def reset(self):
        self.resets += 1


class Busy(Idle):
    """Sends to a thread a hundred times, then stops its reactor."""

    def __init__(self):
        super().__init__()
        self.sent = []

    def idle(self, work_count):
        super().idle(work_count)
        if self.idled > 100:
            get_reactor().stop()
        else:
            self.sent.append(self.thread.try_send_msg(noop))


def test_an_idle_object_has_its_say_after_turns_without_work(make_reactor):
    own = Idle()
    reactor = make_reactor(idle=own).start()
    assert reactor.idle is own
    thread = reactor.create_thread()
    eventually(lambda: own.idled > 3)
    for _ in range(3):
        before = own.resets
        thread.call(noop).result(PATIENCE_S)
        eventually(lambda before=before: own.resets > before)
        idled = own.idled
        eventually(lambda idled=idled: own.idled > idled)
    assert own.counts == {0}
    assert own.places == {reactor}


def test_an_idle_object_is_not_asked_while_there_is_work(make_reactor):
    own = Idle()
    reactor = make_reactor(idle=own).start()
    thread = reactor.create_thread()
    poller = thread.register_poller(lambda: 1)
    eventually(lambda: poller.run_count > 10)
    idled, resets = own.idled, own.resets
    before = poller.run_count
    eventually(lambda: poller.run_count > before + 100)
    assert (own.idled, own.resets) == (idled, resets)
    poller.unregister()


def test_an_idle_object_that_raises_is_reported_and_asked_again(make_reactor, errors):
    class Faulty(Idle):
        def idle(self, work_count):
            super().idle(work_count)
            if self.idled < 3:
                raise ZeroDivisionError

    own = Faulty()
    reactor = make_reactor(idle=own).start()
    thread = reactor.create_thread()
    eventually(lambda: own.idled > 5)
    assert thread.call(abs, -1).result(PATIENCE_S) == 1
    assert errors.types == [ZeroDivisionError] * 2


def test_an_idle_object_may_stop_its_reactor_and_send_to_its_threads(make_reactor):
    own = Busy()
    reactor = make_reactor(idle=own)
    thread = own.thread = reactor.create_thread()
    reactor.start()
    assert reactor.join(PATIENCE_S)
    assert own.sent == [True] * 100
    assert thread.is_exited
    assert thread.stats.msgs_run >= 100


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_an_idle_object_may_end_the_program(make_reactor, kind):
    class Termination(Idle):
        def idle(self, work_count):
            raise kind

    reactor = make_reactor(idle=Termination())
    thread = reactor.create_thread()
    with pytest.raises(kind):
        reactor.run()
    assert reactor.state == "stopped"
    assert thread.is_exited


@pytest.mark.parametrize("bad", [object(), 1, None, "", "sleepy", type("Half", (), {"idle": noop})()])
def test_what_is_no_idle_strategy_is_refused(live_lib, bad):
    with pytest.raises((TypeError, ValueError), match="idle must be"):
        Reactor(idle=bad, lib=live_lib)


@pytest.mark.parametrize("spin_us", [-1, float("nan"), 1e10])
def test_a_bad_spin_us_is_refused(live_lib, spin_us):
    with pytest.raises(ValueError, match="spin_us"):
        Reactor(spin_us=spin_us, lib=live_lib)


def test_an_idle_adaptive_reactor_uses_next_to_no_processor_time(make_reactor):
    """Counted in turns, not in time: while nothing happens there are none."""
    reactors = sleepers(make_reactor, 2, spin_us=50)
    for reactor in reactors:
        for _ in range(10):
            reactor.create_thread()
        sleeping(reactor)
    before = after = None

    def rests():
        """What came with the threads may still be under way on a slow machine; one that never rests never gets here."""
        nonlocal before, after
        before = [reactor.stats for reactor in reactors]
        time.sleep(0.3)  # the time in which nothing may happen
        after = [reactor.stats for reactor in reactors]
        return [(one.turns, one.parks) for one in after] == [(one.turns, one.parks) for one in before]

    eventually(rests)
    assert all(later.idle_ticks > earlier.idle_ticks for earlier, later in zip(before, after, strict=True))
