"""What a coroutine on an SpdkThread cannot await, and how often it may await one thing."""

import asyncio
import os
import types

import pytest
from loops import run_on_our_loop
from spawned import for_ever, raising, returning
from support import PATIENCE_S, drain

from spdkthread import (
    AwaitError,
    ThreadExitedError,
    aio,
)
from spdkthread.testing import poll_until_idle

# What cannot be awaited


@pytest.mark.parametrize("loop_factory", [asyncio.SelectorEventLoop, aio.EventLoop])
def test_an_event_loop_that_runs_inside_a_coroutine_awaits_as_everywhere_under_asyncio(thread, reactor, loop_factory):
    other = reactor.create_thread("disk")

    async def inside():
        return await other.acall(abs, -1), await other.call(abs, -2), await asyncio.wait_for(other.acall(abs, -3), 30)

    async def outside():
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            first = runner.run(inside())
        await aio.sleep_us(0)
        return *first, await other.acall(abs, -4), await other.call(abs, -5)

    future = thread.spawn(outside())
    while not future.done():
        thread.poll()
    assert future.result(0) == (1, 2, 3, 4, 5)


def test_awaiting_an_asyncio_future_is_a_clear_error(thread):
    loop = asyncio.new_event_loop()
    foreign = loop.create_future()

    async def main():
        with pytest.raises(AwaitError, match="asyncio"):
            await foreign
        return "went on"

    future = thread.spawn(main())
    drain(thread)
    assert future.result() == "went on"
    loop.close()


def test_asyncio_sleep_says_that_no_loop_runs(thread):
    async def main():
        await asyncio.sleep(1)

    future = thread.spawn(main())
    drain(thread)
    assert isinstance(future.exception(), RuntimeError)


def test_awaiting_anything_else_is_a_clear_error_too(thread):
    @types.coroutine
    def odd():
        yield "something"

    async def main():
        await odd()

    future = thread.spawn(main())
    drain(thread)
    assert isinstance(future.exception(), AwaitError)
    assert "something" in str(future.exception())


@pytest.mark.parametrize("awaitable", [lambda: aio.sleep_us(1), lambda: aio.fd_ready(0)])
def test_what_is_for_spawned_coroutines_says_so_under_asyncio(awaitable):
    async def main():
        await awaitable()

    with pytest.raises(AwaitError, match="spawned"):
        asyncio.run(main())


def test_the_same_wait_cannot_be_awaited_twice(thread):
    async def main():
        wait = aio.sleep_us(0)
        await wait
        await wait

    future = thread.spawn(main())
    drain(thread)
    assert isinstance(future.exception(), AwaitError)


def test_acall_where_nothing_can_be_awaited_is_the_standard_error(thread):
    with pytest.raises(RuntimeError, match="no running event loop"):
        thread.acall(int)


def test_a_coroutine_that_is_never_awaited_is_pythons_own_warning(thread):
    async def forgetful():
        returning(1)
        aio.sleep_us(5)  # nothing was begun, so nothing is lost

    future = thread.spawn(forgetful())
    with pytest.warns(RuntimeWarning, match="returning.* was never awaited"):
        drain(thread)
    assert future.result() is None
    thread.send_msg(returning, 1)
    with pytest.warns(RuntimeWarning, match="returning.* was never awaited"):
        drain(thread)


# One coroutine, one await


@pytest.mark.parametrize("begun", [False, True])
def test_a_coroutine_that_is_spawned_twice_is_refused_and_the_first_goes_on(lib, clock, begun):
    here, there = lib.create_thread("here"), lib.create_thread("there")

    async def main():
        await aio.sleep_us(10)
        return "done"

    coroutine = main()
    future = here.spawn(coroutine)
    if begun:
        drain(here)
    for thread in (here, there):
        with pytest.raises(AwaitError, match="main"):
            thread.spawn(coroutine)
    drain(here)
    clock.advance(us=10)
    here.poll()
    assert future.result() == "done"
    with pytest.raises(AwaitError, match="main"):
        here.spawn(coroutine)


def test_a_coroutine_that_another_framework_has_begun_is_refused(thread):
    async def main():
        await Stop()

    coroutine = main()
    coroutine.send(None)
    with pytest.raises(AwaitError, match="begun"):
        thread.spawn(coroutine)
    coroutine.close()


class Stop:
    """Hands itself to whatever drives the coroutine."""

    def __await__(self):
        yield self


def awaitables(thread, other, fd):
    """One of each kind that a coroutine on a thread may await, none of which ends by itself."""
    return {
        "sleep_us": aio.sleep_us(1e9),
        "a turn": aio.sleep_us(0),
        "switch_to": aio.switch_to(other),
        "fd_ready": aio.fd_ready(fd),
        "call": other.call(int),
        "spawn": other.spawn(returning(1)),
    }


@pytest.mark.parametrize("name", ["sleep_us", "a turn", "switch_to", "fd_ready", "call", "spawn"])
@pytest.mark.parametrize("cancelled", [False, True])
def test_what_two_coroutines_await_at_once_is_an_error_for_the_second(lib, name, cancelled):
    here, other = lib.create_thread("here"), lib.create_thread("other")
    reader, writer = os.pipe()
    waits = awaitables(here, other, reader)

    async def main():
        return await waits[name]

    first = here.spawn(main())
    second = here.spawn(main())
    here.poll()
    with pytest.raises(AwaitError, match="already"):
        second.result()
    assert not first.done()
    if cancelled:
        with here:
            first.cancel()
        poll_until_idle([here, other])
        assert first.cancelled() or name == "switch_to"  # that one had gone
    else:
        os.write(writer, b"x")
        poll_until_idle([here, other])
        lib._clock.advance(us=1e9)
        poll_until_idle([here, other])
        here.poll()
        assert first.result() == {"call": 0, "spawn": 1}.get(name)
    waits.clear()
    poll_until_idle([here, other])
    os.close(reader)
    os.close(writer)


