"""A market-data feed by UDP: each message updates a book of prices, and how long it took since it was sent is kept.

Four receivers of one feed, each in a process of its own, in turn: `spdkthread.sock` with a native handler, which parses
each message in C without the GIL; the same with a Python handler, which gets all that has come as one NumPy array; and
plain asyncio and uvloop, which call a method for each. The reactor polls (``idle="poll"``), which is what such a
program has a core for. Where something is not installed, its receiver is left out.

    python examples/feed_handler.py [--messages 8000] [--rounds 3] [--burst 20] [--pause-us 1000]
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

MESSAGE = np.dtype([("sequence", "<u8"), ("sent_ns", "<u8"), ("price", "<f8"), ("symbol", "<u4"), ("size", "<u4")])
LAYOUT = struct.Struct("<QQdII")
SYMBOLS = 256
MOST = 1 << 20  # latencies that are kept
PERCENTILES = ("p50", "p90", "p99", "p99.9")
RECEIVERS = ("native handler", "Python handler", "asyncio", "uvloop")
HOST = "127.0.0.1"
QUIET_S = 0.1  # after so long without a message none is on its way

NATIVE = """
    #include <stddef.h>
    #include <stdint.h>
    #include <string.h>
    #include <time.h>
    typedef struct { uint64_t sequence, sent_ns; double price; uint32_t symbol, size; } message;
    typedef struct {
        uint64_t count, expected, gaps, most;
        int64_t *latencies;
        double *prices;
        uint64_t *volumes;
    } feed;

    static int on_message(void *ctx, void *sock, const uint8_t *data, size_t length) {
        feed *mine = ctx;
        message got;
        struct timespec now;
        (void)sock;
        if (length != sizeof got) return -1;            /* counted as rejected */
        memcpy(&got, data, sizeof got);
        if (got.symbol >= SYMBOLS) return -1;
        mine->gaps += got.sequence > mine->expected ? got.sequence - mine->expected : 0;
        mine->expected = got.sequence + 1;
        mine->prices[got.symbol] = got.price;
        mine->volumes[got.symbol] += got.size;
        clock_gettime(CLOCK_MONOTONIC, &now);
        if (mine->count < mine->most)
            mine->latencies[mine->count++] = now.tv_sec * 1000000000LL + now.tv_nsec - (int64_t)got.sent_ns;
        return 0;
    }
    static int (*const handler)(void *, void *, const uint8_t *, size_t) = on_message;
"""
DECLARED = """
    typedef struct {
        uint64_t count, expected, gaps, most;
        int64_t *latencies;
        double *prices;
        uint64_t *volumes;
    } feed;
    extern int (*const handler)(void *, void *, const uint8_t *, size_t);
