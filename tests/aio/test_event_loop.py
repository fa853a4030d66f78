"""`aio.EventLoop`: asyncio on an SpdkThread, with and without asyncio's debug mode."""

import asyncio
import concurrent.futures
import contextlib
import ctypes
import gc
import logging
import os
import selectors
import signal
import socket
import subprocess
import sys
import textwrap
import threading
import time
import warnings
import weakref
from unittest import mock

import pytest
from support import PATIENCE_S, OtherThread, eventually, finish, noop, run_python

from spdkthread import (
    LoopThreadError,
    NestedLoopError,
    ReactorError,
    SpdkThread,
    ThreadExitedError,
    ThreadLib,
    WrongThreadError,
    aio,
    default_lib,
    get_thread,
)
from spdkthread.testing import ManualClock


@pytest.fixture(params=[False, True], ids=["plain", "debug"])
def run(request):
    """Run a coroutine on a fresh loop."""

    def run(main):
        with asyncio.Runner(loop_factory=aio.EventLoop, debug=request.param) as runner:
            return runner.run(asyncio.wait_for(main, PATIENCE_S))

    return run


@pytest.fixture
def loop():
    loop = aio.EventLoop()
    yield loop
    loop.close()


@contextlib.contextmanager
def running_loop(loop=None):
    """A loop that another OS thread runs, asleep most of the time."""
    made = aio.EventLoop(spin_us=0) if loop is None else loop
    runner = OtherThread(made.run_forever)
    eventually(made.is_running)
    try:
        yield made
    finally:
        made.call_soon_threadsafe(made.stop)
        runner.outcome()
        if loop is None:
            made.close()


# What it is


def test_it_is_an_asyncio_loop_and_its_thread_is_current_in_callbacks(run):
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, asyncio.AbstractEventLoop)
        assert isinstance(loop, aio.EventLoop)
        return get_thread() is loop.thread, loop.thread.is_running

    assert run(main()) == (True, True)
    assert get_thread() is None


def test_its_own_thread_exits_when_it_is_closed():
    before = default_lib().threads
    loop = aio.EventLoop()
    thread = loop.thread
    assert thread in default_lib().threads
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    loop.close()
    assert thread.is_exited
    assert default_lib().threads == before


def test_a_thread_of_the_users_is_driven_and_left_alive(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)
    ran = []
    poller = None

    async def main():
        nonlocal poller
        poller = get_thread().register_poller(lambda: ran.append("poller"), 1000)
        thread.send_msg(ran.append, "message")
        while len(ran) < 3:
            await asyncio.sleep(0.001)
        poller.unregister()

    loop.run_until_complete(main())
    loop.close()
    assert ran[0] == "message"
    assert ran[1:3] == ["poller", "poller"]
    assert thread.is_running
    again = aio.EventLoop(thread)
    assert again.run_until_complete(asyncio.sleep(0, "twice")) == "twice"
    again.close()


def test_a_thread_does_not_exit_under_its_loop(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)

    async def main():
        thread.exit()
        await asyncio.sleep(0.001)
        return thread.state

    assert loop.run_until_complete(main()) == "exiting"
    loop.close()
    thread.poll()
    assert thread.is_exited


def test_a_thread_on_a_reactor_is_refused(reactor):
    with pytest.raises(WrongThreadError, match="net"):
        aio.EventLoop(reactor.create_thread("net"))


def test_it_cannot_run_inside_a_callback_of_its_own_thread(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)
    future = thread.call(loop.run_forever)
    thread.poll()
    assert isinstance(future.exception(timeout=0), WrongThreadError)
    loop.close()


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"thread": 7}, TypeError),
        ({"idle": "sleepy"}, ValueError),
        ({"idle": 7}, TypeError),
        ({"spin_us": -1}, ValueError),
    ],
)
def test_bad_arguments_are_refused_and_leave_nothing(arguments, error):
    before = default_lib().threads
    with pytest.raises(error):
        aio.EventLoop(**arguments)
    gc.collect()
    finish(*(thread for thread in default_lib().threads if thread not in before))


@pytest.mark.parametrize("idle", ["adaptive", "poll", "yield"])
def test_every_idle_strategy_wakes_for_timers_messages_and_descriptors(idle):
    loop = aio.EventLoop(idle=idle, spin_us=10)

    async def main():
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        sender = OtherThread(lambda: (time.sleep(0.002), writer.send(b"x")))
        received = await loop.sock_recv(reader, 1)
        sender.outcome()
        reader.close()
        writer.close()
        await asyncio.sleep(0.001)
        return received, await asyncio.to_thread(int)

    assert loop.run_until_complete(main()) == (b"x", 0)
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


class Selecting(selectors.SelectSelector):
    """select.select's, which has no descriptor of its own that something else could wait for."""

    selects = 0

    def select(self, timeout=None):
        self.selects += 1
        return super().select(timeout)


