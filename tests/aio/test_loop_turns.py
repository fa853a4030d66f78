"""One turn of `aio.EventLoop`: every source of work has its turn whatever the others do, and the order is asyncio's."""

import asyncio
import os
import selectors
import signal
import time

import pytest
from support import OtherThread, finish

from spdkthread import ThreadLib, aio
from spdkthread.testing import ManualClock

TURNS = 5
"""More turns than this no source waits while another one is busy."""


class CountedLoop(aio.EventLoop):
    """Counts its turns, and gives up where it would run for ever."""

    clock = None
    turns = 0
    most_turns = 3000

    def _run_once(self):
        self.turns += 1
        if self.clock is not None:
            self.clock.advance(us=150)
        if self.turns >= self.most_turns:
            self.stop()
        super()._run_once()


@pytest.fixture(params=["one", "all"])
def counted(request, clock, errors):
    lib = ThreadLib(clock=clock, exception_handler=errors)
    thread = lib.create_thread("counted", poller_policy=request.param)
    loop = CountedLoop(thread)
    loop.clock = clock
    yield loop
    loop.close()
    finish(thread)
    lib.close()
    assert not errors


class Source:
    """Work of one kind: `begin` makes one piece of it, which calls `self.run` when its turn has come."""

    def __init__(self, loop, run):
        self.loop, self.thread, self.run = loop, loop.thread, run

    def end(self):
        pass


class Messages(Source):
    def begin(self):
        self.thread.send_msg(self.run)


class PostedElsewhere(Source):
    def begin(self):
        OtherThread(self.loop.call_soon_threadsafe, self.run).outcome()


class ReadyCallbacks(Source):
    def begin(self):
        self.loop.call_soon(self.run)


class LoopTimers(Source):
    def begin(self):
        self.loop.call_later(1e-4, self.run)


class OverdueLoopTimers(Source):
    def begin(self):
        self.loop.call_at(self.loop.time() - 1, self.run)


class Coroutines(Source):
    def begin(self):
        self.thread.spawn(self.main())

    async def main(self):
        await aio.sleep_us(100)
        self.run()


class ActivePollers(Source):
    period_us = 0

    def begin(self):
        def poll():
            poller.unregister()
            self.run()

        poller = self.thread.register_poller(poll, self.period_us)


class TimedPollers(ActivePollers):
    period_us = 100


class Readers(Source):
    def __init__(self, loop, run):
        super().__init__(loop, run)
        self.reading, self.writing = os.pipe()
        self.watch()

    def watch(self):
        self.loop.add_reader(self.reading, self.read)

    def begin(self):
        os.write(self.writing, b"x")

    def read(self):
        os.read(self.reading, 1)
        self.run()

    def end(self):
        self.loop.remove_reader(self.reading)
        self.close()

    def close(self):
        os.close(self.reading)
        os.close(self.writing)


class DescriptorsOfTheThread(Readers):
    def watch(self):
        with self.thread:
            self.handler = self.thread.register_fd(self.reading, self.read)

    def end(self):
        with self.thread:
            self.handler.unregister()
        self.close()


class Signals(Source):
    def __init__(self, loop, run):
        super().__init__(loop, run)
        loop.add_signal_handler(self.number, self.run)

    def begin(self):
        os.kill(os.getpid(), self.number)

    def end(self):
        self.loop.remove_signal_handler(self.number)


class Busy:
    """Of whatever source: each piece of work makes the next one, and takes longer than any timer waits."""

    number = signal.SIGUSR1

    over = False

    def __init__(self, loop, clock):
        self.clock = clock
        super().__init__(loop, self.again)

    def again(self):
        if not self.over:
            self.clock.advance(us=150)
            self.begin()


class Starved:
    """Asks for its turn again and again, at other places of the turn each time, and notes how long it waited."""

    number = signal.SIGUSR2

    def __init__(self, loop):
        self.waited = []
        super().__init__(loop, self.served)

    def ask(self):
        self.asked = self.loop.turns
        self.begin()

    def served(self):
        self.waited.append(self.loop.turns - self.asked)
        if len(self.waited) == 12:
            self.loop.stop()
        elif len(self.waited) % 3 == 0:
            self.loop.call_soon(self.ask)
        elif len(self.waited) % 3 == 1:
            self.thread.send_msg(self.ask)
        else:
            self.ask()


