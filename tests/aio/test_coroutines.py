"""Coroutines on an SpdkThread: spawn, and what they may await."""

import asyncio
import concurrent.futures
import contextvars
import gc
import os
import socket
import types

import pytest
from support import PATIENCE_S, drain, elsewhere, eventually, finish

from spdkthread import (
    AwaitError,
    FdError,
    IoDevice,
    RingFullError,
    SpdkThread,
    ThreadExitedError,
    ThreadLib,
    WrongThreadError,
    aio,
    get_thread,
)
from spdkthread.testing import poll_until_idle

VARIABLE = contextvars.ContextVar("variable", default="unset")


async def returning(value):
    return value


async def raising(error):
    raise error


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


def test_a_failure_that_nobody_asks_for_is_reported(thread, errors):
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


# Cancellation


async def for_ever(log):
    try:
        await aio.sleep_us(1e9)
    except asyncio.CancelledError:
        log.append("cancelled")
        raise
    finally:
        log.append("cleaned up")


def test_cancelling_before_it_ran_means_that_it_never_runs(thread):
    log = []
    future = thread.spawn(for_ever(log))
    assert future.cancel()
    assert future.cancelled()
    drain(thread)
    assert log == []


def test_cancelling_throws_where_it_waits(thread):
    log = []
    future = thread.spawn(for_ever(log))
    drain(thread)
    assert future.running()
    assert future.cancel()
    assert not future.done()
    drain(thread)
    assert log == ["cancelled", "cleaned up"]
    assert future.cancelled()
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert thread.next_poller_expiration is None or not thread.has_active_pollers


def test_cancelling_on_its_own_thread_acts_at_once(thread):
    log = []
    future = thread.spawn(for_ever(log))
    drain(thread)
    with thread:
        future.cancel()
    assert future.cancelled()
    assert log == ["cancelled", "cleaned up"]


def test_a_coroutine_may_refuse_its_cancellation(thread):
    async def stubborn():
        try:
            await aio.sleep_us(1e9)
        except asyncio.CancelledError:
            await aio.sleep_us(0)
            return "stayed"

    future = thread.spawn(stubborn())
    drain(thread)
    future.cancel()
    drain(thread)
    assert future.result() == "stayed"
    assert not future.cancel()


def test_a_coroutine_that_cancels_itself_hears_of_it_at_its_next_wait(thread):
    futures = []

    async def main():
        futures[0].cancel()
        await aio.sleep_us(0)
        raise AssertionError("it went on")

    futures.append(thread.spawn(main()))
    drain(thread)
    assert futures[0].cancelled()


def test_cancelling_what_waits_for_an_acall_cancels_the_call(lib):
    here, there = lib.create_thread("here"), lib.create_thread("there")
    ran = []

    async def main():
        await there.acall(ran.append, 1)

    future = here.spawn(main())
    drain(here)
    future.cancel()
    poll_until_idle([here, there])
    assert future.cancelled()
    assert ran == []


def test_cancelling_follows_a_coroutine_that_moves(lib):
    first, second = lib.create_thread("first"), lib.create_thread("second")
    log = []

    async def main():
        await aio.switch_to(second)
        await for_ever(log)

    future = first.spawn(main())
    drain(first)
    future.cancel()
    poll_until_idle([first, second])
    assert future.cancelled()
    moved = first.spawn(main())
    poll_until_idle([first, second])
    moved.cancel()
    poll_until_idle([first, second])
    assert moved.cancelled()
    assert log == ["cancelled", "cleaned up"] * 2


def test_cancelling_lets_go_of_the_descriptor(thread):
    reader, writer = os.pipe()

    async def main():
        await aio.fd_ready(reader)

    future = thread.spawn(main())
    drain(thread)
    future.cancel()
    drain(thread)
    assert future.cancelled()
    again = thread.spawn(main())
    os.write(writer, b"x")
    drain(thread)
    thread.poll()
    assert again.done()
    os.close(reader)
    os.close(writer)


def test_cancelling_from_another_os_thread_ends_a_coroutine_on_a_reactor(reactor):
    thread = reactor.create_thread("net")
    log = []
    future = thread.spawn(for_ever(log))
    eventually(future.running)
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(PATIENCE_S)
    assert log == ["cancelled", "cleaned up"]


# What cannot be awaited


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


# Exceptions that would pass for something else


def test_a_stopiteration_arrives_as_the_cause_of_a_runtimeerror(lib):
    here, there = lib.create_thread("here"), lib.create_thread("there")

    def stop():
        raise StopIteration("no result")

    def end_of_an_iterator():
        return next(iter(()))

    async def main():
        for make in (there.acall, there.call, here.call):
            for fn in (stop, end_of_an_iterator):
                with pytest.raises(RuntimeError, match="StopIteration") as caught:
                    await make(fn)
                assert isinstance(caught.value.__cause__, StopIteration)
        return "heard them"

    future = here.spawn(main())
    poll_until_idle([here, there])
    assert future.result() == "heard them"


def test_a_stopiteration_of_a_coroutine_is_pythons_own_runtimeerror(lib):
    here = lib.create_thread("here")

    async def main():
        with pytest.raises(RuntimeError, match="StopIteration"):
            await here.spawn(raising(StopIteration(1)))
        return "heard it"

    future = here.spawn(main())
    drain(here)
    assert future.result() == "heard it"


def test_result_outside_a_coroutine_raises_the_stopiteration_itself(thread):
    future = thread.call(next, iter(()))
    drain(thread)
    with pytest.raises(StopIteration):
        future.result()


def test_a_descriptor_whose_fileno_raises_stopiteration_is_an_error_too(thread):
    class Odd:
        def fileno(self):
            raise StopIteration("passed for the outcome")

    async def main():
        await aio.fd_ready(Odd())

    future = thread.spawn(main())
    drain(thread)
    assert isinstance(future.exception(), RuntimeError)


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


def run_on_our_loop(main):
    loop = aio.EventLoop()
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_default_executor())
        for task in asyncio.all_tasks(loop):
            task.cancel()
        loop.run_until_complete(asyncio.sleep(0))
        loop.close()


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


# Failures of which nothing is heard


@pytest.mark.parametrize("kind", ["call", "acall"])
def test_a_failed_call_that_is_dropped_unheard_is_reported(lib, errors, kind):
    here, there = lib.create_thread("here"), lib.create_thread("there")

    async def main():
        getattr(there, kind)(lambda: 1 / 0)

    here.spawn(main())
    poll_until_idle([here, there])
    gc.collect()
    assert errors.types == [ZeroDivisionError]
    assert errors[0]["thread"] is there
    assert "there" in errors[0]["message"]


def test_a_failed_call_that_was_heard_is_not_reported(thread, errors):
    asked, told = thread.call(lambda: 1 / 0), thread.call(lambda: 1 / 0)
    told.add_done_callback(lambda future: future.exception())
    drain(thread)
    with pytest.raises(ZeroDivisionError):
        asked.result()
    del asked, told
    gc.collect()
    assert not errors
