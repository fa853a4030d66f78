"""WaitFd: an outside loop that waits for a thread which it polls itself."""

import asyncio
import gc
import os
import select
import threading

import pytest
from support import PATIENCE_S, noop

from spdkthread import FdError, Reactor, ThreadExitedError, WrongThreadError
from spdkthread.wait_fd import WaitFd


@pytest.fixture
def waits(live_lib):
    thread = live_lib.create_thread("net")
    with WaitFd(thread) as one:
        yield one
    with thread:
        thread.exit()
    thread.poll()


def readable(waits, timeout_s=0.0):
    return bool(select.select([waits], [], [], timeout_s)[0])


def idle(thread):
    while thread.poll():
        pass


def test_it_is_readable_when_a_message_comes(waits):
    assert waits.arm()
    assert not readable(waits)
    sender = threading.Thread(target=waits.thread.send_msg, args=(noop,))
    sender.start()
    assert readable(waits, PATIENCE_S)
    sender.join()
    idle(waits.thread)
    assert waits.arm()
    assert not readable(waits)


def test_what_came_before_is_said_at_once(waits):
    waits.thread.send_msg(noop)
    assert not waits.arm()
    waits.thread.send_critical_msg(noop)
    idle(waits.thread)
    assert waits.arm()


def test_it_is_readable_when_a_timer_is_due(waits):
    ran = []
    with waits.thread:
        waits.thread.call_later(1000, ran.append, 1)
    while not ran:
        if waits.arm():
            assert readable(waits, PATIENCE_S)
        waits.thread.poll()
    assert waits.arm()
    assert not readable(waits)


def test_it_is_readable_when_a_descriptor_of_the_thread_is(waits):
    ear, mouth = os.pipe()
    heard = []
    with waits.thread:
        handler = waits.thread.register_fd(ear, lambda: heard.append(os.read(ear, 1)))
    assert waits.arm()
    assert not readable(waits)
    os.write(mouth, b"x")
    assert readable(waits, PATIENCE_S)
    idle(waits.thread)
    assert heard == [b"x"]
    with waits.thread:
        handler.unregister()
    idle(waits.thread)
    os.close(ear)
    os.close(mouth)


def test_an_active_poller_always_has_something_to_do(waits):
    with waits.thread:
        poller = waits.thread.register_poller(noop)
        assert not waits.arm()
        poller.unregister()
    assert waits.arm()


def test_asyncio_drives_a_thread_by_it(waits):
    async def main():
        loop = asyncio.get_running_loop()
        over = loop.create_future()

        def drive():
            while True:
                idle(waits.thread)
                if waits.arm():
                    return

        loop.add_reader(waits, drive)
        drive()
        sender = threading.Thread(target=waits.thread.send_msg, args=(over.set_result, 5))
        sender.start()
        assert await asyncio.wait_for(over, PATIENCE_S) == 5
        sender.join()
        loop.remove_reader(waits)

    asyncio.run(main())


def test_what_it_cannot_wait_for_is_refused(waits, lib, live_lib, make_reactor):
    with pytest.raises(WrongThreadError, match="another WaitFd"):
        WaitFd(waits.thread)
    with pytest.raises(ValueError, match="manual clock"):
        WaitFd(lib.create_thread())
    reactor = make_reactor()
    mine = reactor.create_thread()
    with pytest.raises(WrongThreadError, match="belongs to"):
        WaitFd(mine)
    gone = live_lib.create_thread()
    with gone:
        gone.exit()
    gone.poll()
    with pytest.raises(ThreadExitedError):
        WaitFd(gone)
    with pytest.raises(TypeError):
        WaitFd(None)


def test_a_closed_one_says_so(live_lib):
    thread = live_lib.create_thread()
    one = WaitFd(thread)
    one.close()
    one.close()
    for call in (one.fileno, one.arm):
        with pytest.raises(FdError, match="closed"):
            call()
    with WaitFd(thread) as another:
        assert another.arm()


def test_a_thread_that_went_to_a_reactor_is_waited_for_there(live_lib):
    thread = live_lib.create_thread()
    with WaitFd(thread) as waits, Reactor(lib=live_lib) as reactor:
        reactor.add_thread(thread)
        with pytest.raises(WrongThreadError):
            waits.arm()
        thread.call(noop).result(PATIENCE_S)


def test_one_that_is_dropped_unclosed_leaves_the_thread_to_another(live_lib):
    thread = live_lib.create_thread()
    for _ in range(2):
        waits = WaitFd(thread)
        assert waits.arm()
        circle = [waits]
        circle.append(circle)
        del waits, circle
        gc.collect()
    with WaitFd(thread) as waits:
        assert waits.arm()