SOURCES = [
    Messages,
    PostedElsewhere,
    ReadyCallbacks,
    LoopTimers,
    OverdueLoopTimers,
    Coroutines,
    ActivePollers,
    TimedPollers,
    Readers,
    DescriptorsOfTheThread,
    Signals,
]


@pytest.mark.parametrize("starved", SOURCES, ids=lambda source: f"starved-{source.__name__}")
@pytest.mark.parametrize("busy", SOURCES, ids=lambda source: f"busy-{source.__name__}")
def test_a_busy_source_leaves_every_other_its_turn(counted, clock, busy, starved):
    hog = type("Hog", (Busy, busy), {})(counted, clock)
    waiting = type("Waiting", (Starved, starved), {})(counted)
    counted.call_soon(hog.begin)
    counted.call_soon(waiting.ask)
    counted.run_forever()
    hog.over = True
    waiting.end()
    hog.end()
    # What is under way comes to its end.
    for _ in range(TURNS):
        counted.call_soon(counted.stop)
        counted.run_forever()
    assert len(waiting.waited) == 12, f"served {len(waiting.waited)} times in {counted.turns} turns"
    assert max(waiting.waited) <= TURNS


def test_messages_that_take_long_give_way_after_a_millisecond(live_lib):
    loop = aio.EventLoop(live_lib.create_thread())
    reading, writing = os.pipe()
    order = []

    def message():
        end = time.perf_counter() + 0.0011
        while time.perf_counter() < end:
            pass
        order.append("message")

    def read():
        os.read(reading, 1)
        order.append("read")

    loop.add_reader(reading, read)
    for _ in range(60):
        loop.thread.send_msg(message)
    loop.thread.send_msg(loop.stop)
    os.write(writing, b"x")
    loop.run_forever()
    loop.remove_reader(reading)
    os.close(reading)
    os.close(writing)
    loop.close()
    # One batch of eight is begun before the time is looked at.
    assert order.index("read") == 8
    assert order.count("message") == 60


def test_a_timer_that_is_due_in_every_turn_does_not_hide_the_descriptors():
    loop = CountedLoop()
    reading, writing = os.pipe()
    timers = []

    def again():
        timers.append(1)
        loop.call_later(0, again)

    loop.add_reader(reading, loop.stop)
    os.write(writing, b"x")
    loop.call_later(0, again)
    loop.run_forever()
    loop.remove_reader(reading)
    os.close(reading)
    os.close(writing)
    loop.close()
    assert len(timers) <= TURNS


# The order


@pytest.fixture
def small(live_lib):
    """A loop whose ring holds four messages: what is posted beyond waits beside it."""
    loop = aio.EventLoop(live_lib.create_thread("small", ring_size=4))
    yield loop
    loop.close()


@pytest.mark.parametrize("posted", [3, 4, 5, 100, 5000])
def test_what_another_os_thread_posted_runs_before_what_is_scheduled_after_it(small, posted):
    order = []

    def post():
        for number in range(posted):
            small.call_soon_threadsafe(order.append, number)

    OtherThread(post).outcome()
    small.call_soon(order.append, "later")
    small.call_soon(small.stop)
    while "later" not in order:
        small.run_forever()
    assert order == [*range(posted), "later"]


@pytest.mark.parametrize("debug", [False, True])
@pytest.mark.parametrize("overflow", [False, True])
@pytest.mark.parametrize("pattern", ["mp", "pm", "mpmp", "pmpm", "ppmmpp", "mmmmmmmmmmmmp", "pmmmmmmmmmmmmpm"])
def test_messages_posted_callbacks_and_others_run_in_the_order_in_which_they_came(live_lib, pattern, overflow, debug):
    loop = aio.EventLoop(live_lib.create_thread(ring_size=4 if overflow else 1024))
    loop.set_debug(debug)
    order = []

    def send():
        for number, kind in enumerate(pattern):
            if kind == "p":
                loop.call_soon_threadsafe(order.append, (number, kind))
            else:
                loop.thread._send_library_msg(order.append, (number, kind))

    OtherThread(send).outcome()
    loop.call_soon(order.append, "later")

    def inside():
        OtherThread(send).outcome()
        loop.call_soon(order.append, "at the end")
        loop.call_soon_threadsafe(loop.stop)

    loop.call_soon(inside)
    loop.run_forever()
    loop.close()
    sent = list(enumerate(pattern))
    assert order == [*sent, "later", *sent, "at the end"]


