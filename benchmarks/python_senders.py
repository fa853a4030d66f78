"""Python messages from several OS threads to one.

Time per message from the moment when all senders start until the receiver has run the last one. On a GIL build only
one of them sends at a time: what is compared is what each peer makes of that.
"""

from __future__ import annotations

import threading
from time import perf_counter_ns

from . import ours
from .environment import cores
from .harness import Budget, Row, Side, compare, missing
from .peers import RECEIVERS, load

QUESTION = "What becomes of the cost of a Python message when many threads send to one?"
SENDERS = (1, 2, 4, 8)
MOST = 32_000  # in flight, so that no bounded ring is full: that is another question


def nothing(arg):
    pass


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    absent: list[Row] = []
    core = cores()[-1]
    peers = {}
    for name, where in RECEIVERS.items():
        try:
            peers[name] = load(where)()
        except ImportError as reason:
            absent.append(missing("send, until run", name, reason))
            continue
        peers[name].start(core)
    for senders in SENDERS:
        rows += compare(
            f"{senders} sender{'s' * (senders > 1)}",
            with_ours(core, senders),
            {key: side(peer, senders) for key, peer in peers.items()},
            budget,
            multiple=8,
            largest=MOST,
            figure="number-of-senders",
            x=senders,
        )
    for peer in peers.values():
        peer.stop()
    return rows + absent


def side(receiver, senders: int) -> Side:
    def measure(count: int) -> float:
        gate = threading.Barrier(senders + 1)
        done = threading.Semaphore(0)

        def send() -> None:
            gate.wait()
            receiver.burst(count // senders, nothing, 1)
            receiver.send(lambda _: done.release(), None)

        threads = [threading.Thread(target=send) for _ in range(senders)]
        for thread in threads:
            thread.start()
        gate.wait()
        begin = perf_counter_ns()
        for _ in threads:
            done.acquire()
        elapsed = perf_counter_ns() - begin
        for thread in threads:
            thread.join()
        return elapsed

    return measure


def with_ours(core: int, senders: int) -> Side:
    def measure(count: int) -> float:
        receiver = ours.Receiver(ring_size=65_536)  # holds MOST: that a ring refuses is another question
        receiver.start(core)
        try:
            return side(receiver, senders)(count)
        finally:
            receiver.stop()

    return measure
