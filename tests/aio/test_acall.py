"""`await thread.acall(fn, *args)` under asyncio, uvloop and asyncio's debug mode."""

import asyncio
import contextvars
import gc
import importlib.util
import threading
import weakref

import pytest
from support import PATIENCE_S, OtherThread, drain, eventually

from spdkthread import AwaitError, RingFullError, ThreadExitedError, aio, get_thread
from spdkthread.testing import poll_until_idle

VARIABLE = contextvars.ContextVar("variable", default="unset")


def add(a, b):
    return a + b


def fail(error):
    raise error


LOOPS = {
    "asyncio": lambda: asyncio.SelectorEventLoop(),
    "aio.EventLoop": aio.EventLoop,
    **({"uvloop": lambda: __import__("uvloop").new_event_loop()} if importlib.util.find_spec("uvloop") else {}),
}


@pytest.fixture(params=[f"{name}{mode}" for name in LOOPS for mode in ("", " debug")])
def run(request):
    """Run a coroutine in a fresh loop."""
    name, _, mode = request.param.partition(" ")

    def run(main):
        with asyncio.Runner(loop_factory=LOOPS[name], debug=bool(mode)) as runner:
            # Runner sets the debug mode; what comes back in time needs no turn of the loop either way.
            return runner.run(asyncio.wait_for(main, PATIENCE_S))

    return run


@pytest.fixture
def net(reactor):
    return reactor.create_thread("net")


class WakeCounter(asyncio.SelectorEventLoop):
    wakes = 0

    def call_soon_threadsafe(self, *args, **options):
        self.wakes += 1
        return super().call_soon_threadsafe(*args, **options)


# Results


def test_a_result_comes_back(run, net):
    async def main():
        return await net.acall(add, 1, 2), await net.acall(get_thread)

    assert run(main()) == (3, net)


def test_an_exception_comes_back(run, net):
    error = ValueError("no")

    async def main():
        with pytest.raises(ValueError, match="no") as caught:
            await net.acall(fail, error)
        return caught.value

    assert run(main()) is error


def test_a_stop_iteration_comes_back_as_asyncio_has_it(run, net):
    async def main():
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await net.acall(fail, StopIteration(3))
        return caught.value.__cause__.value

    assert run(main()) == 3


def test_ten_thousand_at_once_come_back(run, reactor):
    net = reactor.create_thread("net", ring_size=16_384)

    async def main():
        return await asyncio.gather(*(net.acall(add, number, 1) for number in range(10_000)))

    assert run(main()) == list(range(1, 10_001))


def test_the_calls_of_one_task_run_in_their_order_with_its_messages(run, net):
    order = []

    async def main():
        calls = []
        for number in range(200):
            calls.append(net.acall(order.append, number))
            net.send_msg(order.append, -number)
        await asyncio.gather(*calls)
        await net.acall(int)

    run(main())
    assert order == [sign * number for number in range(200) for sign in (1, -1)]


def test_other_tasks_have_their_turn_while_one_only_calls(run, net):
    async def main():
        turns = 0
        calling = True

        async def other():
            nonlocal turns
            while calling:
                turns += 1
                await asyncio.sleep(0)

        task = asyncio.ensure_future(other())
        for _ in range(1000):
            await net.acall(int)
        calling = False
        await task
        return turns

    assert run(main()) >= 1000 // 8


# Contexts


def test_the_context_goes_along_and_changes_stay_there(run, net):
    def look():
        seen = VARIABLE.get()
        VARIABLE.set("changed there")
        return seen

    async def main():
        VARIABLE.set("mine")
        return await net.acall(look), VARIABLE.get(), await net.acall(VARIABLE.get)

    assert run(main()) == ("mine", "mine", "mine")


# Cancellation


def test_what_is_cancelled_before_it_ran_never_runs(run, net):
    ran = []

    async def main():
        gate = threading.Event()
        blocked = net.acall(gate.wait, PATIENCE_S)
        task = asyncio.ensure_future(asyncio.wait_for(net.acall(ran.append, 1), None))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        gate.set()
        await blocked
        await net.acall(int)

    run(main())
    assert ran == []


