"""Waiting for a future: refused where it holds up its own producer, and never in silence."""

import concurrent.futures
import gc
import logging
import threading
import weakref

import pytest
from support import PATIENCE_S, OtherThread, drain, elsewhere, eventually, fill, finish, noop

from spdkthread import (
    IoDevice,
    RingFullError,
    RingFullTimeoutError,
    SpdkThread,
    ThreadExitedError,
    ThreadLib,
    WrongThreadError,
    aio,
    waiting,
)
from spdkthread.future import make_future


@pytest.fixture
def soon(monkeypatch):
    """Waits and stops say what they wait for almost at once."""
    monkeypatch.setattr(waiting, "WAIT_SAYS_AFTER_S", 0.6)
    monkeypatch.setattr(waiting, "STOP_SAYS_AFTER_S", 0.05)


def said(caplog, word):
    return [record.getMessage() for record in caplog.records if word in record.getMessage()]


# Waits that would hold up what they wait for


def test_a_wait_for_a_move_is_refused_on_both_reactors_that_take_part(make_group):
    group = make_group("0-1").start()
    first, second = group
    here, there = first.create_thread("here"), second.create_thread("there")

    def move_and_wait():
        with pytest.raises(WrongThreadError, match=r"move|reactor"):
            first.move_thread(here, second).result(PATIENCE_S)
        return True

    assert here.call(move_and_wait).result(PATIENCE_S)
    eventually(lambda: here in second.threads)
    other = first.create_thread("other")

    def move_and_wait_over_there():
        with pytest.raises(WrongThreadError):
            first.move_thread(other, second).result(PATIENCE_S)
        return True

    assert there.call(move_and_wait_over_there).result(PATIENCE_S)
    eventually(lambda: other in second.threads)


def test_a_wait_for_a_new_cpumask_is_refused_on_a_reactor_that_takes_part(make_group):
    group = make_group("0-1").start()
    thread = group[0].create_thread("net")

    def change_and_wait():
        with pytest.raises(WrongThreadError):
            thread.set_cpumask([1]).result(PATIENCE_S)
        return True

    assert thread.call(change_and_wait).result(PATIENCE_S)
    eventually(lambda: thread in group[1].threads)


def test_a_wait_for_a_visit_of_all_reactors_is_refused_on_one_that_is_still_to_be_visited(make_group):
    group = make_group("0-1").start()
    visited = []

    def visit_and_wait():
        with pytest.raises(WrongThreadError):
            group.for_each_reactor(lambda: visited.append(1)).result(PATIENCE_S)
        return True

    for reactor in group:
        assert reactor.create_thread().call(visit_and_wait).result(PATIENCE_S)
    eventually(lambda: len(visited) == 4)
    assert group.for_each_reactor(noop).result(PATIENCE_S) is None


@pytest.mark.parametrize("way", ["call", "spawn", "executor", "for_each_thread", "for_each_channel", "unregister"])
def test_a_wait_for_the_own_reactors_work_is_refused(reactor, live_lib, way):
    thread = reactor.create_thread("net")
    device = IoDevice("disk", lib=live_lib).register()
    channel = thread.call(thread.get_io_channel, device).result(PATIENCE_S)
    pool = thread.executor()

    async def nothing():
        await aio.sleep_us(0)

    begin = {
        "call": lambda: thread.call(noop),
        "spawn": lambda: thread.spawn(nothing()),
        "executor": lambda: pool.submit(noop),
        "for_each_thread": lambda: live_lib.for_each_thread(noop),
        "for_each_channel": lambda: device.for_each_channel(noop),
        "unregister": device.unregister,
    }[way]

    def begin_and_wait():
        future = begin()
        for wait in (
            future.result,
            future.exception,
            lambda: concurrent.futures.wait([future]),
            lambda: next(concurrent.futures.as_completed([future])),
        ):
            with pytest.raises(WrongThreadError, match="net"):
                wait()
        return future

    future = thread.call(begin_and_wait).result(PATIENCE_S)
    thread.call(channel.put).result(PATIENCE_S)
    future.result(PATIENCE_S)
    if way != "unregister":
        device.unregister().result(PATIENCE_S)