def test_a_message_that_schedules_comes_before_what_it_schedules_and_after_what_was_posted_before(counted):
    order = []

    def message(name):
        order.append(name)
        counted.call_soon(order.append, f"of {name}")

    for name in ("one", "two"):
        counted.thread.send_msg(message, name)
        OtherThread(counted.call_soon_threadsafe, order.append, f"behind {name}").outcome()
    counted.call_soon(lambda: counted.call_soon(lambda: counted.call_soon(counted.stop)))
    counted.run_forever()
    assert order == ["one", "behind one", "two", "behind two", "of one", "of two"]


# Selectors


class CountingSelector(selectors.DefaultSelector):
    """With a `select` of its own, which the loop has to call."""

    asked = 0

    def select(self, timeout=None):
        self.asked += 1
        return super().select(timeout)


class PlainSubclass(selectors.DefaultSelector):
    """Changes nothing."""


@pytest.mark.parametrize("idle", ["adaptive", "poll", "yield"])
@pytest.mark.parametrize("selector", [CountingSelector, PlainSubclass, selectors.SelectSelector])
def test_a_subclass_of_a_selector_works_like_its_base(selector, idle):
    chosen = selector()
    loop = aio.EventLoop(selector=chosen, idle=idle)
    reading, writing = os.pipe()

    async def main():
        got = loop.create_future()
        handler = loop.thread.register_fd(reading, lambda: got.done() or got.set_result(os.read(reading, 1)))
        await asyncio.sleep(0.001)
        os.write(writing, b"x")
        seen = await got
        handler.unregister()
        loop.add_reader(reading, lambda: got.done() or got.set_result(os.read(reading, 1)))
        got = loop.create_future()
        await asyncio.sleep(0.001)
        os.write(writing, b"y")
        seen += await got
        loop.remove_reader(reading)
        return seen

    assert loop.run_until_complete(main()) == b"xy"
    if selector is CountingSelector:
        assert chosen.asked
    loop.close()
    os.close(reading)
    os.close(writing)


@pytest.mark.parametrize("selector", [selectors.DefaultSelector, CountingSelector, selectors.SelectSelector])
def test_a_descriptor_with_the_number_of_a_set_that_was_closed_is_the_users(selector):
    loop = aio.EventLoop(selector=selector())
    got = []
    pipes = []

    async def main():
        for _ in range(3):
            reading, writing = os.pipe()
            handler = loop.thread.register_fd(reading, int)
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            os.close(reading)  # before it is unregistered: the thread begins another set
            handler.unregister()
            os.close(writing)
            pipes.extend(os.pipe() for _ in range(3))
        for reading, writing in pipes:
            loop.add_reader(reading, lambda reading=reading: got.append(os.read(reading, 1)))
            os.write(writing, b"x")
        # The thread's own descriptors are served from its newest set.
        reading, writing = os.pipe()
        pipes.append((reading, writing))
        handler = loop.thread.register_fd(reading, lambda: got.append(os.read(reading, 1)))
        os.write(writing, b"y")
        while len(got) < len(pipes):
            await asyncio.sleep(0)
        handler.unregister()
        for reading, _ in pipes:
            loop.remove_reader(reading)

    loop.run_until_complete(asyncio.wait_for(main(), 60))
    loop.close()
    for ends in pipes:
        os.close(ends[0])
        os.close(ends[1])
    assert sorted(got) == [b"x"] * 9 + [b"y"]


def test_beside_a_manual_clock_too_the_loop_serves_its_descriptors():
    lib = ThreadLib(clock=ManualClock())
    loop = aio.EventLoop(lib.create_thread())
    reading, writing = os.pipe()
    loop.add_reader(reading, loop.stop)
    loop.call_later(1, int)
    os.write(writing, b"x")
    loop.run_forever()
    loop.remove_reader(reading)
    loop.close()
    finish(*lib.threads)
    lib.close()
    os.close(reading)
    os.close(writing)
