"""spdkthread in the same forms as its peers: see ``peers/__init__.py``."""

from __future__ import annotations

import threading
from collections.abc import Callable
from time import perf_counter_ns

import spdkthread
from spdkthread import aio

from .build import native_side
from .environment import cores
from .harness import Side, Unavailable, pinned, wait_for
from .peers.loops import LOOPS, LoopPingPong, LoopReceiver

NAME = "spdkthread"


def new_event_loop() -> aio.EventLoop:
    return aio.EventLoop()


EVENT_LOOPS = {**LOOPS, "aio.EventLoop": new_event_loop}


def require(*names: str) -> None:
    """Say what this build does not have yet."""
    absent = [name for name in names if not hasattr(spdkthread, name)]
    if absent:
        raise Unavailable(f"this spdkthread has no {', '.join(absent)}")


def reactor(lib: spdkthread.ThreadLib, core: int, idle: str = "poll", spin_us: float = 50) -> spdkthread.Reactor:
    """Return a started reactor; one that never sleeps, unless the question is about sleeping."""
    try:
        # A pinned caller may use one core only, and so may what it starts.
        with pinned(*cores()):
            return spdkthread.Reactor(core, idle=idle, spin_us=spin_us, lib=lib).start()
    except (ValueError, NotImplementedError) as reason:
        raise Unavailable(f"no reactor with idle={idle!r}: {reason}") from None


def touch(thread: spdkthread.SpdkThread) -> None:
    """Send one message through every slot of a polled thread's ring, so that no first page fault is in a figure."""
    left = thread.ring_size
    while left:
        left -= thread.send_many(nothing, range(min(left, 4096)))
        wait_for(lambda: thread.pending_msgs == 0, "the first lap of the ring")


def nothing(arg) -> None:
    pass


class Receiver:
    """A reactor on its core, with one SpdkThread."""

    def __init__(self, idle: str = "poll", **kwargs):
        self._idle, self._kwargs = idle, kwargs

    def start(self, core: int) -> None:
        self.lib = spdkthread.ThreadLib()
        self.reactor = reactor(self.lib, core, self._idle)
        self.thread = self.reactor.create_thread("receiver", **self._kwargs)
        touch(self.thread)
        self.send = self.thread.send_msg

    def burst(self, count: int, fn, arg) -> None:
        send = self.send
        for _ in range(count):
            send(fn, arg)

    def stop(self) -> None:
        self.reactor.stop()
        self.lib.close()


class PingPong:
    """Two reactors on two cores; a message runs the function that sends the answer."""

    def __init__(self, idle: str = "poll", spin_us: float = 50):
        self._idle, self._spin_us = idle, spin_us

    def start(self, first: int, second: int) -> None:
        self.lib = spdkthread.ThreadLib()
        self._reactors = [reactor(self.lib, core, self._idle, self._spin_us) for core in (first, second)]
        self.here, self.there = (each.create_thread() for each in self._reactors)
        touch(self.here)
        touch(self.there)

    def run(self, count: int, samples: list[int] | None = None) -> float:
        here, there = self.here.send_msg, self.there.send_msg
        done = threading.Event()
        left = count
        begin = last = end = 0

        def ping() -> None:
            here(pong)

        def pong() -> None:
            nonlocal left, last, end
            if samples is not None:
                now = perf_counter_ns()
                samples.append(now - last)
                last = now
            left -= 1
            if left:
                there(ping)
            else:
                end = perf_counter_ns()
                done.set()

        def start() -> None:
            nonlocal begin, last
            begin = last = perf_counter_ns()
            there(ping)

        here(start)
        done.wait()
        return end - begin

    def stop(self) -> None:
        for each in self._reactors:
            each.stop()
        self.lib.close()


class EventLoopReceiver(LoopReceiver):
    new_loop = staticmethod(new_event_loop)


class EventLoopPingPong(LoopPingPong):
    new_loop = staticmethod(new_event_loop)


def reactors_apart(
    on: list[int],
    measure: Callable[[list[spdkthread.SpdkThread], int], float],
    idle: str = "poll",
    spin_us: float = 50,
) -> Side:
    """Return a side that measures on reactors, one thread each, that exist only while it runs."""

    def side(count: int) -> float:
        lib = spdkthread.ThreadLib()
        reactors = [reactor(lib, core, idle, spin_us) for core in on]
        threads = [each.create_thread() for each in reactors]
        for thread in threads:
            touch(thread)
        try:
            return measure(threads, count)
        finally:
            for each in reactors:
                each.stop()
            lib.close()

    return side


def one_driven_thread(ring_size: int = 64, **kwargs) -> spdkthread.SpdkThread:
    """Return a thread of a library of its own, for the caller to poll."""
    return spdkthread.ThreadLib().create_thread("driven", ring_size=ring_size, **kwargs)


def one_native_thread() -> spdkthread.SpdkThread:
    """Return a thread with a ring of the usual size for the caller to poll, every slot of which has been used."""
    thread = one_driven_thread(65536)
    native_side().messages_on_one_core(thread, 65536)
    return thread


def one_thread(fn, batch: int) -> Side:
    """Return a side that sends `batch` messages to a thread of its own and polls it until they have run."""
    thread = one_driven_thread(ring_size=max(64, batch))

    def side(count: int) -> float:
        send, poll = thread.send_msg, thread.poll
        polls = range((batch + 7) // 8)
        begin = perf_counter_ns()
        for _ in range(count // batch):
            for _ in range(batch):
                send(fn, 1)
            for _ in polls:
                poll()
        return perf_counter_ns() - begin

    return side


class Timers:
    """Timed pollers of one thread under a clock that we move."""

    def __init__(self):
        from spdkthread.testing import ManualClock

        self.clock = ManualClock()
        self.lib = spdkthread.ThreadLib(clock=self.clock)
        self.thread = self.lib.create_thread("timers", ring_size=64, poller_policy="all")
        self._pending: list[spdkthread.Poller] = []

    def fill(self, delays_s: list[float], fn) -> None:
        with self.thread:
            register = self.thread.register_poller
            self._pending += [register(fn, delay * 1e6) for delay in delays_s]

    def insert(self, delays_s: list[float], fn) -> tuple[float, list]:
        with self.thread:
            register = self.thread.register_poller
            periods = [delay * 1e6 for delay in delays_s]
            begin = perf_counter_ns()
            pollers = [register(fn, period) for period in periods]
            return perf_counter_ns() - begin, pollers

    def cancel(self, handles: list) -> float:
        with self.thread:
            begin = perf_counter_ns()
            for poller in handles:
                poller.unregister()
            return perf_counter_ns() - begin

    def expire(self, count: int, fn) -> float:
        with self.thread:
            pollers = [self.thread.register_poller(fn, 1.0 + 0.001 * i) for i in range(count)]
        self.clock.advance(us=count)
        before = sum(poller.run_count for poller in pollers)
        begin = perf_counter_ns()
        self.thread.poll()
        elapsed = perf_counter_ns() - begin
        ran = sum(poller.run_count for poller in pollers) - before
        if ran != count:
            raise AssertionError(f"{ran} of {count} timers expired")
        self.cancel(pollers)
        return elapsed

    def close(self) -> None:
        self.cancel(self._pending)
        with self.thread:
            self.thread.exit()
        self.thread.poll()
        self.lib.close()
