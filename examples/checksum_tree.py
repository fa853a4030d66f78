#!/usr/bin/env python3
"""Print the checksum of every file below PATH, as ``find PATH -type f -print0 | xargs -0 sha256sum`` does.

    checksum_tree.py PATH [-o MANIFEST] [--cores 0,1] [--algorithm sha256]

The lines are in no particular order; ``sha256sum -c`` accepts them. How it works, on two cores::

    reactor on core 0                        reactor on core 1
      walker   lists files, polled
        |  path, to the worker that has the least to do
        +--------------------+------------------------+
        v                                             v
      inbox [ | | | ]                          inbox [ | | | ]     rings of --ring-size slots
      worker 0   hashes, polled                worker 1   hashes, polled
        |  path, digest                               |
        +---------------------------------------------+
        v
      collector   writes the line when the message arrives

Each name is an SpdkThread, and whatever is handed on is a message. None has a queue of its own: when a ring is full,
the sender pauses its poller. So the memory in use is bounded by the rings, whatever the size of the tree.

Large files are read and hashed on all cores at once: Python lets go of the GIL meanwhile. What a file costs besides,
listing, opening and closing it, is Python's work. On a CPython with the GIL two reactors would only hand that to each
other, so small files go to worker 0, beside the walker and the collector.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import stat
import sys
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO, Self

from spdkthread import Reactor, SpdkThread, SpdkThreadError, ThreadLib, ticks
from spdkthread.cores import allowed_cores, parse_cores

CHUNK_BYTES = 1 << 20  # read and hashed at once; both let go of the GIL meanwhile
POLL_TICKS = 2_000_000  # a poller gives its reactor back after 2 ms, or after the chunk in which they end
RETRY_US = 200  # how soon a paused poller looks again
OPEN_DIRECTORIES = 100  # levels below are listed at once, or a deep tree would use up the file descriptors
FILE_COST_BYTES = 1 << 15  # what opening a file costs, in bytes that could be hashed in that time
SMALL_BYTES = 1 << 16  # with less than that, a file is mostly Python's work
GIL = getattr(sys, "_is_gil_enabled", lambda: True)()
AHEAD_BYTES = 1 << 26  # a worker with more before it gets nothing: the next large file is for who is free first

FileId = tuple[int, int]  # device and inode

READY, WAIT = True, False  # what a task yields: it can go on, or it can do nothing at present


class Task:
    """A generator that an active poller steps, for a bounded time in each poll.

    When it yields WAIT, the poller is paused, and a timed poller resumes it a little later.
    """

    def __init__(self, thread: SpdkThread):
        self.thread = thread
        self.steps = self.run()
        self.poller = thread.register_poller(self.poll, name=thread.name)
        self.retry = thread.register_poller(self.poller.resume, RETRY_US, name=f"{thread.name} retry")

    def run(self) -> Generator[bool, None, None]:
        raise NotImplementedError

    def poll(self) -> bool:
        deadline = ticks() + POLL_TICKS
        for step in self.steps:
            if step is WAIT:
                self.poller.pause()
                return False
            if ticks() >= deadline:
                return True
        self.end()
        return True

    def end(self) -> None:
        """Do not step it any more. From any OS thread."""
        self.poller.unregister()
        self.retry.unregister()


class Walker(Task):
    """Lists the files and gives each to the worker that has the least to do."""

    def __init__(
        self, thread: SpdkThread, root: bytes, skip: FileId | None, workers: list[Worker], collector: Collector
    ):
        self.root, self.skip, self.workers, self.collector = root, skip, workers, collector
        self.files = self.errors = 0
        super().__init__(thread)

    def run(self) -> Generator[bool, None, None]:
        for found in self.find_files():
            if found is not None:
                while not self.worker_for(found[1]).offer(*found):
                    yield WAIT
                self.files += 1
            yield READY
        while not self.collector.thread.try_send_msg(self.collector.expect, self.files):
            yield WAIT

    def worker_for(self, size: int) -> Worker:
        """Return the one that has the least to do; for a small file the one on this reactor.

        Two OS threads that both work in Python, a few microseconds between one system call and the next, hand the GIL
        to each other all the time, and that takes longer than their work.
        """
        here = self.workers[0]
        if GIL and size < SMALL_BYTES and here.backlog() <= AHEAD_BYTES:
            return here
        return min(self.workers, key=Worker.backlog)

    def find_files(self) -> Iterator[tuple[bytes, int] | None]:
        """Yield path and size of each file that ``find -type f`` lists, and None for each step that found none."""
        levels: list[Iterator[os.DirEntry[bytes]]] = []
        try:
            top = os.lstat(self.root)
            if stat.S_ISREG(top.st_mode):
                yield self.root, top.st_size
            elif stat.S_ISDIR(top.st_mode):
                levels.append(entries(self.root))
        except OSError as error:
            self.complain(error)
        while levels:
            found = None
            try:
                entry = next(levels[-1], None)
                if entry is None:
                    levels.pop()
                elif entry.is_dir(follow_symlinks=False):
                    levels.append(entries(entry.path, at_once=len(levels) >= OPEN_DIRECTORIES))
                elif entry.is_file(follow_symlinks=False):
                    status = entry.stat(follow_symlinks=False)
                    if (status.st_dev, status.st_ino) != self.skip:
                        found = entry.path, status.st_size
            except OSError as error:
                self.complain(error)
            yield found

    def complain(self, error: OSError) -> None:
        self.errors += 1
        complain(error.filename, error)


class Worker(Task):
    """Hashes one file at a time, a chunk per step.

    Files wait in the ring of `inbox`, an SpdkThread that no reactor polls: the worker does that itself, one message at
    a time, when it has no file in hand. Polled by a reactor, the messages would run as they come, and a worker with a
    large file in hand would have to keep the others somewhere.
    """

    def __init__(self, thread: SpdkThread, inbox: SpdkThread, blank_hash: hashlib._Hash, collector: Collector):
        self.inbox, self.blank_hash, self.collector = inbox, blank_hash, collector
        self.buffer = memoryview(bytearray(CHUNK_BYTES))
        self.buffers = [self.buffer]
        self.path, self.cost = b"", 0
        self.bytes_read = 0
        self.cost_done = 0
        self.cost_given = 0  # the walker's: no other thread writes it
        super().__init__(thread)

    def offer(self, path: bytes, size: int) -> bool:
        """Give it a file, unless its ring is full. On the walker's thread."""
        cost = size + FILE_COST_BYTES
        if self.backlog() > AHEAD_BYTES or not self.inbox.try_send_msg(self.take, path, cost):
            return False
        self.cost_given += cost
        return True

    def backlog(self) -> int:
        return self.cost_given - self.cost_done

    def take(self, path: bytes, cost: int) -> None:
        self.path, self.cost = path, cost

    def run(self) -> Generator[bool, None, None]:
        while True:
            while not self.inbox.poll(max_msgs=1):
                yield WAIT
            hasher, problem = self.blank_hash.copy(), None
            try:
                # Without a file object: as much work again as the system calls, for a small file.
                fd = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
                try:
                    while count := os.readv(fd, self.buffers):
                        hasher.update(self.buffer[:count])
                        self.bytes_read += count
                        yield READY
                finally:
                    os.close(fd)
            except OSError as error:
                problem = error
            while not self.collector.thread.try_send_msg(self.collector.take, self.path, hasher.hexdigest(), problem):
                yield WAIT
            self.cost_done += self.cost

    def close(self) -> None:
        """Let go of the files that were not hashed. After its reactor has stopped."""
        self.inbox.exit()
        while not self.inbox.is_exited:
            self.inbox.poll()


