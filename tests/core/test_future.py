"""`SpdkThread.call` and its future."""

import concurrent.futures
import gc
import logging
import threading

import pytest
from support import PATIENCE_S, OtherThread, drain, eventually

from spdkthread import ThreadExitedError, WrongThreadError, for_each_thread
from spdkthread.future import make_future


def add(a, b):
    return a + b


def fail(error):
    raise error


def test_a_call_returns_a_future_of_the_standard_library(thread):
    future = thread.call(add, 1, 2)
    assert isinstance(future, concurrent.futures.Future)
    assert not future.done()
    assert not future.running()
    drain(thread)
    assert future.done()
    assert future.result() == 3
    assert future.exception() is None


def test_an_exception_comes_back_through_the_future(thread, errors):
    error = ValueError("no")
    future = thread.call(fail, error)
    drain(thread)
    assert future.exception() is error
    with pytest.raises(ValueError, match="no"):
        future.result()
    assert not errors


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_a_call_that_stops_the_reactor_also_settles_its_future(thread, stop):
    future = thread.call(fail, stop())
    with pytest.raises(stop):
        thread.poll()
    with pytest.raises(stop):
        future.result()


def test_what_is_cancelled_before_it_ran_never_runs(thread):
    ran = []
    future = thread.call(ran.append, 1)
    assert future.cancel()
    assert future.cancel()
    assert future.cancelled()
    drain(thread)
    assert ran == []
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    with pytest.raises(concurrent.futures.CancelledError):
        future.exception()


def test_what_runs_or_has_run_cannot_be_cancelled(thread):
    seen = []
    future = thread.call(lambda: seen.append((future.cancel(), future.running())))
    drain(thread)
    assert seen == [(False, True)]
    assert not future.cancel()
    assert not future.cancelled()


def test_callbacks_run_in_their_order_and_at_once_when_it_is_done(thread):
    future = thread.call(add, 1, 2)
    calls = []
    for number in range(4):
        future.add_done_callback(lambda done, number=number: calls.append((number, done.result())))
    assert calls == []
    drain(thread)
    future.add_done_callback(lambda done: calls.append("late"))
    assert calls == [(0, 3), (1, 3), (2, 3), (3, 3), "late"]


def test_a_cancelled_future_calls_its_callbacks_at_once(thread):
    future = thread.call(add, 1, 2)
    seen = []
    future.add_done_callback(lambda done: seen.append(done.cancelled()))
    future.cancel()
    assert seen == [True]
    drain(thread)
    assert seen == [True]


def test_a_callback_that_fails_is_logged_as_in_the_standard_library(thread, caplog):
    future = thread.call(add, 1, 2)
    calls = []
    future.add_done_callback(lambda done: 1 / 0)
    future.add_done_callback(calls.append)
    with caplog.at_level(logging.ERROR, "concurrent.futures"):
        drain(thread)
    assert calls == [future]
    (record,) = [record for record in caplog.records if record.name == "concurrent.futures"]
    assert record.exc_info[0] is ZeroDivisionError


def test_result_waits_for_a_reactor(reactor):
    thread = reactor.create_thread("net")
    assert thread.call(add, 1, 2).result(PATIENCE_S) == 3


def test_many_os_threads_wait_for_one_result(reactor):
    thread = reactor.create_thread("net")
    released = threading.Event()
    future = thread.call(released.wait, PATIENCE_S)
    waiting = [OtherThread(future.result, PATIENCE_S) for _ in range(4)]
    released.set()
    assert [one.outcome() for one in waiting] == [True] * 4


def test_a_timeout_is_a_timeout_error(thread):
    future = thread.call(add, 1, 2)
    with pytest.raises(TimeoutError):
        future.result(timeout=0.001)
    with pytest.raises(concurrent.futures.TimeoutError):
        future.exception(timeout=0)
    drain(thread)
    assert future.result(timeout=0) == 3


def test_a_cancellation_wakes_those_who_wait(thread):
    future = thread.call(add, 1, 2)
    waiting = OtherThread(future.result, PATIENCE_S)
    eventually(lambda: future._condition._waiters)
    future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        waiting.outcome()
    drain(thread)


# Waiting where it would deadlock


def test_waiting_on_the_reactor_that_has_to_produce_the_result_raises(reactor):
    thread = reactor.create_thread("net")
    neighbour = reactor.create_thread("disk")

    def wait_for(target):
        return target.call(add, 1, 2).result(PATIENCE_S)

    for target in (thread, neighbour):
        with pytest.raises(WrongThreadError, match=target.name):
            thread.call(wait_for, target).result(PATIENCE_S)


def test_waiting_on_another_reactor_is_legal(make_reactor):
    first, second = make_reactor().start(), make_reactor().start()
    one, other = first.create_thread("one"), second.create_thread("other")
    assert one.call(lambda: other.call(add, 1, 2).result(PATIENCE_S)).result(PATIENCE_S) == 3


def test_waiting_in_a_callback_of_a_thread_that_its_user_drives_raises(thread):
    def ask():
        thread.call(add, 1, 2).result()

    future = thread.call(ask)
    drain(thread)
    assert isinstance(future.exception(), WrongThreadError)
    with thread:
        late = thread.call(add, 1, 2)
        with pytest.raises(WrongThreadError):
            late.exception(timeout=5)
    drain(thread)
    assert late.result() == 3


def test_what_does_not_wait_raises_no_error_about_waiting(thread):
    with thread:
        future = thread.call(add, 1, 2)
        with pytest.raises(TimeoutError):
            future.result(timeout=0)
        drain(thread)
        assert future.result() == 3


