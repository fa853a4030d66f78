"""Reads of a file through a Bdev, beside fio's io_uring and a loop of preadv, on the same file.

A side is a run of a second or so at one queue depth, so the file is read past the page cache (a device) as well as from
it. What is compared is the time per request, which is what the requests of a second leave of it; the percentiles of our
runs are in the notes. fio is left out where it is not installed (Debian: ``apt install fio``).
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import ours
from .harness import Budget, Row, Target, interleave, missing, ratio_row

QUESTION = "What does a read of a file cost beside fio's io_uring and preadv?"
SIZE = {"smoke": 1 << 22, "quick": 1 << 28, "full": 1 << 30}
SECONDS = {"smoke": 0.05, "quick": 0.5, "full": 2.0}
MOST_REPEATS = 5
BLOCK = 4096

# name, depth, bytes of a request, workload, past the page cache, limits beside fio (native, Python)
CASES = (
    ("4 KiB random reads, direct, depth 32", 32, BLOCK, "randread", True, (1 / 0.95, 1 / 0.8)),
    ("4 KiB random reads, direct, depth 1", 1, BLOCK, "randread", True, (1.1, None)),
    ("4 KiB random writes, direct, depth 32", 32, BLOCK, "randwrite", True, (1 / 0.95, 1 / 0.8)),
    ("1 MiB sequential reads, direct, depth 8", 8, 1 << 20, "read", True, (1.0, None)),
    ("4 KiB random reads, page cache, depth 32", 32, BLOCK, "randread", False, (None, None)),
    ("4 KiB random reads, page cache, depth 1", 1, BLOCK, "randread", False, (None, None)),
)


def run(budget: Budget) -> list[Row]:
    ours.require("IoDevice")
    rows: list[Row] = []
    with tempfile.TemporaryDirectory(dir=os.environ.get("SPDKTHREAD_BENCH_DISK")) as directory:
        path = Path(directory, "disk")
        with path.open("wb") as file:
            for _ in range(SIZE[budget.mode] >> 22):
                file.write(os.urandom(1 << 22))
            os.fsync(file.fileno())
        for case in CASES:
            rows += measure(path, case, budget)
    return rows


def measure(path: Path, case: tuple, budget: Budget) -> list[Row]:
    name, depth, nbytes, workload, direct, limits = case
    seconds = SECONDS[budget.mode]
    sides: dict[str, Callable[[], float]] = {
        callbacks: bdevperf(path, depth, nbytes, workload, direct, callbacks, seconds)
        for callbacks in ("native", "python")
    }
    rows = []
    if shutil.which("fio"):
        sides["fio io_uring"] = fio(path, depth, nbytes, workload, direct, seconds)
    else:
        rows.append(missing(name, "fio io_uring", "no fio here"))
    if depth == 1 and not direct and hasattr(os, "preadv"):
        sides["os.preadv in a loop"] = preadv(path, nbytes, seconds)
    figures = interleave(sides, min(budget.repeats, MOST_REPEATS))
    measured = []
    for callbacks, limit in zip(("native", "python"), limits, strict=True):
        for peer in figures:
            if peer in ("native", "python"):
                continue
            row = ratio_row(f"{name}, {callbacks} callbacks", figures[callbacks], figures[peer], peer)
            if peer == "os.preadv in a loop":
                row.aim(Target("≥ 0.9 × preadv's rate", ratio=1 / 0.9) if callbacks == "native" else None)
            elif limit is not None:
                row.aim(Target(f"≤ {limit:.2f} × fio", ratio=limit))
            measured.append(row)
    return measured + rows


def bdevperf(path, depth, nbytes, workload, direct, callbacks, seconds) -> Callable[[], float]:
    """Return a call that gives the nanoseconds per request."""
    from spdkthread.bdev import perf

    argv = ["-q", str(depth), "-o", str(nbytes), "-w", workload, "-t", str(seconds), "--callbacks", callbacks]
    options: argparse.Namespace = perf.arguments([*argv, *(["-d"] if direct else []), str(path)])
    return lambda: 1e9 / perf.measure(options)["iops"]


def fio(path, depth, nbytes, workload, direct, seconds) -> Callable[[], float]:
    command = [
        "fio",
        "--name=peer",
        f"--filename={path}",
        f"--rw={workload}",
        f"--bs={nbytes}",
        f"--iodepth={depth}",
        "--ioengine=io_uring",
        f"--direct={int(direct)}",
        f"--runtime={max(seconds, 0.5):g}",
        "--time_based",
        "--thread",
        "--invalidate=0",
        "--output-format=json",
    ]

    def side() -> float:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        (job,) = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
        return 1e9 / (job["read"]["iops"] + job["write"]["iops"])

    return side


def preadv(path, nbytes, seconds) -> Callable[[], float]:
    def side() -> float:
        blocks = path.stat().st_size // nbytes
        buffers = [mmap.mmap(-1, nbytes)]
        dice, count = random.Random(1), 0
        fd = os.open(path, os.O_RDONLY)
        try:
            begin = time.perf_counter_ns()
            end = begin + int(seconds * 1e9)
            while time.perf_counter_ns() < end:
                os.preadv(fd, buffers, int(dice.random() * blocks) * nbytes)
                count += 1
            return (time.perf_counter_ns() - begin) / count
        finally:
            os.close(fd)

    return side
