"""Copies a file at queue depth and verifies the copy: what was read is written at once, then both are compared.

    copy_verify.py                        a temporary file of 64 MiB
    copy_verify.py FROM TO [--direct]     TO is made, or overwritten from its beginning

Each slot of the queue has a buffer and goes its own way: read a piece, write it, take the next. Nothing waits for
anything but its own piece, so reads and writes overlap as far as the depth goes.
"""

from __future__ import annotations

import argparse
import errno
import mmap
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import ExitStack
from pathlib import Path

from spdkthread import Reactor
from spdkthread.bdev import Bdev

Work = Callable[["Pieces", int, int, int], None]  # pieces, slot, offset, bytes


class Pieces:
    """Does something with every piece of a file, as many at once as there are slots. `result` resolves to None."""

    def __init__(self, size: int, piece: int, slots: int, work: Work) -> None:
        self.size = size
        self.piece = piece
        self.work = work
        self.next = 0
        self.under_way = 0
        self.result: Future[None] = Future()
        for slot in range(slots):
            self.go_on(slot)

    def go_on(self, slot: int) -> None:
        if self.next < self.size and not self.result.done():
            offset, self.next = self.next, self.next + self.piece
            self.under_way += 1
            self.work(self, slot, offset, min(self.piece, self.size - offset))
        elif self.under_way == 0 and not self.result.done():
            self.result.set_result(None)

    def done(self, slot: int) -> None:
        self.under_way -= 1
        self.go_on(slot)

    def failed(self, slot: int, error: Exception) -> None:
        if not self.result.done():
            self.result.set_exception(error)
        self.done(slot)


def whole(nbytes: int, unit: int) -> int:
    """Past the page cache the last piece is read and written as whole blocks."""
    return -(-nbytes // unit) * unit


class Copy:
    def __init__(self, source: Bdev, target: Bdev, piece: int, depth: int) -> None:
        self.source = source.get_io_channel()
        self.target = target.get_io_channel()
        self.unit = max(source.block_size, target.block_size) if source.direct else 1
        self.size = source.size
        self.piece = piece
        self.depth = depth
        memory = memoryview(mmap.mmap(-1, 2 * depth * piece))
        self.buffers = [memory[k * piece : (k + 1) * piece] for k in range(2 * depth)]

    def copy(self) -> Future[None]:
        return Pieces(self.size, self.piece, self.depth, self.copy_piece).result

    def copy_piece(self, pieces: Pieces, slot: int, offset: int, nbytes: int) -> None:
        buffer = self.buffers[slot][: whole(nbytes, self.unit)]

        def was_read(count: int, error: OSError | None) -> None:
            if error is not None or count < nbytes:
                pieces.failed(slot, error or OSError(errno.EIO, f"the source ends at {offset + count}"))
            else:
                self.target.write(buffer, offset, was_written)

        def was_written(count: int, error: OSError | None) -> None:
            if error is not None:
                pieces.failed(slot, error)
            else:
                pieces.done(slot)

        self.source.read(buffer, offset, was_read)

    def verify(self) -> Future[None]:
        return Pieces(self.size, self.piece, self.depth, self.verify_piece).result

    def verify_piece(self, pieces: Pieces, slot: int, offset: int, nbytes: int) -> None:
        buffers = [self.buffers[2 * slot + which][: whole(nbytes, self.unit)] for which in (0, 1)]
        errors: list[Exception | None] = []

        def was_read(count: int, error: OSError | None) -> None:
            errors.append(error or (None if count >= nbytes else OSError(errno.EIO, f"one ends at {offset + count}")))
            if len(errors) < 2:
                return
            failure = errors[0] or errors[1]
            if failure is None and bytes(buffers[0][:nbytes]) != bytes(buffers[1][:nbytes]):
                failure = OSError(errno.EIO, f"the copy differs between {offset} and {offset + nbytes}")
            if failure is not None:
                pieces.failed(slot, failure)
            else:
                pieces.done(slot)

        self.source.read(buffers[0], offset, was_read)
        self.target.read(buffers[1], offset, was_read)

    def flush(self) -> Future[None]:
        flushed: Future[None] = Future()
        self.target.flush(lambda _, error: flushed.set_exception(error) if error else flushed.set_result(None))
        return flushed

    def close(self) -> None:
        self.source.put()
        self.target.put()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("source", nargs="?", metavar="FROM")
    parser.add_argument("target", nargs="?", metavar="TO")
    parser.add_argument("--piece", type=int, default=1 << 20, help="bytes of a request (default 1 MiB)")
    parser.add_argument("--depth", type=int, default=16, help="pieces under way (default 16)")
    parser.add_argument("--direct", action="store_true", help="O_DIRECT: past the page cache")
    options = parser.parse_args()
    if options.source and not options.target:
        parser.error("FROM needs TO")
    if options.piece % 4096 or options.piece < 4096 or options.depth < 1:
        parser.error("--piece must be a multiple of 4096 and --depth at least 1")

    with ExitStack() as stack:
        if not options.source:
            file = stack.enter_context(tempfile.NamedTemporaryFile(prefix="copy_verify_"))
            for _ in range(64):
                file.write(os.urandom(1 << 20))
            file.flush()
            options.source, options.target = file.name, file.name + ".copy"
            stack.callback(Path(options.target).unlink, missing_ok=True)
        source = Bdev.open(options.source, direct=options.direct, readonly=True, depth=options.depth)
        target = Bdev.open(options.target, direct=options.direct, create_bytes=source.size, depth=options.depth)
        size = source.size
        thread = stack.enter_context(Reactor()).create_thread("copy")
        copy = thread.call(Copy, source, target, options.piece, options.depth).result()
        for what, step in (("copied", copy.copy), ("flushed", copy.flush), ("verified", copy.verify)):
            begun = time.perf_counter()
            thread.call(step).result().result()
            seconds = time.perf_counter() - begun
            print(f"{what} {size:,} bytes in {seconds:.3f} s, {size / seconds / 2**20:,.0f} MiB/s")
        thread.call(copy.close).result()
        source.unregister().result()
        target.unregister().result()
        if options.direct:
            os.truncate(options.target, size)


if __name__ == "__main__":
    main()
