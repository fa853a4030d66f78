"""`for_each_thread` over 1 to 1,000 threads of one reactor, per thread visited.

The peer is a chain of as many callbacks, each scheduling the next one, on one event loop: the cheapest thing there that
visits many parties one after the other.
"""

from __future__ import annotations

import threading
from time import perf_counter_ns

import spdkthread

from . import ours
from .environment import cores
from .harness import Budget, Row, Side, available, compare
from .peers import loops

QUESTION = "What does for_each_thread cost per thread?"
THREADS = (1, 10, 100, 1_000)


def nothing() -> None:
    pass


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    for count in THREADS:
        name = f"{count:,} thread{'s' * (count > 1)}"
        peers, absent = available(
            {
                "asyncio call_soon": lambda count=count: chain("asyncio", count),
                "uvloop call_soon": lambda count=count: chain("uvloop", count),
            },
            name,
        )
        rows += compare(name, iterations(count), peers, budget, multiple=count, figure="number-of-threads", x=count)
        rows += absent
    return rows


def iterations(threads: int) -> Side:
    def side(count: int) -> float:
        lib = spdkthread.ThreadLib()
        reactor = ours.reactor(lib, cores()[0])
        each = [reactor.create_thread(ring_size=64) for _ in range(threads)]
        left = count // threads
        begin = end = 0
        done = threading.Event()

        def again() -> None:
            nonlocal left, end
            if left == 0:
                end = perf_counter_ns()
                done.set()
                return
            left -= 1
            spdkthread.for_each_thread(nothing, again, lib=lib)

        def start() -> None:
            nonlocal begin
            begin = perf_counter_ns()
            again()

        each[0].send_msg(start)
        done.wait()
        reactor.stop()
        lib.close()
        return end - begin

    return side


def chain(name: str, hops: int) -> Side:
    loop = loops.LOOPS[name]()

    def side(count: int) -> float:
        left = count
        call_soon = loop.call_soon

        def hop() -> None:
            nonlocal left
            nothing()
            left -= 1
            if left:
                call_soon(hop)
            else:
                loop.stop()

        begin = perf_counter_ns()
        call_soon(hop)
        loop.run_forever()
        return perf_counter_ns() - begin

    return side