@pytest.mark.parametrize("way", ["for_each_thread", "for_each_channel", "unregister"])
def test_a_wait_of_what_was_begun_outside_is_refused_on_the_reactor_that_it_needs(reactor, live_lib, way):
    """It was begun on no SpdkThread, so nothing but the threads that it still has to reach is in its way."""
    thread = reactor.create_thread("net")
    device = IoDevice("disk", lib=live_lib).register()
    channel = thread.call(thread.get_io_channel, device).result(PATIENCE_S)
    go_on, entered = threading.Event(), threading.Event()
    box = []

    def wait_here():
        entered.set()
        assert go_on.wait(PATIENCE_S)
        with pytest.raises(WrongThreadError):
            box[0].result(PATIENCE_S)
        return True

    waited = thread.call(wait_here)
    assert entered.wait(PATIENCE_S)
    box.append(
        {
            "for_each_thread": lambda: live_lib.for_each_thread(noop),
            "for_each_channel": lambda: device.for_each_channel(noop),
            "unregister": device.unregister,
        }[way]()
    )
    go_on.set()
    assert waited.result(PATIENCE_S)
    thread.call(channel.put).result(PATIENCE_S)
    box[0].result(PATIENCE_S)
    if way != "unregister":
        device.unregister().result(PATIENCE_S)


# Waits for what is not served


def test_a_wait_for_a_reactor_that_was_never_started_says_so_once_and_goes_on(make_reactor, caplog, soon):
    reactor = make_reactor(name="sleepy")
    future = reactor.create_thread("net").call(int)
    with pytest.raises(TimeoutError, match=r"thread 'net' \(id 1\) on reactor 'sleepy'.*never started.*start\(\)"):
        future.result(1.2)
    (text,) = said(caplog, "has waited")
    assert "thread 'net' (id 1) on reactor 'sleepy'" in text
    assert "never started" in text
    caplog.clear()
    waiter = OtherThread(future.result, PATIENCE_S)
    eventually(lambda: said(caplog, "has waited"))
    reactor.start()
    assert waiter.outcome() == 0


def test_a_short_wait_says_why_nothing_came(thread):
    future = thread.call(int)
    with pytest.raises(TimeoutError, match=r"0\.01 s.*thread 'net' \(id 1\) on no reactor.*poll it"):
        future.result(0.01)
    with pytest.raises(TimeoutError, match="not done"):
        future.result(0)
    drain(thread)
    assert future.result() == 0


def test_a_wait_for_a_stopped_reactor_says_so(make_reactor):
    reactor = make_reactor(name="gone").start()
    reactor.stop()
    thread = reactor.create_thread("net")
    future = thread.call(int)
    with pytest.raises(TimeoutError, match=r"'gone'.*has stopped"):
        future.exception(0.01)
    reactor.start()
    assert future.result(PATIENCE_S) == 0


def test_a_wait_for_a_callback_that_takes_long_names_it_and_is_not_logged(reactor, caplog, soon):
    go_on = threading.Event()

    def long_one():
        assert go_on.wait(PATIENCE_S)

    thread = reactor.create_thread("net")
    future = thread.call(long_one)
    eventually(future.running)
    with pytest.raises(TimeoutError, match=r"thread 'net'.*which is running and runs message"):
        future.result(0.7)
    go_on.set()
    assert future.result(PATIENCE_S) is None
    assert not said(caplog, "has waited")


def test_a_thread_that_is_polled_by_hand_now_and_then_counts_as_served(thread, caplog, soon):
    gone = threading.Event()

    def poll_on():
        while not gone.is_set():
            thread.poll()
            gone.wait(0.001)

    blocked = make_future(thread, running=True)
    poller = OtherThread(poll_on)
    with pytest.raises(TimeoutError):
        blocked.result(0.8)
    gone.set()
    poller.outcome()
    assert not said(caplog, "has waited")


def test_two_reactors_that_wait_for_each_other_are_both_named(make_reactor, caplog, soon):
    one, two = make_reactor(name="one").start(), make_reactor(name="two").start()
    first, second = one.create_thread("first"), two.create_thread("second")
    both = threading.Barrier(2)

    def wait_for(other, limit_s):
        both.wait(PATIENCE_S)
        try:
            return other.call(int).result(limit_s)
        except TimeoutError as error:
            return str(error)

    # The first gives up while the other one waits; then it runs what the other one waits for.
    gives_up, goes_on = first.call(wait_for, second, 1.5), second.call(wait_for, first, PATIENCE_S)
    text = gives_up.result(PATIENCE_S)
    assert goes_on.result(PATIENCE_S) == 0
    logged = said(caplog, "has waited")
    assert len(logged) >= 2
    for each in [*logged, text]:
        for name in ("'one'", "'two'", "'first'", "'second'"):
            assert name in each
    assert "itself waits for" in text


