"""A Python message, sent and run in one thread.

From Python: 8 calls are scheduled, then run, by a Python loop; event loops also get batches of 1,000, where their
system call per turn weighs least. From Cython: the loop costs nothing, and what remains is compared with calling the
function directly.
"""

from __future__ import annotations

from . import ours
from .build import native_side
from .environment import cores
from .harness import Budget, Row, Target, Unavailable, available, compare, missing, pinned, timed
from .peers import loops, queues

QUESTION = "What does a Python message cost when sender and receiver are one thread?"


def nothing(arg):
    pass


def run(budget: Budget) -> list[Row]:
    rows = []
    with pinned(cores()[0]):
        for batch in (8, 1000):
            name = f"send + run, batches of {batch:,}"
            sides, absent = available(
                {
                    "SimpleQueue": lambda batch=batch: queues.one_thread(nothing, batch),
                    "asyncio": lambda batch=batch: loops.one_thread("asyncio", nothing, batch),
                    "uvloop": lambda batch=batch: loops.one_thread("uvloop", nothing, batch),
                },
                name,
            )
            rows += compare(name, ours.one_thread(nothing, batch), sides, budget, multiple=batch) + absent
        name = "send + run, from Cython"
        try:
            native = native_side()
        except Unavailable as reason:
            return [*rows, missing(name, "a bare vectorcall", reason)]
        thread = ours.one_driven_thread()
        rows += compare(
            name,
            timed(lambda count: native.python_messages(thread, nothing, count)),
            {"a bare vectorcall": timed(lambda count: native.bare_vectorcalls(nothing, count))},
            budget,
            multiple=8,
            targets={"a bare vectorcall": Target("≤ 1.5 × a bare vectorcall", ratio=1.5)},
        )
    return rows