@pytest.mark.parametrize("selector", [Selecting, selectors.PollSelector, selectors.DefaultSelector])
@pytest.mark.parametrize("idle", ["adaptive", "poll", "yield"])
def test_with_every_selector_it_wakes_for_whatever_comes(selector, idle):
    loop = aio.EventLoop(selector=selector(), idle=idle)

    async def main():
        reader, writer = socket.socketpair()
        mine, yours = os.pipe()
        with reader, writer:
            reader.setblocking(False)
            sender = OtherThread(lambda: (time.sleep(0.002), writer.send(b"x")))
            received = await loop.sock_recv(reader, 1)
            sender.outcome()
        await asyncio.sleep(0.001)
        there = await asyncio.to_thread(pow, 2, 10)
        results = []
        for _ in range(2):
            # Of the thread, not of the loop.
            came = loop.create_future()
            handler = loop.thread.register_fd(mine, lambda came=came: came.done() or came.set_result(os.read(mine, 1)))
            sender = OtherThread(lambda: (time.sleep(0.002), os.write(yours, b"y")))
            results.append(await came)
            sender.outcome()
            handler.unregister()
        os.close(mine)
        os.close(yours)
        return received, there, results

    assert loop.run_until_complete(asyncio.wait_for(main(), PATIENCE_S)) == (b"x", 1024, [b"y", b"y"])
    loop.run_until_complete(loop.shutdown_default_executor())
    loop.close()


def test_with_a_selector_without_a_descriptor_it_sleeps_too():
    selector = Selecting()
    loop = aio.EventLoop(selector=selector)
    loop.run_until_complete(asyncio.sleep(0.2))
    assert selector.selects <= 10
    loop.close()


# Scheduling


class Cancelling:
    """Only its callback knows it."""

    def __init__(self, seen):
        self.seen = seen

    def cancel(self, argument, handles):
        handles.pop().cancel()
        assert sys.getrefcount(self) > 1
        self.seen.append(argument)


def test_callbacks_run_in_the_order_in_which_they_were_scheduled(loop):
    order = []
    for number in range(5):
        loop.call_soon(order.append, number)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert order == list(range(5))


def test_what_a_callback_schedules_runs_in_the_next_turn(loop):
    order = []

    def first():
        order.append("first")
        loop.call_soon(order.append, "third")
        loop.call_soon(loop.stop)

    loop.call_soon(first)
    loop.call_soon(order.append, "second")
    loop.run_forever()
    assert order == ["first", "second", "third"]


def test_a_handle_is_asyncios_and_can_be_cancelled(loop, caplog):
    ran = []
    soon = loop.call_soon(ran.append, 1)
    later = loop.call_later(0, ran.append, 2)
    safe = loop.call_soon_threadsafe(ran.append, 3)
    assert type(soon) is type(safe) is asyncio.Handle
    assert isinstance(later, asyncio.TimerHandle)
    assert "append" in repr(soon)
    assert "when" in repr(later)
    for handle in (soon, later, safe):
        assert not handle.cancelled()
        handle.cancel()
        assert handle.cancelled()
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert ran == []
    assert not caplog.records


@pytest.mark.parametrize("debug", [False, True])
def test_what_is_cancelled_in_the_turn_in_which_it_was_to_run_does_not_run(loop, caplog, debug):
    loop.set_debug(debug)
    ran = []
    reader, writer = socket.socketpair()
    with reader, writer:
        handles = []
        loop.call_soon(lambda: [handle.cancel() for handle in handles] and loop.remove_writer(writer))
        handles.append(loop.call_soon(ran.append, "soon"))
        handles.append(loop.call_later(0, ran.append, "later"))
        loop.add_writer(writer, ran.append, "writer")
        loop.call_later(0.001, loop.stop)
        loop.run_forever()
    assert set(ran) <= {"writer"}
    assert not caplog.records


def test_a_callback_that_cancels_its_own_handle_keeps_what_it_was_called_with(loop, caplog):
    seen = []
    handles = [loop.call_soon(Cancelling(seen).cancel, ["argument"])]
    handles[0]._args += (handles,)
    loop.call_soon(loop.stop)
    loop.run_forever()
    assert seen == [["argument"]]
    assert not caplog.records


def test_threadsafe_calls_and_others_keep_their_order(loop):
    order = []
    OtherThread(loop.call_soon_threadsafe, order.append, 0).outcome()
    loop.call_soon(order.append, 1)
    OtherThread(loop.call_soon_threadsafe, order.append, 2).outcome()
    loop.call_soon_threadsafe(order.append, 3)

    def inside():
        OtherThread(loop.call_soon_threadsafe, order.append, 4).outcome()
        loop.call_soon(order.append, 5)
        loop.call_soon_threadsafe(order.append, 6)
        OtherThread(loop.call_soon_threadsafe, order.append, 7).outcome()
        loop.call_soon(loop.stop)

    loop.call_soon(inside)
    loop.run_forever()
    assert order == list(range(8))


