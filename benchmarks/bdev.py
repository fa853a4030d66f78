"""Requests to a file through a Bdev, beside fio's io_uring and libaio, dd, and a loop of preadv, on the same file.

A side is a run of a second or so at one queue depth, so the file is read past the page cache (a device) as well as from
it. What is compared is the time per request, which at depth 1 is the latency, and the CPU time per request; the
percentiles of our runs are in the notes. At depth 1 the channel looks for the completion rather than sleep, so the CPU
time is as long as the latency. fio is left out where it is not installed (Debian: ``apt install fio``).
"""

from __future__ import annotations

import abc
import json
import mmap
import os
import random
import resource
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from . import ours
from .harness import Budget, Row, Target, interleave, missing, ratio_row

QUESTION = "What does a request to a file cost beside fio, dd and preadv?"
SIZE = {"smoke": 1 << 22, "quick": 1 << 28, "full": 1 << 30}
SECONDS = {"smoke": 0.05, "quick": 0.5, "full": 2.0}
MOST_REPEATS = {"smoke": 1, "quick": 3, "full": 5}
FIO_LEAST_S = 0.5
BLOCK = 4096
OURS = ("native", "python")


class Case(NamedTuple):
    name: str
    depth: int
    nbytes: int
    workload: str
    direct: bool
    peers: Sequence[str]
    limits: dict[tuple[str, str], float]  # callbacks, peer: our time at most so many times the peer's


CASES = (
    Case(
        "4 KiB random reads, direct, depth 32", 32, BLOCK, "randread", True, ("fio io_uring", "fio libaio"),
        {("native", "fio io_uring"): 1 / 0.95, ("python", "fio io_uring"): 1 / 0.8},
    ),
    Case(
        "4 KiB random reads, direct, depth 1", 1, BLOCK, "randread", True, ("fio io_uring",),
        {("native", "fio io_uring"): 1.1},
    ),
    Case(
        "4 KiB random writes, direct, depth 32", 32, BLOCK, "randwrite", True, ("fio io_uring", "fio libaio"),
        {("native", "fio io_uring"): 1 / 0.95, ("python", "fio io_uring"): 1 / 0.8},
    ),
    Case(
        "1 MiB sequential reads, direct, depth 2", 2, 1 << 20, "read", True, ("fio io_uring", "dd"),
        {("native", "dd"): 1.0},
    ),
    Case(
        "1 MiB sequential writes, direct, depth 2", 2, 1 << 20, "write", True, ("fio io_uring", "dd"),
        {("native", "dd"): 1.0},
    ),
    Case("4 KiB random reads, page cache, depth 32", 32, BLOCK, "randread", False, ("fio io_uring",), {}),
    Case(
        "4 KiB random reads, page cache, depth 1", 1, BLOCK, "randread", False, ("fio io_uring", "os.preadv in a loop"),
        {("native", "os.preadv in a loop"): 1 / 0.9},
    ),
)  # fmt: skip


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


def measure(path: Path, case: Case, budget: Budget) -> list[Row]:
    seconds = SECONDS[budget.mode]
    sides: dict[str, Side] = {callbacks: Bdevperf(path, case, seconds, callbacks) for callbacks in OURS}
    rows = []
    for peer in case.peers:
        program = peer.split()[0]
        if program in ("fio", "dd") and not shutil.which(program):
            rows.append(missing(case.name, peer, f"no {program} here"))
        elif program != "os.preadv" or hasattr(os, "preadv"):
            kind = {"fio": Fio, "dd": Dd}.get(program, Preadv)
            sides[peer] = kind(path, case, seconds, peer.split()[-1])
    figures = interleave({**sides}, min(budget.repeats, MOST_REPEATS[budget.mode]))
    for callbacks in OURS:
        side = sides[callbacks]
        for peer in sides.keys() - set(OURS):
            row = ratio_row(f"{case.name}, {callbacks} callbacks", figures[callbacks], figures[peer], peer)
            row.note = side.note
            if limit := case.limits.get((callbacks, peer)):
                row.aim(Target(f"≤ {limit:.2f} × {peer}", ratio=limit))
            rows.append(row)
            if peer == "fio io_uring":
                row = ratio_row(f"{case.name}, {callbacks} callbacks: CPU", side.cpu_ns, sides[peer].cpu_ns, peer)
                if callbacks == "native" and case.depth == 32:
                    row.aim(Target("≤ fio's + 1 µs", value=statistics.median(sides[peer].cpu_ns) + 1000))
                rows.append(row)
    return sorted(rows, key=lambda row: (row.peer_name, row.name))


