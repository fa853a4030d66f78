"""What one run of a poller costs, with 1, 10 and 1,000 of them.

The cost of a poll that runs every active poller once (``poller_policy="all"``), divided by their number; the peer is a
bare call of the same function. For asyncio, what comes nearest to an active poller is a callback that schedules itself.
"""

from __future__ import annotations

from time import perf_counter_ns

from . import ours
from .build import native_side
from .environment import cores
from .harness import Budget, Row, Side, Target, Unavailable, available, compare, missing, pinned, timed
from .peers import loops

QUESTION = "What does one run of a poller cost?"
POLLERS = (1, 10, 1_000)


def idle():
    return 0


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    with pinned(cores()[0]):
        for count in POLLERS:
            name = f"Python, {count:,} active"
            peers, absent = available(
                {
                    "a Python call in a loop": lambda count=count: timed(lambda n: call(n)),
                    "asyncio call_soon": lambda count=count: loop_side("asyncio", count),
                    "uvloop call_soon": lambda count=count: loop_side("uvloop", count),
                },
                name,
            )
            thread = ours.one_driven_thread(poller_policy="all")
            with thread:
                for _ in range(count):
                    thread.register_poller(idle)
            rows += (
                compare(
                    name, poll_side(thread, count), peers, budget, multiple=count, figure="number-of-pollers", x=count
                )
                + absent
            )
        try:
            native = native_side()
        except Unavailable as reason:
            return [*rows, missing("native", "", reason)]
        for policy in ("all", "one"):
            for count in POLLERS:
                thread = ours.one_driven_thread(poller_policy=policy)
                native.register_active_pollers(thread, count)
                per_poll = count if policy == "all" else 1
                rows += compare(
                    f"native, {count:,} active, policy {policy!r}",
                    timed(lambda n, thread=thread, per_poll=per_poll: native.polls(thread, n // per_poll)),
                    {"a C call through a pointer": timed(native.bare_calls)},
                    budget,
                    multiple=per_poll,
                    figure="number-of-pollers",
                    series=f"spdkthread, native, {policy}",
                    x=count,
                    absolute=Target("≤ 5 ns a run", value=5) if (policy, count) == ("all", 1000) else None,
                )
    return rows


def call(count: int) -> None:
    fn = idle
    for _ in range(count):
        fn()


def poll_side(thread, pollers: int) -> Side:
    def side(count: int) -> float:
        poll = thread.poll
        begin = perf_counter_ns()
        for _ in range(count // pollers):
            poll()
        return perf_counter_ns() - begin

    return side


def loop_side(name: str, callbacks: int) -> Side:
    loop = loops.LOOPS[name]()

    def side(count: int) -> float:
        left = count
        call_soon = loop.call_soon

        def again() -> None:
            nonlocal left
            idle()
            left -= 1
            if left >= callbacks:
                call_soon(again)
            elif left == 0:
                loop.stop()

        for _ in range(callbacks):
            call_soon(again)
        begin = perf_counter_ns()
        loop.run_forever()
        return perf_counter_ns() - begin

    return side