def test_a_future_that_is_done_may_be_awaited_again(lib):
    here, other = lib.create_thread("here"), lib.create_thread("other")
    future = other.call(int)

    async def main():
        return [await future, await future]

    first = here.spawn(main())
    poll_until_idle([here, other])
    second = here.spawn(main())
    drain(here)
    assert first.result() == second.result() == [0, 0]


def test_a_future_is_free_for_another_coroutine_when_the_first_has_ended(lib):
    here, other = lib.create_thread("here"), lib.create_thread("other")
    future = other.spawn(for_ever([]))
    poll_until_idle([here, other])

    async def main():
        await future

    first = here.spawn(main())
    drain(here)
    here._abandon()
    assert isinstance(first.exception(0), ThreadExitedError)
    poll_until_idle([other])
    assert future.cancelled()


def test_a_wait_that_was_cancelled_cannot_be_awaited_again(thread):
    wait = aio.sleep_us(1e9)

    async def main():
        await wait

    first = thread.spawn(main())
    drain(thread)
    with thread:
        first.cancel()
    again = thread.spawn(main())
    drain(thread)
    assert isinstance(again.exception(), AwaitError)


def test_a_wait_that_is_yielded_by_hand_serves_one_coroutine_too(thread, clock):
    wait = aio.sleep_us(5)

    @types.coroutine
    def by_hand():
        yield wait

    async def main():
        await by_hand()

    first, second = thread.spawn(main()), thread.spawn(main())
    drain(thread)
    clock.advance(us=5)
    thread.poll()
    assert first.result() is None
    assert isinstance(second.exception(), AwaitError)


def test_of_coroutines_on_two_reactors_one_has_the_wait(make_reactor):
    threads = [make_reactor().start().create_thread(name) for name in ("one", "other")]
    for _ in range(200):
        wait = aio.sleep_us(1)

        async def main(wait=wait):
            await wait

        outcomes = [future.exception(PATIENCE_S) for future in [thread.spawn(main()) for thread in threads]]
        assert sorted(type(outcome).__name__ for outcome in outcomes) == ["AwaitError", "NoneType"]


# asyncio's own


async def use_gather():
    await asyncio.gather(asyncio.sleep(1), returning(1), returning(2))


async def use_event():
    await asyncio.Event().wait()


async def use_timeout():
    async with asyncio.timeout(1):
        pass


async def use_task_group():
    async with asyncio.TaskGroup():
        pass


async def use_queue():
    await asyncio.Queue().get()


async def use_lock():
    lock = asyncio.Lock()
    await lock.acquire()
    await lock.acquire()


async def use_create_task():
    await asyncio.create_task(returning(1))


async def use_wait_for():
    await asyncio.wait_for(returning(1), 1)


async def use_to_thread():
    await asyncio.to_thread(int)


async def use_running_loop():
    await asyncio.get_running_loop().run_in_executor(None, int)


async def use_turn():
    await asyncio.sleep(0)


async def use_sleep():
    await asyncio.sleep(1)


USES = {
    use_sleep: "sleep",
    use_turn: "sleep",
    use_gather: "gather|GatheringFuture",
    use_event: "Event.wait",
    use_timeout: "timeout|Timeout",
    use_task_group: "TaskGroup",
    use_queue: "Queue.get",
    use_lock: "Lock.acquire",
    use_create_task: "create_task|returning",
    use_wait_for: "wait_for",
    use_to_thread: "to_thread",
    use_running_loop: "running event loop|Future",
}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_an_await_of_asyncios_is_an_error_that_names_it_and_leaves_no_warning(reactor, use):
    future = reactor.create_thread("net").spawn(use())
    error = future.exception(PATIENCE_S)
    assert isinstance(error, AwaitError)
    message = str(error)
    assert any(name in message for name in USES[use].split("|"))
    assert "spdkthread.aio" in message


@pytest.mark.parametrize("use", USES, ids=lambda use: use.__name__)
def test_so_it_is_on_the_thread_of_an_event_loop_that_runs(use):
    async def main():
        return await asyncio.wrap_future(asyncio.get_running_loop().thread.spawn(use()))

    with pytest.raises(AwaitError, match=r"spdkthread\.aio"):
        run_on_our_loop(main())


@pytest.mark.parametrize(
    ("kind", "text"), [(RuntimeError, "no event loop in sight"), (AttributeError, "nothing of asyncio's")]
)
def test_errors_that_are_not_asyncios_stay_what_they_are(thread, kind, text):
    error = kind(text)
    future = thread.spawn(raising(error))
    drain(thread)
    assert future.exception() is error


def test_a_misused_lock_of_asyncios_keeps_its_own_error(thread):
    async def main():
        asyncio.Lock().release()

    future = thread.spawn(main())
    drain(thread)
    assert type(future.exception()) is RuntimeError


# Under other frameworks


def test_a_future_under_a_framework_that_is_not_asyncio_says_what_to_do(thread):
    async def main():
        await thread.call(int)

    coroutine = main()
    with pytest.raises(AwaitError, match="to_thread"):
        coroutine.send(None)
    drain(thread)


def test_acall_under_a_framework_that_is_not_asyncio_says_what_to_do(thread):
    async def main():
        await thread.acall(int)

    coroutine = main()
    with pytest.raises(AwaitError, match="to_thread"):
        coroutine.send(None)
