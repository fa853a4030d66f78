"""Threads and coroutines that read functions from a queue: queue.SimpleQueue, janus, culsans."""

from __future__ import annotations

import asyncio
import threading
from queue import SimpleQueue
from time import perf_counter_ns

from ..harness import Side, pin
from .loops import LoopThread, new_asyncio


class SimpleQueueReceiver:
    def start(self, core: int) -> None:
        self.queue: SimpleQueue = SimpleQueue()
        self._thread = threading.Thread(target=self._run, args=(core,), daemon=True)
        self._thread.start()

    def _run(self, core: int) -> None:
        pin(core)
        get = self.queue.get
        while True:
            message = get()
            if message is None:
                return
            fn, arg = message
            fn(arg)

    def send(self, fn, arg) -> None:
        self.queue.put((fn, arg))

    def burst(self, count: int, fn, arg) -> None:
        put = self.queue.put
        for _ in range(count):
            put((fn, arg))

    def stop(self) -> None:
        self.queue.put(None)
        self._thread.join(10)


class SimpleQueuePingPong:
    def start(self, first: int, second: int) -> None:
        self._first = first
        self._there: SimpleQueue = SimpleQueue()
        self._here: SimpleQueue = SimpleQueue()
        self._thread = threading.Thread(target=self._echo, args=(second,), daemon=True)
        self._thread.start()

    def _echo(self, core: int) -> None:
        pin(core)
        get, put = self._there.get, self._here.put
        while (message := get()) is not None:
            put(message)

    def run(self, count: int, samples: list[int] | None = None) -> float:
        elapsed = 0.0

        def initiate() -> None:
            nonlocal elapsed
            pin(self._first)
            put, get = self._there.put, self._here.get
            begin = last = perf_counter_ns()
            for _ in range(count):
                put(1)
                get()
                if samples is not None:
                    now = perf_counter_ns()
                    samples.append(now - last)
                    last = now
            elapsed = perf_counter_ns() - begin

        thread = threading.Thread(target=initiate)
        thread.start()
        thread.join()
        return elapsed

    def stop(self) -> None:
        self._there.put(None)
        self._thread.join(10)


def one_thread(fn, batch: int) -> Side:
    """Return a side that puts `batch` calls into a queue and takes and runs them, all in the calling thread."""
    queue: SimpleQueue = SimpleQueue()

    def side(count: int) -> float:
        put, get = queue.put, queue.get
        begin = perf_counter_ns()
        for _ in range(count // batch):
            for _ in range(batch):
                put((fn, 1))
            for _ in range(batch):
                call, arg = get()
                call(arg)
        return perf_counter_ns() - begin

    return side


class AsyncQueueReceiver:
    """A queue with one end for threads and one for a coroutine, which runs what comes."""

    def start(self, core: int) -> None:
        self._thread = LoopThread(new_asyncio, core)
        self._done = asyncio.run_coroutine_threadsafe(self._consume(ready := threading.Event()), self._thread.loop)
        ready.wait(10)

    async def _consume(self, ready: threading.Event) -> None:
        self.queue = self.new_queue()
        get = self.queue.async_q.get
        ready.set()
        while (message := await get()) is not None:
            fn, arg = message
            fn(arg)

    def send(self, fn, arg) -> None:
        self.queue.sync_q.put((fn, arg))

    def burst(self, count: int, fn, arg) -> None:
        put = self.queue.sync_q.put
        for _ in range(count):
            put((fn, arg))

    def stop(self) -> None:
        self.queue.sync_q.put(None)
        self._done.result(10)
        self._thread.stop()


class AsyncQueuePingPong:
    """Two loops, each with a coroutine that waits on its own queue and puts into the other's."""

    def start(self, first: int, second: int) -> None:
        self._here = LoopThread(new_asyncio, first)
        self._there = LoopThread(new_asyncio, second)
        self._inbox = asyncio.run_coroutine_threadsafe(self._make(), self._here.loop).result(10)
        self._outbox = asyncio.run_coroutine_threadsafe(self._make(), self._there.loop).result(10)
        self._done = asyncio.run_coroutine_threadsafe(self._echo(), self._there.loop)

    async def _make(self):
        return self.new_queue()

    async def _echo(self) -> None:
        get, put = self._outbox.async_q.get, self._inbox.sync_q.put
        while (message := await get()) is not None:
            put(message)

    async def _initiate(self, count: int, samples: list[int] | None) -> float:
        put, get = self._outbox.sync_q.put, self._inbox.async_q.get
        begin = last = perf_counter_ns()
        for _ in range(count):
            put(1)
            await get()
            if samples is not None:
                now = perf_counter_ns()
                samples.append(now - last)
                last = now
        return perf_counter_ns() - begin

    def run(self, count: int, samples: list[int] | None = None) -> float:
        return asyncio.run_coroutine_threadsafe(self._initiate(count, samples), self._here.loop).result()

    def stop(self) -> None:
        self._outbox.sync_q.put(None)
        self._done.result(10)
        self._here.stop()
        self._there.stop()


def janus_queue():
    import janus

    return janus.Queue()


def culsans_queue():
    import culsans

    return culsans.Queue()


class JanusReceiver(AsyncQueueReceiver):
    new_queue = staticmethod(janus_queue)

    def __init__(self):
        import janus  # noqa: F401


class CulsansReceiver(AsyncQueueReceiver):
    new_queue = staticmethod(culsans_queue)

    def __init__(self):
        import culsans  # noqa: F401


class JanusPingPong(AsyncQueuePingPong):
    new_queue = staticmethod(janus_queue)

    def __init__(self):
        import janus  # noqa: F401


class CulsansPingPong(AsyncQueuePingPong):
    new_queue = staticmethod(culsans_queue)

    def __init__(self):
        import culsans  # noqa: F401
