"""What `acall` returns is a future to asyncio: its functions, tasks and callbacks take it for one of their own."""

import asyncio
import contextvars
import gc

import pytest
from support import PATIENCE_S, drain

from spdkthread.aio.loop_future import LoopFuture

VARIABLE = contextvars.ContextVar("variable", default="unset")


def add(a, b):
    return a + b


def fail(error):
    raise error


@pytest.fixture
def run(thread):
    """Run ``main(future)`` in a fresh loop."""

    def run(main, *, debug=False):
        async def body():
            return await main(LoopFuture(asyncio.get_running_loop()))

        with asyncio.Runner(debug=debug) as runner:
            return runner.run(asyncio.wait_for(body(), PATIENCE_S))

    return run


# Outcomes


@pytest.mark.parametrize("result", [None, 7, (1, 2), StopIteration(3), ValueError("as a result")])
def test_whatever_is_a_result_is_what_await_gives(run, result):
    async def main(future):
        asyncio.get_running_loop().call_soon(future.set_result, result)
        return await future, await future, future.result(), future.exception()

    assert run(main) == (result, result, result, None)


@pytest.mark.parametrize("result", [None, 7, (1, 2), ValueError("as a result")])
def test_an_outcome_that_is_there_takes_no_turn_of_the_loop(run, result):
    async def main(future):
        future.set_result(result)
        turns = []
        asyncio.get_running_loop().call_soon(turns.append, 1)
        return await future, len(turns)

    assert run(main) == (result, 0)


def test_an_exception_is_raised_with_the_traceback_it_came_with(run):
    async def main(future):
        try:
            fail(ValueError("no"))
        except ValueError as error:
            future.set_exception(error)
        lengths = []
        for _ in range(3):
            with pytest.raises(ValueError, match="no") as caught:
                await future
            lengths.append(len(caught.traceback))
        assert future.exception() is caught.value
        return lengths

    first, *others = run(main)
    assert others == [first, first]


def test_a_plain_iteration_waits_as_well(run):
    class Waiting:
        def __init__(self, future):
            self.future = future

        def __await__(self):
            return (yield from self.future)

    async def main(future):
        asyncio.get_running_loop().call_soon(future.set_result, 5)
        return await Waiting(future), await Waiting(future)

    assert run(main) == (5, 5)


def test_several_tasks_await_one(run):
    async def main(future):
        async def wait():
            return await future

        tasks = [asyncio.ensure_future(wait()) for _ in range(5)]
        await asyncio.sleep(0)
        future.set_result(3)
        return await asyncio.gather(*tasks)

    assert run(main) == [3] * 5


def test_before_there_is_an_outcome_asking_is_an_error_that_names_it(run):
    async def main(future):
        for ask in (future.result, future.exception):
            with pytest.raises(asyncio.InvalidStateError, match="LoopFuture pending"):
                ask()
        assert not future.done()
        future.set_result(1)
        with pytest.raises(asyncio.InvalidStateError, match="LoopFuture finished result=1"):
            future.set_result(2)
        with pytest.raises(asyncio.InvalidStateError):
            future.set_exception(ValueError)

    run(main)


def test_only_exceptions_that_a_coroutine_can_be_given_are_outcomes(run):
    async def main(future):
        for wrong in (StopIteration, StopIteration(1), 7, int):
            with pytest.raises(TypeError):
                future.set_exception(wrong)
        future.set_exception(ValueError)
        with pytest.raises(ValueError, match=r"^$"):
            await future

    run(main)


# Cancellation


def test_a_cancelled_one_says_so_to_what_awaits_it(run):
    async def main(future):
        asyncio.get_running_loop().call_soon(future.cancel, "enough")
        with pytest.raises(asyncio.CancelledError, match="enough"):
            await future
        assert future.cancelled()
        assert future.done()
        assert not future.cancel()
        for ask in (future.result, future.exception):
            with pytest.raises(asyncio.CancelledError):
                ask()

    run(main)


def test_cancelling_a_task_cancels_what_it_awaits(run):
    async def main(future):
        async def wait():
            await future

        task = asyncio.ensure_future(wait())
        await asyncio.sleep(0)
        task.cancel("over")
        with pytest.raises(asyncio.CancelledError):
            await task
        return future.cancelled()

    assert run(main)


# Callbacks


def test_callbacks_are_called_in_their_order_and_contexts_and_never_inline(run):
    async def main(future):
        calls = []
        contexts = [contextvars.copy_context() for _ in range(3)]
        for number, context in enumerate(contexts):
            context.run(VARIABLE.set, number)
            future.add_done_callback(lambda done: calls.append((done, VARIABLE.get())), context=context)
        VARIABLE.set("the adder's")
        future.add_done_callback(lambda done: calls.append((done, VARIABLE.get())))
        future.set_result(None)
        assert calls == []
        await asyncio.sleep(0)
        future.add_done_callback(lambda done: calls.append((done, "late")))
        await asyncio.sleep(0)
        return [seen for done, seen in calls if done is future]

    assert run(main) == [0, 1, 2, "the adder's", "late"]


def test_a_callback_taken_back_is_not_called(run):
    async def main(future):
        calls = []
        other = calls.append

        def mine(done):
            calls.append("mine")

        for fn in (mine, other, mine, other):
            future.add_done_callback(fn)
        assert len(future._callbacks) == 4
        assert future.remove_done_callback(mine) == 2
        assert future.remove_done_callback(mine) == 0
        future.set_result(None)
        await asyncio.sleep(0)
        assert future.remove_done_callback(other) == 0
        return calls == [future, future]

    assert run(main)


