"""A native message on one core: 8 sent, then taken and run, over and over.

The peer is DPDK's ring and pool doing the same (as SPDK does); the limit is a bare C loop that calls the function.
"""

from __future__ import annotations

from . import ours
from .build import dpdk_ring, native_side
from .environment import cores
from .harness import Budget, Row, Target, Unavailable, compare, missing, pinned, timed

QUESTION = "What does a native message cost on one core?"
DPDK = "DPDK ring + pool"


def run(budget: Budget) -> list[Row]:
    name = "send 8 + poll, per message"
    native = native_side()
    thread = ours.one_native_thread()
    peers = {"a C call through a pointer": timed(native.bare_calls)}
    absent = []
    try:
        dpdk = dpdk_ring()
        peers[DPDK] = lambda count: dpdk.ask("one", count) * count
    except Unavailable as reason:
        absent.append(missing(name, DPDK, reason))
    with pinned(cores()[0]):
        return (
            compare(
                name,
                timed(lambda count: native.messages_on_one_core(thread, count)),
                peers,
                budget,
                multiple=8,
                targets={DPDK: Target("≤ 0.75 × DPDK ring + pool", ratio=0.75)},
            )
            + absent
        )
