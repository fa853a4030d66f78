"""Sleep and wake, millions of times: senders without the GIL, reactors that sleep whenever they can, a thread that moves.

A reactor that sleeps here has no time limit, so one lost wake-up is a message that never runs. `model.sh` has gone
through every interleaving of a model; this goes through many of the program itself.

python -m verify.sleep_wake --seconds 30 --seed 1
"""

import argparse
import json
import os
import random
import sys
import threading
import time

from spdkthread import Reactor, ThreadLib
from verify import native

PATIENCE_S = 60


def sleepers(lib, choose):
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
    choose.shuffle(cores)
    return [
        Reactor(
            cores[n % len(cores)], name=f"s{n}", idle="adaptive", spin_us=choose.choice([0, 0, 1, 5]), lib=lib
        ).start()
        for n in range(2)
    ]


def close(lib, reactors, figures):
    for reactor in reactors:
        figures["sleeps"] += reactor.stats.parks
        figures["wake-ups"] += reactor.stats.wakes
    for reactor in reactors:
        report = reactor.stop(PATIENCE_S)
        assert report.ok, str(report)
    lib.close()


def relay(lib, reactors, choose, figures):
    """Each hop finds the other reactor asleep, or on its way to or from sleep."""
    here, there = (reactor.create_thread(ring_size=choose.choice([2, 64])) for reactor in reactors)
    hops = choose.choice([20_000, 100_000])
    left = native.relay(here, there, hops, choose.randrange(1 << 30), PATIENCE_S)
    assert left == 0, f"lost with {left} of {hops} hops to go" if left > 0 else "a hop was refused"
    figures["hops"] += hops


def senders(lib, reactors, choose, figures):
    """Several senders, each of which waits for its answer; the thread may move meanwhile."""
    thread = reactors[0].create_thread(ring_size=choose.choice([1, 4, 1024]))
    many, each, moves = choose.choice([1, 2, 3]), choose.choice([5_000, 20_000]), choose.random() < 0.5
    answered = [0] * many

    def ask(n, seed):
        answered[n] = native.ask(thread, each, seed, PATIENCE_S)

    threads = [threading.Thread(target=ask, args=(n, choose.randrange(1 << 30)), daemon=True) for n in range(many)]
    for one in threads:
        one.start()
    here = 0
    while any(one.is_alive() for one in threads):
        if moves:
            reactors[here].move_thread(thread, reactors[1 - here]).result(PATIENCE_S)
            here = 1 - here
            figures["moves"] += 1
        time.sleep(choose.random() * 0.002)
    assert answered == [each] * many, f"lost: {answered} of {each} answers each"
    figures["answers"] += many * each


def search(seconds: float, seed: int) -> dict[str, int]:
    """Look for a lost wake-up for so long; returns what was counted."""
    choose = random.Random(seed)
    figures = dict.fromkeys(["sleeps", "wake-ups", "hops", "answers", "moves"], 0)
    end = time.monotonic() + seconds
    while True:
        for part in (relay, senders):
            lib = ThreadLib()
            reactors = sleepers(lib, choose)
            part(lib, reactors, choose, figures)
            close(lib, reactors, figures)
        if time.monotonic() >= end:
            return figures


def main() -> None:
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    print(json.dumps(search(options.seconds, options.seed) | {"seed": options.seed}))


if __name__ == "__main__":
    sys.setswitchinterval(0.0005)
    main()
