"""The example that makes checksums of a tree, over two cores, beside two processes that do the same.

All sides run as a user runs them, start-up included, over the same files, which are in the page cache. Large files
say what reading and hashing through the reactors costs; small ones what a file costs. sha256sum and OpenSSL differ in
their code for SHA-256, and hashlib uses OpenSSL's: its row is the one that compares like with like.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from .environment import cores
from .harness import Budget, Row, Target, Unavailable, interleave, missing, ratio_row

QUESTION = "What does hashing a tree on two reactors cost beside xargs -P2?"
PROGRAM = Path(__file__).parent.parent / "examples" / "checksum_tree.py"
LARGE = {"smoke": (4, 1 << 16), "quick": (8, 1 << 25), "full": (8, 1 << 27)}
SMALL = {"smoke": (16, 1 << 12), "quick": (5000, 1 << 12), "full": (5000, 1 << 12)}
MOST_REPEATS = 9
PEERS = {"xargs -P2 sha256sum": "sha256sum", "xargs -P2 openssl dgst": "openssl dgst -sha256"}


def run(budget: Budget) -> list[Row]:
    if not shutil.which("xargs"):
        raise Unavailable("no xargs here")
    with tempfile.TemporaryDirectory() as directory:
        rows = side_by_side("large files", Path(directory, "large"), LARGE[budget.mode], 1, budget)
        rows[0].aim(Target("≤ 1 × xargs -P2 sha256sum", ratio=1.0))
        small = side_by_side("small files", Path(directory, "small"), SMALL[budget.mode], 64, budget)
        small[0].aim(Target("≤ 1.5 × xargs -P2 sha256sum", ratio=1.5))
        rows += small
    return rows


def side_by_side(name: str, tree: Path, shape: tuple[int, int], files_per_process: int, budget: Budget) -> list[Row]:
    count, size = shape
    tree.mkdir()
    for number in range(count):
        (tree / str(number)).write_bytes(os.urandom(size))
    two = ",".join(map(str, cores()[:2]))
    sides = {"": command([sys.executable, str(PROGRAM), str(tree), "--cores", two])}
    rows = []
    for peer, tool in PEERS.items():
        if shutil.which(tool.split()[0]):
            sides[peer] = command(
                ["sh", "-c", f"find {tree} -type f -print0 | xargs -0 -P2 -n{files_per_process} {tool}"]
            )
        else:
            rows.append(missing(name, peer, f"no {tool.split()[0]} here"))
    seconds = interleave(sides, min(budget.repeats, MOST_REPEATS))
    ours = seconds.pop("")
    measured = [ratio_row(name, ours, theirs, peer, "s") for peer, theirs in seconds.items()]
    for row in measured:
        row.note = f"{count} files of {size:,} bytes"
    return measured + rows


def command(arguments: list[str]) -> Callable[[], float]:
    """Return a call that runs a program and gives the seconds that it took."""

    def side() -> float:
        begin = time.perf_counter()
        subprocess.run(
            arguments, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, check=True
        )
        return time.perf_counter() - begin

    return side