class Collector:
    """Writes the line of each file that a worker has done. `finished` is set after the last one."""

    def __init__(self, thread: SpdkThread, write: Callable[[bytes], object], finished: threading.Event):
        self.thread, self.write, self.finished = thread, write, finished
        self.files = self.errors = 0
        self.expected: int | None = None

    def take(self, path: bytes, digest: str, problem: OSError | None) -> None:
        if problem is None:
            self.write(manifest_line(path, digest))
        else:
            self.errors += 1
            complain(path, problem)
        self.files += 1
        self.finish_if_done()

    def expect(self, files: int) -> None:
        """The walker has given out its last file, and so many they were."""
        self.expected = files
        self.finish_if_done()

    def finish_if_done(self) -> None:
        if self.files == self.expected:
            self.finished.set()


class Run:
    """A walk over a tree: who works on which reactor, the beginning and the end."""

    def __init__(self, args: argparse.Namespace, write: Callable[[bytes], object], skip: FileId | None):
        self.finished = threading.Event()
        self.failure: BaseException | None = None
        self.lib = ThreadLib(exception_handler=self.fail)
        self.reactors = [Reactor(core, lib=self.lib) for core in args.cores]
        self.collector = Collector(
            self.reactors[0].create_thread("collector", ring_size=args.ring_size), write, self.finished
        )
        self.workers = []
        for number, reactor in enumerate(self.reactors):
            thread = reactor.create_thread(f"worker {number}")
            inbox = self.lib.create_thread(f"inbox {number}", ring_size=args.ring_size)
            self.workers.append(Worker(thread, inbox, args.algorithm, self.collector))
        walker = self.reactors[0].create_thread("walker")
        self.walker = Walker(walker, os.fsencode(args.path), skip, self.workers, self.collector)

    def fail(self, context: dict[str, Any]) -> None:
        """An exception has left a callback: the run is over."""
        self.failure = self.failure or context["exception"]
        self.finished.set()

    def __enter__(self) -> Self:
        self.begin = ticks()
        for reactor in self.reactors:
            reactor.start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.seconds = (ticks() - self.begin) / 1e9
        for task in (self.walker, *self.workers):
            task.end()
        for reactor in self.reactors:
            reactor.stop()
        self.stats = [reactor.stats for reactor in self.reactors]
        for worker in self.workers:
            worker.close()
        for task in (self.walker, *self.workers):
            task.steps.close()
        self.lib.close()

    @property
    def bytes_read(self) -> int:
        return sum(worker.bytes_read for worker in self.workers)

    def progress(self) -> str:
        return f"{self.collector.files:,} of {self.walker.files:,} files, {self.bytes_read / 1e6:,.0f} MB"

    def summary(self) -> str:
        files = self.collector.files - self.collector.errors
        rate = self.bytes_read / 1e6 / self.seconds
        busy = ", ".join(
            f"core {reactor.core} {stats.busy_ticks / max(stats.busy_ticks + stats.idle_ticks, 1):.0%}"
            for reactor, stats in zip(self.reactors, self.stats, strict=True)
        )
        return f"{files:,} files, {self.bytes_read:,} bytes in {self.seconds:.2f} s, {rate:,.1f} MB/s; busy: {busy}"