def test_cancelling_what_runs_lets_it_run_and_forgets_the_result(run, net):
    ran = []

    async def main():
        running, gate = threading.Event(), threading.Event()

        def slow():
            running.set()
            gate.wait(PATIENCE_S)
            ran.append("to its end")

        call = net.acall(slow)
        while not running.is_set():
            await asyncio.sleep(0)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gate.set()
        await net.acall(int)

    run(main())
    assert ran == ["to its end"]


def test_an_exception_after_its_future_was_cancelled_is_reported(run, net, errors):
    async def main():
        running, gate = threading.Event(), threading.Event()

        def slow():
            running.set()
            gate.wait(PATIENCE_S)
            raise ValueError("late")

        call = net.acall(slow)
        while not running.is_set():
            await asyncio.sleep(0)
        call.cancel()
        gate.set()
        await net.acall(int)
        while not errors:
            await asyncio.sleep(0)

    run(main())
    assert [str(error) for error in errors.exceptions] == ["late"]
    assert errors[0]["thread"] is net


def test_a_timeout_is_asyncios(run, net):
    gate = threading.Event()

    async def main():
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(net.acall(gate.wait, PATIENCE_S), 0.01)
        gate.set()
        return await net.acall(add, 1, 1)

    assert run(main()) == 2


def test_an_exception_of_a_call_that_is_not_awaited_goes_to_the_loops_handler(run, net):
    contexts = []

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(lambda loop, context: contexts.append(context))
        net.acall(fail, ValueError("not retrieved"))
        await net.acall(int)
        while not contexts:
            await asyncio.sleep(0.001)
            gc.collect()

    run(main())
    (context,) = contexts
    assert str(context["exception"]) == "not retrieved"
    assert "never retrieved" in context["message"]


# One wake-up per batch


def test_completions_of_one_batch_wake_the_loop_once(thread):
    """Three hundred calls on a thread that this test drives, all of them answered while the loop looks away."""

    async def main():
        loop = asyncio.get_running_loop()
        calls = [thread.acall(add, number, 0) for number in range(300)]
        drain(thread)
        assert loop.wakes == 1
        results = await asyncio.gather(*calls)
        assert loop.wakes == 1
        more = thread.acall(add, 1, 1)
        drain(thread)
        assert await more == 2
        assert loop.wakes == 2
        return results

    with asyncio.Runner(loop_factory=WakeCounter) as runner:
        assert runner.run(main()) == list(range(300))


def test_two_threads_answer_two_loops(make_reactor):
    first, second = make_reactor().start(), make_reactor().start()
    one, other = first.create_thread("one"), second.create_thread("other")

    async def main(base):
        return await asyncio.gather(
            *((one if number % 2 else other).acall(add, base, number) for number in range(1_000))
        )

    loops = [OtherThread(asyncio.run, main(base)) for base in (0, 10_000)]
    assert [loop.outcome() for loop in loops] == [list(range(1_000)), list(range(10_000, 11_000))]


# Endings


def test_a_loop_that_is_closed_before_the_answer_hangs_no_caller_and_loses_no_exception(reactor, errors):
    net = reactor.create_thread("net")
    gate = threading.Event()

    def blocked():
        gate.wait(PATIENCE_S)

    async def main():
        net.acall(blocked)
        net.acall(fail, ValueError("after the end"))
        net.acall(add, 1, 2)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    gate.set()
    net.call(int).result(PATIENCE_S)
    assert [str(error) for error in errors.exceptions] == ["after the end"]


def test_a_loop_that_is_closed_with_answers_waiting_reports_their_exceptions(thread, errors):
    async def main():
        thread.acall(fail, ValueError("waiting"))
        thread.acall(add, 1, 2)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    drain(thread)
    loop.close()
    del loop
    gc.collect()
    assert [str(error) for error in errors.exceptions] == ["waiting"]


def test_a_loop_is_not_kept_alive_by_calls_under_way(thread):
    async def main():
        thread.acall(add, 1, 2)

    loop = asyncio.new_event_loop()
    loop.run_until_complete(main())
    loop.close()
    drain(thread)
    reference = weakref.ref(loop)
    del loop
    gc.collect()
    assert reference() is None


