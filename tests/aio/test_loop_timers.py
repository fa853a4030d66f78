"""The event loop's timers and its clock."""

import asyncio
import gc
import os
import selectors
import socket
import time
import weakref
from unittest import mock

import pytest
from loops import Selecting
from support import PATIENCE_S, OtherThread, finish

from spdkthread import (
    ThreadLib,
    aio,
)
from spdkthread.testing import ManualClock


def test_timers_run_in_the_order_of_their_times_on_the_clock_of_the_library():
    clock = ManualClock()
    library = ThreadLib(clock=clock)
    loop = aio.EventLoop(library.create_thread("simulated"))
    order = []
    for name, delay in (("c", 3), ("a1", 1), ("b", 2), ("a2", 1)):
        loop.call_later(delay, order.append, name)
    loop.call_at(2.5, order.append, "at")
    for seconds, expected in ((0, []), (1, ["a1", "a2"]), (1, ["b"]), (0.4, []), (0.1, ["at"]), (0.5, ["c"])):
        clock.advance(us=seconds * 1_000_000)
        for _ in range(2):
            loop.call_soon(loop.stop)
            loop.run_forever()
        assert order == expected
        order.clear()
    loop.close()
    finish(*library.threads)
    library.close()


class OwnTime(aio.EventLoop):
    """A loop with a clock of its own, which something else moves."""

    now = 100.0

    def time(self):
        return self.now


class Skipping(selectors.DefaultSelector):
    """Moves the clock of its loop on instead of waiting, as simulations of asyncio do."""

    loop = None

    def select(self, timeout=None):
        self.loop.now += timeout or 0
        return super().select(0)


def turns(loop, number=2):
    for _ in range(number):
        loop.call_soon(loop.stop)
        loop.run_forever()


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("idle", ["adaptive", "poll", "yield"])
def test_a_time_put_on_the_loop_is_what_its_timers_go_by_for_as_long_as_it_is_there(idle, debug):
    loop = aio.EventLoop(idle=idle)
    loop.set_debug(debug)
    order = []

    async def main():
        with mock.patch.object(loop, "time") as time_mock:
            time_mock.return_value = begun = 1000.0
            loop.call_later(10, order.append, "later")
            loop.call_at(begun + 20, order.append, "at")
            # An hour of this clock does not go by with the time of the thread's.
            await asyncio.sleep(0)
            assert order == []
            for seconds, expected in ((9.999, []), (10, ["later"]), (19, ["later"]), (20, ["later", "at"])):
                time_mock.return_value = begun + seconds
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                assert order == expected
        begun = time.monotonic()
        await asyncio.sleep(0.01)
        assert time.monotonic() - begun >= 0.0099
        assert loop.time() == pytest.approx(time.monotonic(), abs=PATIENCE_S)

    loop.run_until_complete(main())
    loop.close()


def test_a_time_put_on_a_loop_that_rests_and_taken_off_again_holds_for_its_next_turns(loop):
    ran = []
    loop.time = lambda: 5.0
    handle = loop.call_at(6.0, ran.append, "on the own clock")
    turns(loop)
    assert ran == []
    loop.time = lambda: 6.0
    turns(loop)
    assert ran == ["on the own clock"]
    del loop.time
    assert handle.when() < loop.time()
    loop.call_at(loop.time() - 1, ran.append, "on the thread's")
    turns(loop)
    assert ran == ["on the own clock", "on the thread's"]
    with pytest.raises(AttributeError):
        del loop.time


def test_a_class_of_loops_with_a_time_of_its_own_has_its_timers_go_by_that():
    loop = OwnTime()
    ran = []
    for delay in (30, 10, 20):
        loop.call_later(delay, ran.append, delay)
    for now, expected in ((105, []), (110, [10]), (129.5, [10, 20]), (40, [10, 20]), (130, [10, 20, 30])):
        loop.now = now
        turns(loop)
        assert ran == expected
    loop.close()


def test_a_time_put_on_the_class_holds_from_the_next_run(loop):
    ran = []
    with mock.patch.object(aio.EventLoop, "time", create=True, return_value=5.0):
        loop.call_soon(loop.stop)
        loop.run_forever()
        loop.call_later(1, ran.append, 1)
        loop.call_later(0, ran.append, 0)
        turns(loop)
        assert ran == [0]
    turns(loop)
    assert ran == [0, 1]


