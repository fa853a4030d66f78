"""Native ping-pong between two cores: a message whose function sends the answer.

Beside it the physical limit, a cache line that goes to the other core and back, as one line that both sides write and
as a line per direction; and DPDK's ring and pool. *driven*: two OS threads that only poll. *reactors*: two Reactors.
"""

from __future__ import annotations

import statistics

from . import ours
from .build import dpdk_ring, native_side, raw_line, two_cores
from .harness import Budget, Row, Target, Unavailable, compare, latency_rows, missing, pinned

QUESTION = "How long is a native round trip between two cores?"
LIMIT = "a cache line each way"


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    native, line = native_side(), raw_line()
    here, there = ours.one_native_thread(), ours.one_native_thread()
    peers = {
        LIMIT: lambda count: line.ask("lines", count) * count,
        "one cache line": lambda count: line.ask("line", count) * count,
    }
    absent = []
    try:
        dpdk = dpdk_ring()
        peers["DPDK ring + pool"] = lambda count: dpdk.ask("pingpong", count) * count
    except Unavailable as reason:
        dpdk = None
        absent.append(missing("round trip", "DPDK ring + pool", reason))
    target = {LIMIT: Target("≤ 1.15 × raw cache-line round trip", ratio=1.15)}
    with pinned(first):
        rows = compare(
            "round trip, driven",
            lambda count: native.pingpong(here, there, second, count),
            peers,
            budget,
            targets=target,
        )
    side = ours.reactors_apart([first, second], lambda threads, count: native.reactor_pingpong(*threads, count))
    rows += compare("round trip, reactors", side, peers, budget, targets=target)
    with pinned(first):
        samples = {
            ours.NAME: native.pingpong_samples(here, there, second, budget.samples),
            LIMIT: line.samples("samples", budget.samples),
        }
        if dpdk is not None:
            samples["DPDK ring + pool"] = dpdk.samples("samples", budget.samples)
    clock = statistics.median(line.ask("clock", 10_000) for _ in range(5))
    note = f"every sample contains one clock read, {clock:.0f} ns"
    rows += latency_rows(
        "round trip, distribution", samples, ours=ours.NAME, figure="percentile", corrected=True, note=note
    )
    return rows + absent