def test_waiting_for_room_says_for_whom_it_waits(lib, caplog, soon):
    thread = lib.create_thread("net", ring_size=2)
    fill(thread)
    with pytest.raises(RingFullTimeoutError, match=r"thread 'net'.*on no reactor.*2 messages wait"):
        thread.send_msg_wait(noop, timeout_s=0.7)
    assert len(said(caplog, "send_msg_wait has waited")) == 1
    drain(thread)


def test_a_full_ring_says_where_it_is_and_what_to_do(make_reactor):
    thread = make_reactor(name="idler").create_thread("net", ring_size=2)
    fill(thread)
    with pytest.raises(RingFullError, match=r"thread 'net'.*'idler'.*never started.*2 messages wait.*send_msg_wait"):
        thread.send_msg(noop)


def test_an_exited_thread_says_so(lib):
    thread = lib.create_thread("net")
    finish(thread)
    with pytest.raises(ThreadExitedError, match=r"thread 'net' \(id 1\), which has exited"):
        thread.call(int)


# Futures that cannot be settled any more


def test_a_future_does_not_keep_its_thread_alive_and_fails_with_it(caplog):
    thread = ThreadLib().create_thread("lost")
    future = thread.call(int)
    gone = weakref.ref(thread)
    del thread
    gc.collect()
    assert gone() is None
    with pytest.raises(ThreadExitedError, match="never ran"):
        future.result(PATIENCE_S)


def test_a_wait_ends_when_its_thread_is_dropped():
    box = [ThreadLib().create_thread("lost")]
    waiter = OtherThread(box[0].call(int).result, PATIENCE_S)
    box.clear()
    gc.collect()
    with pytest.raises(ThreadExitedError):
        waiter.outcome()


@pytest.mark.parametrize("origin", [True, False])
@pytest.mark.parametrize("way", ["for_each_thread", "for_each_channel", "unregister"])
def test_what_is_dropped_with_its_library_settles_its_future(way, origin, caplog):
    def begin():
        lib = ThreadLib()
        threads = [lib.create_thread(name) for name in "ab"]
        device = IoDevice("disk", lib=lib).register()
        for thread in threads:
            with thread:
                device.get_io_channel()
        begun = {
            "for_each_thread": lambda: lib.for_each_thread(noop),
            "for_each_channel": lambda: device.for_each_channel(noop),
            "unregister": device.unregister,
        }[way]
        if not origin:
            return begun()
        with threads[0]:
            return begun()

    future = begin()
    gc.collect()
    assert future.done()
    with pytest.raises(ThreadExitedError, match="never ended"):
        future.result()
    caplog.clear()


def test_a_future_that_its_exited_thread_did_not_settle_fails(thread, soon):
    future = make_future(thread, running=True)
    finish(thread)
    with pytest.raises(ThreadExitedError, match="nothing left"):
        future.result(PATIENCE_S)


# Exceptions that are never retrieved


def boom(*args):
    raise ValueError("boom")


def test_the_exception_of_a_call_that_is_never_retrieved_is_reported_with_the_future(thread, errors):
    future = thread.call(boom)
    drain(thread)
    assert errors == []
    del future
    (context,) = errors
    assert isinstance(context["exception"], ValueError)
    assert context["thread"] is thread
    assert context["fn"] is boom
    assert "boom on thread 'net'" in context["message"]
    assert "never retrieved" in context["message"]


def test_an_exception_that_was_retrieved_is_not_reported(thread, errors):
    futures = [thread.call(boom) for _ in range(3)]
    with thread:
        futures.append(thread.executor().submit(boom))
    drain(thread)
    with pytest.raises(ValueError, match="boom"):
        futures[0].result()
    assert isinstance(futures[1].exception(), ValueError)
    futures[2].add_done_callback(lambda future: future.exception())
    assert isinstance(futures[3].exception(), ValueError)
    futures.clear()
    gc.collect()
    assert errors == []


def test_executors_iterations_and_coroutines_report_too(thread, lib, errors):
    device = IoDevice("disk", lib=lib).register()
    with thread:
        channel = device.get_io_channel()

    async def fail():
        boom()

    begin = [
        lambda: thread.executor().submit(boom),
        lambda: device.for_each_channel(boom),
        lambda: thread.spawn(fail()),
    ]
    for one in begin:
        future = one()
        drain(thread)
        assert errors == []
        del future
        gc.collect()
        assert errors.types == [ValueError]
        assert "never retrieved" in errors[0]["message"]
        errors.clear()
    with thread:
        channel.put()
    drain(thread)
    device.unregister()
    drain(thread)


def test_without_its_library_an_exception_goes_to_the_log(caplog):
    thread = ThreadLib().create_thread("net")
    future = thread.call(boom)
    thread.poll()
    del thread
    gc.collect()
    del future
    assert said(caplog, "never retrieved")
    caplog.clear()


