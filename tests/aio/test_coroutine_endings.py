"""Coroutines and asynchronous generators of threads that exit or are dropped."""

import asyncio
import gc

import pytest
from loops import run_on_our_loop
from spawned import for_ever, returning
from support import PATIENCE_S, drain, elsewhere, eventually, finish

from spdkthread import (
    RingFullError,
    SpdkThread,
    ThreadExitedError,
    ThreadLib,
    WrongThreadError,
    aio,
    get_thread,
)
from spdkthread.testing import poll_until_idle

# Endings of threads


def test_spawning_on_an_exiting_thread_works_and_on_an_exited_one_does_not(thread):
    with thread:
        thread.exit()
    future = thread.spawn(returning(1))
    thread.poll()
    assert future.result() == 1
    thread.poll()
    assert thread.is_exited
    coroutine = returning(2)
    with pytest.raises(ThreadExitedError):
        thread.spawn(coroutine)
    coroutine.close()


def test_a_thread_does_not_exit_before_its_coroutines(thread, clock):
    async def main():
        await aio.sleep_us(10)

    future = thread.spawn(main())
    drain(thread)
    with thread:
        thread.exit()
    thread.poll()
    assert thread.state == "exiting"
    clock.advance(us=10)
    thread.poll()
    thread.poll()
    assert future.done()
    assert thread.is_exited


def test_a_coroutine_of_a_forgotten_thread_is_closed_and_its_future_says_why(errors):
    library = ThreadLib(exception_handler=errors)
    log = []
    thread = SpdkThread("forgotten", lib=library)
    future = thread.spawn(for_ever(log))
    drain(thread)
    thread._abandon()
    assert log == ["cleaned up"]
    with pytest.raises(ThreadExitedError, match="for_ever"):
        future.result(timeout=0)
    finish(thread)
    library.close()


def test_a_coroutine_that_never_began_is_closed_without_a_warning(lib, caplog):
    thread = lib.create_thread("abandoned")
    future = thread.spawn(returning(1))
    thread._abandon()
    with pytest.raises(ThreadExitedError, match="returning"):
        future.result(timeout=0)


def test_a_full_ring_refuses_a_spawn_and_leaves_the_coroutine_alone(lib):
    thread = lib.create_thread("small", ring_size=1)
    first, second = returning(1), returning(2)
    one = thread.spawn(first)
    with pytest.raises(RingFullError):
        thread.spawn(second)
    drain(thread)
    two = thread.spawn(second)
    drain(thread)
    assert (one.result(), two.result()) == (1, 2)


def test_a_stopping_reactor_names_the_coroutines_that_it_leaves(make_reactor, live_lib):
    reactor = make_reactor()
    reactor.start()
    thread = reactor.create_thread("net")
    log = []
    future = thread.spawn(for_ever(log))
    eventually(future.running)
    report = reactor.stop(timeout_s=PATIENCE_S)
    assert not report.ok
    assert ("net", "coroutine", "coroutine 'for_ever'") in [tuple(left) for left in report.leftover_others]
    assert report.leftover_pollers == ()
    with thread:
        future.cancel()
    thread.poll()
    assert future.cancelled()


def test_waiting_for_a_coroutine_on_its_own_thread_raises(thread):
    with thread:
        future = thread.spawn(returning(1))
        with pytest.raises(WrongThreadError):
            future.result()
    drain(thread)
    assert elsewhere(future.result, PATIENCE_S) == 1


# Asynchronous generators


async def rows(log, wait_us=0):
    try:
        for number in range(100):
            yield number
    finally:
        await aio.sleep_us(wait_us)
        log.append(get_thread())


def test_an_asynchronous_generator_that_is_left_is_closed_on_its_thread(thread):
    log = []

    async def main():
        async for _ in rows(log):
            break
        for _ in range(5):
            await aio.sleep_us(0)

    future = thread.spawn(main())
    drain(thread)
    assert future.done()
    assert log == [thread]


def test_one_that_is_dropped_on_another_os_thread_is_closed_on_its_own(reactor):
    log, kept = [], []
    thread = reactor.create_thread("net")

    async def main():
        generator = rows(log)
        await anext(generator)
        kept.append(generator)

    thread.spawn(main()).result(PATIENCE_S)
    kept.clear()
    gc.collect()
    eventually(lambda: log)
    assert log == [thread]


