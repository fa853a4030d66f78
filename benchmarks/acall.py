"""`await thread.acall(fn)` from an asyncio loop, beside the other ways to have something done on another OS thread.

The strongest peer is a worker thread of one's own: a `SimpleQueue` of (future, function, argument), answered by
`loop.call_soon_threadsafe`. `asyncio.to_thread` and `run_in_executor` are what most programs use. With janus, the
worker takes from the synchronous end of its queue.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from queue import SimpleQueue
from time import perf_counter_ns

import spdkthread

from . import ours
from .build import two_cores
from .harness import Budget, Row, Target, Unavailable, available, compare, pin, pinned

QUESTION = "How long is an awaited round trip to another thread?"
MANY = 10_000
HALF = Target("≤ 0.5 ×", ratio=0.5)


def work(arg):
    return arg


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    rows: list[Row] = []
    with pinned(first):
        for loop_name in ("asyncio", "uvloop", "aio.EventLoop"):
            name = f"awaited round trip, {loop_name}"
            peer_loop = "uvloop" if loop_name == "aio.EventLoop" else loop_name
            mine, absent = available({ours.NAME: lambda on=loop_name: Acalls(on, second, one_by_one).run}, name)
            rows += absent
            if not mine:
                continue
            worker = f"worker thread, {peer_loop}"
            peers, absent = available({worker: lambda on=peer_loop: Worker(on, second, one_by_one).run}, name)
            rows += compare(name, mine[ours.NAME], peers, budget, targets={worker: HALF}) + absent
        many = 100 if budget.is_smoke else MANY
        if budget.mode == "quick":
            budget = replace(budget, repeats=3)  # each takes its time
        at_once = gathered(many)
        for loop_name in ("asyncio", "uvloop"):
            name = f"{many:,} at once, {loop_name}"
            mine, absent = available({ours.NAME: lambda on=loop_name: Acalls(on, second, at_once).run}, name)
            rows += absent
            if not mine:
                continue
            peers, absent = available(
                {
                    f"worker thread, {loop_name}": lambda on=loop_name: Worker(on, second, at_once).run,
                    f"worker thread and janus, {loop_name}": lambda on=loop_name: Janus(on, second, at_once).run,
                    f"run_in_executor, {loop_name}": lambda on=loop_name: Executor(on, second, at_once).run,
                    f"to_thread, {loop_name}": lambda on=loop_name: ToThread(on, second, at_once).run,
                },
                name,
            )
            targets = dict.fromkeys(peers, HALF)
            rows += compare(name, mine[ours.NAME], peers, budget, multiple=many, targets=targets) + absent
    return rows


async def one_by_one(ask, count: int) -> float:
    begin = perf_counter_ns()
    for _ in range(count):
        await ask(1)
    return perf_counter_ns() - begin


def gathered(many: int):
    async def at_once(ask, count: int) -> float:
        begin = perf_counter_ns()
        for _ in range(count // many):
            await asyncio.gather(*[ask(arg) for arg in range(many)])
        return perf_counter_ns() - begin

    return at_once


class Acalls:
    def __init__(self, loop_name: str, core: int, pattern):
        self.loop = ours.EVENT_LOOPS[loop_name]()
        self.core, self.pattern = core, pattern

        # One that looks around for a moment and then sleeps, as most programs have it: it leaves the core to the peers.
        self.lib = spdkthread.ThreadLib()
        self.reactor = ours.reactor(self.lib, core, "adaptive")
        self.thread = self.reactor.create_thread("asked", ring_size=2 * MANY)  # all of them wait in it
        ours.touch(self.thread)

    def run(self, count: int) -> float:
        acall = self.thread.acall
        return self.loop.run_until_complete(self.pattern(lambda arg: acall(work, arg), count))


class Peer:
    def __init__(self, loop_name: str, core: int, pattern):
        self.loop = ours.EVENT_LOOPS[loop_name]()
        self.core, self.pattern = core, pattern
        self.start()

    def run(self, count: int) -> float:
        return self.loop.run_until_complete(self.pattern(self.ask, count))


def settle(future: asyncio.Future, result) -> None:
    if not future.done():
        future.set_result(result)


class Worker(Peer):
    def start(self) -> None:
        self.queue: SimpleQueue = SimpleQueue()
        threading.Thread(target=self.serve, args=(self.queue.get,), daemon=True).start()

    def serve(self, get) -> None:
        pin(self.core)
        answer = self.loop.call_soon_threadsafe
        while True:
            future, fn, arg = get()
            answer(settle, future, fn(arg))

    def ask(self, arg) -> asyncio.Future:
        future = self.loop.create_future()
        self.queue.put((future, work, arg))
        return future


class Janus(Worker):
    def start(self) -> None:
        try:
            import janus
        except ImportError as reason:
            raise Unavailable(str(reason)) from None

        async def make():
            return janus.Queue()

        self.queue = self.loop.run_until_complete(make())
        threading.Thread(target=self.serve, args=(self.queue.sync_q.get,), daemon=True).start()

    async def ask(self, arg):
        future = self.loop.create_future()
        await self.queue.async_q.put((future, work, arg))
        return await future


class Executor(Peer):
    def start(self) -> None:
        self.pool = ThreadPoolExecutor(1, initializer=pin, initargs=(self.core,))

    def ask(self, arg) -> asyncio.Future:
        return self.loop.run_in_executor(self.pool, work, arg)


class ToThread(Peer):
    def start(self) -> None:
        self.loop.set_default_executor(ThreadPoolExecutor(1, initializer=pin, initargs=(self.core,)))

    def ask(self, arg):
        return asyncio.to_thread(work, arg)