def test_a_cancelled_future_reports_nothing(thread, errors):
    thread.call(boom).cancel()
    drain(thread)
    gc.collect()
    assert errors == []


# Stops that take long


def test_a_stop_that_takes_long_says_what_runs_and_what_waits_and_says_it_more_rarely(make_reactor, caplog, soon):
    reactor = make_reactor(name="busy").start()
    thread = reactor.create_thread("net")
    go_on = threading.Event()

    def long_one():
        assert go_on.wait(PATIENCE_S)

    first = thread.call(long_one)
    eventually(first.running)
    last = thread.call(int)
    stop = OtherThread(reactor.stop)
    eventually(lambda: len(said(caplog, "has been stopping")) >= 3)
    texts = said(caplog, "has been stopping")
    go_on.set()
    assert stop.outcome().ok
    assert (first.result(), last.result()) == (None, 0)
    assert "'busy'" in texts[0]
    assert "long_one" in texts[0] or "a message" in texts[0]
    assert "thread 'net' on reactor 'busy' (1 message)" in texts[0]
    times = [record.created for record in caplog.records if "has been stopping" in record.getMessage()]
    assert times[2] - times[1] > 0.05


def test_a_group_that_stops_names_the_reactor_that_it_waits_for(make_group, caplog, soon):
    group = make_group("0-1").start()
    thread = group[1].create_thread("net")
    go_on = threading.Event()
    held = thread.call(go_on.wait, PATIENCE_S)
    eventually(held.running)
    stop = OtherThread(group.stop)
    eventually(lambda: said(caplog, "has been stopping"))
    texts = said(caplog, "has been stopping")
    go_on.set()
    assert stop.outcome().ok
    assert f"on reactor {group[1].name!r}" in texts[0]


def test_a_stop_of_a_reactor_whose_loop_does_not_run_says_what_it_waits_for(make_reactor, caplog, soon):
    reactor = make_reactor(name="new")
    thread = reactor.create_thread("net")
    device = IoDevice("disk", lib=thread.lib).register()
    iterators = []

    def defer(iterator):
        iterator.defer()
        iterators.append(iterator)

    def begin():
        device.get_io_channel()
        return device.for_each_channel(defer)

    thread.send_msg(begin)
    stop = OtherThread(reactor.stop)
    eventually(lambda: said(caplog, "has been stopping"))
    assert "deferred on thread 'net'" in said(caplog, "has been stopping")[0]
    thread._send_library_msg(iterators[0].continue_)
    report = stop.outcome()
    assert [left.device for left in report.leftover_channels] == ["disk"]
    (channel,) = device.channels
    with thread:
        channel.put()
    drain(thread)
    device.unregister()
    drain(thread)


# What keeps a thread


def test_a_coroutine_that_sleeps_keeps_its_thread_by_name_and_is_no_poller(thread, clock):
    async def sleepy():
        await aio.sleep_us(1e6)

    with thread:
        future = thread.spawn(sleepy())
        thread.poll()
        thread.exit()
    thread.poll()
    assert thread.state == "exiting"
    assert [words.split(".")[-1] for words in thread.exit_blockers] == ["sleepy'"]
    assert thread.exit_blockers[0].startswith("coroutine ")
    assert (thread.has_pollers, thread.pollers) == (False, ())
    clock.advance(us=1e6)
    thread.poll()
    assert future.done()
    assert thread.exit_blockers == ()
    assert thread.is_exited


def test_an_event_loop_keeps_its_thread_by_name():
    lib = ThreadLib()
    thread = SpdkThread("net", lib=lib)
    loop = aio.EventLoop(thread)
    (words,) = thread.exit_blockers
    assert words.startswith("event loop")
    with thread:
        thread.exit()
    thread.poll()
    assert thread.state == "exiting"
    loop.close()
    thread.poll()
    assert thread.is_exited
    lib.close()


def test_a_thread_and_its_library_can_be_dropped_with_an_unwaited_future_of_each_kind(caplog):
    """No future takes part in a cycle that the collector cannot see."""
    lib = ThreadLib()
    thread = lib.create_thread("net")
    futures = [thread.call(noop), lib.for_each_thread(noop), thread.executor().submit(noop)]
    drain(thread)
    assert all(future.done() for future in futures)
    finish(thread)
    gone = weakref.ref(thread)
    del thread, lib
    gc.collect()
    assert gone() is None
    assert elsewhere(futures[0].result) is None
    assert logging.getLogger("spdkthread")
