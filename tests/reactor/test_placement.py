"""Moving threads between reactors: nothing is lost, nothing changes its place."""

import os
import random
import threading

import numpy
import pytest
from support import PATIENCE_S, OtherThread, elsewhere, eventually, lasting_repr, noop

from spdkthread import Reactor, ReactorError, ReactorGroup, ThreadExitedError, get_reactor, get_thread

CORES = sorted(os.sched_getaffinity(0))
FIRST, LAST = CORES[0], CORES[-1]


@pytest.fixture
def two(make_reactor):
    return make_reactor().start(), make_reactor().start()


def where(thread):
    return thread.call(get_reactor).result(PATIENCE_S)


def test_a_moved_thread_is_polled_by_the_other_reactor(two):
    first, second = two
    thread = first.create_thread("mover")
    assert first.move_thread(thread, second).result(PATIENCE_S) is thread
    assert where(thread) is second
    assert (first.threads, second.threads) == ((), (thread,))


def test_a_move_to_where_it_is_does_nothing(two):
    thread = two[0].create_thread()
    assert two[0].move_thread(thread, two[0]).result(PATIENCE_S) is thread
    assert where(thread) is two[0]


def test_a_thread_may_move_itself(two):
    first, second = two
    thread = first.create_thread()
    future = thread.call(first.move_thread, thread, second).result(PATIENCE_S)
    assert future.result(PATIENCE_S) is thread
    assert where(thread) is second


def test_pollers_and_timers_move_too(two):
    first, second = two
    thread = first.create_thread()
    places = {"active": set(), "timed": set()}
    active = thread.register_poller(lambda: places["active"].add(get_reactor()))
    timed = thread.register_poller(lambda: places["timed"].add(get_reactor()), period_us=50)
    eventually(lambda: places["active"] == places["timed"] == {first})
    first.move_thread(thread, second).result(PATIENCE_S)
    eventually(lambda: places["active"] == places["timed"] == {first, second})
    active.unregister()
    timed.unregister()


def test_reactors_that_do_not_run_may_hand_threads_over(make_reactor):
    first, second = make_reactor(), make_reactor()
    thread = first.create_thread()
    thread.send_msg(noop)
    assert first.move_thread(thread, second).result(0) is thread
    assert second.threads == (thread,)
    second.poll()
    assert thread.pending_msgs == 0


def test_a_move_from_one_that_runs_to_one_that_does_not_yet(make_reactor):
    first, second = make_reactor().start(), make_reactor()
    thread = first.create_thread()
    first.move_thread(thread, second).result(PATIENCE_S)
    ran = threading.Event()
    thread.send_msg(ran.set)
    second.start()
    assert ran.wait(PATIENCE_S)


@pytest.mark.parametrize("idle", ["adaptive", "poll"])
def test_a_thread_under_load_from_several_senders_is_moved_without_loss(make_reactor, idle):
    """Three senders, and a thread that travels all the while: every sender's messages arrive, in their order."""
    reactors = [make_reactor(CORES[index % len(CORES)], spin_us=0).start() for index in range(2)]
    if idle == "poll":
        reactors.append(make_reactor(LAST, idle="yield").start())
    thread = reactors[0].create_thread(ring_size=64)
    senders, each = 3, 3_000
    seen, sent = [[] for _ in range(senders)], [0] * senders
    moves, here = 0, reactors[0]

    def send(number):
        while sent[number] < each or moves <= 10:
            thread.send_msg_wait(seen[number].append, sent[number], timeout_s=PATIENCE_S)
            sent[number] += 1

    working = [OtherThread(send, number) for number in range(senders)]
    dice = random.Random(1)
    while any(sender.is_alive() for sender in working):
        there = dice.choice(reactors)
        here.move_thread(thread, there).result(PATIENCE_S)
        here = there
        moves += 1
    for sender in working:
        sender.outcome()
    over = threading.Event()
    thread.send_msg_wait(over.set, timeout_s=PATIENCE_S)  # the ring may still be full
    assert over.wait(PATIENCE_S)
    assert seen == [list(range(count)) for count in sent]
    assert moves > 0


