"""A file or block device as a Bdev: every thread reads and writes it through a channel of its own.

    file_device.py                            a temporary file, a couple of seconds
    file_device.py PATH [--seconds 10]        random reads of what is there, nothing is written
    file_device.py PATH --overwrite           the verify job first: it DESTROYS what is in PATH

The verify job writes a pattern with one thread and reads and checks it with another; the random job reads from all of
them and prints what it cost. Each keeps the queue of its channel full: a completion begins the next request.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import mmap
import random
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack

from spdkthread import Reactor, SpdkThread, ticks
from spdkthread.bdev import Bdev

Completion = Callable[[int, OSError | None], object]


def pattern(block: int, size: int) -> bytes:
    return hashlib.shake_128(block.to_bytes(8, "little")).digest(size)


class Job:
    """Blocks, read or written by one thread, as many at once as the channel takes. `result` resolves to a text."""

    def __init__(self, bdev: Bdev, thread: SpdkThread, blocks: Iterator[int], size: int) -> None:
        self.bdev = bdev
        self.thread = thread
        self.blocks = blocks
        self.size = size
        self.under_way = 0
        self.result: Future[str] = Future()
        thread.send_msg(self.start)

    def start(self) -> None:
        try:
            self.channel = self.bdev.get_io_channel()
            self.channel.enable_histogram()
        except Exception as error:
            self.result.set_exception(error)
            return
        # Whole pages, which O_DIRECT asks for.
        self.memory = memoryview(mmap.mmap(-1, self.bdev.depth * self.size))
        self.started = ticks()
        for slot in range(self.bdev.depth):
            self.next(self.memory[slot * self.size : (slot + 1) * self.size])

    def next(self, buffer: memoryview) -> None:
        block = None if self.result.done() else next(self.blocks, None)
        if block is not None:
            self.under_way += 1
            self.issue(block, buffer, lambda count, error: self.completed(block, buffer, count, error))
        elif self.under_way == 0:
            report = self.report()
            self.channel.put()
            if not self.result.done():
                self.result.set_result(report)

    def completed(self, block: int, buffer: memoryview, count: int, error: OSError | None) -> None:
        self.under_way -= 1
        if error is None and count < self.size:
            error = OSError(errno.EIO, f"{count} of {self.size} bytes of block {block}")
        if error is None and not self.good(block, buffer):
            error = OSError(errno.EIO, f"block {block} is not what was written")
        if error is not None and not self.result.done():
            self.result.set_exception(error)
        self.next(buffer)

    def issue(self, block: int, buffer: memoryview, cb: Completion) -> None:
        self.channel.read(buffer, block * self.size, cb)

    def good(self, block: int, buffer: memoryview) -> bool:
        return True

    def report(self) -> str:
        latencies = self.channel.histogram
        assert latencies is not None  # it was enabled
        count, seconds = latencies.count, (ticks() - self.started) / 1e9
        return (
            f"{self.thread.name}: {count:7,} requests, {count / seconds:9,.0f} IOPS, "
            f"{count * self.size / seconds / 2**20:7,.0f} MiB/s, latency mean {latencies.mean / 1e3:7,.0f} µs, "
            f"p99 {latencies.percentile(99) / 1e3:7,.0f} µs"
        )


class WritePattern(Job):
    def issue(self, block: int, buffer: memoryview, cb: Completion) -> None:
        buffer[:] = pattern(block, self.size)
        self.channel.write(buffer, block * self.size, cb)


class CheckPattern(Job):
    def good(self, block: int, buffer: memoryview) -> bool:
        return buffer == pattern(block, self.size)


def at_random(blocks: int, seconds: float, seed: int) -> Iterator[int]:
    dice = random.Random(seed)
    end = ticks() + int(seconds * 1e9)
    while ticks() < end:
        yield dice.randrange(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("path", nargs="?")
    parser.add_argument("--overwrite", action="store_true", help="verify on PATH, too: destroys its content")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of the random job (default 1)")
    parser.add_argument("--size-mib", type=int, default=16, help="size of the temporary file (default 16)")
    parser.add_argument("--block", type=int, default=4096, help="bytes of a request (default 4096)")
    parser.add_argument("--depth", type=int, default=32, help="requests of a thread under way (default 32)")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--direct", action="store_true", help="O_DIRECT: past the page cache")
    options = parser.parse_args()
    if options.threads < 1:
        parser.error("--threads must be at least 1")

    with ExitStack() as stack:
        path = options.path
        if path is None:
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="file_device_"))
            file.truncate(options.size_mib << 20)
            path = file.name
        verify = options.path is None or options.overwrite
        bdev = Bdev.open(path, direct=options.direct, readonly=not verify, depth=options.depth)
        print(bdev)
        blocks = bdev.size // options.block
        if blocks == 0:
            parser.error(f"{path} is smaller than a block")
        threads = [
            stack.enter_context(Reactor()).create_thread(f"thread {number}") for number in range(options.threads)
        ]

        if verify:
            print(f"verify: {blocks:,} blocks of {options.block} bytes, written by one thread and read by another")
            print(" ", WritePattern(bdev, threads[0], iter(range(blocks)), options.block).result.result())
            print(" ", CheckPattern(bdev, threads[-1], iter(range(blocks)), options.block).result.result())
        print(f"random reads for {options.seconds:g} s, {options.depth} at once on each of {options.threads} threads")
        jobs = [
            Job(bdev, thread, at_random(blocks, options.seconds, seed), options.block)
            for seed, thread in enumerate(threads)
        ]
        for job in jobs:
            print(" ", job.result.result())
        bdev.unregister().result()


if __name__ == "__main__":
    main()
