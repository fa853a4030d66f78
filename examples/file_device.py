"""A file or block device as an IoDevice: every thread reads and writes it through a channel of its own.

    file_device.py                            a temporary file, a couple of seconds
    file_device.py PATH [--seconds 10]        random reads of what is there, nothing is written
    file_device.py PATH --overwrite           the verify job first: it DESTROYS what is in PATH

A channel owns a descriptor, a bounded queue of requests, a few OS threads for the system calls, and a poller::

    SpdkThread                                            workers of this channel
      read(channel, offset, buffer, cb) ---> waiting
      poller: submit     waiting ----------------------->  inbox   preadv / pwritev into the caller's
              complete   cb(count, error) <---------------  outbox  own buffer, without the GIL

Nothing is locked and nothing is copied; two threads share only the file. The verify job writes a pattern with one
thread and reads and checks it with another; the random job reads from all of them and prints what it cost.
"""

from __future__ import annotations

import argparse
import errno
import hashlib
import mmap
import os
import queue
import random
import statistics
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import ExitStack

from spdkthread import IoChannel, IoDevice, Reactor, SpdkThread, ThreadLib, ticks

Buffer = bytes | bytearray | memoryview | mmap.mmap
Completion = Callable[[int, OSError | None], object]
SystemCall = Callable[[int, list[memoryview], int], int]  # os.preadv or os.pwritev


class QueueFullError(Exception):
    """The channel has as many requests as it takes; complete some first."""


class Request:
    """One read or write, from its submission to its completion."""

    __slots__ = ("call", "cb", "count", "error", "offset", "view")

    def __init__(self, call: SystemCall, offset: int, view: memoryview, cb: Completion) -> None:
        self.call = call
        self.offset = offset
        self.view = view
        self.cb = cb
        self.count = 0
        self.error: OSError | None = None


class FileQueue:
    """What a channel has of its file: `channel.ctx`. Everything but `work` runs on the channel's thread."""

    def __init__(self, device: FileDevice, channel: IoChannel) -> None:
        self.channel = channel
        self.depth = device.depth
        self.fd = os.open(device.path, device.flags)
        self.waiting: deque[Request] = deque()
        self.inbox: queue.SimpleQueue[Request | None] = queue.SimpleQueue()
        self.outbox: deque[Request] = deque()
        self.requests = 0
        self.workers = [threading.Thread(target=self.work, daemon=True) for _ in range(device.workers)]
        for worker in self.workers:
            worker.start()
        self.poller = channel.thread.register_poller(self.poll, device.period_us, name=f"{device.name} queue")
        self.poller.pause()  # there is nothing to do, so the reactor may sleep

    def close(self) -> None:
        self.poller.unregister()
        for _ in self.workers:
            self.inbox.put(None)
        for worker in self.workers:
            worker.join()
        os.close(self.fd)

    def add(self, request: Request) -> None:
        if self.requests == self.depth:
            raise QueueFullError(f"{self.channel!r} has {self.depth} requests")
        if self.requests == 0:
            self.poller.resume()
        self.requests += 1
        self.channel.ref()  # a channel is not destroyed before its requests are complete
        self.waiting.append(request)

    def poll(self) -> int:
        """Submit what waits, complete what is done."""
        found = 0
        while self.waiting:
            self.inbox.put(self.waiting.popleft())
            found += 1
        while self.outbox:
            request = self.outbox.popleft()
            self.requests -= 1
            self.channel.put()
            request.cb(request.count, request.error)
            found += 1
        if self.requests == 0:
            self.poller.pause()
        return found

    def work(self) -> None:
        """On an OS thread of its own: the system calls, which may block."""
        while (request := self.inbox.get()) is not None:
            try:
                left = request.view
                while left and (count := request.call(self.fd, [left], request.offset + request.count)):
                    request.count += count
                    left = left[count:]
            except OSError as error:
                request.error = error
            self.outbox.append(request)


class FileDevice(IoDevice):
    """A file or block device.

    Parameters
    ----------
    path : str
    flags : int, default os.O_RDWR
        For `os.open`; with ``os.O_DIRECT`` offsets and buffers must be aligned.
    depth : int, default 32
        Requests that a channel takes at once.
    workers : int, default 2
        OS threads of each channel, which is how many system calls it has under way.
    period_us : float, default 20
        How often a channel with requests looks for completions.
    """

    def __init__(
        self,
        path: str,
        *,
        flags: int = os.O_RDWR,
        depth: int = 32,
        workers: int = 2,
        period_us: float = 20,
        lib: ThreadLib | None = None,
    ) -> None:
        super().__init__(os.path.basename(path), lib=lib)
        self.path = path
        self.flags = flags
        self.depth = depth
        self.workers = workers
        self.period_us = period_us
        fd = os.open(path, flags)
        try:
            self.size = os.lseek(fd, 0, os.SEEK_END)
        finally:
            os.close(fd)

    def create_channel(self, channel: IoChannel) -> FileQueue:
        return FileQueue(self, channel)

    def destroy_channel(self, channel: IoChannel) -> None:
        channel.ctx.close()


def read(channel: IoChannel, offset: int, buffer: Buffer, cb: Completion) -> None:
    """Read into `buffer` from `offset` on; then ``cb(count, error)``: fewer bytes than asked for are the file's end.

    On the channel's thread. The buffer is the caller's, and must not be touched until then.
    """
    request(channel, os.preadv, offset, buffer, cb)


def write(channel: IoChannel, offset: int, buffer: Buffer, cb: Completion) -> None:
    """Write `buffer` at `offset`; as `read`."""
    request(channel, os.pwritev, offset, buffer, cb)