def test_a_sleeping_target_wakes_for_a_thread_that_moves_in_with_messages(make_reactor):
    first, second = make_reactor().start(), make_reactor(spin_us=0).start()
    thread = first.create_thread()
    eventually(lambda: second.stats.parks > 0)
    for _ in range(50):
        ran = threading.Event()

        def leave_and_send(ran=ran):
            first.move_thread(thread, second)
            thread.send_msg(ran.set)

        thread.call(leave_and_send).result(PATIENCE_S)
        assert ran.wait(PATIENCE_S)
        second.move_thread(thread, first).result(PATIENCE_S)


def test_moving_to_a_stopped_reactor_is_a_named_error(two):
    first, second = two
    thread = first.create_thread("mover")
    second.stop()
    with pytest.raises(ReactorError, match=r"mover.*stopped"):
        first.move_thread(thread, second)
    assert where(thread) is first


def test_moving_from_where_it_is_not_is_a_named_error(two):
    thread = two[0].create_thread("mover")
    with pytest.raises(ReactorError, match="mover"):
        two[1].move_thread(thread, two[0])


@pytest.mark.parametrize("bad", [None, 1, object()])
def test_moving_what_cannot_be_moved(two, bad):
    with pytest.raises(TypeError):
        two[0].move_thread(bad, two[1])
    with pytest.raises(TypeError):
        two[0].move_thread(two[0].create_thread(), bad)


def test_moving_outside_the_cpumask_is_a_named_error(make_reactor):
    first, second = make_reactor(FIRST).start(), make_reactor(LAST).start()
    thread = first.create_thread("bound", cpumask=[FIRST])
    with pytest.raises(ReactorError, match="bound"):
        first.move_thread(thread, second)
    with pytest.raises(ReactorError, match="may only be placed"):
        second.create_thread(cpumask=[FIRST])


def test_the_cpumask_counts_when_the_move_is_made(make_reactor):
    """Changed while the move is under way: the thread stays."""
    first, second = make_reactor(FIRST).start(), make_reactor(LAST).start()
    thread = first.create_thread("fickle")

    def ask():
        future = first.move_thread(thread, second)
        thread.set_cpumask([FIRST])
        return future

    future = thread.call(ask).result(PATIENCE_S)
    assert isinstance(future.exception(PATIENCE_S), ReactorError)
    assert where(thread) is first


def test_a_move_that_comes_too_late_fails_and_resolves(two):
    first, second = two
    thread = first.create_thread("gone")

    def ask():
        thread.exit()
        return first.move_thread(thread, second)

    future = thread.call(ask).result(PATIENCE_S)
    error = future.exception(PATIENCE_S)
    assert error is None or isinstance(error, (ReactorError, ThreadExitedError))
    eventually(lambda: thread.is_exited)


def test_two_moves_at_once_one_of_which_is_refused(two, make_reactor):
    first, second = two
    thread = first.create_thread()

    def ask():
        return [first.move_thread(thread, second) for _ in range(2)]

    one, other = thread.call(ask).result(PATIENCE_S)
    assert one.result(PATIENCE_S) is thread
    assert isinstance(other.exception(PATIENCE_S), ReactorError)
    assert where(thread) is second


def test_moves_race_with_a_stop_and_always_resolve(make_reactor):
    for _ in range(20):
        first, second = make_reactor(FIRST).start(), make_reactor(LAST).start()
        threads = [first.create_thread() for _ in range(10)]
        stopper = OtherThread(second.stop)
        futures = []
        for thread in threads:
            try:
                futures.append(first.move_thread(thread, second))
            except ReactorError:
                pass
        assert stopper.outcome().ok
        for future in futures:
            assert isinstance(future.exception(PATIENCE_S), (ReactorError, type(None)))
        assert first.stop(timeout_s=PATIENCE_S).ok
        assert second.stop(timeout_s=PATIENCE_S).ok
        assert all(thread.is_exited for thread in threads)