def entries(directory: bytes, at_once: bool = False) -> Iterator[os.DirEntry[bytes]]:
    with os.scandir(directory) as inside:
        if not at_once:
            yield from inside
            return
        listed = list(inside)
    yield from listed


def manifest_line(path: bytes, digest: str) -> bytes:
    """Return the line that sha256sum prints: a name that would break it is escaped, and a backslash says so."""
    name = path.replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
    return (b"\\" if name != path else b"") + digest.encode() + b"  " + name + b"\n"


def complain(path: bytes | str, error: OSError) -> None:
    name = os.fsdecode(path)
    print(f"checksum_tree: {name if name.isprintable() else repr(name)}: {error.strerror or error}", file=sys.stderr)


@contextmanager
def progress(output: BinaryIO) -> Iterator[tuple[Callable[[bytes], object], Callable[[Run], None] | None]]:
    """Give how a line is written, and what shows the progress: a bar on a terminal, None in a pipe."""
    if not sys.stderr.isatty():
        yield output.write, None
        return
    try:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
    except ImportError:

        def show_line(run: Run) -> None:
            print(f"\r{run.progress()} (pip install rich: a bar)", end="", file=sys.stderr, flush=True)

        yield output.write, show_line
        print(file=sys.stderr)
        return

    console = Console(stderr=True)
    with Progress(BarColumn(), TextColumn("{task.description}"), console=console, auto_refresh=False) as bar:
        task = bar.add_task("", total=None)

        def show_bar(run: Run) -> None:
            bar.update(task, completed=run.collector.files, total=run.walker.files, description=run.progress())
            bar.refresh()

        def write_above(line: bytes) -> None:
            console.out(os.fsdecode(line), end="", highlight=False)

        yield (write_above if output.isatty() else output.write), show_bar