def test_threadsafe_calls_beyond_the_ring_are_taken_in_their_order(live_lib):
    loop = aio.EventLoop(live_lib.create_thread("small", ring_size=4))
    order = []

    async def main():
        done = loop.create_future()

        def send():
            for number in range(1000):
                loop.call_soon_threadsafe(order.append, number)
            loop.call_soon_threadsafe(done.set_result, None)

        sender = OtherThread(send)
        await done
        sender.outcome()

    loop.run_until_complete(main())
    loop.close()
    assert order == list(range(1000))


def test_many_os_threads_schedule_at_once(loop):
    counts = [0] * 4

    async def main():
        done = loop.create_future()
        left = 4

        def count(index):
            counts[index] += 1

        def finished():
            nonlocal left
            left -= 1
            if not left:
                done.set_result(None)

        def send(index):
            for _ in range(2000):
                loop.call_soon_threadsafe(count, index)
            loop.call_soon_threadsafe(finished)

        senders = [OtherThread(send, index) for index in range(4)]
        await done
        for sender in senders:
            sender.outcome()

    loop.run_until_complete(main())
    assert counts == [2000] * 4


def test_two_loops_answer_each_other():
    first, second = aio.EventLoop(), aio.EventLoop()
    done = concurrent.futures.Future()
    left = 500

    def ping():
        second.call_soon_threadsafe(pong)

    def pong():
        nonlocal left
        left -= 1
        if left:
            first.call_soon_threadsafe(ping)
        else:
            done.set_result("all")

    running = [OtherThread(loop.run_forever) for loop in (first, second)]
    first.call_soon_threadsafe(ping)
    assert done.result(PATIENCE_S) == "all"
    for loop, one in zip((first, second), running, strict=True):
        loop.call_soon_threadsafe(loop.stop)
        one.outcome()
        loop.close()


def test_a_loop_with_nothing_to_do_sleeps(loop):
    """Half a second in which it may use a twentieth of that."""

    async def main():
        await asyncio.sleep(0.01)
        begun = time.thread_time()
        await asyncio.sleep(0.5)
        return time.thread_time() - begun

    assert loop.run_until_complete(main()) < 0.025


def test_an_exception_in_a_callback_goes_to_the_loops_handler(loop):
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    loop.call_soon(int, "not a number")
    loop.call_soon(loop.stop)
    loop.run_forever()
    (context,) = contexts
    assert isinstance(context["exception"], ValueError)
    assert isinstance(context["handle"], asyncio.Handle)
    assert "Exception in callback int(" in context["message"]  # 3.13 hides the arguments outside debug mode


@pytest.mark.parametrize("stop", [KeyboardInterrupt, SystemExit])
@pytest.mark.parametrize("debug", [False, True])
def test_what_ends_a_program_leaves_run_forever_and_the_rest_runs_later(loop, stop, debug):
    ran = []

    def end():
        raise stop

    loop.set_debug(debug)
    loop.call_soon(end)
    loop.call_soon(ran.append, 1)
    loop.call_soon(loop.stop)
    with pytest.raises(stop):
        loop.run_forever()
    assert ran == []
    assert not loop.is_running()
    loop.run_forever()
    assert ran == [1]


def test_a_context_is_entered_for_each_callback(loop):
    import contextvars

    variable = contextvars.ContextVar("variable", default="unset")
    seen = []
    context = contextvars.copy_context()
    context.run(variable.set, "given")
    loop.call_soon(lambda: seen.append(variable.get()), context=context)
    loop.call_later(0, lambda: seen.append(variable.get()), context=context)
    loop.call_soon_threadsafe(lambda: seen.append(variable.get()), context=context)
    loop.call_soon(lambda: seen.append(variable.get()))
    loop.call_later(0.001, loop.stop)
    loop.run_forever()
    assert sorted(seen) == ["given", "given", "given", "unset"]
    assert variable.get() == "unset"


@pytest.mark.parametrize("debug", [False, True])
def test_what_a_callback_holds_goes_before_the_next_one_runs(loop, debug):
    class Thing:
        def __call__(self):
            pass

    thing = Thing()
    reference = weakref.ref(thing)
    seen = []
    loop.set_debug(debug)
    loop.call_soon(thing)
    loop.call_soon(lambda: seen.append(reference()))
    loop.call_soon(loop.stop)
    del thing
    loop.run_forever()
    assert seen == [None]


# Timers


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


# The rest of asyncio


def test_streams_carry_data_both_ways(run):
    async def echo(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]

            async def client(number):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                message = bytes([number % 256]) * 50_000
                writer.write(message)
                received = await reader.readexactly(len(message))
                writer.close()
                await writer.wait_closed()
                return received == message

            return await asyncio.gather(*(client(number) for number in range(100)))

    assert run(main()) == [True] * 100


