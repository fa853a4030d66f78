"""How much of a core an idle reactor burns, in each idle mode, beside an idle event loop: CPU time over wall time."""

from __future__ import annotations

import time

import spdkthread

from . import ours
from .environment import cores
from .harness import Budget, Row, Target, Unavailable, missing
from .peers import loops

QUESTION = "What does an idle reactor cost?"
SECONDS = {"smoke": 0.1, "quick": 1.0, "full": 5.0}
MODES = {"adaptive": Target("< 0.5 % of a core", value=0.5), "yield": None, "poll": None}


def run(budget: Budget) -> list[Row]:
    thread = loops.LoopThread(loops.new_asyncio, cores()[-1])
    peer = share(SECONDS[budget.mode])
    thread.stop()
    rows = []
    for idle, target in MODES.items():
        lib = spdkthread.ThreadLib()
        try:
            reactor = ours.reactor(lib, cores()[-1], idle)
        except Unavailable as reason:
            rows.append(missing(f'idle="{idle}"', "asyncio", reason))
            continue
        reactor.create_thread("idle")
        time.sleep(0.02)
        rows.append(Row(f'idle="{idle}"', share(SECONDS[budget.mode]), "% of a core", peer, "asyncio").aim(target))
        reactor.stop()
        lib.close()
    return rows


def share(seconds: float) -> float:
    cpu, wall = time.process_time(), time.perf_counter()
    time.sleep(seconds)
    return 100 * (time.process_time() - cpu) / (time.perf_counter() - wall)
