"""Timers: insert, cancel and expire, with few and with many others pending.

The others are spread over an hour and never expire. An expired timer runs an empty function and is armed again, as a
periodic one is. The native figures are those of a C structure that is already there; the Python ones contain the
creation of the object that stands for the timer, on all sides.
"""

from __future__ import annotations

import random
import statistics

from . import ours
from .build import native_side
from .environment import cores
from .harness import Budget, Row, Target, Unavailable, interleave, missing, pinned, quartiles, ratio_row
from .peers import loops

QUESTION = "What do timers cost with 100 to 1,000,000 pending?"
PENDING = (100, 10_000, 1_000_000)
BATCH = 1_000
ROUNDS = 5  # per turn: the caches are those of a program that uses timers, not of the side before
OPERATIONS = ("insert", "cancel", "expire")
NATIVE = Target("≤ 60 ns native, flat", value=60)
PYTHON = Target("≤ 250 ns from Python, flat", value=250)


def nothing():
    pass


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    with pinned(cores()[0]):
        for pending in budget.sizes(PENDING):
            rows += from_python(pending, budget)
            try:
                rows += native(pending, budget)
            except Unavailable as reason:
                rows.append(missing("native timers", "", reason))
    return rows


def delays(count: int, seed: int) -> list[float]:
    generator = random.Random(seed)
    return [generator.uniform(60.0, 3660.0) for _ in range(count)]


def from_python(pending: int, budget: Budget) -> list[Row]:
    sides = {ours.NAME: ours.Timers(), "asyncio": loops.LoopTimers("asyncio")}
    rows: list[Row] = []
    try:
        sides["uvloop"] = loops.LoopTimers("uvloop")
    except ImportError as reason:
        rows.append(missing(f"timers, {pending:,} pending", "uvloop", reason))
    for side in sides.values():
        side.fill(delays(pending, seed=pending), nothing)
    some = delays(BATCH, seed=1)
    figures: dict[str, dict[str, list[float]]] = {operation: {} for operation in OPERATIONS}

    def turn(name: str) -> float:
        side = sides[name]
        spent = dict.fromkeys(OPERATIONS, 0.0)
        for _ in range(ROUNDS):
            inserted, handles = side.insert(some, nothing)
            spent["insert"] += inserted
            spent["cancel"] += side.cancel(handles)
            spent["expire"] += side.expire(BATCH, nothing)
        for operation, elapsed in spent.items():
            figures[operation].setdefault(name, []).append(elapsed / BATCH / ROUNDS)
        return 0.0

    interleave({name: lambda name=name: turn(name) for name in sides}, 1 + budget.repeats)
    for operation, values in figures.items():
        mine = values.pop(ours.NAME)[1:]  # the first round is the warm-up
        for peer, theirs in values.items():
            row = ratio_row(f"{operation} from Python, {pending:,} pending", mine, theirs[1:], peer)
            row.figure, row.series, row.x = f"pending-timers-{operation}", "spdkthread, Python", pending
            rows.append(row)
        if operation == "insert":
            rows[-1].aim(PYTHON)
    for side in sides.values():
        side.close()
    return rows


def native(pending: int, budget: Budget) -> list[Row]:
    rows = []
    bench = native_side().Timers(delays(pending, seed=pending), delays(BATCH, seed=1))
    figures: dict[str, list[float]] = {operation: [] for operation in OPERATIONS}
    for _ in range(1 + budget.repeats):
        spent = dict.fromkeys(OPERATIONS, 0.0)
        for _ in range(ROUNDS):
            for operation in OPERATIONS:
                spent[operation] += getattr(bench, operation)()
        for operation, elapsed in spent.items():
            figures[operation].append(elapsed / BATCH / ROUNDS)
    for operation, values in figures.items():
        row = Row(f"{operation}, native, {pending:,} pending", statistics.median(values[1:]))
        row.spread = quartiles(values[1:])
        row.figure, row.series, row.x = f"pending-timers-{operation}", "spdkthread, native", pending
        rows.append(row.aim(NATIVE if operation == "insert" else None))
    return rows