def test_threads_are_added_to_two_reactors_at_once_and_one_gets_each(two, live_lib):
    first, second = two
    for _ in range(50):
        thread = live_lib.create_thread("wanted")
        start = threading.Barrier(2)

        def add(reactor, thread=thread, start=start):
            start.wait(PATIENCE_S)
            try:
                reactor.add_thread(thread)
            except Exception as error:
                return error
            return None

        outcomes = [one.outcome() for one in [OtherThread(add, reactor) for reactor in two]]
        assert outcomes.count(None) == 1, outcomes
        assert where(thread) in two
        thread.exit()
        eventually(lambda thread=thread: thread.is_exited)


@pytest.fixture
def group(make_group):
    return make_group([FIRST, LAST]).start()


def test_a_new_cpumask_that_allows_the_place_only_counts_for_later(group):
    thread = group.create_thread(cpumask=[FIRST])
    assert thread.set_cpumask([FIRST, LAST]).result(PATIENCE_S) is thread
    assert thread.cpumask == {FIRST, LAST}
    assert where(thread).core == FIRST
    thread.set_cpumask(None).result(PATIENCE_S)
    assert thread.cpumask is None


@pytest.mark.skipif(FIRST == LAST, reason="one core only")
def test_a_new_cpumask_that_forbids_the_place_moves_the_thread(group):
    thread = group.create_thread(cpumask=[FIRST])
    for core in (LAST, FIRST, LAST):
        assert thread.set_cpumask(str(core)).result(PATIENCE_S) is thread
        assert thread.cpumask == {core}
        assert where(thread).core == core


@pytest.mark.skipif(FIRST == LAST, reason="one core only")
def test_a_cpumask_set_under_load_loses_and_reorders_nothing(group):
    thread = group.create_thread(cpumask=[FIRST], ring_size=64)
    each, seen = 3_000, [[], []]

    def send(number):
        for count in range(each):
            thread.send_msg_wait(seen[number].append, count, timeout_s=PATIENCE_S)

    senders = [OtherThread(send, number) for number in range(2)]
    turn = 0
    while any(sender.is_alive() for sender in senders):
        turn += 1
        thread.set_cpumask([(FIRST, LAST)[turn % 2]]).result(PATIENCE_S)
    for sender in senders:
        sender.outcome()
    thread.call(noop).result(PATIENCE_S)
    assert seen == [list(range(each))] * 2


@pytest.mark.skipif(FIRST == LAST, reason="one core only")
def test_cpumasks_set_by_several_at_once_end_inside_the_last(group):
    thread = group.create_thread()

    def change(seed):
        dice = random.Random(seed)
        for _ in range(50):
            future = thread.set_cpumask([dice.choice((FIRST, LAST))])
            assert isinstance(future.exception(PATIENCE_S), (ReactorError, type(None)))

    for one in [OtherThread(change, seed) for seed in range(3)]:
        one.outcome()
    thread.set_cpumask([FIRST]).result(PATIENCE_S)
    assert where(thread).core == FIRST


def test_a_cpumask_outside_the_group_is_a_named_error_and_changes_nothing(group):
    thread = group.create_thread("lonely", cpumask=[FIRST])
    with pytest.raises(ReactorError, match="lonely"):
        thread.set_cpumask([60_000])
    assert thread.cpumask == {FIRST}


def test_a_cpumask_that_forbids_the_only_place_there_is_is_a_named_error(make_reactor):
    thread = make_reactor(FIRST).start().create_thread("alone")
    with pytest.raises(ReactorError, match="alone"):
        thread.set_cpumask([60_000])


@pytest.mark.parametrize("mask", ["", "x", [], [-1]])
def test_a_cpumask_that_cannot_be_read(group, mask):
    with pytest.raises(ValueError):
        group.create_thread().set_cpumask(mask)


def test_the_cpumask_of_a_thread_on_no_reactor(thread):
    assert thread.set_cpumask([60_000]).result(0) is thread
    assert thread.cpumask == {60_000}


def test_a_thread_taken_off_its_reactor_is_current_nowhere(two):
    thread = two[0].create_thread()
    assert thread.call(get_thread).result(PATIENCE_S) is thread
    assert get_thread() is None
    assert get_reactor() is None


# Whose cores