def test_datagrams_arrive(run):
    class Receiver(asyncio.DatagramProtocol):
        def __init__(self, future):
            self.future = future

        def datagram_received(self, data, address):
            self.future.set_result(data)

    async def main():
        loop = asyncio.get_running_loop()
        received = loop.create_future()
        receiving, _ = await loop.create_datagram_endpoint(lambda: Receiver(received), local_addr=("127.0.0.1", 0))
        sending, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=receiving.get_extra_info("sockname")
        )
        sending.sendto(b"datagram")
        result = await received
        sending.close()
        receiving.close()
        return result

    assert run(main()) == b"datagram"


def test_readers_and_writers_are_called_and_removed(run):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = socket.socketpair()
        with reader, writer:
            readable, writable = loop.create_future(), loop.create_future()
            loop.add_reader(reader, lambda: readable.done() or readable.set_result(reader.recv(10)))
            loop.add_writer(writer, lambda: writable.done() or writable.set_result("writable"))
            assert await writable == "writable"
            assert loop.remove_writer(writer)
            assert not loop.remove_writer(writer)
            writer.send(b"data")
            assert await readable == b"data"
            assert loop.remove_reader(reader)

    run(main())


def test_a_subprocess_runs(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "print(input()[::-1])",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(b"abc\n")
        return output, process.returncode

    with warnings.catch_warnings():
        # Python 3.12 and later: forking with threads, which pytest's own timeout has.
        warnings.simplefilter("ignore", DeprecationWarning)
        assert run(main()) == (b"cba\n", 0)


@pytest.mark.no_tsan(reason="programs that are started with it loaded into them crash now and then")
def test_a_subprocess_that_is_killed_is_seen_to_end(run):
    async def main():
        process = await asyncio.create_subprocess_shell("read line", stdin=asyncio.subprocess.PIPE)
        process.kill()
        return await process.wait()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert run(main()) == -signal.SIGKILL


def test_a_unix_socket_server_answers(run, tmp_path):
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    async def main():
        async with await asyncio.start_unix_server(answer, tmp_path / "socket"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
            writer.write(b"who\n")
            received = await reader.read()
            writer.close()
            await writer.wait_closed()
            return received

    assert run(main()) == b"WHO\n"


def test_signals_reach_their_handlers(run):
    async def main():
        loop = asyncio.get_running_loop()
        came = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, came.set_result, "usr1")
        os.kill(os.getpid(), signal.SIGUSR1)
        result = await came
        assert loop.remove_signal_handler(signal.SIGUSR1)
        return result

    assert run(main()) == "usr1"


def test_executors_work(run):
    async def main():
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            results = await asyncio.gather(*(loop.run_in_executor(pool, pow, 2, number) for number in range(20)))
        assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()
        return results

    assert run(main()) == [2**number for number in range(20)]


def test_async_generators_are_shut_down(run):
    closed = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    async def main():
        generator = numbers()
        await anext(generator)
        return generator

    generator = run(main())
    assert closed == ["closed"]
    del generator


def test_tasks_groups_timeouts_and_queues_work(run):
    async def main():
        queue = asyncio.Queue(maxsize=10)
        got = []

        async def produce():
            for number in range(100):
                await queue.put(number)
            await queue.put(None)

        async def consume():
            while (number := await queue.get()) is not None:
                got.append(number)

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            group.create_task(consume())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(3600)
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(3600))
                group.create_task(asyncio.to_thread(int, "no number"))
        assert [type(error) for error in raised.value.exceptions] == [ValueError]
        return got

    assert run(main()) == list(range(100))