def test_waiting_for_a_for_each_thread_on_its_own_thread_raises(thread, lib):
    with thread:
        future = for_each_thread(lambda: None, lib=lib)
        with pytest.raises(WrongThreadError):
            future.result()
    drain(thread)
    assert future.result() is None


def test_concurrent_futures_wait_on_the_thread_that_produces_raises(thread):
    with thread:
        future = thread.call(add, 1, 2)
        with pytest.raises(WrongThreadError):
            concurrent.futures.wait([future])
        drain(thread)
        assert concurrent.futures.wait([future]).done == {future}


# wait and as_completed


def test_wait_and_as_completed_see_what_comes_later(reactor):
    thread = reactor.create_thread("net")
    gate = threading.Event()
    first = thread.call(add, 1, 2)
    blocked = thread.call(gate.wait, PATIENCE_S)
    last = thread.call(fail, ValueError("x"))
    done, pending = concurrent.futures.wait([first, blocked, last], return_when=concurrent.futures.FIRST_COMPLETED)
    assert first in done
    assert blocked in pending
    gate.set()
    assert set(concurrent.futures.as_completed([first, blocked, last], PATIENCE_S)) == {first, blocked, last}
    assert concurrent.futures.wait([blocked, last], PATIENCE_S).not_done == set()


def test_wait_sees_the_first_exception(thread):
    futures = [thread.call(fail, ValueError("x")), thread.call(add, 1, 2)]
    waiting = OtherThread(concurrent.futures.wait, futures, PATIENCE_S, concurrent.futures.FIRST_EXCEPTION)
    eventually(lambda: all(future._condition and future._waiters for future in futures))
    thread.poll(max_msgs=1)
    done, pending = waiting.outcome()
    assert done == {futures[0]}
    assert pending == {futures[1]}
    assert isinstance(futures[0].exception(), ValueError)
    drain(thread)


def test_wait_sees_a_cancelled_future_once_its_message_was_seen(thread):
    future = thread.call(add, 1, 2)
    waiting = OtherThread(concurrent.futures.wait, [future], PATIENCE_S)
    eventually(lambda: future._waiters)
    future.cancel()
    drain(thread)
    assert waiting.outcome().done == {future}


def test_as_completed_yields_in_the_order_of_completion(lib):
    threads = [lib.create_thread(f"t{number}") for number in range(3)]
    futures = [thread.call(add, number, 0) for number, thread in enumerate(threads)]
    completed = concurrent.futures.as_completed(futures, PATIENCE_S)
    for number in (2, 0, 1):
        drain(threads[number])
        assert next(completed).result() == number


# Endings


def test_a_call_on_an_exited_thread_is_refused(thread):
    with thread:
        thread.exit()
    thread.poll()
    with pytest.raises(ThreadExitedError):
        thread.call(add, 1, 2)


def test_a_call_that_never_ran_says_so(lib, caplog):
    thread = lib.create_thread("abandoned")
    future = thread.call(add, 1, 2)
    cancelled = thread.call(add, 1, 2)
    cancelled.cancel()
    with thread:
        thread.exit()
    thread._abandon()
    with pytest.raises(ThreadExitedError, match="add"):
        future.result(timeout=0)
    assert cancelled.cancelled()
    assert concurrent.futures.wait([cancelled], PATIENCE_S).done == {cancelled}
    thread.poll()


def test_a_call_of_something_that_is_not_callable_is_a_type_error(thread):
    with pytest.raises(TypeError, match="int"):
        thread.call(7)


# By itself


def test_a_future_can_be_settled_once(thread):
    future = make_future()
    assert future.set_running_or_notify_cancel()
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_running_or_notify_cancel()
    future.set_result(1)
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_result(2)
    with pytest.raises(concurrent.futures.InvalidStateError):
        future.set_exception(ValueError())
    assert future.result() == 1


@pytest.mark.parametrize("waited_for", [False, True])
def test_every_state_shows_in_repr(waited_for):
    def new():
        future = make_future()
        if waited_for:
            assert future._condition.acquire()
            future._condition.release()
        return future

    assert "state=pending" in repr(new())
    running = make_future(running=True)
    assert "state=running" in repr(running)
    done, failed, cancelled = new(), new(), new()
    done.set_result("text")
    failed.set_exception(ValueError())
    cancelled.cancel()
    assert "returned str" in repr(done)
    assert "raised ValueError" in repr(failed)
    assert "state=cancelled" in repr(cancelled)


def test_it_has_what_the_standard_class_has_and_takes_no_part_in_cycles():
    future = make_future()
    ours = {name for name in dir(future) if not name.startswith("_")}
    theirs = {name for name in dir(concurrent.futures.Future()) if not name.startswith("_")}
    assert theirs <= ours
    future.set_exception(ValueError())
    assert isinstance(future.exception(), ValueError)
    gc.collect()
    gc.disable()
    try:
        before = len(gc.get_objects())
        del future
        assert len(gc.get_objects()) <= before
    finally:
        gc.enable()


def test_racing_settlers_and_waiters_lose_nothing():
    for _ in range(300):
        future = make_future()
        waiting = [OtherThread(future.result, PATIENCE_S) for _ in range(2)]
        calls = []
        adding = OtherThread(lambda future=future, calls=calls: [future.add_done_callback(calls.append) for _ in "abc"])
        future.set_result(7)
        assert [one.outcome() for one in waiting] == [7, 7]
        adding.outcome()
        assert calls == [future] * 3


def test_a_cancel_races_with_the_run_and_one_of_them_wins(reactor):
    thread = reactor.create_thread("net")
    ran = []
    for number in range(300):
        future = thread.call(ran.append, number)
        cancelled = future.cancel()
        thread.call(int).result(PATIENCE_S)
        assert cancelled == future.cancelled()
        assert cancelled == (number not in ran)