def test_a_call_on_a_full_ring_is_refused(lib):
    thread = lib.create_thread("small", ring_size=1)

    async def main():
        first = thread.acall(add, 1, 2)
        with pytest.raises(RingFullError):
            thread.acall(add, 1, 2)
        drain(thread)
        return await first

    assert asyncio.run(main()) == 3


def test_a_call_on_an_exited_thread_is_refused(thread):
    with thread:
        thread.exit()
    thread.poll()

    async def main():
        with pytest.raises(ThreadExitedError):
            await thread.acall(int)

    asyncio.run(main())


def test_a_call_that_never_ran_says_so(lib, caplog):
    thread = lib.create_thread("abandoned")

    async def main():
        call = thread.acall(add, 1, 2)
        thread._abandon()
        with pytest.raises(ThreadExitedError, match="add"):
            await call

    asyncio.run(main())


def test_a_call_of_something_that_is_not_callable_is_a_type_error(thread):
    async def main():
        with pytest.raises(TypeError, match="int"):
            thread.acall(7)

    asyncio.run(main())


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_reactor_also_reaches_the_caller(thread, stop):
    async def main():
        call = thread.acall(fail, stop())
        with pytest.raises(stop):
            thread.poll()
        with pytest.raises(stop):
            await call

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(main())
    finally:
        loop.close()


def test_a_reactor_that_stops_answers_what_it_took(make_reactor):
    reactor = make_reactor().start()
    net = reactor.create_thread("net")

    async def main():
        calls = [net.acall(add, number, 0) for number in range(500)]
        stopping = OtherThread(reactor.stop)
        results = await asyncio.gather(*calls)
        await asyncio.to_thread(stopping.outcome)
        with pytest.raises(ThreadExitedError):
            net.acall(int)
        return results

    assert asyncio.run(main()) == list(range(500))


def test_a_thread_that_sleeps_is_woken(reactor):
    net = reactor.create_thread("net")
    eventually(lambda: reactor.stats.parks)

    async def main():
        return [await net.acall(add, number, 0) for number in range(5)]

    assert asyncio.run(main()) == list(range(5))


def test_acall_in_a_spawned_coroutine_under_a_running_loop_is_the_coroutines(lib):
    """The test polls the threads inside a task: still, the spawned coroutine does not belong to asyncio."""
    here, there = lib.create_thread("here"), lib.create_thread("there")

    async def spawned():
        return await there.acall(add, 1, 2)

    async def main():
        future = here.spawn(spawned())
        poll_until_idle([here, there])
        return future.result(timeout=0)

    assert asyncio.run(main()) == 3


# One awaitable, one task


@pytest.mark.parametrize("kind", ["acall", "call"])
def test_a_second_task_that_awaits_one_call_is_refused(lib, run, kind):
    thread = lib.create_thread("net")

    async def main():
        call = getattr(thread, kind)(pow, 2, 3)

        async def wait():
            return await call

        first, second = asyncio.ensure_future(wait()), asyncio.ensure_future(wait())
        with pytest.raises(AwaitError, match="already"):
            await second
        thread.poll()
        return await first, await call

    assert run(main()) == (8, 8)


@pytest.mark.parametrize("kind", ["acall", "call"])
def test_a_stopiteration_is_a_runtimeerror_that_it_caused(lib, run, kind):
    thread = lib.create_thread("net")

    async def main():
        call = getattr(thread, kind)(next, iter(()))
        asyncio.get_running_loop().call_soon(thread.poll)
        with pytest.raises(RuntimeError, match="StopIteration") as caught:
            await call
        assert isinstance(caught.value.__cause__, StopIteration)

    run(main())


def test_cancelling_a_task_that_awaits_a_call_cancels_the_call(lib, run):
    thread = lib.create_thread("net")

    async def main():
        call = thread.call(int)

        async def wait():
            await call

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert call.cancelled()
        with pytest.raises(asyncio.CancelledError):
            await call

    run(main())
    drain(thread)
