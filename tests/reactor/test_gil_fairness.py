"""Reactors with busy Python pollers, and a main thread at work: all of them get on.

Orders are asserted, not times: between two steps of one, the others have taken steps of theirs.
"""

import sys
import threading

import pytest
from support import PATIENCE_S, OtherThread, eventually, noop

from spdkthread import get_reactor
from spdkthread.gil_handoff import find_gil_word

pytestmark = pytest.mark.no_coverage(reason="the fairness of a traced loop is not that of the one that runs")


@pytest.fixture
def busy(make_reactor):
    """Two reactors, each with a Python poller that always has something to do."""
    pollers = [make_reactor().start().create_thread(name).register_poller(work) for name in ("left", "right")]
    yield pollers
    for poller in pollers:
        poller.unregister()


def work():
    return sum(range(50)) > 0


def test_two_busy_reactors_and_the_main_thread_all_get_on(busy):
    """Ten rounds: in each, the main thread works until both have gone on, and they go on while it works."""
    steps = 0
    for _ in range(10):
        before = [poller.run_count for poller in busy]
        while any(poller.run_count <= count for poller, count in zip(busy, before, strict=True)):
            steps += 1
    assert steps > 0


def test_the_main_thread_gets_on_however_busy_they_are(busy):
    """A given piece of work of the main thread ends, and both were busy meanwhile."""
    eventually(lambda: all(poller.run_count for poller in busy))
    before = [poller.run_count for poller in busy]
    done = 0
    for number in range(300_000):
        done += number & 1
    assert done == 150_000
    eventually(lambda: all(poller.run_count > count for poller, count in zip(busy, before, strict=True)))


def test_neither_of_two_busy_reactors_is_starved(busy):
    """While either makes a thousand runs, the other makes some."""
    for one, other in (busy, busy[::-1]):
        before = other.run_count
        target = one.run_count + 1_000
        eventually(lambda one=one, target=target: one.run_count > target)
        eventually(lambda other=other, before=before: other.run_count > before)


def test_several_python_threads_beside_two_busy_reactors(busy):
    counts = [0] * 3
    over = threading.Event()

    def count(index):
        while not over.is_set():
            counts[index] += 1

    others = [OtherThread(count, index) for index in range(3)]
    try:
        for _ in range(3):
            before = [*counts, *(poller.run_count for poller in busy)]
            eventually(
                lambda before=before: all(
                    now > then for now, then in zip([*counts, *(p.run_count for p in busy)], before, strict=True)
                )
            )
    finally:
        over.set()
        for other in others:
            other.outcome()


def test_messages_are_answered_beside_a_busy_reactor(make_reactor, busy):
    """A third reactor is not kept from its messages by two that never rest."""
    thread = make_reactor().start().create_thread()
    for number in range(20):
        assert thread.call(abs, -number).result(PATIENCE_S) == number


def test_a_reactor_attached_with_messages_lets_go_in_between(make_reactor):
    """A stream of messages that keeps the loop attached; the main thread sees it begin, go on and end."""
    thread = make_reactor().start().create_thread()
    left, seen = [200_000], []

    def again():
        left[0] -= 1
        if left[0] > 0:
            thread.send_msg(again)

    thread.send_msg(again)
    while not seen or seen[-1] > 0:
        seen.append(left[0])
    assert len({count for count in seen if 0 < count < 200_000}) > 2, "it went on while this one looked"


LONG = bytes(600_000)


def long_in_c():
    """A callback that holds the GIL from its beginning to its end, whatever the switch interval."""
    LONG.count(b"x")
    return 1


@pytest.mark.parametrize("threads", [1, 8, 70])
def test_a_plain_thread_gets_the_gil_in_the_middle_of_a_backlog_of_long_callbacks_in_c(make_reactor, threads):
    """It is not kept waiting until the backlog is done: it sees it shrink, many times."""
    total = 840
    crowd = [reactor.create_thread() for reactor in (make_reactor(), make_reactor()) for _ in range(threads)]
    for thread in crowd:
        for _ in range(total // len(crowd)):
            thread.send_msg(long_in_c)
    for reactor in {thread._placed_on() for thread in crowd}:
        reactor.start()
    seen = set()
    eventually(lambda: seen.add(sum(thread.pending_msgs for thread in crowd)) or 0 in seen)
    assert len(seen) > 10


def test_a_plain_thread_gets_the_gil_beside_many_long_pollers(make_reactor):
    """One poll of a thread with policy "all" runs them all: the GIL is let go inside it."""
    thread = make_reactor().start().create_thread(poller_policy="all")
    runs = []
    pollers = [thread.register_poller(lambda: runs.append(0) or long_in_c()) for _ in range(200)]
    seen = set()
    eventually(lambda: seen.add(len(runs)) or len(runs) > 400)
    for poller in pollers:
        poller.unregister()
    assert len(seen) > 4


def there_is_a_gil():
    return getattr(sys, "_is_gil_enabled", lambda: True)()


def test_a_loop_knows_where_cpython_says_that_the_gil_is_held():
    """The word is 1 while this thread holds the GIL, and was seen to be 0 while it did not."""
    assert find_gil_word() == there_is_a_gil()


@pytest.mark.parametrize("looks", [True, False])
def test_a_sender_that_holds_the_gil_and_one_that_has_let_go_of_it_are_both_answered(make_reactor, looks):
    """Whether a loop looks at CPython's word for the GIL before it queues, or knows of none and queues at once."""
    thread = make_reactor().start().create_thread()
    ran = []
    find_gil_word() if looks else find_gil_word(tries=0)
    try:
        for number in range(300):
            thread.send_msg(ran.append, number)
            if number % 3 == 0:
                eventually(lambda number=number: len(ran) == number + 1)
        eventually(lambda: len(ran) == 300)
    finally:
        find_gil_word()
    assert ran == list(range(300))


def test_waits_for_the_gil_are_counted(busy):
    """Where there is a GIL, two that want it all the time wait for one another."""
    if not there_is_a_gil():
        return
    reactors = [poller.thread.call(get_reactor).result(PATIENCE_S) for poller in busy]
    eventually(lambda: all(reactor.stats.gil_waits > 0 for reactor in reactors))
    assert all(reactor.stats.gil_wait_ticks > 0 for reactor in reactors)


def test_a_reactor_without_python_work_never_waits_for_the_gil(make_reactor):
    """It spins without the GIL, and takes it for nothing."""
    reactor = make_reactor(idle="yield").start()
    reactor.create_thread().call(noop).result(PATIENCE_S)
    turns = reactor.stats.turns
    eventually(lambda: reactor.stats.turns > turns + 10_000)
    waits = reactor.stats.gil_waits
    turns = reactor.stats.turns
    total = 0
    while reactor.stats.turns < turns + 10_000:
        total += 1
    assert reactor.stats.gil_waits == waits


def test_the_switch_interval_is_the_programs_business(busy):
    before = sys.getswitchinterval()
    try:
        for interval in (0.0001, 0.02):
            sys.setswitchinterval(interval)
            test_two_busy_reactors_and_the_main_thread_all_get_on(busy)
            assert sys.getswitchinterval() == pytest.approx(interval)
    finally:
        sys.setswitchinterval(before)
