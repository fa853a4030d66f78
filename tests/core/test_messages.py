"""Messages: asynchronous always, in order, eight to a poll, from any OS thread."""

import gc
import math
import signal
import sys
import threading
import time
import weakref

import pytest
from support import (
    NOT_CALLABLE,
    PATIENCE_S,
    OtherThread,
    drain,
    elsewhere,
    eventually,
    fill,
    lasting_repr,
    noop,
    still_works,
)

from spdkthread import RingFullError, RingFullTimeoutError, SpdkThreadError, get_thread

pytestmark = pytest.mark.races


class Thing:
    """Something that can be watched."""


def test_a_message_runs_in_the_poll_and_not_in_the_send(thread):
    ran = []
    assert thread.send_msg(ran.append, 1) is None
    assert ran == []
    assert thread.poll() == 1
    assert ran == [1]


@pytest.mark.parametrize("count", range(10))
def test_a_message_takes_any_number_of_arguments(thread, count):
    got = []
    thread.send_msg(lambda *args: got.append(args), *range(count))
    thread.poll()
    assert got == [tuple(range(count))]


def test_a_message_takes_no_keyword_arguments(thread):
    with pytest.raises(TypeError):
        thread.send_msg(noop, end="")
    assert thread.pending_msgs == 0


def test_what_a_message_returns_is_ignored(thread):
    for value in (5, -1, "text", None, object()):
        thread.send_msg(lambda value=value: value)
    assert thread.poll() == 1


@pytest.mark.parametrize(
    ("max_msgs", "runs"), [(0, [8, 8, 4, 0]), (3, [3, 3, 3, 3, 3, 3, 2]), (8, [8, 8, 4]), (100, [8, 8, 4])]
)
def test_a_poll_runs_at_most_eight_messages_or_fewer_if_asked(thread, max_msgs, runs):
    ran = []
    for number in range(20):
        thread.send_msg(ran.append, number)
    for batch in runs:
        before = len(ran)
        assert thread.poll(max_msgs=max_msgs) == (1 if batch else 0)
        assert len(ran) - before == batch
    assert ran == list(range(20))


def test_max_msgs_may_be_given_by_position(thread):
    for _ in range(3):
        thread.send_msg(noop)
    thread.poll(2)
    assert thread.pending_msgs == 1


def test_pending_msgs_counts_what_waits(thread):
    assert thread.pending_msgs == 0
    for number in range(10):
        thread.send_msg(noop)
        assert thread.pending_msgs == number + 1
    thread.poll()
    assert thread.pending_msgs == 2
    thread.poll()
    assert thread.pending_msgs == 0


def test_a_message_knows_its_thread(thread):
    seen = []
    thread.send_msg(lambda: seen.append(get_thread()))
    thread.poll()
    assert seen == [thread]


def test_arguments_are_let_go_once_the_message_has_run(thread):
    things = [Thing() for _ in range(6)]
    watches = [weakref.ref(thing) for thing in things]
    thread.send_msg(noop, *things)
    thread.send_msg(noop, things[0])
    del things
    gc.collect()
    assert all(watch() is not None for watch in watches)
    drain(thread)
    gc.collect()
    assert all(watch() is None for watch in watches)


def test_the_function_of_a_message_is_let_go_once_it_has_run(thread):
    def once():
        pass

    watch = weakref.ref(once)
    thread.send_msg(once)
    del once
    gc.collect()
    assert watch() is not None
    thread.poll()
    gc.collect()
    assert watch() is None


def test_try_send_msg_says_whether_there_was_room(lib):
    ran = []
    thread = lib.create_thread(ring_size=2)
    assert thread.try_send_msg(ran.append, 1) is True
    assert thread.try_send_msg(ran.append, 2) is True
    assert thread.try_send_msg(ran.append, 3) is False
    drain(thread)
    assert ran == [1, 2]


