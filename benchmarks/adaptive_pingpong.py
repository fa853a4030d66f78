"""Ping-pong between two reactors that may sleep.

*hot*: each hop comes within `spin_us`, so no reactor falls asleep; beside two reactors that never sleep, which shows
what being able to sleep costs. *from sleep*: with ``spin_us=0`` each hop finds the other side asleep in the kernel, or
on its way there; beside it, for native messages, two bare eventfd wake-ups, and for Python ones the peers, which always
sleep.
"""

from __future__ import annotations

from functools import partial

from . import ours
from .build import Program, native_side, two_cores
from .harness import Budget, Row, Target, compare, missing
from .peers import PINGPONGS, load
from .python_pingpong import Apart

QUESTION = "How long is a round trip between two reactors that may sleep?"
LIMIT = "two bare eventfd wake-ups"


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    native = native_side()

    def natively(idle: str, spin_us: float):
        return ours.reactors_apart(
            [first, second], lambda threads, count: native.reactor_pingpong(*threads, count), idle, spin_us
        )

    def in_python(idle: str, spin_us: float):
        return Apart(partial(ours.PingPong, idle, spin_us), first, second).run

    rows = compare(
        "native, hot", natively("adaptive", 50), {'idle="poll"': natively("poll", 50)}, budget, multiple=1_000
    )
    rows += compare(
        "Python, hot", in_python("adaptive", 50), {'idle="poll"': in_python("poll", 50)}, budget, multiple=100
    )
    with Program("eventfd_wake", first, second, 100) as bare:

        def wake_ups(count: int) -> float:
            # Without the first, which waits for the sleeper's thread to be started.
            return 2.0 * float(bare.samples("read", count + 1)[1:].mean()) * count

        rows += compare(
            "native, from sleep",
            natively("adaptive", 0),
            {LIMIT: wake_ups},
            budget,
            largest=2_000,
            targets={LIMIT: Target("≤ 1.3 × bare eventfd wake-ups", ratio=1.3)},
        )
    sides, absent = {}, []
    for name, where in PINGPONGS.items():
        try:
            sides[name] = load(where)()
            sides[name].start(first, second)
        except ImportError as reason:
            absent.append(missing("Python, from sleep", name, reason))
    peers = {name: side.run for name, side in sides.items()}
    rows += compare("Python, from sleep", in_python("adaptive", 0), peers, budget)
    for side in sides.values():
        side.stop()
    return rows + absent