def test_debug_mode_warns_of_slow_callbacks(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.001
    loop.call_soon(time.sleep, 0.01)
    loop.call_soon(loop.stop)
    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.run_forever()
    assert any("Executing" in record.message and "sleep" in record.message for record in caplog.records)


def test_without_debug_mode_nobody_looks_how_long_a_callback_takes(loop, caplog):
    loop.slow_callback_duration = 0.001
    loop.call_soon(time.sleep, 0.01)
    loop.call_soon(loop.stop)
    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.run_forever()
    assert not caplog.records


def test_debug_mode_can_be_switched_while_it_runs(caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.001
        for debug in (True, False, True):
            loop.set_debug(debug)
            handle = loop.call_soon(time.sleep, 0.005)
            assert bool(handle._source_traceback) is debug
            await asyncio.sleep(0.001)

    with caplog.at_level(logging.WARNING, "asyncio"), asyncio.Runner(loop_factory=aio.EventLoop) as runner:
        runner.run(main())
    assert sum("sleep(0.005)" in record.message for record in caplog.records) == 2


def test_debug_mode_says_where_a_callback_was_scheduled(loop):
    loop.set_debug(True)
    for handle in (loop.call_soon(int), loop.call_later(5, int), loop.call_at(5, int), loop.call_soon_threadsafe(int)):
        assert handle._source_traceback[-1].filename == __file__
        handle.cancel()


def test_debug_mode_refuses_calls_from_the_wrong_os_thread(loop):
    loop.set_debug(True)

    async def main():
        for method in (loop.call_soon, lambda fn: loop.call_later(1, fn), lambda fn: loop.call_at(1, fn)):
            with pytest.raises(RuntimeError, match="Non-thread-safe"):
                await asyncio.to_thread(method, int)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


# With the rest of the library


def test_acall_from_it_and_spawn_on_it(run, reactor):
    net = reactor.create_thread("net")

    async def on_thread():
        await aio.sleep_us(100)
        here = get_thread()
        await aio.switch_to(net)
        return here, get_thread(), await here.acall(get_thread)

    async def main():
        mine = asyncio.get_running_loop().thread
        results = await asyncio.gather(*(net.acall(pow, number, 2) for number in range(500)))
        assert results == [number**2 for number in range(500)]
        assert await mine.acall(get_thread) is mine
        here, there, back = await mine.spawn(on_thread())
        assert (here, there, back) == (mine, net, mine)
        with pytest.raises(ZeroDivisionError):
            await net.acall(divmod, 1, 0)
        return "done"

    assert run(main()) == "done"


def test_descriptors_of_its_thread_are_served_while_it_sleeps(run):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        came = loop.create_future()
        handler = loop.thread.register_fd(reader, lambda: came.done() or came.set_result(os.read(reader, 1)))
        await asyncio.sleep(0.01)
        sender = OtherThread(os.write, writer, b"x")
        result = await came
        sender.outcome()
        handler.unregister()
        os.close(reader)
        os.close(writer)
        return result

    assert run(main()) == b"x"


def test_waiting_for_its_own_thread_raises_instead_of_deadlocking(run):
    async def main():
        future = asyncio.get_running_loop().thread.call(int)
        with pytest.raises(WrongThreadError):
            future.result()
        return await future

    assert run(main()) == 0


def test_an_active_poller_of_its_thread_and_the_loop_take_turns(run):
    runs = []

    async def main():
        poller = asyncio.get_running_loop().thread.register_poller(lambda: runs.append(1))
        for _ in range(50):
            await asyncio.sleep(0)
        poller.unregister()

    run(main())
    assert len(runs) >= 25


# Endings


def test_a_closed_loop_refuses_as_asyncio_does(loop):
    loop.close()
    for call in (
        lambda: loop.call_soon(int),
        lambda: loop.call_soon_threadsafe(int),
        lambda: loop.call_later(1, int),
        lambda: loop.call_at(1, int),
        loop.run_forever,
    ):
        with pytest.raises(RuntimeError, match="Event loop is closed"):
            call()


def test_closing_with_work_pending_forgets_it_and_keeps_nothing(loop):
    class Thing:
        def __call__(self):
            raise AssertionError("the loop is closed")

    things = [Thing() for _ in range(4)]
    references = [weakref.ref(thing) for thing in things]
    loop.call_soon(things[0])
    loop.call_later(0, things[1])
    loop.call_later(1000, things[2])
    OtherThread(loop.call_soon_threadsafe, things[3]).outcome()
    loop.close()
    del things
    gc.collect()
    assert [reference() for reference in references] == [None] * 4


def test_closing_it_ends_the_coroutines_of_its_own_thread_and_their_futures_say_so(caplog):
    log = []

    async def for_ever():
        try:
            while True:
                await aio.sleep_us(1_000_000_000)
        finally:
            log.append("cleaned up")

    loop = aio.EventLoop()
    begun = loop.thread.spawn(for_ever())
    loop.run_until_complete(asyncio.sleep(0.001))
    waiting = loop.thread.spawn(for_ever())
    thread = loop.thread
    loop.close()
    assert log == ["cleaned up", "cleaned up"]
    for future in (begun, waiting):
        with pytest.raises(ThreadExitedError, match="for_ever"):
            future.result(timeout=0)
    assert thread.is_exited
    assert not caplog.records


def test_closing_it_leaves_the_coroutines_of_a_thread_of_the_users_alone(live_lib):
    thread = live_lib.create_thread("mine")
    reading, writing = os.pipe()

    async def later():
        await aio.fd_ready(reading, "r")
        return "still there"

    def outcome():
        thread.poll()
        return future.done()

    loop = aio.EventLoop(thread)
    future = thread.spawn(later())
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert not outcome()
    os.write(writing, b"now")
    eventually(outcome)
    assert future.result(timeout=0) == "still there"
    os.close(reading)
    os.close(writing)


def test_closing_it_says_what_keeps_its_thread(caplog):
    loop = aio.EventLoop()
    thread = loop.thread

    async def main():
        return thread.register_poller(int, 1_000_000, name="forgotten")

    poller = loop.run_until_complete(main())
    loop.close()
    assert "is left with pollers or channels" in caplog.text
    assert thread.state == "exiting"
    with thread:
        poller.unregister()
    finish(thread)


def test_calls_of_its_own_thread_that_wait_when_it_is_closed_still_run():
    loop = aio.EventLoop()
    future = loop.thread.call(pow, 2, 3)
    cancelled = loop.thread.call(pow, 2, 4)
    cancelled.cancel()
    loop.close()
    assert future.result(timeout=0) == 8
    assert cancelled.cancelled()


def test_an_acall_that_comes_back_after_it_was_closed_hangs_nobody_and_loses_no_exception(reactor, errors):
    net = reactor.create_thread("net")
    gate = threading.Event()

    async def main():
        net.acall(gate.wait, PATIENCE_S)
        net.acall(int, "no number")
        net.acall(int)

    loop = aio.EventLoop()
    loop.run_until_complete(main())
    loop.close()
    gate.set()
    net.call(int).result(PATIENCE_S)
    assert errors.types == [ValueError]


def test_a_coroutine_that_is_never_awaited_is_pythons_own_warning(loop):
    async def never():
        pass

    async def main():
        loop.thread.send_msg(never)  # makes a coroutine that is never awaited
        await asyncio.sleep(0.001)
        gc.collect()

    with pytest.warns(RuntimeWarning, match="never.* was never awaited"):
        loop.run_until_complete(main())


def test_closing_a_running_loop_is_the_standard_error(loop):
    async def main():
        with pytest.raises(RuntimeError, match="running"):
            loop.close()

    loop.run_until_complete(main())


def test_a_loop_that_is_never_closed_warns_as_asyncio_does():
    loops = [aio.EventLoop()]
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        loops.clear()


def test_running_it_twice_at_once_is_the_standard_error(loop):
    async def main():
        with pytest.raises(RuntimeError, match="already running"):
            loop.run_forever()

    loop.run_until_complete(main())


def test_its_thread_can_be_driven_by_one_os_thread_only(loop):
    async def main():
        with pytest.raises(WrongThreadError):
            await asyncio.to_thread(loop.thread.poll)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


def test_ctrl_c_ends_asyncio_run():
    finished = run_python(
        """
import asyncio, os, signal, threading
from spdkthread import aio
async def main():
    threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGINT)).start()
    try:
        await asyncio.sleep(60)
    except asyncio.CancelledError:
        print("cancelled")
        raise
try:
    with asyncio.Runner(loop_factory=aio.EventLoop) as runner:
        runner.run(main())
except KeyboardInterrupt:
    print("interrupted")
"""
    )
    assert finished.stdout.split() == ["cancelled", "interrupted"], finished.stderr


def test_importing_spdkthread_imports_no_asyncio():
    finished = run_python(
        """
import sys, spdkthread
thread = spdkthread.SpdkThread("t")
future = thread.call(int)
thread.poll()
print(future.result(), "asyncio" in sys.modules, "numpy" in sys.modules)
"""
    )
    assert finished.stdout.split() == ["0", "False", "False"], finished.stderr


def test_a_loop_in_another_os_thread_runs_beside_this_one():
    started = concurrent.futures.Future()

    async def serve():
        stop = asyncio.Event()
        started.set_result((asyncio.get_running_loop(), stop))
        await stop.wait()
        return SpdkThread is type(get_thread())

    def body():
        with asyncio.Runner(loop_factory=aio.EventLoop) as runner:
            return runner.run(serve())

    other = OtherThread(body)
    loop, stop = started.result(PATIENCE_S)

    async def main():
        return await asyncio.wrap_future(asyncio.run_coroutine_threadsafe(asyncio.sleep(0, "there"), loop))

    with asyncio.Runner(loop_factory=aio.EventLoop) as runner:
        assert runner.run(main()) == "there"
    loop.call_soon_threadsafe(stop.set)
    assert other.outcome() is True


# Who may touch it, and from where


def test_a_timer_cancelled_on_another_os_thread_while_the_loop_runs_does_not_run_and_is_forgotten():
    ran = []

    class Thing:
        def __call__(self):
            ran.append("cancelled")

    with running_loop() as loop:
        things = [Thing() for _ in range(200)]
        references = [weakref.ref(thing) for thing in things]
        made = threading.Event()
        handles = []

        def make():
            handles.extend(loop.call_later(3600 + number % 7, thing) for number, thing in enumerate(things))
            handles.extend(loop.call_later(0.05, ran.append, "kept") for _ in range(2))
            things.clear()
            made.set()

        loop.call_soon_threadsafe(make)
        assert made.wait(PATIENCE_S)
        for handle in handles[:200]:
            handle.cancel()
            handle.cancel()
        handles.clear()
        eventually(lambda: len(ran) == 2)
        gc.collect()
        assert ran == ["kept", "kept"]
        assert [reference() for reference in references] == [None] * 200


def test_a_timer_made_on_another_os_thread_while_the_loop_sleeps_runs_in_time():
    with running_loop() as loop:
        ran = threading.Event()
        cancelled = []
        loop.call_later(0.001, cancelled.append, 1).cancel()
        handle = loop.call_later(0.001, ran.set)
        assert isinstance(handle, asyncio.TimerHandle)
        assert ran.wait(PATIENCE_S)
        ran.clear()
        loop.call_at(loop.time() - 1, ran.set)
        assert ran.wait(PATIENCE_S)
        assert not cancelled


def test_timers_come_and_go_on_several_os_threads_at_once():
    ran = []
    with running_loop() as loop:
        over = threading.Event()

        def tick():
            if not over.is_set():
                loop.call_later(0, tick)

        def others():
            for number in range(500):
                late = loop.call_later(3000 + number, ran.append, "cancelled")
                loop.call_later(1e-6 * number, ran.append, "ran")
                late.cancel()
                assert loop.thread.next_poller_expiration is not None

        loop.thread.register_poller(int, 1000)
        eventually(lambda: loop.thread.has_pollers)
        loop.call_soon_threadsafe(tick)
        threads = [OtherThread(others) for _ in range(3)]
        for thread in threads:
            thread.outcome()
        eventually(lambda: len(ran) == 1500)
        over.set()
        loop.call_soon_threadsafe(lambda: [poller.unregister() for poller in loop.thread.pollers])
    assert set(ran) == {"ran"}


def test_of_a_thread_that_is_driven_elsewhere_the_next_expiration_is_never_too_late(lib, clock):
    thread = lib.create_thread()
    with thread:
        early = thread.register_poller(int, 100)
        thread.register_poller(int, 200)
        early.unregister()
        assert thread.next_poller_expiration == 200_000
        assert OtherThread(lambda: thread.next_poller_expiration).outcome() <= 200_000
    assert OtherThread(lambda: thread.next_poller_expiration).outcome() == 200_000


def test_a_second_loop_of_one_thread_is_refused_by_name_until_the_first_is_closed(live_lib):
    thread = live_lib.create_thread("wanted")
    first = aio.EventLoop(thread)
    with pytest.raises(WrongThreadError, match=r"'wanted'.*EventLoop.*belongs to.*EventLoop"):
        aio.EventLoop(thread)
    assert first.run_until_complete(asyncio.sleep(0, "still runs")) == "still runs"
    first.close()
    second = aio.EventLoop(thread)
    assert second.run_until_complete(asyncio.sleep(0, "runs")) == "runs"
    second.close()


def test_the_thread_of_a_loop_is_refused_by_a_reactor_that_comes_later(make_reactor, live_lib):
    thread = live_lib.create_thread("wanted")
    loop = aio.EventLoop(thread)
    with pytest.raises(ReactorError, match=r"'wanted'.*belongs to.*EventLoop"):
        make_reactor().add_thread(thread)
    loop.close()


def test_an_exited_thread_is_refused(live_lib):
    thread = live_lib.create_thread("gone")
    finish(thread)
    with pytest.raises(ThreadExitedError, match="gone"):
        aio.EventLoop(thread)


def test_a_loop_whose_thread_another_os_thread_drives_says_so_in_an_error_that_asyncios_users_catch(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)
    with running_loop(loop), pytest.raises(RuntimeError):
        loop.run_forever()
    with running_loop(loop), pytest.raises(WrongThreadError):
        thread.poll()
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with thread:
            entered.set()
            leave.wait(PATIENCE_S)

    holder = OtherThread(hold)
    assert entered.wait(PATIENCE_S)
    with pytest.raises(LoopThreadError, match="'mine'") as caught:
        loop.run_forever()
    leave.set()
    holder.outcome()
    assert isinstance(caught.value, RuntimeError)
    loop.close()


def test_a_loop_closed_while_another_os_thread_drives_its_thread_lets_go_of_it_there(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)
    entered, leave = threading.Event(), threading.Event()

    def drive():
        with thread:
            entered.set()
            leave.wait(PATIENCE_S)
            thread.exit()
            while not thread.is_exited:
                thread.poll()

    driver = OtherThread(drive)
    assert entered.wait(PATIENCE_S)
    loop.close()
    leave.set()
    driver.outcome()
    assert thread.is_exited


def test_a_loop_that_is_closed_in_a_callback_of_its_own_thread_lets_go_of_it(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)
    thread.send_msg(loop.close)
    thread.poll()
    assert loop.is_closed()
    assert thread.exit_blockers == ()


def test_what_keeps_the_thread_of_a_loop_has_the_name_of_the_loop(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)
    assert thread.exit_blockers == ("event loop <EventLoop on thread 'mine'>, which is not closed",)
    loop.close()
    assert thread.exit_blockers == ()


def test_call_soon_threadsafe_while_the_loop_is_being_closed_goes_in_or_is_a_runtime_error():
    """A collection in the middle of the call closes the loop."""
    outcomes = []
    for _ in range(20):
        loop = aio.EventLoop()
        closing = []

        def collect(phase, info, loop=loop, closing=closing):
            if phase == "start" and not closing:
                closing.append(1)
                loop.close()

        before = gc.get_threshold()
        gc.callbacks.append(collect)
        gc.set_threshold(1)
        try:
            while not closing:
                loop.call_soon_threadsafe(int)
        except RuntimeError as error:
            outcomes.append(str(error))
        finally:
            gc.set_threshold(*before)
            gc.callbacks.remove(collect)
            loop.close()
    assert set(outcomes) <= {"Event loop is closed"}


def test_a_loop_that_is_forgotten_with_timers_pending_is_collected_with_a_warning():
    loop = aio.EventLoop()
    handles = [loop.call_later(delay, noop) for delay in (3600, 1, 0)]
    handles.append(loop.call_at(loop.time() - 5, noop))
    reference = weakref.ref(loop)
    handles.clear()
    del loop
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        gc.collect()
    assert reference() is None


def test_what_a_pending_timer_holds_is_seen_by_the_collector(loop):
    class Thing:
        def __call__(self):
            pass

    thing = Thing()
    thing.handle = loop.call_later(3600, thing)
    assert thing in gc.get_referents(thing.handle) or thing.handle in gc.get_referents(loop)
    assert thing.handle in gc.get_referents(loop)


# What is around it


def test_the_timer_slack_is_what_it_was_afterwards_and_in_what_callbacks_start():
    get_slack = 30
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    ask = "import ctypes, os; print(ctypes.CDLL(None).prctl(30, 0, 0, 0, 0), sorted(os.sched_getaffinity(0)))"

    def slack():
        return prctl(get_slack, 0, 0, 0, 0)

    async def main():
        await asyncio.sleep(0.002)
        return subprocess.check_output([sys.executable, "-c", ask], text=True).strip()

    before = slack()
    if before < 0:
        before = None  # not Linux: there is none
    affinity = os.sched_getaffinity(0)
    inside = aio.run(main())
    assert before is None or inside == f"{before} {sorted(affinity)}"
    assert before is None or slack() == before


def test_run_and_new_event_loop_are_those_of_asyncio_with_this_loop():
    async def main():
        loop = asyncio.get_running_loop()
        assert isinstance(loop, aio.EventLoop)
        return loop.get_debug(), get_thread() is loop.thread

    assert aio.run(main()) == (sys.flags.dev_mode or bool(os.environ.get("PYTHONASYNCIODEBUG")), True)
    assert aio.run(main(), debug=True) == (True, True)
    with pytest.raises(ValueError, match="coroutine"):
        aio.run(3)
    loop = aio.new_event_loop()
    assert type(loop) is aio.EventLoop
    assert loop.run_until_complete(main()) == (False, True) or loop.get_debug()
    loop.close()


def test_nest_asyncio_is_refused_with_what_to_do_instead(loop):
    """It looks for its mark with hasattr, before it changes the class of the loop."""
    run_once = type(loop)._run_once
    with pytest.raises(NestedLoopError, match=r"nest_asyncio.*Await") as caught:
        hasattr(loop, "_nest_patched")
    assert isinstance(caught.value, RuntimeError)
    assert type(loop)._run_once is run_once


def test_with_descriptor_0_closed_a_loop_serves_all_its_descriptors():
    source = """
        import asyncio, os
        from spdkthread import aio

        os.close(0)
        async def main():
            loop = asyncio.get_running_loop()
            got = []
            pipes = [os.pipe() for _ in range(2)]
            reading = pipes[0][0]
            handler = loop.thread.register_fd(reading, lambda: got.append(os.read(reading, 1)))
            loop.add_reader(pipes[1][0], lambda: got.append(os.read(pipes[1][0], 1)))
            for _, writing in pipes:
                os.write(writing, b"x")
            while len(got) < 2:
                await asyncio.sleep(0.001)
            handler.unregister()
            return got

        print(aio.run(main()))
    """
    done = run_python(textwrap.dedent(source))
    assert done.stdout.strip() == "[b'x', b'x']", done.stderr


def test_a_message_that_ends_the_program_does_not_keep_close_from_ending_the_rest(caplog):
    loop = aio.EventLoop()
    ran = []

    def leave():
        raise SystemExit(3)

    loop.thread.send_msg(leave)
    for number in range(20):
        loop.thread.send_msg(ran.append, number)
    with pytest.raises(SystemExit):
        loop.close()
    assert ran == list(range(20))
    assert loop.thread.is_exited
    assert loop.is_closed()


def test_a_destructor_that_fails_while_the_loop_is_closed_stops_no_other(recwarn, monkeypatch):
    failures, dropped = [], []
    monkeypatch.setattr(sys, "unraisablehook", lambda failure: failures.append(failure.exc_type))

    class Fails:
        def __call__(self):
            pass

        def __del__(self):
            dropped.append(1)
            raise ValueError("in a destructor")

    loop = aio.EventLoop()
    loop.call_soon(Fails())
    for delay in (-1, 0, 1, 3600):
        loop.call_later(delay, Fails())
    OtherThread(loop.call_soon_threadsafe, Fails()).outcome()
    loop.close()
    gc.collect()
    assert len(dropped) == 6
    assert failures == [ValueError] * 6
    assert loop.thread.is_exited
