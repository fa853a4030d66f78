"""asyncio and uvloop: the same code on two event loops."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from time import perf_counter_ns

from ..harness import Side, pin


def new_asyncio() -> asyncio.AbstractEventLoop:
    return asyncio.SelectorEventLoop()


def new_uvloop() -> asyncio.AbstractEventLoop:
    import uvloop

    return uvloop.new_event_loop()


LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": new_asyncio, "uvloop": new_uvloop}


class LoopThread:
    """An event loop that runs for ever in a thread of its own."""

    def __init__(self, new_loop: Callable[[], asyncio.AbstractEventLoop], core: int):
        self.loop = new_loop()
        self._thread = threading.Thread(target=self._run, args=(core,), daemon=True)
        self._thread.start()
        started = threading.Event()
        self.loop.call_soon_threadsafe(started.set)
        started.wait(10)

    def _run(self, core: int) -> None:
        pin(core)
        asyncio.set_event_loop(self.loop)
        self.loop.run_forever()

    def stop(self) -> None:
        self.loop.call_soon_threadsafe(self.loop.stop)
        self._thread.join(10)
        self.loop.close()


class LoopReceiver:
    new_loop: Callable[[], asyncio.AbstractEventLoop]

    def start(self, core: int) -> None:
        self._thread = LoopThread(type(self).new_loop, core)
        self.send = self._thread.loop.call_soon_threadsafe

    def burst(self, count: int, fn, arg) -> None:
        send = self.send
        for _ in range(count):
            send(fn, arg)

    def stop(self) -> None:
        self._thread.stop()


class AsyncioReceiver(LoopReceiver):
    new_loop = staticmethod(new_asyncio)


class UvloopReceiver(LoopReceiver):
    new_loop = staticmethod(new_uvloop)

    def __init__(self):
        import uvloop  # noqa: F401  (not installed: say so before anything is started)


class LoopPingPong:
    new_loop: Callable[[], asyncio.AbstractEventLoop]

    def start(self, first: int, second: int) -> None:
        self._here = LoopThread(type(self).new_loop, first)
        self._there = LoopThread(type(self).new_loop, second)

    def run(self, count: int, samples: list[int] | None = None) -> float:
        here, there = self._here.loop.call_soon_threadsafe, self._there.loop.call_soon_threadsafe
        done = threading.Event()
        left = count
        last = 0

        def ping() -> None:
            here(pong)

        def pong() -> None:
            nonlocal left, last
            if samples is not None:
                now = perf_counter_ns()
                samples.append(now - last)
                last = now
            left -= 1
            if left:
                there(ping)
            else:
                done.set()

        begin = last = perf_counter_ns()
        there(ping)
        done.wait()
        return perf_counter_ns() - begin

    def stop(self) -> None:
        self._here.stop()
        self._there.stop()


class AsyncioPingPong(LoopPingPong):
    new_loop = staticmethod(new_asyncio)


class UvloopPingPong(LoopPingPong):
    new_loop = staticmethod(new_uvloop)

    def __init__(self):
        import uvloop  # noqa: F401


def one_thread(name: str, fn, batch: int) -> Side:
    """Return a side that schedules `batch` calls at a time on a loop of the calling thread, and runs them."""
    return on_one_loop(LOOPS[name](), fn, batch)


def on_one_loop(loop: asyncio.AbstractEventLoop, fn, batch: int) -> Side:
    def side(count: int) -> float:
        left = count // batch
        call_soon = loop.call_soon

        def drive() -> None:
            nonlocal left
            if left == 0:
                loop.stop()
                return
            left -= 1
            for _ in range(batch):
                call_soon(fn, 1)
            call_soon(drive)

        call_soon(drive)
        begin = perf_counter_ns()
        loop.run_forever()
        return perf_counter_ns() - begin

    return side


class LoopTimers:
    """Timers of one loop: the operations whose cost the timer benchmark asks for."""

    def __init__(self, name: str):
        self.loop = LOOPS[name]()
        self._pending: list[asyncio.TimerHandle] = []

    def fill(self, delays_s: list[float], fn) -> None:
        """Leave timers pending that will not expire while we measure."""
        call_later = self.loop.call_later
        self._pending += [call_later(delay, fn) for delay in delays_s]

    def insert(self, delays_s: list[float], fn) -> tuple[float, list]:
        call_later = self.loop.call_later
        begin = perf_counter_ns()
        handles = [call_later(delay, fn) for delay in delays_s]
        return perf_counter_ns() - begin, handles

    def cancel(self, handles: list) -> float:
        begin = perf_counter_ns()
        for handle in handles:
            handle.cancel()
        return perf_counter_ns() - begin

    def expire(self, count: int, fn) -> float:
        """Run `count` timers that expire one after the other within a moment and arm themselves again."""
        loop = self.loop
        call_later = loop.call_later
        left = count

        def tick() -> None:
            nonlocal left
            fn()
            call_later(1000.0, nothing)  # what "re-arm" means to a periodic timer
            left -= 1
            if left == 0:
                loop.stop()

        def nothing() -> None:
            pass

        for _ in range(count):
            call_later(0.0, tick)
        begin = perf_counter_ns()
        loop.run_forever()
        return perf_counter_ns() - begin

    def close(self) -> None:
        for handle in self._pending:
            handle.cancel()
        self.loop.close()
