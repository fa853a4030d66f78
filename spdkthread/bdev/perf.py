"""``python -m spdkthread bdevperf``: what a file or device does at a queue depth. Answers to SPDK's ``bdevperf``."""

import argparse
import contextlib
import errno
import json
import mmap
import os
import random
import resource
import sys
import time
from collections.abc import Sequence
from typing import Any

from spdkthread.bdev.device import Bdev
from spdkthread.bdev.histogram import Histogram
from spdkthread.bdev.job import WORKLOADS, NativeJob
from spdkthread.clock import ticks
from spdkthread.lib import ThreadLib
from spdkthread.reactor import Reactor

__all__ = ["main"]

PROGRESS_S = 0.5


class PythonJob:
    """As `NativeJob`, with completions in Python."""

    def __init__(
        self, channel, memory, nbytes, depth, workload, first, blocks, seconds, read_percent=50, seed=1
    ) -> None:
        self.channel = channel
        self.nbytes = nbytes
        self.first = first
        self.blocks = blocks
        self.deadline = int(seconds * 1e9)
        self.at_random = workload.startswith("rand")
        self.verifies = workload == "verify"
        self.read_percent = {"randrw": read_percent, "read": 100, "randread": 100}.get(workload, 0)
        self.dice = random.Random(seed).random
        self.next = 0
        self.in_flight = self.reads = self.writes = self.errors = self.first_error = 0
        self.began = self.ended = 0
        self.histogram = Histogram()
        self.stopping = self.finished = False
        self.slots = [Slot(self, memoryview(memory)[slot * nbytes : (slot + 1) * nbytes]) for slot in range(depth)]

    @property
    def requests(self) -> int:
        return self.reads + self.writes

    @property
    def elapsed_s(self) -> float:
        return (self.ended - self.began) / 1e9

    def start(self) -> None:
        self.began = ticks()
        self.deadline += self.began
        for slot in self.slots[: self.blocks] if self.verifies else self.slots:
            slot.issue_next()

    def stop(self) -> None:
        self.stopping = True

    def pattern(self, block: int) -> bytes:
        return random.Random(block).randbytes(self.nbytes)


class Slot:
    """A request of a `PythonJob`, and when it has completed the next one."""

    __slots__ = ("begun", "block", "cb", "checks", "job", "memory", "writes")

    def __init__(self, job: PythonJob, memory: memoryview) -> None:
        self.job = job
        self.memory = memory
        self.checks = self.writes = False
        self.block = self.begun = 0
        self.cb = self.completed  # bound once, not for each request

    def issue_next(self) -> None:
        job = self.job
        if job.at_random:
            self.block = job.first + int(job.dice() * job.blocks)
            self.writes = job.read_percent < 100 and job.dice() * 100 >= job.read_percent
        else:
            self.block = job.first + job.next
            job.next = (job.next + 1) % job.blocks
            self.writes = job.read_percent == 0
        if job.verifies:
            self.checks = False
            self.memory[:] = job.pattern(self.block)
        self.issue()

    def issue(self) -> None:
        job = self.job
        job.in_flight += 1
        self.begun = ticks()
        if self.writes:
            job.channel.write(self.memory, self.block * job.nbytes, self.cb)
        else:
            job.channel.read(self.memory, self.block * job.nbytes, self.cb)

    def completed(self, count: int, error: OSError | None) -> None:
        job = self.job
        now = ticks()
        job.in_flight -= 1
        job.histogram.add(now - self.begun)
        if self.writes:
            job.writes += 1
        else:
            job.reads += 1
        if error is not None or count != job.nbytes or (self.checks and self.memory != job.pattern(self.block)):
            job.errors += 1
            job.first_error = job.first_error or (0 if error is None else error.errno or 0)
        elif job.verifies and self.writes:
            # Also after the deadline: what was written is read back.
            self.writes = False
            self.checks = True
            self.issue()
            return
        if now < job.deadline and not job.stopping and (error is None or job.errors < 1000):
            self.issue_next()
        elif job.in_flight == 0:
            job.ended = now
            job.finished = True


