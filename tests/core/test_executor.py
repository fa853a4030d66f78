"""`SpdkThread.executor` and `ThreadExecutor`, beside the behaviour of the standard library's executors."""

import asyncio
import concurrent.futures
import gc
import itertools
import threading
import time
import weakref

import pytest
from support import PATIENCE_S, OtherThread, drain, eventually, finish, run_python

from spdkthread import ReactorGroup, SpdkThread, ThreadExitedError, ThreadLib, WrongThreadError, aio, get_thread
from spdkthread.aio import executor as executor_module


def add(a, b=0, *, c=0):
    return a + b + c


def fail(error):
    raise error


@pytest.fixture
def net(reactor):
    return reactor.create_thread("net")


@pytest.fixture(params=["one thread", "a group"])
def executor(request, make_reactor, live_lib):
    if request.param == "one thread":
        made = make_reactor().start().create_thread("net").executor()
        with made:
            yield made
    else:
        with ReactorGroup(2, lib=live_lib) as group:
            for _ in range(3):
                group.create_thread()
            with group.executor() as made:
                yield made


# As the standard library's own tests of its executors have it


def test_submit(executor):
    assert executor.submit(pow, 2, 8).result(PATIENCE_S) == 256


def test_submit_takes_keywords_even_self_and_fn(executor):
    def capture(*args, **options):
        return args, options

    assert executor.submit(add, 1, b=2, c=3).result(PATIENCE_S) == 6
    assert executor.submit(capture, 1, self=2, fn=3).result(PATIENCE_S) == ((1,), {"self": 2, "fn": 3})
    with pytest.raises(TypeError):
        executor.submit(fn=capture, arg=1)
    with pytest.raises(TypeError):
        executor.submit(arg=1)


def test_map(executor):
    assert list(executor.map(pow, range(10), range(10))) == list(map(pow, range(10), range(10)))
    assert list(executor.map(pow, range(10), range(10), chunksize=3)) == list(map(pow, range(10), range(10)))


def test_map_of_nothing_and_of_unequal_lengths(executor):
    assert list(executor.map(pow, [], [])) == []
    assert list(executor.map(add, range(3), itertools.count())) == [0, 2, 4]
    assert list(executor.map(add, range(3), itertools.count(), chunksize=2)) == [0, 2, 4]


def test_map_raises_what_a_call_raised_when_its_turn_comes(executor):
    results = executor.map(divmod, [1, 1, 1, 1], [2, 3, 0, 5])
    assert next(results) == (0, 1)
    assert next(results) == (0, 1)
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_map_times_out(executor):
    gate = threading.Event()
    got = []
    with pytest.raises(concurrent.futures.TimeoutError):
        for result in executor.map(lambda event: event and event.wait(PATIENCE_S), [None, None, gate], timeout=0.1):
            got.append(result)  # noqa: PERF402
    gate.set()
    assert got == [None, None]


@pytest.mark.parametrize("chunksize", [0, -1])
def test_map_refuses_a_chunksize_below_one(executor, chunksize):
    with pytest.raises(ValueError, match="chunksize"):
        executor.map(add, [1], chunksize=chunksize)


@pytest.mark.parametrize("chunksize", [1, 2, 3, 4, 5, 6, 7, 100])
def test_map_gives_the_same_with_every_chunksize(executor, chunksize):
    assert list(executor.map(pow, range(6), itertools.repeat(2), chunksize=chunksize)) == [0, 1, 4, 9, 16, 25]


def test_it_keeps_no_reference_to_what_is_done(executor):
    class Thing:
        def run(self):
            pass

    thing = Thing()
    reference = weakref.ref(thing)
    future = executor.submit(thing.run)
    future.result(PATIENCE_S)
    del thing
    eventually(lambda: reference() is None)


def test_an_exceptions_traceback_keeps_no_future_alive(executor):
    future = executor.submit(fail, ValueError())
    assert isinstance(future.exception(PATIENCE_S), ValueError)


def test_wait_and_as_completed_work(executor):
    futures = {executor.submit(add, number) for number in range(20)}
    assert set(concurrent.futures.as_completed(futures, PATIENCE_S)) == futures
    assert concurrent.futures.wait(futures, PATIENCE_S).done == futures


