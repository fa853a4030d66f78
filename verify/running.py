"""Running one check in a process of its own: what it prints as JSON in its last line is its figures."""

import json
import os
import subprocess
import sys
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from verify import flavours

# A process that is past its own time by this much hangs: the machine may be loaded by a factor of ten.
PATIENCE_S = 900


class Failed(Exception):
    """A check did not pass. What it found so far is in `figures`."""

    def __init__(self, message: str, figures: dict | None = None):
        super().__init__(message)
        self.figures = figures or {}


class NotRun(Exception):
    """A check could not be made here. Said loudly; not a failure."""


@dataclass
class Run:
    """One run of all stages."""

    minutes: float
    seed: int
    log: Path

    @property
    def long(self) -> bool:
        """Whether there is time for what takes minutes however little it does."""
        return self.minutes >= 15

    def seconds(self, share: float) -> float:
        """The part of the whole time that a check with this share of it may take."""
        return self.minutes * 60 * share


def python(
    arguments: list[str],
    log: Path,
    *,
    interpreter: str = sys.executable,
    cwd: Path = flavours.TREE,
    environment: dict[str, str] | None = None,
    timeout_s: float = PATIENCE_S,
) -> str:
    """Run ``python arguments``; its output goes into `log` and comes back. Raises `Failed`."""
    command = [interpreter, *arguments]
    environment = dict(os.environ if environment is None else environment)
    environment.setdefault("PYTHONFAULTHANDLER", "1")
    begin = time.monotonic()
    try:
        done = subprocess.run(
            command, cwd=cwd, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=timeout_s
        )
        output, code = done.stdout.decode(errors="replace"), done.returncode
    except subprocess.TimeoutExpired as hang:
        output, code = (hang.stdout or b"").decode(errors="replace"), "a hang"
    with log.open("a") as file:
        file.write(
            f"\n$ {' '.join(command)}    (in {cwd}, {time.monotonic() - begin:.0f} s, ended with {code})\n{output}"
        )
    if code:
        raise Failed(f"{' '.join(arguments)} ended with {code}:\n{output[-3000:]}")
    return output


def figures_of(output: str) -> dict:
    """The figures in the last line that is JSON."""
    for line in reversed(output.splitlines()):
        if line.startswith("{"):
            return json.loads(line)
    raise Failed(f"no figures in the output:\n{output[-2000:]}")


def pytest_counts(output: str) -> dict:
    """``{"passed": n, ...}`` from pytest's summary line."""
    for line in reversed(output.splitlines()):
        words = line.strip("= ").replace(",", "").split()
        if " in " in line and ("passed" in words or "failed" in words):
            return {word: int(number) for number, word in pairwise(words) if number.isdigit()}
    raise Failed(f"no summary of pytest in the output:\n{output[-2000:]}")


def add(total: dict, more: dict) -> dict:
    """Sum the figures that are numbers, except the seeds."""
    for name, figure in more.items():
        if isinstance(figure, (int, float)) and not isinstance(figure, bool) and "seed" not in name:
            total[name] = total.get(name, 0) + figure
        else:
            total.setdefault(name, figure)
    return total
