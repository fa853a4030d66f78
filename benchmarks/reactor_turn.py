"""One turn of a reactor that has 1 to 10,000 SpdkThreads, none of which has anything to do.

Turns are driven by ``reactor.poll()`` from Python, so that the smallest figure contains one Python call.
"""

from __future__ import annotations

import spdkthread

from .environment import cores
from .harness import Budget, Row, compare, pinned, timed

QUESTION = "What does a reactor's turn cost with many idle threads?"
THREADS = (1, 10, 100, 1_000, 10_000)


def run(budget: Budget) -> list[Row]:
    rows: list[Row] = []
    with pinned(cores()[0]):
        for count in budget.sizes(THREADS):
            lib = spdkthread.ThreadLib()
            reactor = spdkthread.Reactor(None, idle="poll", lib=lib, pin=False)
            for _ in range(count):
                reactor.create_thread(ring_size=64)

            def turns(n: int, reactor=reactor) -> None:
                poll = reactor.poll
                for _ in range(n):
                    poll()

            for row in compare(
                f"{count:,} idle threads",
                timed(turns),
                {},
                budget,
                figure="number-of-threads",
                series="one turn",
                x=count,
            ):
                row.note = "per turn, with one Python call in it"
                rows.append(row)
                rows.append(
                    Row(
                        f"{count:,} idle threads, per thread",
                        row.ours / count,
                        figure="number-of-threads",
                        series="per thread",
                        x=count,
                    )
                )
            for thread in lib.threads:
                thread.exit()
            reactor.poll()
            reactor.poll()
            reactor.stop()
    return rows