def parse_arguments(argv: list[str] | None) -> tuple[argparse.ArgumentParser, argparse.Namespace]:
    def cores(text: str) -> list[int]:
        try:
            return sorted(parse_cores(text))
        except ValueError as error:
            raise argparse.ArgumentTypeError(str(error)) from None

    def algorithm(name: str) -> hashlib._Hash:
        try:
            blank_hash = hashlib.new(name)
            blank_hash.hexdigest()
        except (ValueError, TypeError):
            raise argparse.ArgumentTypeError(f"no checksum of that name here: {name!r}") from None
        return blank_hash

    parser = argparse.ArgumentParser(
        prog="checksum_tree.py", description="Print the checksum of every file below PATH."
    )
    parser.add_argument("path", metavar="PATH", help="a directory or a file; symbolic links are not followed")
    parser.add_argument("-o", "--output", metavar="FILE", help="write the lines there; FILE itself is left out")
    parser.add_argument("--cores", type=cores, help="a reactor on each, as 0,1 or 0-3 (default: the first four)")
    parser.add_argument("--algorithm", type=algorithm, default="sha256", help="as in hashlib (default: sha256)")
    parser.add_argument("--ring-size", type=int, default=256, help="slots of each ring (default: 256)")
    args = parser.parse_args(argv)
    args.cores = args.cores or sorted(allowed_cores())[:4]
    return parser, args


def checksum_tree(parser: argparse.ArgumentParser, args: argparse.Namespace, output: BinaryIO) -> int:
    skip = None
    if args.output:
        status = os.fstat(output.fileno())
        skip = status.st_dev, status.st_ino
    with progress(output) as (write, show):
        try:
            run = Run(args, write, skip)
        except (SpdkThreadError, ValueError, MemoryError) as error:
            parser.error(str(error))
        with run:
            while not run.finished.wait(0.1 if show else None):
                if show:
                    show(run)
        if show:
            show(run)
    if run.failure:
        raise run.failure
    output.flush()
    print(f"checksum_tree: {run.summary()}", file=sys.stderr)
    return 1 if run.walker.errors or run.collector.errors else 0


def main(argv: list[str] | None = None) -> int:
    parser, args = parse_arguments(argv)
    try:
        output = open(args.output, "wb") if args.output else sys.stdout.buffer  # noqa: SIM115
    except OSError as error:
        complain(args.output, error)
        return 1
    try:
        return checksum_tree(parser, args, output)
    except KeyboardInterrupt:
        print("checksum_tree: interrupted", file=sys.stderr)
        return 130
    except OSError as error:
        complain(args.output or "standard output", error)
        # What is buffered is tried again when the file is closed: let that succeed.
        os.dup2(os.open(os.devnull, os.O_WRONLY), output.fileno())
        return 1
    finally:
        if args.output:
            output.close()


if __name__ == "__main__":
    sys.exit(main())