def test_a_refused_message_is_not_held(lib):
    thread = lib.create_thread(ring_size=2)
    fill(thread)
    things = [Thing() for _ in range(6)]
    watches = [weakref.ref(thing) for thing in things]
    assert not thread.try_send_msg(noop, *things)
    with pytest.raises(RingFullError):
        thread.send_msg(noop, things[0])
    del things
    gc.collect()
    assert all(watch() is None for watch in watches)
    assert thread.pending_msgs == 2


def test_send_msg_wait_with_room_is_an_ordinary_send(thread):
    ran = []
    assert thread.send_msg_wait(ran.append, 1) is None
    thread.send_msg_wait(ran.append, 2, timeout_s=PATIENCE_S)
    assert ran == []
    drain(thread)
    assert ran == [1, 2]


@pytest.mark.parametrize("timeout_s", [0, 0.0, 0.01])
def test_send_msg_wait_gives_up_in_time(live_lib, timeout_s):
    thread = live_lib.create_thread(ring_size=2)
    fill(thread)
    with pytest.raises(RingFullTimeoutError):
        thread.send_msg_wait(noop, timeout_s=timeout_s)
    assert thread.pending_msgs == 2


def test_send_msg_wait_waits_for_room(live_lib):
    ran = []
    thread = live_lib.create_thread(ring_size=2)
    fill(thread, ran.append, "old")
    waiting = threading.Event()

    def send():
        waiting.set()
        thread.send_msg_wait(ran.append, "waited", timeout_s=PATIENCE_S)

    sender = OtherThread(send)
    assert waiting.wait(PATIENCE_S)
    thread.poll(max_msgs=1)
    sender.outcome()
    drain(thread)
    assert ran == ["old", "old", "waited"]


def test_send_msg_wait_without_a_limit_waits_as_long_as_it_takes(live_lib):
    each, ran = 200, []
    thread = live_lib.create_thread(ring_size=2)

    def send():
        for number in range(each):
            thread.send_msg_wait(ran.append, number)

    sender = OtherThread(send)

    def everything_ran():
        thread.poll()
        return len(ran) == each

    eventually(everything_ran)
    sender.outcome()
    assert ran == list(range(each))


@pytest.mark.parametrize("ring_size", [1, 8, 64, 256])
def test_senders_that_wait_for_room_keep_their_order(reactor, ring_size):
    each, ran = 2_000, []
    thread = reactor.create_thread(ring_size=ring_size)

    def send(sender):
        for number in range(each):
            thread.send_msg_wait(ran.append, (sender, number), timeout_s=PATIENCE_S)

    for sender in [OtherThread(send, name) for name in "abc"]:
        sender.outcome()
    eventually(lambda: len(ran) == 3 * each)
    for name in "abc":
        assert [number for sender, number in ran if sender == name] == list(range(each))


def test_a_sender_that_waits_for_room_is_told_when_half_of_the_ring_is_free(live_lib):
    ran = []
    thread = live_lib.create_thread(ring_size=64)
    fill(thread, ran.append, "old")
    sender = OtherThread(thread.send_msg_wait, ran.append, "waited")
    for _ in range(4):
        thread.poll()
    sender.outcome()
    drain(thread)
    assert ran == ["old"] * 64 + ["waited"]


def test_a_signal_interrupts_a_wait_for_room(live_lib):
    class Interrupted(Exception):
        pass

    def interrupt(*_):
        raise Interrupted

    thread = live_lib.create_thread(ring_size=64)
    fill(thread, noop)
    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.02)
        with pytest.raises(Interrupted):
            thread.send_msg_wait(noop, timeout_s=PATIENCE_S)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    drain(thread)


def test_send_msg_wait_is_refused_on_a_reactors_own_os_thread(reactor):
    thread = reactor.create_thread()
    with pytest.raises(SpdkThreadError):
        thread.call(thread.send_msg_wait, noop).result(PATIENCE_S)


def test_send_many_sends_one_message_for_each(thread):
    ran = []
    assert thread.send_many(ran.append, range(20)) == 20
    assert thread.pending_msgs == 20
    assert ran == []
    drain(thread)
    assert ran == list(range(20))


