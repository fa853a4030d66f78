"""Native messages from 1 to 8 OS threads to one receiver on a core of its own.

Where there are more senders than cores, they share them, and are preempted between claiming a slot and publishing it.
DPDK's usual ring then stops all other senders until that one runs again; its relaxed mode (RTS) is the answer to that,
and stands beside it.
"""

from __future__ import annotations

from . import ours
from .build import dpdk_ring, native_side, two_cores
from .environment import cores
from .harness import Budget, Row, Unavailable, compare, missing, pinned

QUESTION = "What becomes of the cost of a native message when several threads send to one?"
SENDERS = (1, 2, 4, 8)


def run(budget: Budget) -> list[Row]:
    two_cores()
    receiver, *others = cores()
    native = native_side()
    thread = ours.one_native_thread()
    rows, absent = [], []
    dpdk = None
    try:
        dpdk = dpdk_ring()
    except Unavailable as reason:
        absent.append(missing("senders", "DPDK ring + pool", reason))
    with pinned(receiver):
        for senders in SENDERS:
            peers = {}
            if dpdk is not None:
                # It gives up after half a second and answers with what it has measured until then.
                peers["DPDK ring + pool"] = lambda count, k=senders: dpdk.ask("senders", count, k) * count
                peers["DPDK RTS ring + pool"] = lambda count, k=senders: dpdk.ask("relaxed", count, k) * count
            on = [others[index % len(others)] for index in range(senders)]
            for row in compare(
                f"{senders} sender{'s' * (senders > 1)}",
                lambda count, on=on: native.messages_across(thread, on, count),
                peers,
                budget,
                multiple=8,
                figure="number-of-senders",
                x=senders,
            ):
                if senders > len(others):
                    row.note = f"more senders than the {len(others)} cores left to them"
                rows.append(row)
    return rows + absent