"""


class Book:
    """What a receiver makes of the feed."""

    def __init__(self) -> None:
        self.prices = np.zeros(SYMBOLS)
        self.volumes = np.zeros(SYMBOLS, np.uint64)
        self.latencies = np.zeros(MOST, np.int64)
        self.begin()

    def begin(self) -> None:
        self.count = self.expected = self.gaps = 0

    def take_message(self, data: bytes) -> None:
        """One datagram."""
        if len(data) != LAYOUT.size:
            return
        sequence, sent_ns, price, symbol, size = LAYOUT.unpack(data)
        if symbol >= SYMBOLS or self.count >= MOST:
            return
        if sequence > self.expected:
            self.gaps += sequence - self.expected
        self.expected = sequence + 1
        self.prices[symbol] = price
        self.volumes[symbol] += size
        self.latencies[self.count] = time.monotonic_ns() - sent_ns
        self.count += 1

    def take_batch(self, sock: Any, batch: Any) -> None:
        """All datagrams that have come, as an array of records over the memory that they were received into."""
        count = len(batch)
        if count <= 12:  # so few are parsed sooner than NumPy is called
            for data in batch:
                self.take_message(data)
            return
        messages = np.frombuffer(batch.data, MESSAGE)
        fine = (np.frombuffer(batch.lengths, np.uint32) == MESSAGE.itemsize) & (messages["symbol"] < SYMBOLS)
        if not fine.all():
            messages = messages[fine]
            count = len(messages)
        if not count or self.count + count > MOST:
            return
        last = int(messages["sequence"][-1])
        self.gaps += max(0, last + 1 - self.expected - count)
        self.expected = last + 1
        self.prices[messages["symbol"]] = messages["price"]
        np.add.at(self.volumes, messages["symbol"], messages["size"])
        sent = messages["sent_ns"].astype(np.int64)
        np.subtract(time.monotonic_ns(), sent, out=self.latencies[self.count : self.count + count])
        self.count += count

    def report(self) -> dict[str, float]:
        """Of what has come since the last report."""
        seen = self.latencies[: self.count]
        found: dict[str, float] = {"messages": self.count, "gaps": self.gaps}
        if self.count:
            found |= {name: float(np.percentile(seen, float(name[1:]))) / 1000 for name in PERCENTILES}
        self.begin()
        return found


class NativeBook(Book):
    """The same in C: `NATIVE` updates the arrays."""

    def __init__(self) -> None:
        from cffi import FFI  # type: ignore[import-not-found, import-untyped, unused-ignore]

        ffi = FFI()
        ffi.cdef(DECLARED)
        ffi.set_source("_feed_native", f"#define SYMBOLS {SYMBOLS}\n{NATIVE}")
        with tempfile.TemporaryDirectory() as work:
            ffi.compile(tmpdir=work)
            sys.path.insert(0, work)
            self.native = importlib.import_module("_feed_native")
            sys.path.remove(work)
        self.feed = self.native.ffi.new("feed *")
        super().__init__()
        for name in ("latencies", "prices", "volumes"):
            field = self.native.ffi.typeof("feed").fields
            kind = dict(field)[name].type
            setattr(self.feed, name, self.native.ffi.cast(kind, getattr(self, name).ctypes.data))
        self.feed.most = MOST

    def begin(self) -> None:
        self.feed.count = self.feed.expected = self.feed.gaps = 0

    def report(self) -> dict[str, float]:
        self.count, self.gaps = self.feed.count, self.feed.gaps
        return super().report()


# ---- receivers -----------------------------------------------------------------------------------------------------


def answer(line: str, report: Any) -> None:
    """The parent asks by a line, and ends the process by closing its end."""
    if not line:
        os._exit(0)
    print(json.dumps(report()), flush=True)


def serve_sock(kind: str) -> None:
    from spdkthread import Reactor
    from spdkthread.sock import DatagramSock, SockGroup

    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    group = SockGroup("feed").register()  # type: ignore[no-untyped-call, unused-ignore]
    reactor = Reactor(cores[-1] if cores else None, idle="poll").start()
    thread = reactor.create_thread("feed")
    book = NativeBook() if kind == "native handler" else Book()

    def begin() -> Any:
        opened: Callable[..., DatagramSock] = group.open_datagram
        sock = opened((HOST, 0), datagram_bytes=MESSAGE.itemsize, receive_buffer_bytes=4 << 20)
        if isinstance(book, NativeBook):
            sock.set_native(book.native.lib.handler, book.feed)
        else:
            sock.on_batch = book.take_batch
        return sock.sockname()

    print(thread.call(begin).result()[1], flush=True)
    while True:
        answer(sys.stdin.readline(), lambda: thread.call(book.report).result())


class Protocol(asyncio.DatagramProtocol):
    def __init__(self, book: Book) -> None:
        self.take = book.take_message

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.take(data)


async def serve_asyncio() -> None:
    book = Book()
    loop = asyncio.get_running_loop()
    made = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    made.bind((HOST, 0))
    await loop.create_datagram_endpoint(lambda: Protocol(book), sock=made)
    print(made.getsockname()[1], flush=True)
    loop.add_reader(0, lambda: answer(sys.stdin.readline(), book.report))
    await asyncio.Event().wait()


def serve(kind: str) -> None:
    if "handler" in kind:
        serve_sock(kind)
        return
    if kind == "uvloop":
        uvloop = importlib.import_module("uvloop")
        loop = uvloop.new_event_loop()
    else:
        loop = asyncio.new_event_loop()
    loop.run_until_complete(serve_asyncio())


# ---- the feed and who asks -----------------------------------------------------------------------------------------


def publish(port: int, messages: int, burst: int, pause_us: float) -> None:
    """Send the feed: `burst` messages at a time, `pause_us` from the beginning of one burst to that of the next."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as feed:
        feed.connect((HOST, port))
        due = time.monotonic_ns()
        for sequence in range(messages):
            if sequence % burst == 0:
                due += int(pause_us * 1000)
                left = due - time.monotonic_ns()
                if left > 0:
                    time.sleep(left / 1e9)
            price = 100.0 + sequence % 7
            feed.send(LAYOUT.pack(sequence, time.monotonic_ns(), price, sequence % SYMBOLS, 1 + sequence % 100))


