"""The event loop: what it is, and what it leaves of the process as it was."""

import asyncio
import ctypes
import gc
import os
import selectors
import socket
import subprocess
import sys
import textwrap
import time

import pytest
from loops import Selecting
from support import PATIENCE_S, OtherThread, finish, run_python

from spdkthread import (
    NestedLoopError,
    WrongThreadError,
    aio,
    default_lib,
    get_thread,
)

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