def test_those_that_are_left_are_closed_before_the_thread_exits(thread, clock):
    log, kept = [], []

    async def main():
        generator = rows(log, 10)
        kept.append(generator)
        await anext(generator)

    thread.spawn(main())
    drain(thread)
    with thread:
        thread.exit()
    for _ in range(5):
        thread.poll()
    assert thread.state == "exiting"
    clock.advance(us=10)
    for _ in range(5):
        thread.poll()
    assert thread.is_exited
    assert log == [thread]


def test_one_whose_coroutine_lives_elsewhere_outlasts_the_thread_where_it_was_begun(lib):
    first, second = lib.create_thread("first"), lib.create_thread("second")
    log = []

    async def main():
        generator = rows(log)
        numbers = [await anext(generator)]
        await aio.switch_to(second)
        for _ in range(20):
            await aio.sleep_us(0)
        numbers.append(await anext(generator))
        await generator.aclose()
        return numbers

    future = first.spawn(main())
    drain(first)
    with first:
        first.exit()
    first.poll()
    first.poll()
    assert first.is_exited
    poll_until_idle([second])
    assert future.result() == [0, 1]
    assert log == [second]


def test_one_that_cannot_be_closed_is_reported(thread, errors):
    async def failing():
        try:
            yield 1
        finally:
            raise OSError("not closed")

    async def main():
        async for _ in failing():
            break

    thread.spawn(main())
    drain(thread)
    gc.collect()
    assert errors.types == [OSError]


def test_asyncios_own_generators_are_left_to_asyncio(thread):
    log = []

    async def numbers():
        try:
            yield 1
        finally:
            await asyncio.sleep(0)
            log.append("closed")

    async def main():
        asyncio.get_running_loop().thread.spawn(returning(1))
        await asyncio.sleep(0)
        async for _ in numbers():
            break
        await asyncio.sleep(0)
        await asyncio.sleep(0)

    run_on_our_loop(main())
    assert log == ["closed"]


# Ends that others do not hinder


async def waits_at_the_end():
    try:
        await aio.sleep_us(1e9)
    finally:
        await aio.sleep_us(1)


async def fails_at_the_end():
    try:
        await aio.sleep_us(1e9)
    finally:
        raise OSError("at the end")


async def never_gives_up():
    while True:
        try:
            await aio.sleep_us(1e9)
        except BaseException:
            pass


def test_closing_a_loop_with_coroutines_that_wait_at_their_ends_is_quiet(caplog):
    loop = aio.EventLoop()
    thread = loop.thread
    futures = [thread.spawn(waits_at_the_end()) for _ in range(3)]
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    for future in futures:
        with pytest.raises(ThreadExitedError, match="waits_at_the_end"):
            future.result(0)
    assert thread.is_exited
    assert not caplog.records


def test_a_coroutine_that_fails_at_its_end_keeps_no_other_from_ending(errors):
    library = ThreadLib(exception_handler=errors)
    thread = library.create_thread("net")
    makers = (fails_at_the_end, waits_at_the_end, fails_at_the_end, lambda: for_ever([]))
    futures = [thread.spawn(make()) for make in makers]
    drain(thread)
    thread._abandon()
    for future in futures:
        assert isinstance(future.exception(0), ThreadExitedError)
    assert errors.types == [OSError, OSError]
    assert isinstance(futures[0].exception(0).__cause__, OSError)
    finish(thread)
    assert thread.is_exited
    library.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_coroutine_that_swallows_its_end_is_left_and_reported(errors):
    library = ThreadLib(exception_handler=errors)
    thread = library.create_thread("net")
    future, other = thread.spawn(never_gives_up()), thread.spawn(waits_at_the_end())
    drain(thread)
    thread._abandon()
    assert isinstance(future.exception(0), ThreadExitedError)
    assert isinstance(other.exception(0), ThreadExitedError)
    assert errors.types == [RuntimeError]
    finish(thread)
    library.close()


def test_a_message_whose_future_cannot_be_told_keeps_no_other_from_being_dropped(errors):
    library = ThreadLib(exception_handler=errors)
    thread = library.create_thread("net")
    futures = [thread.call(int) for _ in range(3)]

    def interrupted(_):
        raise KeyboardInterrupt

    futures[0].add_done_callback(interrupted)
    thread._abandon()
    assert [type(future.exception(0)) for future in futures] == [ThreadExitedError] * 3
    assert errors.types == [KeyboardInterrupt]
    finish(thread)
    library.close()


def test_a_coroutine_that_was_cancelled_before_it_began_is_closed_with_its_thread(errors):
    library = ThreadLib(exception_handler=errors)
    thread = library.create_thread("net")
    future = thread.spawn(returning(1))
    future.cancel()
    thread._abandon()
    assert future.cancelled()
    finish(thread)
    library.close()
