"""What ``import spdkthread`` adds to the start of an interpreter, beside ``import asyncio``.

Whole processes are timed, the bare interpreter's own start is taken off.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from time import perf_counter_ns

from .harness import Budget, Row, interleave, quartiles

QUESTION = "How long does the import take?"
MODULES = ("spdkthread", "asyncio", "uvloop", "numpy")


def run(budget: Budget) -> list[Row]:
    def start(statement: str) -> float:
        begin = perf_counter_ns()
        status = subprocess.run([sys.executable, "-c", statement], stderr=subprocess.DEVNULL).returncode
        return (perf_counter_ns() - begin) / 1e6 if status == 0 else float("nan")

    sides = {"": lambda: start("pass")}
    sides |= {name: lambda name=name: start(f"import {name}") for name in MODULES}
    interleave(sides, 1)  # warm the file cache
    figures = interleave(sides, budget.repeats)
    added = {name: [a - b for a, b in zip(figures[name], figures[""], strict=True)] for name in MODULES}
    mine = added.pop("spdkthread")
    rows = []
    for name, theirs in added.items():
        peer = statistics.median(theirs)
        row = Row("import", statistics.median(mine), "ms", None if peer != peer else peer, name)
        if row.peer:
            ratios = [a / b for a, b in zip(mine, theirs, strict=True) if b > 0]
            row.ratio, row.spread = (statistics.median(ratios), quartiles(ratios)) if ratios else (None, None)
        rows.append(row)
    return rows
