"""Blocks that are written and read back, over both backends, while the system calls go wrong in every way there is.

    python -m verify.storage --seconds 60 --seed 1

A round is a verify workload of bdevperf of a second, on a file of its own. In every other round attempts are short or
interrupted, which must be seen nowhere; in every fourth they fail as well, and then the errors are those and no others.
"""

import argparse
import contextlib
import errno
import faulthandler
import io
import itertools
import json
import random
import sys
import tempfile
import time
from pathlib import Path

from spdkthread.bdev import device, perf

SIZES = ("4k", "16k", "64k", "512k")
DEPTHS = (1, 4, 32)
RETRIED = (-errno.EINTR, -errno.EAGAIN, -errno.ECANCELED)
PLAN = 50


def plan(dice, fails, direct):
    """Steps for the double of the system calls; see queue.h."""
    # Past the page cache an attempt that ends within a block would be the end of the file.
    unit = 4096 if direct else 1
    steps = [dice.choice((0, 0, 0, unit * dice.randrange(1, 9000 // unit), dice.choice(RETRIED))) for _ in range(PLAN)]
    return [*steps, 0, -errno.EIO] if fails else [*steps, 0]


def measure(arguments):
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        perf.main([*arguments, "--json"])
    return json.loads(output.getvalue())


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    faulthandler.enable()
    dice = random.Random(options.seed)
    total = {"rounds": 0, "blocks verified": 0, "errors injected": 0}
    failed = []
    end = time.monotonic() + options.seconds
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "disk")
        ways = itertools.product(("whole", "short", "whole", "failing"), ("auto", "threads"), ("native", "python"))
        for calls, backend, callbacks in itertools.cycle(ways):
            if time.monotonic() >= end and total["rounds"]:
                break
            direct = dice.random() < 0.5
            arguments = ["-w", "verify", "-t", str(min(1.0, options.seconds / 10)), "--create-bytes", "16m"]
            arguments += ["-o", dice.choice(SIZES), "-q", str(dice.choice(DEPTHS)), "--seed", str(dice.randrange(1000))]
            arguments += ["--backend", backend, "--callbacks", callbacks, *(["-d"] if direct else []), str(path)]
            fails = calls == "failing"
            steps = [] if calls == "whole" else plan(dice, fails, direct)
            device._plan(*steps, repeat=True)
            result = measure(arguments)
            injected = device._plan_taken() // len(steps) if fails else 0
            device._plan()
            if result["errors"] != injected or result["first_error"] not in (None, "EIO"):
                failed.append(f"{' '.join(arguments)}: {calls}: {result}")
            total["rounds"] += 1
            total["blocks verified"] += result["reads"]
            total["errors injected"] += result["errors"]
            path.unlink()
    print("\n".join(failed), file=sys.stderr)
    print(json.dumps(total | {"first seed": options.seed}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