# asyncio's functions


def test_asyncio_takes_it_for_a_future(run):
    async def main(future):
        loop = asyncio.get_running_loop()
        assert asyncio.isfuture(future)
        assert asyncio.ensure_future(future) is future
        assert asyncio.wrap_future(future) is future
        assert future.get_loop() is future._loop is loop
        shielded = asyncio.shield(future)
        loop.call_soon(future.set_result, 4)
        done, pending = await asyncio.wait([future, shielded], timeout=PATIENCE_S)
        assert (len(done), len(pending)) == (2, 0)
        assert [await each for each in asyncio.as_completed([future])] == [4]
        return await asyncio.wait_for(future, 1), await shielded

    assert run(main) == (4, 4)


def test_a_future_of_another_loop_is_refused(run):
    stranger = asyncio.new_event_loop()
    try:
        future = LoopFuture(stranger)

        async def main(own):
            with pytest.raises(RuntimeError, match="loop"):
                await future

        run(main)
    finally:
        stranger.close()


def test_gather_sees_what_became_of_each(run):
    async def main(future):
        loop = asyncio.get_running_loop()
        good, bad, gone = future, LoopFuture(loop), LoopFuture(loop)
        gathered = asyncio.gather(good, bad, gone, return_exceptions=True)
        good.set_result(1)
        bad.set_exception(KeyError("bad"))
        gone.cancel()
        first, second, third = await gathered
        return first, repr(second), type(third)

    assert run(main) == (1, "KeyError('bad')", asyncio.CancelledError)


def test_timeouts_end_the_wait(run):
    async def main(future):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await future
        return future.cancelled()

    assert run(main)


# Exceptions that were not retrieved


def handled(loop):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    return contexts


@pytest.mark.parametrize("debug", [False, True])
def test_an_exception_that_was_not_retrieved_goes_to_the_loops_handler(run, debug):
    async def main(future):
        contexts = handled(asyncio.get_running_loop())
        LoopFuture(asyncio.get_running_loop()).set_exception(ValueError("not retrieved"))
        future.set_exception(ValueError("asked for"))
        future.exception()
        del future
        gc.collect()
        return contexts

    (context,) = run(main, debug=debug)
    assert str(context["exception"]) == "not retrieved"
    assert context["message"] == "LoopFuture exception was never retrieved"
    if debug:
        assert any(frame.name == "main" for frame in context["source_traceback"])


# A batch, as acall settles it


@pytest.mark.parametrize("debug", [False, True])
def test_a_batch_calls_every_callback_in_its_context_and_reports_those_that_fail(thread, debug):
    async def main():
        contexts, seen = handled(asyncio.get_running_loop()), []
        calls = [thread.acall(add, number, 0) for number in range(4)]
        for number, call in enumerate(calls):
            context = contextvars.copy_context()
            context.run(VARIABLE.set, number)
            call.add_done_callback(lambda call: seen.append((call.result(), VARIABLE.get())), context=context)
            call.add_done_callback(lambda call: fail(ValueError(call.result())))
            call.add_done_callback(lambda call: seen.append("after"))
        drain(thread)
        await asyncio.gather(*calls)
        await asyncio.sleep(0)
        return seen, [str(context["exception"]) for context in contexts]

    with asyncio.Runner(debug=debug) as runner:
        seen, reports = runner.run(main())
    assert seen == [step for number in range(4) for step in ((number, number), "after")]
    assert reports == [str(number) for number in range(4)]


def test_a_callback_that_ends_the_loop_loses_no_other_answer(thread):
    seen, calls = [], []

    async def main():
        calls.extend(thread.acall(add, number, 0) for number in range(3))
        calls[0].add_done_callback(lambda call: fail(KeyboardInterrupt()))
        for call in calls:
            call.add_done_callback(lambda call: seen.append(call.result()))
        drain(thread)
        await asyncio.sleep(PATIENCE_S)

    loop = asyncio.new_event_loop()
    try:
        task = loop.create_task(main())
        with pytest.raises(KeyboardInterrupt):
            loop.run_until_complete(task)
        loop.run_until_complete(asyncio.wait(calls))
        loop.run_until_complete(asyncio.sleep(0))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            loop.run_until_complete(task)
    finally:
        loop.close()
    assert seen == [0, 1, 2]


def test_tasks_resumed_by_a_batch_may_call_again(reactor):
    net = reactor.create_thread("net")

    async def work(number):
        for step in range(5):
            number = await net.acall(add, number, step)
        return number

    async def main():
        return await asyncio.gather(*(work(number) for number in range(100)))

    assert asyncio.run(main()) == [number + 10 for number in range(100)]


def test_a_call_that_is_given_a_result_from_outside_keeps_it_and_reports_what_it_raised(thread, errors):
    async def main():
        call = thread.acall(fail, ValueError("of the call itself"))
        call.set_result("given")
        assert await call == "given"
        drain(thread)
        while not errors:
            await asyncio.sleep(0)
        return await call

    assert asyncio.run(main()) == "given"
    assert [str(error) for error in errors.exceptions] == ["of the call itself"]
