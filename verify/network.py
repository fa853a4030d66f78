"""Clients that say the wrong things, at the wrong time, in the wrong pieces, to servers on `spdkthread.sock`.

    python -m verify.network --seconds 60 --seed 1

The servers: connections whose handlers do anything that a handler may do; a native echo; UDP with handlers of both kinds;
and the example that speaks Redis' protocol, with Python handlers and with native ones. A case is some conversations
at the same time: valid bytes, mutated, cut into pieces, and an ending of some kind. After each case, well-behaved clients must be served as if nothing
had happened. ``--target`` and ``--case`` repeat one; ``--without-native`` compiles nothing.
"""

import argparse
import contextlib
import faulthandler
import importlib.util
import json
import os
import random
import socket
import struct
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from spdkthread import Reactor, default_lib
from spdkthread.sock import SockBufferError, SockClosedError, SockGroup, echo

PATIENCE_S = 60
TOGETHER = 8  # conversations of one case, at the same time
EXAMPLE = Path(__file__).parent.parent / "examples" / "resp_server.py"
WORDS = [b"PING", b"ECHO", b"GET", b"SET", b"EX", b"PX", b"NX", b"XX", b"DEL", b"EXISTS", b"INCR", b"DECR", b"INCRBY"]
WORDS += [
    b"MGET",
    b"MSET",
    b"EXPIRE",
    b"PEXPIRE",
    b"TTL",
    b"PTTL",
    b"APPEND",
    b"STRLEN",
    b"DBSIZE",
    b"FLUSHALL",
    b"KEYS",
]
WORDS += [b"SCAN", b"MATCH", b"COUNT", b"INFO", b"COMMAND", b"CONFIG", b"CLIENT", b"SELECT", b"QUIT", b"0", b"1", b"-1"]
WORDS += [
    b"key",
    b"other",
    b"*",
    b"k?[a-",
    b"\\",
    b"9223372036854775807",
    b"-9223372036854775808",
    b"1e400",
    b"",
    b"\x00",
]
NUMBERS = [
    b"-1",
    b"0",
    b"1",
    b"-2",
    b"2147483648",
    b"4294967296",
    b"9223372036854775808",
    b"18446744073709551616",
    b"x",
    b"",
]
PURPOSE = "on purpose"


class Wrong(Exception):
    """What a server did and must not."""


# ---- what is sent --------------------------------------------------------------------------------------------------


def command(dice):
    """A command of Redis' protocol, most of them with a meaning."""
    words = [dice.choice(WORDS) for _ in range(dice.randrange(1, 6))]
    if dice.random() < 0.3:
        words.append(bytes(dice.randrange(256) for _ in range(dice.randrange(300))))
    if dice.random() < 0.02:
        words.append(b"v" * dice.choice((4095, 4096, 65535, 65536, 300_000)))
    if dice.random() < 0.1:
        return b" ".join(words) + b"\r\n"
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words)


