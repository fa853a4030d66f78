"""Interpreter finalisation under load: programs that forget their reactors end with status 0 and nothing to say.

python -m verify.exits --count 1000 [--seconds 100] --seed 1
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

from exit_programs import PRELUDE, PROGRAMS

PATIENCE_S = 300


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--count", type=int, default=1000)
    arguments.add_argument("--seconds", type=float, default=1e9)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    names = list(PROGRAMS)
    random.Random(options.seed).shuffle(names)
    pending = iter(itertools.islice(itertools.cycle(names), options.count))
    end = time.monotonic() + options.seconds
    lock, done, failed = threading.Lock(), [], []

    def work():
        while time.monotonic() < end and not failed:
            with lock:
                name = next(pending, None)
            if name is None:
                return
            try:
                result = subprocess.run(
                    [sys.executable, "-c", PRELUDE + PROGRAMS[name]], capture_output=True, text=True, timeout=PATIENCE_S
                )
                outcome = (result.returncode, result.stdout, result.stderr)
            except subprocess.TimeoutExpired as hang:
                outcome = ("a hang", hang.stdout, hang.stderr)
            if outcome != (0, "", ""):
                failed.append(f"{name}: {outcome}")
            done.append(name)

    workers = [threading.Thread(target=work) for _ in range(os.cpu_count() or 1)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    print("\n".join(failed), file=sys.stderr)
    print(json.dumps({"interpreters ended": len(done), "programs": len(set(done)), "failed": len(failed)}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
