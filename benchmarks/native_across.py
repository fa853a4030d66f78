"""Native messages from one core to another, until the last one has run. The sender retries when the ring is full.

The peer is DPDK's ring and pool doing the same; the limit is a stream of cache lines from one core to the other.
"""

from __future__ import annotations

from . import ours
from .build import dpdk_ring, native_side, raw_line, two_cores
from .harness import Budget, Row, Target, Unavailable, compare, missing, pinned
from .native_message import DPDK

QUESTION = "What does a native message cost from one core to another?"


def run(budget: Budget) -> list[Row]:
    first, second = two_cores()
    native = native_side()
    line = raw_line()
    thread = ours.one_native_thread()
    peers = {"a stream of cache lines": lambda count: line.ask("stream", count) * count}
    absent = []
    name = "one sender"
    try:
        dpdk = dpdk_ring()
        peers[DPDK] = lambda count: dpdk.ask("across", count) * count
    except Unavailable as reason:
        absent.append(missing(name, DPDK, reason))
    with pinned(first):
        return (
            compare(
                name,
                lambda count: native.messages_across(thread, [second], count),
                peers,
                budget,
                multiple=8,
                targets={DPDK: Target("≤ 0.2 × DPDK ring + pool", ratio=0.2)},
            )
            + absent
        )
