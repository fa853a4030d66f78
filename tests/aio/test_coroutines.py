"""Coroutines on an SpdkThread: spawn, and what they may await."""

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import socket

import pytest
from spawned import raising, returning
from support import PATIENCE_S, drain, finish

from spdkthread import (
    FdError,
    IoDevice,
    ThreadExitedError,
    aio,
    get_thread,
)
from spdkthread.testing import poll_until_idle

VARIABLE = contextvars.ContextVar("variable", default="unset")


# Beginning and ending


def test_a_coroutine_runs_in_a_later_poll_and_returns_through_its_future(thread):
    future = thread.spawn(returning(7))
    assert isinstance(future, concurrent.futures.Future)
    assert not future.done()
    thread.poll()
    assert future.result() == 7


def test_an_exception_ends_it_and_comes_through_the_future(thread, errors):
    error = ValueError("no")
    future = thread.spawn(raising(error))
    drain(thread)
    assert future.exception() is error
    assert not errors


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
def test_what_stops_the_reactor_leaves_the_poll_and_settles_the_future(thread, stop):
    future = thread.spawn(raising(stop()))
    with pytest.raises(stop):
        thread.poll()
    with pytest.raises(stop):
        future.result()


def test_get_thread_is_the_thread_it_runs_on(thread):
    async def where():
        return get_thread()

    future = thread.spawn(where())
    drain(thread)
    assert future.result() is thread


@pytest.mark.parametrize("bad", [None, 7, returning, len])
def test_only_a_coroutine_can_be_spawned(thread, bad):
    with pytest.raises(TypeError, match=thread.name):
        thread.spawn(bad)


def test_a_generator_based_coroutine_can_be_spawned_too(thread):
    class Hand:
        def __await__(self):
            yield from aio.sleep_us(0)
            return 5

    async def main():
        return await Hand()

    future = thread.spawn(main())
    drain(thread)
    assert future.result() == 5


def test_its_context_is_a_copy_of_the_callers(thread):
    async def main():
        before = VARIABLE.get()
        VARIABLE.set("inside")
        await aio.sleep_us(0)
        return before, VARIABLE.get()

    VARIABLE.set("caller")
    future = thread.spawn(main())
    VARIABLE.set("later")
    drain(thread)
    assert future.result() == ("caller", "inside")
    assert VARIABLE.get() == "later"


def test_a_failure_that_is_not_retrieved_is_reported(thread, errors):
    future = thread.spawn(raising(ValueError("unheard")))
    drain(thread)
    assert errors == []
    del future
    gc.collect()
    assert [str(error) for error in errors.exceptions] == ["unheard"]
    assert thread.name in errors[0]["message"]
    assert errors[0]["thread"] is thread


# sleep_us


def test_sleep_us_waits_on_the_clock_of_the_library(thread, clock):
    steps = []

    async def main():
        for _ in range(3):
            await aio.sleep_us(10)
            steps.append(clock.now)

    future = thread.spawn(main())
    drain(thread)
    assert thread.next_poller_expiration == 10_000
    clock.advance(us=9)
    thread.poll()
    assert steps == []
    for _ in range(3):
        clock.advance(us=10)
        thread.poll()
    assert steps == [19_000, 29_000, 39_000]
    assert future.done()


def test_sleepers_wake_in_the_order_of_their_deadlines_and_equal_ones_first_in_first_out(thread, clock):
    woken = []

    async def sleeper(name, us):
        await aio.sleep_us(us)
        woken.append(name)

    for name, us in (("c", 30), ("a1", 10), ("b", 20), ("a2", 10), ("a3", 10)):
        thread.spawn(sleeper(name, us))
    drain(thread)
    clock.advance(us=30)
    thread.poll()
    assert woken == ["a1", "a2", "a3", "b", "c"]
    assert thread.next_poller_expiration is None


def test_an_earlier_sleeper_moves_the_alarm_forward(thread, clock):
    async def sleeper(us):
        await aio.sleep_us(us)

    late = thread.spawn(sleeper(100))
    drain(thread)
    early = thread.spawn(sleeper(5))
    drain(thread)
    assert thread.next_poller_expiration == 5_000
    clock.advance(us=5)
    thread.poll()
    assert early.done()
    assert not late.done()
    assert thread.next_poller_expiration == 100_000
    clock.advance(us=95)
    thread.poll()
    assert late.done()


