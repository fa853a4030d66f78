"""The market-data feed of ``examples/feed_handler.py``: native and Python handlers of datagrams, asyncio and uvloop.

Every receiver is a process of its own, and only the one that is measured runs. The feed comes in bursts of 20 messages
a millisecond; each message says when it was sent, and counts until the receiver has updated its book of prices. A
figure is the median, or the 99th percentile, of one round.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .harness import Budget, Row, Target, Unavailable, interleave, missing, ratio_row

QUESTION = "How late are the messages of a UDP feed?"
EXAMPLE = Path(__file__).parent.parent / "examples" / "feed_handler.py"
MESSAGES = {"smoke": 200, "quick": 4_000, "full": 10_000}
MOST_REPEATS = {"smoke": 1, "quick": 5, "full": 11}
BURST, PAUSE_US = 20, 1_000
TARGET = Target("p99 ≤ 0.7 × asyncio", ratio=0.7)


def run(budget: Budget) -> list[Row]:
    spec = importlib.util.spec_from_file_location("feed_handler", EXAMPLE)
    assert spec is not None
    assert spec.loader is not None
    example = importlib.util.module_from_spec(spec)
    sys.modules["feed_handler"] = example
    spec.loader.exec_module(example)
    rows: list[Row] = []
    # What the native handler needs is compiled first, which a smoke run has no time for.
    kinds = ("Python handler", "asyncio") if budget.is_smoke else example.RECEIVERS
    with example.receivers(kinds) as made:
        if not {"Python handler", "asyncio"} <= set(made):
            raise Unavailable("a receiver did not start")
        seen: dict[str, list[dict[str, float]]] = {kind: [] for kind in made}
        interleave(
            {kind: measured(one, seen[kind], MESSAGES[budget.mode]) for kind, one in made.items()},
            min(budget.repeats, MOST_REPEATS[budget.mode]),
        )
    for kind in ("native handler", "Python handler"):
        for peer in ("asyncio", "uvloop"):
            for what in ("p50", "p99"):
                if kind not in seen or peer not in seen:
                    rows.append(missing(f"{what}, {kind}", peer, "not in a smoke run, or not installed: cffi, uvloop"))
                    continue
                ours, theirs = ([one[what] for one in seen[side]] for side in (kind, peer))
                row = ratio_row(f"{what}, {kind}", ours, theirs, peer, "us")
                rows.append(row.aim(TARGET if what == "p99" and peer == "asyncio" else None))
    return rows


def measured(receiver: Any, seen: list[dict[str, float]], messages: int) -> Callable[[], float]:
    def measure() -> float:
        found = receiver.measure(messages, BURST, PAUSE_US)
        if "p99" not in found:
            raise Unavailable("no message of the feed has arrived")
        seen.append(found)
        return float(found["p99"])

    return measure