def test_a_simulation_with_a_selector_of_its_own_does_not_wait():
    selector = Skipping()
    loop = selector.loop = OwnTime(selector=selector)

    async def main():
        begun = loop.time()
        await asyncio.gather(asyncio.sleep(3600), asyncio.sleep(5 * 3600))
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 3600)
        return loop.time() - begun

    assert loop.run_until_complete(main()) == pytest.approx(6 * 3600)
    loop.close()


@pytest.mark.parametrize("selector", [Selecting, selectors.PollSelector, selectors.DefaultSelector])
@pytest.mark.parametrize("idle", ["adaptive", "poll", "yield"])
def test_on_a_clock_that_stands_it_wakes_for_whatever_else_comes(selector, idle):
    loop = OwnTime(selector=selector(), idle=idle)

    async def main():
        reader, writer = socket.socketpair()
        mine, yours = os.pipe()
        never = loop.call_later(3600, loop.stop)
        with reader, writer:
            reader.setblocking(False)
            sender = OtherThread(lambda: (time.sleep(0.002), writer.send(b"x")))
            received = await loop.sock_recv(reader, 1)
            sender.outcome()
        there = await asyncio.to_thread(pow, 2, 10)
        results = []
        for _ in range(2):
            came = loop.create_future()
            handler = loop.thread.register_fd(mine, lambda came=came: came.done() or came.set_result(os.read(mine, 1)))
            sender = OtherThread(lambda: (time.sleep(0.002), os.write(yours, b"y")))
            results.append(await came)
            sender.outcome()
            handler.unregister()
        os.close(mine)
        os.close(yours)
        never.cancel()
        return received, there, results

    assert loop.run_until_complete(main()) == (b"x", 1024, [b"y", b"y"])
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_behind_a_time_of_its_own_it_sleeps_until_the_timer_and_afterwards_for_whatever_comes():
    selects = []

    class Counting(selectors.DefaultSelector):
        def select(self, timeout=None):
            selects.append(timeout)
            return super().select(timeout)

    loop = aio.EventLoop(selector=Counting())
    ours = loop.time
    with mock.patch.object(loop, "time", side_effect=lambda: ours() + 1e6):
        begun = time.monotonic()
        loop.run_until_complete(asyncio.sleep(0.2))
        assert time.monotonic() - begun >= 0.199
    assert len(selects) <= 10
    begun = time.thread_time()
    loop.run_until_complete(asyncio.sleep(0.3))
    assert time.thread_time() - begun < 0.2
    loop.close()


def test_a_time_that_fails_leaves_run_forever_and_does_no_harm(loop):
    def fail():
        raise ArithmeticError("no time")

    ran = []
    loop.call_later(0, ran.append, 1)
    loop.time = fail
    with pytest.raises(ArithmeticError):
        loop.run_forever()
    with pytest.raises(ArithmeticError):
        loop.call_later(1, int)
    loop.time = lambda: "noon"
    with pytest.raises(TypeError):
        loop.run_forever()
    del loop.time
    turns(loop)
    assert ran == [1]


def test_a_sleep_takes_its_time(run):
    async def main():
        begun = time.monotonic()
        await asyncio.sleep(0.02)
        return time.monotonic() - begun

    assert run(main()) >= 0.0199


def test_a_cancelled_timer_is_forgotten_at_once(loop):
    class Thing:
        def __call__(self):
            raise AssertionError("it was cancelled")

    thing = Thing()
    reference = weakref.ref(thing)
    handle = loop.call_later(3600, thing)
    handle.cancel()
    del thing, handle
    gc.collect()
    assert reference() is None


def test_timers_at_the_ends_of_time_do_not_break_the_loop(loop):
    handles = [loop.call_later(float("inf"), int), loop.call_at(1e300, int), loop.call_later(-5, loop.stop)]
    loop.run_forever()
    for handle in handles:
        handle.cancel()
    with pytest.raises(TypeError):
        loop.call_later(None, int)
    with pytest.raises(TypeError):
        loop.call_at("soon", int)


def test_a_hundred_thousand_timers_come_and_go(loop):
    async def main():
        handles = [loop.call_later(1000 + number % 97, int) for number in range(100_000)]
        for handle in handles:
            handle.cancel()
        await asyncio.sleep(0.001)

    loop.run_until_complete(main())