def test_send_many_passes_each_item_as_the_only_argument(thread):
    got = []
    assert thread.send_many(lambda *args: got.append(args), [(1, 2), None]) == 2
    thread.poll()
    assert got == [((1, 2),), (None,)]


def test_send_many_of_nothing_is_nothing(thread):
    assert thread.send_many(noop, []) == 0
    assert thread.pending_msgs == 0


def test_send_many_stops_where_the_ring_is_full(lib):
    ran = []
    thread = lib.create_thread(ring_size=4)
    thread.send_msg(ran.append, "first")
    assert thread.send_many(ran.append, range(10)) == 3
    drain(thread)
    assert ran == ["first", 0, 1, 2]


def test_send_many_to_a_full_ring_takes_nothing(lib):
    thread = lib.create_thread(ring_size=4)
    fill(thread)
    assert thread.send_many(noop, range(10)) == 0


def test_send_many_takes_any_iterable(thread):
    ran = []
    assert thread.send_many(ran.append, (number for number in range(3))) == 3
    assert thread.send_many(ran.append, iter("ab")) == 2
    assert thread.send_many(ran.append, {"c": 1}) == 1
    drain(thread)
    assert ran == [0, 1, 2, "a", "b", "c"]


def test_send_many_loses_nothing_that_it_took_when_the_iterable_fails(thread):
    ran = []
    with pytest.raises(ZeroDivisionError):
        thread.send_many(ran.append, (1 // (3 - number) for number in range(10)))
    taken = thread.pending_msgs
    drain(thread)
    assert len(ran) == taken
    assert ran == [1 // (3 - number) for number in range(taken)]


def test_send_many_survives_an_iterable_that_sends_to_the_same_thread(thread):
    ran = []

    def items():
        for number in range(5):
            thread.send_msg(ran.append, -number)
            yield number

    assert thread.send_many(ran.append, items()) == 5
    drain(thread)
    assert sorted(ran) == sorted([*range(5), *(-number for number in range(5))])
    assert [number for number in ran if number > 0] == [1, 2, 3, 4]


def test_a_critical_message_runs_before_all_others(thread):
    ran = []
    for number in range(3):
        thread.send_msg(ran.append, number)
    thread.send_critical_msg(lambda: ran.append("critical"))
    assert ran == []
    assert thread.poll() == 1
    assert ran == ["critical", 0, 1, 2]


def test_a_critical_message_alone_makes_the_poll_busy(thread):
    ran = []
    thread.send_critical_msg(lambda: ran.append(get_thread()))
    assert not thread.is_idle
    assert thread.poll() == 1
    assert ran == [thread]
    assert thread.poll() == 0
    assert thread.is_idle


def test_there_is_a_single_critical_slot(thread):
    ran = []
    thread.send_critical_msg(lambda: ran.append("first"))
    with pytest.raises(RingFullError):
        thread.send_critical_msg(lambda: ran.append("second"))
    thread.poll()
    thread.send_critical_msg(lambda: ran.append("third"))
    thread.poll()
    assert ran == ["first", "third"]


def test_a_critical_message_has_room_when_the_ring_is_full(lib):
    ran = []
    thread = lib.create_thread(ring_size=2)
    fill(thread, ran.append, "ordinary")
    thread.send_critical_msg(lambda: ran.append("critical"))
    drain(thread)
    assert ran == ["critical", "ordinary", "ordinary"]


def test_a_critical_message_may_send_the_next_one(thread):
    ran = []

    def first():
        ran.append("first")
        thread.send_critical_msg(lambda: ran.append("second"))

    thread.send_critical_msg(first)
    thread.poll()
    assert ran == ["first"]
    thread.poll()
    assert ran == ["first", "second"]


def test_call_brings_the_result_back(thread):
    future = thread.call(divmod, 17, 5)
    assert not future.done()
    thread.poll()
    assert future.result(0) == (3, 2)


def test_call_brings_the_exception_back(thread, errors):
    future = thread.call(divmod, 1, 0)
    thread.poll()
    with pytest.raises(ZeroDivisionError):
        future.result(0)
    assert errors == []


def test_call_runs_in_order_with_messages(thread):
    ran = []
    thread.send_msg(ran.append, 1)
    thread.call(ran.append, 2)
    thread.send_msg(ran.append, 3)
    thread.poll()
    assert ran == [1, 2, 3]


def test_a_cancelled_call_does_not_run(thread):
    ran = []
    future = thread.call(ran.append, 1)
    assert future.cancel()
    drain(thread)
    assert ran == []
    assert future.cancelled()


def test_call_to_a_full_ring_raises_at_once(lib):
    thread = lib.create_thread(ring_size=2)
    fill(thread)
    with pytest.raises(RingFullError):
        thread.call(noop)


def test_call_from_another_os_thread_waits_for_the_answer(thread):
    caller = OtherThread(lambda: thread.call(sum, [1, 2, 3]).result(PATIENCE_S))
    eventually(lambda: thread.pending_msgs == 1)
    thread.poll()
    assert caller.outcome() == 6


def test_exec_msg_runs_at_once_on_its_own_thread(thread):
    ran = []
    with thread:
        thread.exec_msg(ran.append, 1)
        assert ran == [1]
    assert thread.pending_msgs == 0


def test_exec_msg_from_inside_a_message_runs_at_once(thread):
    ran = []

    def outer():
        thread.exec_msg(ran.append, "inner")
        ran.append("outer")

    thread.send_msg(outer)
    thread.poll()
    assert ran == ["inner", "outer"]


def test_exec_msg_from_anywhere_else_is_a_message(thread):
    ran = []
    thread.send_msg(ran.append, 1)
    thread.exec_msg(ran.append, 2)
    assert ran == []
    drain(thread)
    assert ran == [1, 2]


def test_exec_msg_from_another_spdk_thread_is_a_message(lib, thread):
    other = lib.create_thread("other")
    ran = []
    with other:
        thread.exec_msg(ran.append, 1)
    assert ran == []
    thread.poll()
    assert ran == [1]


def test_a_message_may_send_to_another_thread(lib, thread):
    other = lib.create_thread("other")
    ran = []
    thread.send_msg(lambda: other.send_msg(lambda: ran.append(get_thread())))
    thread.poll()
    assert ran == []
    other.poll()
    assert ran == [other]


def test_two_threads_play_ping_pong(lib):
    ping, pong = lib.create_thread("ping"), lib.create_thread("pong")
    hits = []

    def hit(to, back, left):
        hits.append(get_thread())
        if left:
            to.send_msg(hit, back, to, left - 1)

    ping.send_msg(hit, pong, ping, 9)
    drain(ping, pong)
    assert hits == [ping, pong] * 5


def test_many_os_threads_send_and_each_ones_order_is_kept(lib):
    senders, each = 4, 3_000
    thread = lib.create_thread(ring_size=64)
    seen = [[] for _ in range(senders)]
    start = threading.Barrier(senders)

    def send(sender):
        start.wait(PATIENCE_S)
        for number in range(each):
            while not thread.try_send_msg(seen[sender].append, number):
                time.sleep(0)

    others = [OtherThread(send, sender) for sender in range(senders)]
    while sum(map(len, seen)) < senders * each:
        if not thread.poll():
            time.sleep(0)
    for other in others:
        other.outcome()
    assert seen == [list(range(each))] * senders
    assert thread.stats.msgs_run == senders * each


def test_all_ways_to_send_keep_one_senders_order(thread):
    ran = []
    thread.send_msg(ran.append, 1)
    thread.try_send_msg(ran.append, 2)
    thread.send_msg_wait(ran.append, 3)
    thread.send_many(ran.append, [4, 5])
    thread.call(ran.append, 6)
    thread.exec_msg(ran.append, 7)
    drain(thread)
    assert ran == [1, 2, 3, 4, 5, 6, 7]


def test_a_message_may_be_sent_with_no_current_thread_and_from_any_os_thread(thread):
    ran = []
    assert get_thread() is None
    elsewhere(thread.send_msg, ran.append, 1)
    thread.poll()
    assert ran == [1]


def test_statistics_count_messages_and_polls(thread):
    for _ in range(10):
        thread.send_msg(noop)
    for _ in range(3):
        thread.poll()
    assert thread.stats.msgs_run == 10
    assert thread.stats.polls == 3
    assert thread.stats.pollers_run == 0
    assert thread.stats.errors == 0


def test_the_time_of_a_poll_that_did_something_is_busy_time(thread, clock):
    thread.send_msg(lambda: clock.advance(us=10))
    thread.poll()
    assert thread.stats.busy_ticks == 10_000
    assert thread.stats.idle_ticks == 0


def test_the_time_of_a_poll_that_did_nothing_is_idle_time(thread, clock):
    with thread:
        thread.register_poller(lambda: clock.advance(us=7) and 0)
    thread.poll()
    assert thread.stats.busy_ticks == 0
    assert thread.stats.idle_ticks == 7_000


@pytest.mark.seed
def test_a_full_ring_is_an_answer_and_not_a_silent_drop(lib):
    """Seed: silent drop on a full ring."""
    thread = lib.create_thread("narrow", ring_size=4)
    ran = []
    assert fill(thread, ran.append, 1) == 4
    with pytest.raises(RingFullError, match="narrow"):
        thread.send_msg(ran.append, 2)
    assert thread.try_send_msg(ran.append, 3) is False
    with pytest.raises(TimeoutError):
        thread.send_msg_wait(ran.append, 4, timeout_s=0)
    assert thread.stats.ring_full >= 3
    drain(thread)
    assert ran == [1] * 4


@pytest.mark.seed
def test_a_message_of_up_to_four_arguments_takes_no_memory(thread):
    """Seed: every message takes from a shared pool, under its lock."""
    args = (1, 2, 3, 4)
    for _ in range(100):
        thread.send_msg(noop, *args)
    gc.collect()
    gc.disable()
    try:
        before = sys.getallocatedblocks()
        for _ in range(2_000):
            thread.send_msg(noop, *args)
        grown = sys.getallocatedblocks() - before
    finally:
        gc.enable()
    assert grown < 100
    drain(thread)


@pytest.mark.seed
@pytest.mark.parametrize(("max_msgs", "runs"), [(1, 1), (7, 7), (8, 8), (9, 8), (10**6, 8), (0, 8)])
def test_a_poll_dequeues_at_most_eight_messages(thread, max_msgs, runs):
    """Dequeue at most min(max_msgs, 8); 0 means 8, larger is capped at 8."""
    thread.send_many(noop, range(20))
    thread.poll(max_msgs)
    assert thread.pending_msgs == 20 - runs


@pytest.mark.seed
def test_the_batch_is_taken_before_it_runs(thread, lib):
    """The batch is taken before running, so a message sent by a message runs in a later poll."""
    ran = []
    thread.send_msg(lambda: thread.send_msg(ran.append, "sent by a message"))
    thread.send_msg(ran.append, "sent before")
    thread.poll()
    assert ran == ["sent before"]
    thread.poll()
    assert ran == ["sent before", "sent by a message"]


@pytest.mark.seed
def test_a_batch_frees_its_room_before_it_runs(lib):
    """The batch is taken before running: its slots are free for what its messages send."""
    thread = lib.create_thread(ring_size=2)
    ran = []

    def again(left):
        ran.append(left)
        if left:
            thread.send_msg(again, left - 1)

    thread.send_msg(again, 5)
    thread.send_msg(again, 5)
    drain(thread)
    assert sorted(ran) == sorted([5, 4, 3, 2, 1, 0] * 2)


@pytest.mark.seed
def test_messages_to_oneself_follow_the_same_rule(thread):
    """Messages to self follow the same rule."""
    ran = []

    def chain(left):
        ran.append(left)
        if left:
            get_thread().send_msg(chain, left - 1)

    thread.send_msg(chain, 3)
    for left in (3, 2, 1, 0):
        thread.poll()
        assert ran[-1] == left
    assert ran == [3, 2, 1, 0]


@pytest.mark.seed
def test_sending_is_always_asynchronous(thread):
    """send_msg: asynchronous always."""
    ran = []
    with thread:
        thread.send_msg(ran.append, 1)
        assert ran == []
    thread.poll()
    assert ran == [1]


@pytest.mark.seed
def test_messages_are_fifo_per_target(lib, thread):
    """FIFO per target."""
    ran = []
    other = lib.create_thread("other")
    other.send_msg(lambda: [thread.send_msg(ran.append, number) for number in range(5)])
    other.poll()
    for number in range(5, 10):
        thread.send_msg(ran.append, number)
    drain(thread)
    assert ran == list(range(10))


@pytest.mark.seed
def test_sending_works_from_any_os_thread_with_or_without_a_current_thread(lib, thread):
    """Callable from any OS thread, with or without a current SPDK thread."""
    other = lib.create_thread("other")
    ran = []

    def with_a_current_thread():
        with other:
            thread.send_msg(ran.append, 3)

    thread.send_msg(ran.append, 1)
    elsewhere(thread.send_msg, ran.append, 2)
    elsewhere(with_a_current_thread)
    thread.poll()
    assert ran == [1, 2, 3]


@pytest.mark.parametrize("timeout_s", [float("nan"), "soon", float("-inf")])
def test_a_wait_for_room_has_an_end(lib, timeout_s):
    thread = lib.create_thread("full", ring_size=1)
    thread.send_msg(noop)
    with pytest.raises((ValueError, TypeError, SpdkThreadError)):
        thread.send_msg_wait(noop, timeout_s=timeout_s)


def test_the_number_of_waiting_messages_is_never_nonsense_while_they_run(live_lib, make_reactor):
    """It was read as a difference of two words, which the reactor changes without the GIL."""
    reactor = make_reactor(idle="poll").start()
    thread = reactor.create_thread("busy")
    over = threading.Event()

    def send():
        while not over.is_set():
            thread.send_many(noop, [None] * 100)

    sender = OtherThread(send)
    seen = {thread.pending_msgs > thread.ring_size + 8 for _ in range(100_000)}
    over.set()
    sender.outcome()
    assert seen == {False}


@pytest.mark.parametrize("fn", NOT_CALLABLE, ids=lasting_repr)
def test_send_many_of_what_cannot_be_called_is_refused(thread, fn):
    with pytest.raises(TypeError):
        thread.send_many(fn, [1, 2])
    still_works(thread)


@pytest.mark.parametrize("items", [None, 1, object()])
def test_send_many_of_what_cannot_be_iterated_is_refused(thread, items):
    with pytest.raises(TypeError):
        thread.send_many(noop, items)
    still_works(thread)


@pytest.mark.parametrize("method", ["send_msg", "try_send_msg", "send_many", "send_critical_msg", "call", "exec_msg"])
def test_a_send_without_a_function_is_refused(thread, method):
    with pytest.raises(TypeError):
        getattr(thread, method)()
    still_works(thread)


def test_a_critical_message_takes_no_arguments(thread):
    with pytest.raises(TypeError):
        thread.send_critical_msg(noop, 1)
    still_works(thread)


@pytest.mark.parametrize("timeout_s", [math.nan, -1, "soon"])
def test_a_bad_timeout_is_refused(lib, timeout_s):
    thread = lib.create_thread(ring_size=2)
    fill(thread)
    with pytest.raises((TypeError, ValueError, RingFullError)):
        thread.send_msg_wait(noop, timeout_s=timeout_s)
    assert thread.pending_msgs == 2