def size(text: str) -> int:
    """Bytes, with k, m or g for their multiples of 1024."""
    factor = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}.get(text[-1:].lower(), 1)
    number = int(text[:-1] if factor > 1 else text)
    if number < 1:
        raise ValueError(text)
    return number * factor


def cores(text: str) -> list[int]:
    return [int(core) for core in text.split(",")]


def arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m spdkthread bdevperf", description=(__doc__ or "").partition(": ")[2].strip()
    )
    parser.add_argument("file", metavar="FILE", help="a file or block device; workloads that write destroy its content")
    parser.add_argument("-q", "--queue-depth", type=int, default=32, help="requests under way on each core (32)")
    parser.add_argument(
        "-o", "--io-size", type=size, default=4096, help="bytes of a request, such as 4096 or 4k (4096)"
    )
    parser.add_argument("-w", "--workload", choices=WORKLOADS, default="randread")
    parser.add_argument("-t", "--time", type=float, default=5.0, metavar="SECONDS")
    parser.add_argument("-M", "--read-percent", type=int, default=50, help="of randrw (50)")
    parser.add_argument("-d", "--direct", action="store_true", help="past the page cache")
    parser.add_argument(
        "--cores",
        type=cores,
        default=None,
        metavar="0,1",
        help="a reactor on each of these cores; by default one, where the system puts it",
    )
    parser.add_argument("--callbacks", choices=("native", "python"), default="native")
    parser.add_argument("--backend", choices=("auto", "io_uring", "threads"), default="auto")
    parser.add_argument("--idle", choices=("adaptive", "poll", "yield"), default="adaptive", help="of the reactors")
    parser.add_argument("--create-bytes", type=size, default=None, help="make the file if there is none")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one object at the end, and nothing else")
    options = parser.parse_args(argv)
    if options.queue_depth < 1 or options.time <= 0 or not 0 <= options.read_percent <= 100:
        parser.error("-q must be at least 1, -t above 0 and -M from 0 to 100")
    return options


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program.

    Parameters
    ----------
    argv : sequence of str, optional
        Without the name of the program; by default the process's own arguments.

    Returns
    -------
    int
        0; 1 when requests failed or the file cannot be used.

    Notes
    -----
    **Thread safety:** the main thread.
    """
    options = arguments(argv)
    try:
        result = measure(options)
    except (OSError, ValueError) as error:
        print(f"bdevperf: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result) if options.json else table(result))
    return 1 if result["errors"] else 0


def measure(options: argparse.Namespace) -> dict[str, Any]:
    lib = ThreadLib()
    bdev = Bdev.open(
        options.file,
        direct=options.direct,
        readonly=options.workload in ("read", "randread"),
        create_bytes=options.create_bytes,
        depth=options.queue_depth,
        backend=options.backend,
        lib=lib,
    )
    wanted = options.cores or [None]
    blocks = bdev.size // options.io_size
    share = blocks // len(wanted)
    if share == 0:
        bdev.unregister()
        raise ValueError(f"{options.file} has {bdev.size} bytes, less than a request for each core")
    if options.direct and options.io_size % bdev.block_size:
        bdev.unregister()
        raise ValueError(f"past the page cache a request is a multiple of {bdev.block_size} bytes")
    kind = NativeJob if options.callbacks == "native" else PythonJob
    jobs: list[Any] = []
    with contextlib.ExitStack() as stack:
        threads = [
            stack.enter_context(Reactor(core, idle=options.idle, pin=core is not None, lib=lib)).create_thread(
                f"bdevperf {number}"
            )
            for number, core in enumerate(wanted)
        ]

        def begin(number: int) -> Any:
            whole = options.workload.startswith("rand")
            memory = mmap.mmap(-1, options.queue_depth * options.io_size)
            # No zeros, which some storage does not write, and no page that is not there yet.
            memory.write(random.Random(options.seed + number).randbytes(len(memory)))
            job = kind(
                bdev.get_io_channel(),
                memory,
                options.io_size,
                options.queue_depth,
                options.workload,
                0 if whole else number * share,
                blocks if whole else share,
                options.time,
                options.read_percent,
                options.seed + number,
            )
            job.start()
            return job

        used = cpu_s()
        jobs += [future.result() for future in [one.call(begin, number) for number, one in enumerate(threads)]]
        watch(jobs, options)
        used = cpu_s() - used
        for thread, job in zip(threads, jobs, strict=True):
            thread.call(job.channel.put).result()
        bdev.unregister().result()
    lib.close()
    return summary(options, bdev, jobs, used)


def cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


def watch(jobs: list[Any], options: argparse.Namespace) -> None:
    """Wait for the jobs; on a terminal, say how far they are."""
    says = sys.stderr.isatty() and not options.json
    before, since, said = 0, time.monotonic(), time.monotonic()
    try:
        while not all(job.finished for job in jobs):
            time.sleep(0.02)
            now = time.monotonic()
            if says and now - said >= PROGRESS_S:
                count = sum(job.requests for job in jobs)
                print(f"\r{now - since:6.1f} s {(count - before) / (now - said):12,.0f} IOPS", end="", file=sys.stderr)
                before, said = count, now
    except KeyboardInterrupt:
        for job in jobs:
            job.stop()
        while not all(job.finished for job in jobs):
            time.sleep(0.02)
    if says:
        print("\r" + " " * 40 + "\r", end="", file=sys.stderr)


def summary(options: argparse.Namespace, bdev: Bdev, jobs: list[Any], used_s: float) -> dict[str, Any]:
    latencies = Histogram()
    for job in jobs:
        latencies.merge(job.histogram)
    count = sum(job.requests for job in jobs)
    iops = sum(job.requests / job.elapsed_s for job in jobs if job.elapsed_s > 0)
    first = next((job.first_error for job in jobs if job.first_error), 0)
    return {
        "file": options.file,
        "workload": options.workload,
        "queue_depth": options.queue_depth,
        "io_size": options.io_size,
        "direct": options.direct,
        "backend": bdev.backend,
        "callbacks": options.callbacks,
        "cores": options.cores,
        "seconds": max(job.elapsed_s for job in jobs),
        "reads": sum(job.reads for job in jobs),
        "writes": sum(job.writes for job in jobs),
        "iops": iops,
        "mib_s": iops * options.io_size / 2**20,
        "lat_us": {
            "mean": latencies.mean / 1e3,
            "p50": latencies.percentile(50) / 1e3,
            "p99": latencies.percentile(99) / 1e3,
            "p999": latencies.percentile(99.9) / 1e3,
        },
        "cpu_us_per_io": used_s / count * 1e6 if count else 0.0,
        "errors": sum(job.errors for job in jobs),
        "first_error": errno.errorcode.get(first, str(first)) if first else None,
    }


def table(result: dict[str, Any]) -> str:
    latency = result["lat_us"]
    how = f"{result['backend']}, {result['callbacks']} callbacks" + (", direct" if result["direct"] else "")
    errors = f"{result['errors']:,}" + (f" (the first: {result['first_error']})" if result["first_error"] else "")
    lines = [
        f"{os.fspath(result['file'])}: {result['workload']}, {result['io_size']} bytes, "
        f"{result['queue_depth']} under way, {result['seconds']:.2f} s; {how}",
        f"{'IOPS':>12} {'MiB/s':>10} {'mean us':>10} {'p50 us':>10} {'p99 us':>10} {'p99.9 us':>10} {'CPU us/IO':>10}",
        f"{result['iops']:12,.0f} {result['mib_s']:10,.1f} {latency['mean']:10,.1f} {latency['p50']:10,.1f} "
        f"{latency['p99']:10,.1f} {latency['p999']:10,.1f} {result['cpu_us_per_io']:10,.2f}",
        f"errors: {errors}",
    ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