def test_sleeping_zero_gives_the_others_their_turn(thread):
    order = []

    async def counter(name):
        for number in range(3):
            order.append((name, number))
            await aio.sleep_us(0)

    for name in "ab":
        thread.spawn(counter(name))
    drain(thread)
    assert order == [(name, number) for number in range(3) for name in "ab"]


@pytest.mark.parametrize("us", [-1, float("nan"), float("inf"), 1e-9])
def test_a_bad_time_is_refused(us):
    with pytest.raises(ValueError, match="us"):
        aio.sleep_us(us)


def test_a_fraction_of_a_microsecond_is_kept(thread, clock):
    async def main():
        await aio.sleep_us(0.5)

    thread.spawn(main())
    drain(thread)
    assert thread.next_poller_expiration == 500
    clock.advance(us=1)
    thread.poll()


# acall and futures


def test_acall_runs_there_and_resumes_here(lib):
    here, there = lib.create_thread("here"), lib.create_thread("there")

    async def main():
        ran_on = await there.acall(get_thread)
        return ran_on, get_thread()

    future = here.spawn(main())
    poll_until_idle([here, there])
    assert future.result() == (there, here)


def test_acall_brings_exceptions_and_context_along(lib):
    here, there = lib.create_thread("here"), lib.create_thread("there")

    def look():
        seen = VARIABLE.get()
        VARIABLE.set("changed there")
        return seen

    async def main():
        VARIABLE.set("mine")
        seen = await there.acall(look)
        with pytest.raises(ZeroDivisionError):
            await there.acall(lambda: 1 / 0)
        return seen, VARIABLE.get()

    future = here.spawn(main())
    poll_until_idle([here, there])
    assert future.result() == ("mine", "mine")


def test_acalls_are_sent_at_once_and_awaited_in_any_order(lib):
    here, there = lib.create_thread("here"), lib.create_thread("there")

    async def main():
        calls = [there.acall(pow, 2, number) for number in range(5)]
        return [await call for call in reversed(calls)]

    future = here.spawn(main())
    poll_until_idle([here, there])
    assert future.result() == [16, 8, 4, 2, 1]


@pytest.mark.parametrize("value", [None, (), (1, 2), StopIteration(3), ValueError("as a value")])
def test_any_value_survives_an_acall(lib, value):
    here, there = lib.create_thread("here"), lib.create_thread("there")

    async def main():
        return await there.acall(lambda: value)

    future = here.spawn(main())
    poll_until_idle([here, there])
    assert future.result() is value


def test_futures_of_call_and_spawn_can_be_awaited(lib):
    here, there = lib.create_thread("here"), lib.create_thread("there")

    async def main():
        return await there.call(pow, 2, 5), await there.spawn(returning("spawned")), await here.call(int)

    future = here.spawn(main())
    poll_until_idle([here, there])
    assert future.result() == (32, "spawned", 0)


def test_a_future_of_ours_can_be_awaited_under_asyncio(reactor):
    thread = reactor.create_thread("net")

    async def main():
        return await thread.call(pow, 2, 5), await thread.spawn(returning(6))

    assert asyncio.run(main()) == (32, 6)


def test_acall_of_its_own_thread_does_not_deadlock(thread):
    async def main():
        return await thread.acall(pow, 2, 3)

    future = thread.spawn(main())
    drain(thread)
    assert future.result() == 8


# switch_to


def test_switch_to_moves_the_coroutine_itself(lib):
    threads = [lib.create_thread(f"t{number}") for number in range(3)]

    async def main():
        seen = [get_thread()]
        for thread in threads[1:]:
            await aio.switch_to(thread)
            seen.append(get_thread())
        await aio.switch_to(threads[2])
        await aio.sleep_us(0)
        seen.append(get_thread())
        return seen

    future = threads[0].spawn(main())
    poll_until_idle(threads)
    assert future.result() == [*threads, threads[2]]


def test_switching_to_an_exited_thread_raises_and_stays(lib):
    here, gone = lib.create_thread("here"), lib.create_thread("gone")
    with gone:
        gone.exit()
    gone.poll()

    async def main():
        with pytest.raises(ThreadExitedError):
            await aio.switch_to(gone)
        await aio.sleep_us(0)
        return get_thread()

    future = here.spawn(main())
    drain(here)
    assert future.result() is here