class Receiver:
    """A receiver's process."""

    def __init__(self, kind: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--serve", kind],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.ask, self.answers = self.process.stdin, self.process.stdout
        self.port = 0

    def is_ready(self) -> bool:
        """Wait until it listens. False: it does not run here."""
        self.port = int(self.answers.readline() or 0)
        self.process.send_signal(signal.SIGSTOP)
        return self.port != 0

    def report(self) -> dict[str, float]:
        self.ask.write("\n")
        self.ask.flush()
        found: dict[str, float] = json.loads(self.answers.readline())
        return found

    def measure(self, messages: int, burst: int, pause_us: float) -> dict[str, float]:
        """The figures of one feed. Only the receiver that is measured runs: one that polls takes a core."""
        self.process.send_signal(signal.SIGCONT)
        publish(self.port, 10 * burst, burst, pause_us)
        time.sleep(QUIET_S)
        self.report()
        publish(self.port, messages, burst, pause_us)
        time.sleep(QUIET_S)
        found = self.report()
        self.process.send_signal(signal.SIGSTOP)
        return found


@contextlib.contextmanager
def receivers(kinds: tuple[str, ...] = RECEIVERS) -> Iterator[dict[str, Receiver]]:
    """Those that run here."""
    made = {kind: Receiver(kind) for kind in kinds}
    try:
        yield {kind: one for kind, one in made.items() if one.is_ready()}
    finally:
        for one in made.values():
            one.process.kill()
            one.process.communicate()


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--serve", choices=RECEIVERS, help=argparse.SUPPRESS)
    parser.add_argument("--messages", type=int, default=8000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--burst", type=int, default=20)
    parser.add_argument("--pause-us", type=float, default=1000)
    options = parser.parse_args()
    if options.serve:
        serve(options.serve)
        return
    best: dict[str, dict[str, float]] = {}
    lost: dict[str, float] = {}
    with receivers() as made:
        for _ in range(options.rounds):
            for kind, one in made.items():
                found = one.measure(options.messages, options.burst, options.pause_us)
                lost[kind] = lost.get(kind, 0) + options.messages - found["messages"]
                if "p99" in found and (kind not in best or found["p99"] < best[kind]["p99"]):
                    best[kind] = found
    print(f"{options.messages:,} messages of {LAYOUT.size} bytes, {options.burst} each {options.pause_us:g} µs")
    print("µs from its sending until a message is in the book, of the best round; lost over all")
    print(f"{'receiver':16} {'p50':>8} {'p90':>8} {'p99':>8} {'p99.9':>8} {'lost':>6}")
    for kind in RECEIVERS:
        if kind in best:
            figures = " ".join(f"{best[kind][name]:8.1f}" for name in PERCENTILES)
            print(f"{kind:16} {figures} {lost[kind]:6,.0f}")
        else:
            print(f"{kind:16} is not here: cffi and a C compiler, or uvloop, are not installed")


if __name__ == "__main__":
    main()