def test_run_in_executor_works(executor):
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(ZeroDivisionError):
            await loop.run_in_executor(executor, divmod, 1, 0)
        return await asyncio.gather(*(loop.run_in_executor(executor, add, number) for number in range(50)))

    assert asyncio.run(main()) == list(range(50))
    assert asyncio.run(main(), debug=True) == list(range(50))


def test_submitting_after_shutdown_is_the_standard_error(executor):
    executor.shutdown()
    with pytest.raises(RuntimeError, match="cannot schedule new futures after shutdown"):
        executor.submit(int)
    executor.shutdown()
    executor.shutdown(wait=False, cancel_futures=True)


def test_shutdown_waits_for_what_was_taken(net):
    executor = net.executor()
    gate = threading.Event()
    futures = [executor.submit(gate.wait, PATIENCE_S), executor.submit(add, 1)]
    stopping = OtherThread(executor.shutdown)
    eventually(lambda: "shut down" in repr(executor))
    assert not futures[1].done()
    gate.set()
    stopping.outcome()
    assert [future.result(timeout=0) for future in futures] == [True, 1]


def test_shutdown_without_waiting_lets_the_calls_run(net):
    executor = net.executor()
    gate = threading.Event()
    futures = [executor.submit(gate.wait, PATIENCE_S), *(executor.submit(add, number) for number in range(20))]
    executor.shutdown(wait=False)
    assert not futures[0].done()
    gate.set()
    assert [future.result(PATIENCE_S) for future in futures] == [True, *range(20)]


def test_shutdown_with_cancel_futures_cancels_what_has_not_begun(net):
    executor = net.executor()
    gate, begun = threading.Event(), threading.Event()

    def first():
        begun.set()
        return gate.wait(PATIENCE_S)

    ran = []
    running = executor.submit(first)
    pending = [executor.submit(ran.append, number) for number in range(20)]
    assert begun.wait(PATIENCE_S)
    stopping = OtherThread(lambda: executor.shutdown(cancel_futures=True))
    eventually(lambda: all(future.cancelled() for future in pending))
    assert not running.done()
    gate.set()
    stopping.outcome()
    assert running.result(timeout=0) is True
    net.call(int).result(PATIENCE_S)
    assert ran == []


def test_a_with_block_waits_at_its_end(net):
    with net.executor() as executor:
        future = executor.submit(time.sleep, 0.01)
    assert future.done()


# Our own


def test_the_calls_run_on_the_thread(net):
    with net.executor() as executor:
        assert executor.submit(get_thread).result(PATIENCE_S) is net


def test_the_least_loaded_thread_is_chosen(lib):
    threads = [lib.create_thread(f"t{number}") for number in range(3)]
    for _ in range(5):
        threads[0].send_msg(int)
    threads[2].send_msg(int)
    executor = aio.ThreadExecutor(threads)
    futures = [executor.submit(get_thread) for _ in range(3)]
    drain(*threads)
    assert [future.result(timeout=0) for future in futures].count(threads[1]) >= 1
    assert threads[0] not in [future.result(timeout=0) for future in futures]


def test_idle_threads_take_turns(lib):
    threads = [lib.create_thread(f"t{number}") for number in range(3)]
    executor = aio.ThreadExecutor(threads)
    futures = [executor.submit(get_thread) for _ in range(30)]
    drain(*threads)
    ran_on = [future.result(timeout=0) for future in futures]
    assert [ran_on.count(thread) for thread in threads] == [10, 10, 10]


def test_what_the_ring_cannot_take_waits_in_the_executor_in_its_order(lib):
    thread = lib.create_thread("small", ring_size=4)
    executor = thread.executor()
    order = []
    futures = [executor.submit(order.append, number) for number in range(100)]
    futures[50].cancel()
    drain(thread)
    assert all(future.done() for future in futures)
    assert order == [number for number in range(100) if number != 50]


def test_an_exited_thread_is_passed_over(lib):
    gone, there = lib.create_thread("gone"), lib.create_thread("there")
    with gone:
        gone.exit()
    gone.poll()
    executor = aio.ThreadExecutor([gone, there])
    futures = [executor.submit(get_thread) for _ in range(4)]
    drain(there)
    assert [future.result(timeout=0) for future in futures] == [there] * 4
    with there:
        there.exit()
    there.poll()
    with pytest.raises(ThreadExitedError):
        executor.submit(int)
    executor.shutdown()