def test_a_full_ring_does_not_keep_a_coroutine_from_moving(lib):
    here = lib.create_thread("here")
    there = lib.create_thread("there", ring_size=2)

    async def main():
        await aio.switch_to(there)
        return get_thread()

    futures = [here.spawn(main()) for _ in range(20)]
    drain(here)
    poll_until_idle([here, there])
    assert [future.result() for future in futures] == [there] * 20


# fd_ready


def test_fd_ready_waits_until_it_can_be_read(thread):
    reader, writer = socket.socketpair()
    with reader, writer:

        async def main():
            await aio.fd_ready(reader, "r")
            return reader.recv(10)

        future = thread.spawn(main())
        drain(thread)
        thread.poll()
        assert not future.done()
        writer.send(b"here")
        thread.poll()
        assert future.result() == b"here"


def test_fd_ready_waits_until_it_can_be_written(thread):
    reader, writer = socket.socketpair()
    with reader, writer:

        async def main():
            await aio.fd_ready(writer.fileno(), "w")
            return True

        future = thread.spawn(main())
        drain(thread)
        thread.poll()
        assert future.result() is True


def test_fd_ready_wakes_a_reactor_that_sleeps(reactor):
    thread = reactor.create_thread("net")
    reader, writer = os.pipe()

    async def main():
        received = []
        for _ in range(20):
            await aio.fd_ready(reader)
            received.append(os.read(reader, 1))
        return received

    future = thread.spawn(main())
    for _ in range(20):
        os.write(writer, b"x")
    assert future.result(PATIENCE_S) == [b"x"] * 20
    os.close(reader)
    os.close(writer)


def test_fd_ready_of_a_bad_descriptor_raises_where_it_is_awaited(thread):
    reader, writer = os.pipe()
    os.close(reader)
    os.close(writer)

    async def main():
        with pytest.raises(FdError):
            await aio.fd_ready(reader)
        with pytest.raises(ValueError, match="events"):
            await aio.fd_ready(reader, "x")
        with pytest.raises(TypeError):
            await aio.fd_ready(reader, 3)
        return "still here"

    future = thread.spawn(main())
    drain(thread)
    assert future.result() == "still here"


# async with device.channel()


def test_a_channel_is_held_while_the_coroutine_is_in_its_block(lib):
    thread = lib.create_thread("net")
    device = IoDevice("disk", create_channel=lambda channel: "context", lib=lib).register()

    async def main():
        async with device.channel() as channel:
            await aio.sleep_us(0)
            return channel.ctx, channel.thread, device.channels_count

    future = thread.spawn(main())
    drain(thread)
    assert future.result() == ("context", thread, 1)
    assert device.channels_count == 0
    with thread:
        device.unregister()
    drain(thread)


# Many


def test_ten_thousand_coroutines_live_on_one_thread(lib, clock):
    thread = lib.create_thread("net", ring_size=16_384)

    async def worker(number):
        for _ in range(3):
            await aio.sleep_us(number % 7)
        return number

    futures = [thread.spawn(worker(number)) for number in range(10_000)]
    for _ in range(10_000):
        if all(future.done() for future in futures):
            break
        poll_until_idle([thread])
        clock.advance(us=7)
    assert [future.result() for future in futures] == list(range(10_000))
    finish(thread)


def test_coroutines_on_two_reactors_hand_work_to_each_other(make_reactor):
    first, second = make_reactor().start(), make_reactor().start()
    one, other = first.create_thread("one"), second.create_thread("other")

    async def main(number):
        total = 0
        for step in range(10):
            total += await (other if get_thread() is one else one).acall(pow, number, 2)
            if step % 3 == 0:
                await aio.switch_to(other if get_thread() is one else one)
            await aio.sleep_us(step)
        return total

    futures = [one.spawn(main(number)) for number in range(200)]
    assert [future.result(PATIENCE_S) for future in futures] == [10 * number**2 for number in range(200)]


def test_coroutines_that_move_between_two_reactors_are_in_one_place_at_a_time(make_reactor, errors):
    one, other = (make_reactor().start().create_thread(name) for name in ("one", "other"))

    async def commute(times):
        for _ in range(times):
            await aio.switch_to(other)
            assert get_thread() is other
            await aio.switch_to(one)
            assert get_thread() is one
        return times

    futures = [one.spawn(commute(2_000)) for _ in range(3)]
    assert [future.result(PATIENCE_S) for future in futures] == [2_000] * 3
    assert not errors
