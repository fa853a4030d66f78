"""Closing the event loop, and what is refused afterwards."""

import asyncio
import concurrent.futures
import gc
import os
import threading
import weakref

import pytest
from support import PATIENCE_S, OtherThread, eventually, finish, run_python

from spdkthread import (
    SpdkThread,
    ThreadExitedError,
    WrongThreadError,
    aio,
    get_thread,
)


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


def test_an_acall_that_comes_back_after_it_was_closed_hangs_no_caller_and_loses_no_exception(reactor, errors):
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