def test_the_cores_of_the_process_count_whatever_the_calling_os_thread_is_bound_to(make_reactor, live_lib):
    def bound():
        os.sched_setaffinity(0, {FIRST})
        reactors = [make_reactor() for _ in CORES]
        return [reactor.core for reactor in reactors], make_reactor(LAST).core, len(ReactorGroup(lib=live_lib))

    cores, explicit, count = elsewhere(bound)
    assert sorted(cores) == CORES, "none shares a core while another one is free"
    assert explicit == LAST
    assert count == len(CORES)


def test_cores_that_numpy_counts(make_reactor, live_lib):
    first = numpy.int64(FIRST)
    assert make_reactor(first).core == FIRST
    assert [one.core for one in ReactorGroup(numpy.array([FIRST, LAST]), lib=live_lib)] == sorted({FIRST, LAST})
    assert len(ReactorGroup(numpy.int32(1), lib=live_lib)) == 1
    group = ReactorGroup([first], lib=live_lib)
    assert group[first] is group[FIRST]
    assert live_lib.create_thread(cpumask=numpy.array([3, 1])).cpumask == {1, 3}


@pytest.mark.parametrize("cores", [True, False, numpy.bool_(True), [True], 1.0, object()], ids=lasting_repr)
def test_what_is_no_set_of_cores_is_refused(live_lib, cores):
    with pytest.raises(TypeError, match=r"int|string"):
        ReactorGroup(cores, lib=live_lib)


@pytest.mark.parametrize("cores", ["", [], (), set(), "0x0", numpy.array([], int), 0, -1], ids=lasting_repr)
def test_no_core_at_all_is_refused(live_lib, cores):
    with pytest.raises(ValueError):
        ReactorGroup(cores, lib=live_lib)


@pytest.mark.parametrize("make", [Reactor, lambda core, lib: ReactorGroup([core], lib=lib)], ids=["reactor", "group"])
def test_a_core_that_there_is_not_is_refused_with_what_there_is(live_lib, make):
    with pytest.raises(ReactorError, match=r"core 60000 is not available; this process may use .*affinity mask"):
        make(60_000, lib=live_lib)


def test_a_thread_is_refused_by_a_reactor_outside_its_mask_with_both_names(make_reactor):
    with pytest.raises(ReactorError, match=rf"'picky'.*\[60000\].*core={FIRST}"):
        make_reactor(FIRST).create_thread("picky", cpumask=[60_000])


# A thread that comes while its reactor stops


def test_a_thread_that_comes_while_its_reactor_stops_runs_what_it_accepted(live_lib):
    """The stop begins at the worst moment: the thread is a member already, and the loop does not know it yet."""
    stopping = []

    class Late(Reactor):
        def _request(self, flags):
            if len(self.threads) and not stopping:
                stopping.append(OtherThread(self.stop))
                stopping[0].join(0.2)  # a stop that can end by now would
            super()._request(flags)

    reactor = Late(lib=live_lib).start()
    ran = []
    thread = reactor.create_thread()
    try:
        thread.send_msg(ran.append, "accepted")
        accepted = True
    except ThreadExitedError:
        accepted = False
    assert stopping[0].outcome().ok
    assert thread.is_exited
    assert ran == ["accepted"] * accepted


def test_threads_that_come_while_reactors_stop_are_never_left_behind(live_lib):
    for _ in range(100):
        reactor = Reactor(lib=live_lib, pin=False, spin_us=0).start()
        ran, accepted, threads = [], [], []
        start = threading.Barrier(2)

        def come(reactor=reactor, ran=ran, accepted=accepted, threads=threads, start=start):
            start.wait(PATIENCE_S)
            try:
                for number in range(10):
                    threads.append(reactor.create_thread())
                    threads[-1].send_msg(ran.append, number)
                    accepted.append(number)
            except (ReactorError, ThreadExitedError):
                pass

        coming = OtherThread(come)
        start.wait(PATIENCE_S)
        report = reactor.stop(timeout_s=PATIENCE_S)
        coming.outcome()
        assert report.ok
        # What came after the end is on a stopped reactor, which says so, and takes it along at its next start.
        assert all(thread.is_exited or thread in reactor.threads for thread in threads)
        assert reactor.stop(timeout_s=PATIENCE_S).ok
        assert ran == accepted
        assert all(thread.is_exited for thread in threads)