def test_calls_that_never_ran_say_so(lib, caplog):
    thread = lib.create_thread("abandoned", ring_size=2)
    executor = thread.executor()
    futures = [executor.submit(add, number) for number in range(10)]
    thread._abandon()
    for future in futures:
        assert isinstance(future.exception(timeout=0), ThreadExitedError)
    executor.shutdown()


def test_waiting_for_the_end_on_the_thread_itself_raises(thread):
    executor = thread.executor()
    with thread:
        future = executor.submit(int)
        with pytest.raises(WrongThreadError):
            executor.shutdown()
    drain(thread)
    assert future.done()
    executor.shutdown()


def test_an_executor_needs_threads():
    with pytest.raises(ValueError, match="at least one"):
        aio.ThreadExecutor([])
    with pytest.raises(TypeError, match="int"):
        aio.ThreadExecutor([7])


def test_many_os_threads_submit_at_once(executor):
    def submit():
        return sum(future.result(PATIENCE_S) for future in [executor.submit(add, number) for number in range(200)])

    senders = [OtherThread(submit) for _ in range(4)]
    assert [sender.outcome() for sender in senders] == [sum(range(200))] * 4


# What comes in between


class Lost:
    """Cancels its future when it is collected, and submits once more."""

    def __init__(self, executor, log):
        self.executor, self.log = executor, log
        self.future = executor.submit(int)
        self.self = self

    def __del__(self):
        self.future.cancel()
        self.log.append(self.executor.submit(int))


def test_a_collection_inside_submit_may_cancel_and_submit(net):
    executor = net.executor()
    log = []
    before = gc.get_threshold()
    gc.set_threshold(1)
    try:
        for _ in range(300):
            Lost(executor, log)
    finally:
        gc.set_threshold(*before)
    gc.collect()
    assert len(log) == 300
    executor.shutdown()
    assert all(future.done() for future in log)
    log.clear()


def test_a_submit_that_fails_unexpectedly_leaves_nothing_for_shutdown_to_wait_for(lib):
    thread = lib.create_thread("net")

    class Refusing(aio.ThreadExecutor):
        pass

    executor = Refusing(lambda: [thread, None])
    with pytest.raises(TypeError, match="SpdkThreads"):
        executor.submit(int)
    executor.shutdown()


def test_an_interrupt_while_a_call_is_placed_leaves_nothing_behind(net, monkeypatch):
    executor = net.executor()

    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(executor_module._Place, "take_in", interrupted)
    with pytest.raises(KeyboardInterrupt):
        executor.submit(int)
    executor.shutdown()


def test_threads_that_equal_each_other_are_two(lib):
    class Same(SpdkThread):
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 1

    threads = [Same(name, lib=lib) for name in ("one", "other")]
    executor = aio.ThreadExecutor(threads)
    futures = [executor.submit(get_thread) for _ in range(4)]
    drain(*threads)
    assert sorted(future.result().name for future in futures) == ["one", "one", "other", "other"]
    executor.shutdown()


def test_calls_behind_a_full_ring_hear_when_their_thread_ends(errors):
    library = ThreadLib(exception_handler=errors)
    thread = library.create_thread("net", ring_size=2)
    executor = thread.executor()
    futures = [executor.submit(int) for _ in range(10)]
    thread._abandon()
    assert [type(future.exception(0)) for future in futures] == [ThreadExitedError] * 10
    executor.shutdown()
    finish(thread)
    library.close()


def test_a_childs_shutdown_does_not_wait_for_calls_of_its_parent():
    done = run_python(
        "import os, threading, warnings\n"
        "from spdkthread import Reactor, ThreadExitedError\n"
        "warnings.simplefilter('ignore')\n"
        "go = threading.Event()\n"
        "with Reactor() as reactor:\n"
        "    executor = reactor.create_thread().executor()\n"
        "    begun = threading.Event()\n"
        "    futures = [executor.submit(lambda: (begun.set(), go.wait())), executor.submit(int)]\n"
        "    begun.wait()\n"
        "    pid = os.fork()\n"
        "    if pid == 0:\n"
        "        executor.shutdown()\n"
        "        heard = [isinstance(future.exception(0), ThreadExitedError) for future in futures]\n"
        "        os._exit(0 if all(heard) else 1)\n"
        "    status = os.waitpid(pid, 0)[1]\n"
        "    go.set()\n"
        "print(os.waitstatus_to_exitcode(status))\n"
    )
    assert done.stdout == "0\n", done.stderr