def request(channel: IoChannel, call: SystemCall, offset: int, buffer: Buffer, cb: Completion) -> None:
    if offset < 0:
        raise ValueError(f"offset must not be negative, got {offset}")
    channel.ctx.add(Request(call, offset, memoryview(buffer).cast("B"), cb))


# What to do with it.


def pattern(block: int, size: int) -> bytes:
    return hashlib.shake_128(block.to_bytes(8, "little")).digest(size)


class Job:
    """Blocks, read or written by one thread, as many at once as the channel takes. `result` resolves to a `Report`."""

    def __init__(self, device: FileDevice, thread: SpdkThread, blocks: Iterator[int], size: int) -> None:
        self.device = device
        self.thread = thread
        self.blocks = blocks
        self.size = size
        self.under_way = 0
        self.latencies: list[int] = []
        self.result: Future[Report] = Future()
        thread.send_msg(self.start)

    def start(self) -> None:
        try:
            self.channel = self.device.get_io_channel()
        except Exception as error:
            self.result.set_exception(error)
            return
        # Whole pages, which O_DIRECT asks for.
        self.memory = memoryview(mmap.mmap(-1, self.device.depth * self.size))
        self.started = ticks()
        for slot in range(self.device.depth):
            self.next(self.memory[slot * self.size : (slot + 1) * self.size])

    def next(self, buffer: memoryview) -> None:
        block = None if self.result.done() else next(self.blocks, None)
        if block is not None:
            self.under_way += 1
            begun = ticks()
            self.issue(block, buffer, lambda count, error: self.completed(block, buffer, begun, count, error))
        elif self.under_way == 0:
            self.channel.put()
            if not self.result.done():
                self.result.set_result(Report(self))

    def completed(self, block: int, buffer: memoryview, begun: int, count: int, error: OSError | None) -> None:
        self.under_way -= 1
        self.latencies.append(ticks() - begun)
        if error is None and count < self.size:
            error = OSError(errno.EIO, f"{count} of {self.size} bytes of block {block}")
        if error is None and not self.good(block, buffer):
            error = OSError(errno.EIO, f"block {block} is not what was written")
        if error is not None and not self.result.done():
            self.result.set_exception(error)
        self.next(buffer)

    def issue(self, block: int, buffer: memoryview, cb: Completion) -> None:
        read(self.channel, block * self.size, buffer, cb)

    def good(self, block: int, buffer: memoryview) -> bool:
        return True


class WritePattern(Job):
    def issue(self, block: int, buffer: memoryview, cb: Completion) -> None:
        buffer[:] = pattern(block, self.size)
        write(self.channel, block * self.size, buffer, cb)


class CheckPattern(Job):
    def good(self, block: int, buffer: memoryview) -> bool:
        return buffer == pattern(block, self.size)


class Report:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.seconds = (ticks() - job.started) / 1e9

    def __str__(self) -> str:
        latencies = sorted(self.job.latencies)
        count = len(latencies)
        if not count:
            return f"{self.job.thread.name}: nothing"
        return (
            f"{self.job.thread.name}: {count:7,} requests, {count / self.seconds:9,.0f} IOPS, "
            f"{count * self.job.size / self.seconds / 2**20:7,.0f} MiB/s, latency mean "
            f"{statistics.fmean(latencies) / 1e3:7,.0f} µs, p99 {latencies[count * 99 // 100] / 1e3:7,.0f} µs"
        )


def at_random(blocks: int, seconds: float, seed: int) -> Iterator[int]:
    dice = random.Random(seed)
    end = ticks() + int(seconds * 1e9)
    while ticks() < end:
        yield dice.randrange(blocks)


def main() -> None:
    parser = argparse.ArgumentParser(description="A file or block device, read and written by several threads.")
    parser.add_argument("path", nargs="?")
    parser.add_argument("--overwrite", action="store_true", help="verify on PATH, too: destroys its content")
    parser.add_argument("--seconds", type=float, default=1.0, help="length of the random job (default 1)")
    parser.add_argument("--size-mib", type=int, default=16, help="size of the temporary file (default 16)")
    parser.add_argument("--block", type=int, default=4096, help="bytes of a request (default 4096)")
    parser.add_argument("--depth", type=int, default=32, help="requests of a thread under way (default 32)")
    parser.add_argument("--workers", type=int, default=2, help="OS threads of a channel (default 2)")
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
        flags = (os.O_RDWR if verify else os.O_RDONLY) | (os.O_DIRECT if options.direct else 0)
        device = FileDevice(path, flags=flags, depth=options.depth, workers=options.workers).register()
        blocks = device.size // options.block
        if blocks == 0:
            parser.error(f"{path} is smaller than a block")
        # The workers need the cores, too: a reactor that has nothing to do sleeps at once.
        threads = [
            stack.enter_context(Reactor(spin_us=0)).create_thread(f"thread {number}")
            for number in range(options.threads)
        ]

        if verify:
            print(f"verify: {blocks:,} blocks of {options.block} bytes, written by one thread and read by another")
            print(" ", WritePattern(device, threads[0], iter(range(blocks)), options.block).result.result())
            print(" ", CheckPattern(device, threads[-1], iter(range(blocks)), options.block).result.result())
        print(f"random reads for {options.seconds:g} s, {options.depth} at once on each of {options.threads} threads")
        jobs = [
            Job(device, thread, at_random(blocks, options.seconds, seed), options.block)
            for seed, thread in enumerate(threads)
        ]
        for job in jobs:
            print(" ", job.result.result())
        threads[0].call(device.unregister).result().result()


if __name__ == "__main__":
    main()
