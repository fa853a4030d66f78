"""Coroutines that do nothing but give way: `await sleep_us(0)` on an SpdkThread, `await asyncio.sleep(0)` on a loop.

With one, a switch is all that happens; with ten thousand, each finds its memory cold. asyncio's `sleep(0)` is the
cheapest wait it has: a bare yield, with no future and no timer.
"""

from __future__ import annotations

import asyncio
from time import perf_counter_ns

from spdkthread import aio

from . import ours
from .environment import cores
from .harness import Budget, Row, Side, Target, available, compare, pinned

QUESTION = "What does it cost to switch to another coroutine?"
CHEAPER = Target("cheaper", ratio=1.0)


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    with pinned(cores()[0]):
        for many in budget.sizes((1, 100, 10_000)):
            name = f"switch, {many:,} coroutine{'s' if many > 1 else ''}"
            peers, absent = available(
                {
                    loop: lambda loop=loop, many=many: on_loop(loop, many)
                    for loop in ("asyncio", "uvloop", "aio.EventLoop")
                },
                name,
            )
            targets = dict.fromkeys(("asyncio", "uvloop"), CHEAPER)
            rows += compare(
                name, on_thread(many), peers, budget, multiple=many, targets=targets, figure="coroutines", x=many
            )
            rows += absent
    return rows


def on_thread(many: int) -> Side:
    thread = ours.one_driven_thread(ring_size=65536)

    async def switch(times: int) -> None:
        sleep_us = aio.sleep_us
        for _ in range(times):
            await sleep_us(0)

    def side(count: int) -> float:
        poll = thread.poll
        futures = [thread.spawn(switch(count // many)) for _ in range(many)]
        begin = perf_counter_ns()
        while poll():
            pass
        elapsed = perf_counter_ns() - begin
        for future in futures:
            future.result(timeout=0)
        return elapsed

    return side


def on_loop(name: str, many: int) -> Side:
    loop = ours.EVENT_LOOPS[name]()

    async def switch(times: int) -> None:
        sleep = asyncio.sleep
        for _ in range(times):
            await sleep(0)

    async def main(count: int) -> float:
        tasks = [loop.create_task(switch(count // many)) for _ in range(many)]
        begin = perf_counter_ns()
        for task in tasks:
            await task
        return perf_counter_ns() - begin

    return lambda count: loop.run_until_complete(main(count))