class Side(abc.ABC):
    """A call gives the nanoseconds per request; `cpu_ns` those of CPU time, of each call."""

    def __init__(self, path: Path, case: Case, seconds: float, variant: str) -> None:
        self.path, self.case, self.seconds, self.variant = path, case, seconds, variant
        self.cpu_ns: list[float] = []
        self.note = ""

    def __call__(self) -> float:
        if self.case.direct:
            time.sleep(self.seconds)
        return self.run()

    @abc.abstractmethod
    def run(self) -> float:
        """Nanoseconds of a request."""


class Bdevperf(Side):
    def run(self) -> float:
        from spdkthread.bdev import perf

        case = self.case
        argv = ["-q", str(case.depth), "-o", str(case.nbytes), "-w", case.workload, "-t", str(self.seconds)]
        argv += ["--callbacks", self.variant, "--seed", str(random.randrange(1 << 30))]
        argv += [*(["-d"] if case.direct else []), str(self.path)]
        result = perf.measure(perf.arguments(argv))
        self.cpu_ns.append(result["cpu_us_per_io"] * 1e3)
        latency = result["lat_us"]
        self.note = f"p50 {latency['p50']:.0f} µs, p99 {latency['p99']:.0f} µs; {result['backend']}"
        return 1e9 / result["iops"]


class Fio(Side):
    def run(self) -> float:
        case = self.case
        command = [
            "fio", "--name=peer", f"--filename={self.path}", f"--rw={case.workload}", f"--bs={case.nbytes}",
            f"--iodepth={case.depth}", f"--ioengine={self.variant}", f"--direct={int(case.direct)}",
            f"--runtime={max(self.seconds, FIO_LEAST_S) * 1000:.0f}ms", "--time_based", "--thread", "--invalidate=0",
            "--randrepeat=0",
            "--output-format=json",
        ]  # fmt: skip
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=True)
        (job,) = json.loads(done.stdout[done.stdout.index("{") :])["jobs"]
        count = job["read"]["total_ios"] + job["write"]["total_ios"]
        elapsed_ns = max(job["read"]["runtime"], job["write"]["runtime"]) * 1e6
        self.cpu_ns.append((job["usr_cpu"] + job["sys_cpu"]) / 100 * elapsed_ns / count)
        return elapsed_ns / count


class Dd(Side):
    """Over the whole file, as often as it takes."""

    def run(self) -> float:
        count, begin = 0, time.perf_counter_ns()
        blocks = self.path.stat().st_size // self.case.nbytes
        what = (
            [f"if={self.path}", "of=/dev/null", "iflag=direct"]
            if self.case.workload == "read"
            else ["if=/dev/zero", f"of={self.path}", "oflag=direct", "conv=notrunc"]
        )
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        while True:
            subprocess.run(
                ["dd", *what, f"bs={self.case.nbytes}", f"count={blocks}", "status=none"],
                stdin=subprocess.DEVNULL, check=True,
            )  # fmt: skip
            count += blocks
            elapsed = time.perf_counter_ns() - begin
            if elapsed >= self.seconds * 1e9:
                break
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
        self.cpu_ns.append(used * 1e9 / count)
        return elapsed / count


class Preadv(Side):
    def run(self) -> float:
        blocks = self.path.stat().st_size // self.case.nbytes
        buffers = [mmap.mmap(-1, self.case.nbytes)]
        dice, count = random.Random(1), 0
        fd = os.open(self.path, os.O_RDONLY)
        try:
            begin = time.perf_counter_ns()
            end = begin + int(self.seconds * 1e9)
            while time.perf_counter_ns() < end:
                os.preadv(fd, buffers, int(dice.random() * blocks) * self.case.nbytes)
                count += 1
            elapsed = time.perf_counter_ns() - begin
        finally:
            os.close(fd)
        self.cpu_ns.append(elapsed / count)
        return elapsed / count