def mutated(dice, data):
    """The same with some bytes, lengths or pieces wrong."""
    data = bytearray(data)
    for _ in range(dice.choice((0, 0, 1, 1, 2, 5))):
        at = dice.randrange(len(data) + 1)
        kind = dice.randrange(7)
        if kind == 0 and at < len(data):
            data[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            data[at:at] = bytes(dice.randrange(256) for _ in range(dice.choice((1, 2, 16, 1000))))
        elif kind == 2:
            del data[at : at + dice.choice((1, 2, 16, 1000))]
        elif kind == 3:
            data[at:at] = data[dice.randrange(len(data) + 1) :][: dice.choice((4, 64, 4096))]
        elif kind == 4:
            data[at:at] = dice.choice((b"\r\n", b"\n", b"*", b"$", b"\x00", b"*1\r\n$", b"+OK\r\n"))
        elif kind == 5:
            sign = dice.choice((b"*", b"$"))
            found = data.find(sign, at)
            if found >= 0:
                end = data.find(b"\r", found)
                data[found + 1 : max(end, found + 1)] = dice.choice(NUMBERS)
        else:
            del data[at:]
    return bytes(data)


def pieces(dice, data):
    """Cut as a network may cut it."""
    kind = dice.randrange(4)
    if kind == 0 or not data:
        return [data]
    size = (1, 7, 1000)[kind - 1]
    if kind == 1:
        data, rest = data[:200], data[200:]
        return [data[at : at + 1] for at in range(len(data))] + ([rest] if rest else [])
    return [data[at : at + size] for at in range(0, len(data), size)]


def end(dice, peer):
    """Leave a connection in one of the ways that there are."""
    kind = dice.randrange(5)
    with contextlib.suppress(OSError):
        if kind == 0:
            peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif kind == 1:
            peer.shutdown(socket.SHUT_WR)
            peer.settimeout(0.05)
            while peer.recv(65536):
                pass
        elif kind == 2:
            peer.settimeout(0.01)
            peer.recv(100)
        elif kind == 3:
            peer.shutdown(socket.SHUT_RD)
    peer.close()


def converse(dice, address, data):
    """One conversation with a stream server."""
    peer = socket.create_connection(address, timeout=PATIENCE_S)
    try:
        # What is not read fills the buffers, which is the server's to bear and not a reason to wait here.
        peer.settimeout(0.2)
        for piece in pieces(dice, data):
            peer.sendall(piece)
            if dice.random() < 0.05:
                peer.settimeout(0.002)
                with contextlib.suppress(TimeoutError):
                    peer.recv(dice.choice((1, 100, 65536)))
                peer.settimeout(0.2)
    except OSError:
        pass  # the server may close whenever it likes
    end(dice, peer)


# ---- servers -------------------------------------------------------------------------------------------------------


class Servers:
    """All of them, each by its target's name; on two reactors."""

    def __init__(self, seed, with_native):
        self.reported = []
        self.lib = default_lib()  # as the example's
        self.lib.exception_handler = self.report
        self.dice = random.Random(seed)
        self.reactors = [Reactor(lib=self.lib, pin=False, spin_us=0).start() for _ in range(2)]
        self.threads = [reactor.create_thread(f"net {number}") for number, reactor in enumerate(self.reactors)]
        self.group = SockGroup("net", lib=self.lib, max_sock_bytes=1 << 20).register()
        self.kept, self.resp = [], {}
        self.targets = {
            "handlers": (self.stream, self.serve(self.wild)),
            "native echo": (self.stream, self.serve(native)),
        }
        self.datagrams = [self.open(self.batch), self.open(None)]
        self.targets["datagrams"] = (self.datagram, self.datagrams[0].sockname())
        self.targets["native datagrams"] = (self.datagram, self.datagrams[1].sockname())
        example = load(EXAMPLE)
        kinds = {"resp": example.Server} | ({"native resp": example.NativeServer} if with_native else {})
        for name, kind in kinds.items():
            self.resp[name] = kind(self.threads, 4 << 20)
            self.targets[name] = (self.redis, self.resp[name].listen(("127.0.0.1", 0)).sockname())

    def report(self, context):
        error = context["exception"]
        allowed = isinstance(error, (SockClosedError, SockBufferError)) or PURPOSE in str(error)
        if not allowed:
            self.reported.append(f"{context['message']}: {error!r}")

    def serve(self, accepted):
        return (
            self.threads[0]
            .call(lambda: self.group.listen(("127.0.0.1", 0), accepted, threads=self.threads))
            .result()
            .sockname()
        )

    def open(self, on_batch):
        def begin():
            sock = self.group.open_datagram(("127.0.0.1", 0), on_batch=on_batch, datagram_bytes=1000, batch=16)
            if on_batch is None:
                sock.set_native(echo.on_datagram)
            return sock

        return self.threads[1].call(begin).result()

    def keep(self, what):
        self.kept.append(what)
        if len(self.kept) > 20:
            del self.kept[: self.dice.randrange(20)]

    def wild(self, sock):
        """A connection whose handlers do whatever they may."""
        sock.on_data = self.data
        if self.dice.random() < 0.5:
            sock.on_end = lambda sock: sock.write(b"the end") if self.dice.random() < 0.5 else sock.close()
        sock.on_high_water = lambda sock: self.dice.random() < 0.5 and sock.pause_reading()
        sock.on_low_water = lambda sock: sock.resume_reading()

    def data(self, sock, view):
        dice, data = self.dice, bytes(view)
        if data.startswith(b"well-behaved"):
            sock.write(view)
            return
        kind = dice.randrange(16)
        if kind == 0:
            sock.close()
        elif kind == 1:
            sock.abort()
        elif kind == 2:
            sock.shutdown_write()
        elif kind == 3:
            sock.pause_reading()
            sock.thread.call_later(dice.randrange(2000), self.later, sock)
        elif kind == 4:
            self.keep(view[: len(view) // 2])
        elif kind == 5:
            raise ValueError(PURPOSE)
        elif kind == 6 and sock.state == "open":
            sock.move_to(dice.choice(self.threads))
        elif kind == 7:
            sock.set_native(echo.on_data)
        elif kind == 8:
            sock.set_water_marks(dice.choice((0, 10, 1 << 16)), 0)
        elif kind == 9:
            sock.write(data * 50)
        elif kind == 10:
            sock.write(b"x" * 200_000)
            sock.close()
        elif kind == 11:
            sock.on_data = None
            sock.thread.call_later(100, self.again, sock)
        else:
            sock.write(data)

    def later(self, sock):
        if sock.state == "open":
            with contextlib.suppress(Exception):  # it may be another thread's by now
                sock.resume_reading()

    def again(self, sock):
        with contextlib.suppress(Exception):
            sock.on_data = self.data

    def batch(self, sock, batch):
        dice = self.dice
        for index, data in enumerate(batch):
            assert len(data) <= 1000
            if bytes(data).startswith(b"well-behaved"):
                batch.reply(index, data)
                continue
            kind = dice.randrange(10)
            if kind == 0:
                self.keep(np.frombuffer(batch.data, np.uint8).reshape(len(batch), batch.stride))
            elif kind == 1:
                self.keep((data, batch))
            elif kind == 2 and len(data):
                sock.send_many(data, 7, batch.address(index))
            elif kind == 3:
                sock.pause_reading()
                sock.thread.call_later(dice.randrange(1000), sock.resume_reading)
            elif kind == 4:
                sock.send(data, ("127.0.0.1", 1 + dice.randrange(65535)))
            else:
                batch.reply(index, data)
        if dice.random() < 0.05:
            raise ValueError(PURPOSE)

    # Cases, and what must be true after each.

    def stream(self, dice, address):
        data = b"".join(mutated(dice, command(dice)) for _ in range(dice.choice((1, 1, 5, 50))))
        if not data.startswith(b"well-behaved"):
            converse(dice, address, data)

    def redis(self, dice, address):
        valid = [command(dice) for _ in range(dice.choice((1, 1, 2, 10, 100)))]
        converse(dice, address, b"".join(mutated(dice, one) if dice.random() < 0.5 else one for one in valid))

    def datagram(self, dice, address):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
            for _ in range(dice.choice((1, 10, 100))):
                length = dice.choice((0, 1, dice.randrange(2000), 999, 1000, 1001, 65507))
                with contextlib.suppress(OSError):
                    peer.sendto(dice.randbytes(length), address)
            if dice.random() < 0.5:
                peer.settimeout(0.001)
                with contextlib.suppress(OSError):
                    peer.recv(dice.choice((1, 65536)))

    def check(self, name):
        """Well-behaved clients are served."""
        case, address = self.targets[name]
        if self.reported:
            raise Wrong("; ".join(self.reported[:3]))
        if case == self.datagram:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as peer:
                peer.settimeout(0.2)
                give_up = time.monotonic() + PATIENCE_S
                while True:  # a datagram may be lost
                    peer.sendto(b"well-behaved", address)
                    with contextlib.suppress(TimeoutError, ConnectionRefusedError):
                        if peer.recv(100) == b"well-behaved":
                            return
                    if time.monotonic() > give_up:
                        raise Wrong(f"{name}: no answer to a datagram")
        with socket.create_connection(address, timeout=PATIENCE_S) as peer:
            peer.settimeout(PATIENCE_S)
            if case == self.redis:
                for words, answer in (
                    (b"*2\r\n$4\r\nECHO\r\n$5\r\nhello\r\n", b"$5\r\nhello\r\n"),
                    (b"*1\r\n$8\r\nFLUSHALL\r\n", b"+OK\r\n"),
                    (b"*3\r\n$3\r\nSET\r\n$6\r\ncanary\r\n$1\r\n1\r\n", b"+OK\r\n"),
                    (b"*2\r\n$4\r\nINCR\r\n$6\r\ncanary\r\n", b":2\r\n"),
                    (b"*2\r\n$3\r\nGET\r\n$6\r\ncanary\r\n", b"$1\r\n2\r\n"),
                ):
                    ask(name, peer, words, answer)
            else:
                ask(name, peer, b"well-behaved", b"well-behaved")

    def close(self):
        for server in self.resp.values():
            server.close()
        self.group.close_all().result(PATIENCE_S)
        self.group.unregister().result(PATIENCE_S)
        for reactor in self.reactors:
            left = reactor.stop(timeout_s=PATIENCE_S)
            if not left.ok:
                raise Wrong(f"a reactor that stopped left {left}")
        self.kept.clear()
        if self.reported:
            raise Wrong("; ".join(self.reported[:3]))


def native(sock):
    sock.set_native(echo.on_data)


def ask(name, peer, words, answer):
    peer.sendall(words)
    got = b""
    while len(got) < len(answer):
        more = peer.recv(1000)
        if not more:
            break
        got += more
    if got != answer:
        raise Wrong(f"{name}: {words!r} was answered by {got!r} instead of {answer!r}")


def load(path):
    spec = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, default=10)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--target", action="append")
    parser.add_argument("--case", type=int, help="this one only")
    parser.add_argument("--without-native", action="store_true", help="leave out what has to be compiled first")
    options = parser.parse_args()
    faulthandler.enable()
    if "asan" in os.environ.get("LD_PRELOAD", ""):
        # What the example compiles is looked at, too.
        for name in ("CFLAGS", "LDFLAGS"):
            os.environ[name] = f"{os.environ.get(name, '')} -fsanitize=address,undefined -fno-omit-frame-pointer -g"
    servers = Servers(options.seed, not options.without_native)
    names = [name for name in servers.targets if not options.target or name in options.target]
    counts = dict.fromkeys(names, 0)
    finish = time.monotonic() + options.seconds
    number = first = options.case or 0
    failure = ""
    clients = ThreadPoolExecutor(TOGETHER)
    try:
        while time.monotonic() < finish or number == first:
            name = names[number % len(names)]
            case, address = servers.targets[name]
            where = f"--seed {options.seed} --case {number}" + "".join(
                f" --target {one!r}" for one in options.target or ()
            )
            faulthandler.dump_traceback_later(2 * PATIENCE_S, exit=True)
            dices = [random.Random(f"{options.seed} {number} {each}") for each in range(TOGETHER)]
            list(clients.map(case, dices, [address] * TOGETHER))
            servers.check(name)
            counts[name] += TOGETHER
            number += 1
            if options.case is not None:
                break
        faulthandler.dump_traceback_later(4 * PATIENCE_S, exit=True)
        servers.close()
    except (Wrong, OSError) as wrong:
        failure = f"verify.network {where}: {wrong!r}"
    faulthandler.cancel_dump_traceback_later()
    print(failure, file=sys.stderr)
    print(json.dumps({"conversations": sum(counts.values()), **counts, "first seed": options.seed}))
    sys.stdout.flush()
    # After a failure reactors may be in any state.
    os._exit(1) if failure else sys.exit()


if __name__ == "__main__":
    main()
