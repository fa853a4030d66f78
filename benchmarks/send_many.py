"""`send_many`: one claim for many slots.

What the sender alone pays, per message, for 1,000 of them; the receiver's part is done outside of the time.
"""

from __future__ import annotations

from queue import SimpleQueue
from time import perf_counter_ns

import spdkthread

from .environment import cores
from .harness import Budget, Row, Side, available, compare, pinned
from .peers import loops

QUESTION = "What does send_many save?"
MANY = 1_000


def nothing(arg):
    pass


def run(budget: Budget) -> list[Row]:
    name = "send 1,000"
    with pinned(cores()[0]):
        peers, absent = available(
            {
                "send_msg in a loop": lambda: ours(False),
                "SimpleQueue.put in a loop": simple_queue,
                "asyncio call_soon in a loop": lambda: loop_side("asyncio"),
                "uvloop call_soon in a loop": lambda: loop_side("uvloop"),
            },
            name,
        )
        return compare(name, ours(True), peers, budget, multiple=MANY) + absent


def ours(many: bool) -> Side:
    thread = spdkthread.ThreadLib().create_thread("many", ring_size=1024)
    args = list(range(MANY))

    def send_in_loop() -> None:
        send = thread.send_msg
        for arg in args:
            send(nothing, arg)

    def side(count: int) -> float:
        elapsed = 0
        for _ in range(count // MANY):
            begin = perf_counter_ns()
            if many:
                thread.send_many(nothing, args)
            else:
                send_in_loop()
            elapsed += perf_counter_ns() - begin
            while thread.poll():
                pass
        return elapsed

    return side


def simple_queue() -> Side:
    queue: SimpleQueue = SimpleQueue()
    args = list(range(MANY))

    def side(count: int) -> float:
        elapsed = 0
        put, get = queue.put, queue.get
        for _ in range(count // MANY):
            begin = perf_counter_ns()
            for arg in args:
                put((nothing, arg))
            elapsed += perf_counter_ns() - begin
            for _ in args:
                get()
        return elapsed

    return side


def loop_side(name: str) -> Side:
    loop = loops.LOOPS[name]()
    args = list(range(MANY))

    def side(count: int) -> float:
        elapsed = 0
        call_soon = loop.call_soon
        for _ in range(count // MANY):
            begin = perf_counter_ns()
            for arg in args:
                call_soon(nothing, arg)
            elapsed += perf_counter_ns() - begin
            call_soon(loop.stop)
            loop.run_forever()
        return elapsed

    return side
