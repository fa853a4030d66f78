"""A server of Redis' protocol (RESP2), its keys spread over reactors.

Each reactor has an SpdkThread with a shard of the keys, which nothing else touches, and a share of the connections. A
connection's thread parses what arrives; commands on keys of its own shard run at once, those of others are sent there
in one message for all of a batch, and the answers come back in one. Replies leave in the order of the commands.

With ``--handlers native`` all of that is C, in ``native/resp_native.h``, and runs without the GIL. It is compiled when
the example starts, into a temporary directory, which needs Cython and a C compiler.

    python examples/resp_server.py --port 6379 --cores 0,1
    redis-benchmark -p 6379 -t set,get -P 16

Without --port or --unix it demonstrates itself: it starts on a free port, is driven by a client of its own beside the
same program on asyncio, prints both rates and ends.
"""

import argparse
import asyncio
import fnmatch
import heapq
import importlib
import importlib.util
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar

from spdkthread import Poller, Reactor, RingFullError, SpdkThread, ThreadExitedError, Timer
from spdkthread.sock import Listener, Sock, SockBufferError, SockClosedError, SockGroup

OK = b"+OK\r\n"
NIL = b"$-1\r\n"
WRONG_INTEGER = b"-ERR value is not an integer or out of range\r\n"
SYNTAX = b"-ERR syntax error\r\n"
OUT_OF_MEMORY = b"-OOM command not allowed when used memory > 'maxmemory'.\r\n"
MAX_BULK, MAX_ARGUMENTS, MAX_INLINE = 512 << 20, 1 << 20, 64 << 10
HELLO = (
    b"%b\r\n$6\r\nserver\r\n$5\r\nredis\r\n$7\r\nversion\r\n$5\r\n7.0.0\r\n$5\r\nproto\r\n:%d\r\n$2\r\nid\r\n:1\r\n"
    b"$4\r\nmode\r\n$10\r\nstandalone\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$7\r\nmodules\r\n*0\r\n"
)
KEY_OVERHEAD = 100  # bytes that a key costs beside its own and its value's


def bulk(data: bytes) -> bytes:
    return b"$%d\r\n%b\r\n" % (len(data), data)


def number(value: int) -> bytes:
    return b":%d\r\n" % value


def array(items: list[bytes]) -> bytes:
    return b"*%d\r\n%b" % (len(items), b"".join(items))


class ProtocolError(Exception):
    pass


class Parser:
    """Cuts a stream into commands: lists of bytes."""

    def __init__(self) -> None:
        self.parts: list[bytes] = []
        self.have = 0
        self.need = 0  # nothing is complete before there is so much

    def feed(self, data: bytes) -> list[list[bytes]]:
        if self.parts or self.need:
            self.parts.append(data)
            self.have += len(data)
            if self.have < self.need:
                return []
            data = b"".join(self.parts)
            self.parts, self.have, self.need = [], 0, 0
        commands: list[list[bytes]] = []
        at, size = 0, len(data)
        try:
            while at < size:
                command, end = self.one(data, at)
                if end < 0:
                    break
                at = end
                if command:
                    commands.append(command)
        except ProtocolError as error:
            commands.append([b"\0protocol", str(error).encode()])
            return commands
        if at < size:
            rest = data[at:] if at else data
            self.parts, self.have = [rest], len(rest)
        return commands

    def one(self, data: bytes, at: int) -> tuple[list[bytes], int]:
        """The command at `at` and where the next one begins, or -1."""
        end = data.find(b"\r\n", at)
        if data[at] != 42:  # "*"
            end = data.find(b"\n", at)
            if end < 0:
                if len(data) - at > MAX_INLINE:
                    raise ProtocolError("too big inline request")
                return [], -1
            return data[at:end].split(), end + 1
        if end < 0:
            if len(data) - at > MAX_INLINE:
                raise ProtocolError("too big mbulk count string")
            return [], -1
        try:
            count = int(data[at + 1 : end])
        except ValueError:
            raise ProtocolError("invalid multibulk length") from None
        if count > MAX_ARGUMENTS:
            raise ProtocolError("invalid multibulk length")
        begin = end + 2
        command = []
        for _ in range(count):
            if begin >= len(data):
                return [], -1
            if data[begin] != 36:  # "$"
                raise ProtocolError(f"expected '$', got '{chr(data[begin])}'")
            end = data.find(b"\r\n", begin)
            if end < 0:
                if len(data) - begin > MAX_INLINE:
                    raise ProtocolError("too big bulk count string")
                return [], -1
            try:
                length = int(data[begin + 1 : end])
            except ValueError:
                length = -1
            if not 0 <= length <= MAX_BULK:
                raise ProtocolError("invalid bulk length")
            begin = end + 2
            end = begin + length
            if end + 2 > len(data):
                self.need = end + 2 - at
                return [], -1
            command.append(data[begin:end])
            begin = end + 2
        return command, begin


class Shard:
    """Some of the keys. One thread touches it."""

    def __init__(self, index: int, max_memory: int) -> None:
        self.index = index
        self.thread: SpdkThread  # set by the Server
        self.call_later: Callable[..., Timer | asyncio.TimerHandle]  # set by either server
        self.data: dict[bytes, bytes] = {}
        self.deadlines: dict[bytes, int] = {}
        self.heap: list[tuple[int, bytes]] = []
        self.timer: Timer | asyncio.TimerHandle | None = None
        self.timer_at = 0
        self.memory = 0
        self.max_memory = max_memory
        self.commands = 0

    # Expiry: when a key is looked at, and by a timer at the earliest deadline.

    def alive(self, key: bytes) -> bytes | None:
        if self.deadlines and self.deadlines.get(key, 1 << 63) <= time.time_ns():
            self.drop(key)
        return self.data.get(key)

    def drop(self, key: bytes) -> bool:
        value = self.data.pop(key, None)
        if value is None:
            return False
        self.memory -= len(key) + len(value) + KEY_OVERHEAD
        self.deadlines.pop(key, None)
        return True

    def put(self, key: bytes, value: bytes) -> bool:
        before = self.data.get(key)
        grows = len(value) - len(before) if before is not None else len(key) + len(value) + KEY_OVERHEAD
        if self.max_memory and grows > 0 and self.memory + grows > self.max_memory:
            return False
        self.data[key] = value
        self.memory += grows
        return True

    def expire_at(self, key: bytes, deadline: int) -> None:
        self.deadlines[key] = deadline
        heapq.heappush(self.heap, (deadline, key))
        if len(self.heap) > 2 * len(self.deadlines) + 64:
            self.heap = [(when, name) for name, when in self.deadlines.items()]
            heapq.heapify(self.heap)
        self.arm()

    def arm(self) -> None:
        if self.heap and (not self.timer_at or self.heap[0][0] < self.timer_at):
            self.disarm()
            self.timer_at = self.heap[0][0]
            self.timer = self.call_later(max(0, self.timer_at - time.time_ns()) / 1000, self.expire)

    def disarm(self) -> None:
        if self.timer is not None:
            self.timer.cancel()
        self.timer, self.timer_at = None, 0

    def expire(self) -> None:
        self.timer, self.timer_at = None, 0
        now, left = time.time_ns(), 1000
        while self.heap and self.heap[0][0] <= now and left:
            deadline, key = heapq.heappop(self.heap)
            if self.deadlines.get(key) == deadline:
                self.drop(key)
            left -= 1
        self.arm()

    # Commands on one key.

    def get(self, command: list[bytes]) -> bytes:
        value = self.alive(command[1]) if self.deadlines else self.data.get(command[1])
        return NIL if value is None else b"$%d\r\n%b\r\n" % (len(value), value)

    def set(self, command: list[bytes]) -> bytes:
        key, value = command[1], command[2]
        deadline = 0
        if len(command) > 3:
            only = b""
            options = iter(command[3:])
            for option in options:
                name = option.upper()
                if name in (b"NX", b"XX"):
                    if only and only != name:
                        return SYNTAX
                    only = name
                elif name in (b"EX", b"PX"):
                    try:
                        amount = int(next(options))
                    except StopIteration:
                        return SYNTAX
                    except ValueError:
                        return WRONG_INTEGER
                    if not 0 < amount < 1 << 42:
                        return b"-ERR invalid expire time in 'set' command\r\n"
                    deadline = time.time_ns() + amount * (1_000_000_000 if name == b"EX" else 1_000_000)
                else:
                    return SYNTAX
            if only and (self.alive(key) is None) != (only == b"NX"):
                return NIL
        if not self.put(key, value):
            return OUT_OF_MEMORY
        if self.deadlines:
            self.deadlines.pop(key, None)
        if deadline:
            self.expire_at(key, deadline)
        return OK

    def add(self, key: bytes, amount: int) -> bytes:
        value = self.alive(key)
        try:
            total = int(value or b"0") + amount
        except ValueError:
            return WRONG_INTEGER
        if not -(1 << 63) <= total < 1 << 63:
            return b"-ERR increment or decrement would overflow\r\n"
        return number(total) if self.put(key, b"%d" % total) else OUT_OF_MEMORY

    def incr(self, command: list[bytes]) -> bytes:
        return self.add(command[1], 1)

    def decr(self, command: list[bytes]) -> bytes:
        return self.add(command[1], -1)

    def incrby(self, command: list[bytes]) -> bytes:
        try:
            return self.add(command[1], int(command[2]))
        except ValueError:
            return WRONG_INTEGER

    def append(self, command: list[bytes]) -> bytes:
        value = (self.alive(command[1]) or b"") + command[2]
        return number(len(value)) if self.put(command[1], value) else OUT_OF_MEMORY

    def strlen(self, command: list[bytes]) -> bytes:
        return number(len(self.alive(command[1]) or b""))

    def expire_in(self, command: list[bytes], unit: int) -> bytes:
        try:
            amount = int(command[2])
        except ValueError:
            return WRONG_INTEGER
        if self.alive(command[1]) is None:
            return b":0\r\n"
        if amount <= 0:
            self.drop(command[1])
        elif amount >= 1 << 42:
            return b"-ERR invalid expire time in 'expire' command\r\n"
        else:
            self.expire_at(command[1], time.time_ns() + amount * unit)
        return b":1\r\n"

    def expire_s(self, command: list[bytes]) -> bytes:
        return self.expire_in(command, 1_000_000_000)

    def expire_ms(self, command: list[bytes]) -> bytes:
        return self.expire_in(command, 1_000_000)

    def left(self, key: bytes, unit: int) -> bytes:
        if self.alive(key) is None:
            return b":-2\r\n"
        deadline = self.deadlines.get(key)
        return b":-1\r\n" if deadline is None else number((deadline - time.time_ns() + unit // 2) // unit)

    def ttl(self, command: list[bytes]) -> bytes:
        return self.left(command[1], 1_000_000_000)

    def pttl(self, command: list[bytes]) -> bytes:
        return self.left(command[1], 1_000_000)

    # Parts of commands on several keys: they return values, from which the reply is made.

    def part_del(self, keys: list[bytes]) -> int:
        return sum(self.alive(key) is not None and self.drop(key) for key in keys)

    def part_exists(self, keys: list[bytes]) -> int:
        return sum(self.alive(key) is not None for key in keys)

    def part_mget(self, keys: list[bytes]) -> list[bytes | None]:
        return [self.alive(key) for key in keys]

    def part_mset(self, pairs: list[tuple[bytes, bytes]]) -> bool:
        done = True
        for key, value in pairs:
            done = self.put(key, value) and done
            self.deadlines.pop(key, None)
        return done

    def part_size(self, _: None) -> int:
        return len(self.data)

    def part_memory(self, _: None) -> int:
        return self.memory

    def part_flush(self, _: None) -> None:
        self.data.clear()
        self.deadlines.clear()
        self.heap.clear()
        self.memory = 0

    def part_keys(self, pattern: bytes) -> list[bytes]:
        names = [key for key in list(self.data) if self.alive(key) is not None]
        if pattern == b"*":
            return names
        # A backslash takes its meaning from the next character, and ^ is what fnmatch writes as !.
        text = re.sub(r"\\(.)", r"[\1]", pattern.decode("latin1")).replace("[^", "[!")
        return [key for key in names if fnmatch.fnmatchcase(key.decode("latin1"), text)]


# name -> (what a shard does, least and most length of the command)
ONE_KEY: dict[bytes, tuple[Callable[[Shard, list[bytes]], bytes], int, int]] = {
    b"GET": (Shard.get, 2, 2),
    b"SET": (Shard.set, 3, 9),
    b"INCR": (Shard.incr, 2, 2),
    b"DECR": (Shard.decr, 2, 2),
    b"INCRBY": (Shard.incrby, 3, 3),
    b"APPEND": (Shard.append, 3, 3),
    b"STRLEN": (Shard.strlen, 2, 2),
    b"EXPIRE": (Shard.expire_s, 3, 3),
    b"PEXPIRE": (Shard.expire_ms, 3, 3),
    b"TTL": (Shard.ttl, 2, 2),
    b"PTTL": (Shard.pttl, 2, 2),
}
ONE_KEY |= {name.lower(): entry for name, entry in ONE_KEY.items()}


# Of a command on several shards: what tells its parts apart, what a shard is asked, what it answers.
Tag = TypeVar("Tag")
Argument = TypeVar("Argument")
Part = TypeVar("Part")
Item = TypeVar("Item")


class Slot(Generic[Tag, Part]):
    """A reply whose parts are under way."""

    __slots__ = ("combine", "left", "parts", "reply")

    def __init__(self, left: int, combine: Callable[[list[tuple[Tag, Part]]], bytes]) -> None:
        self.reply: bytes | None = None
        self.left = left
        self.parts: list[tuple[Tag, Part]] = []
        self.combine = combine

    def arrived(self, tag: Tag, part: Part) -> None:
        self.parts.append((tag, part))
        self.left -= 1
        if self.left == 0:
            self.reply = self.combine(self.parts)


# Of any command, so a batch has them of all types: (slot, tag, fn, argument) and (slot, tag, part).
Call: TypeAlias = tuple[Slot[Any, Any], Any, Callable[[Shard, Any], Any], Any]
Answer: TypeAlias = tuple[Slot[Any, Any], Any, Any]


class Connection:
    """One client: parses, runs or sends on, and answers in order."""

    def __init__(
        self, server: "Keeper", shard: Shard, write: Callable[[bytes], object], close: Callable[[], object]
    ) -> None:
        self.server = server
        self.shard = shard
        self.write = write
        self.close = close
        self.parser = Parser()
        self.waiting: deque[Slot[Any, Any] | bytes] = deque()  # replies from the first that is not there yet
        self.batches: dict[int, list[Call]] = {}  # shard -> calls of this batch
        self.ending = False
        self.maps = False  # the client has asked for RESP3

    def received(self, data: bytes) -> None:
        if self.ending:
            return
        shard, shards = self.shard, self.server.shards
        alone = len(shards) == 1
        out: list[bytes] = []
        for command in self.parser.feed(data):
            entry = ONE_KEY.get(command[0]) or ONE_KEY.get(command[0].upper())
            if entry is None:
                self.other(command, out)
            elif not entry[1] <= len(command) <= entry[2]:
                self.reply(wrong_count(command), out)
            elif alone or (owner := shards[zlib.crc32(command[1]) % len(shards)]) is shard:
                self.reply(entry[0](shard, command), out)
            else:
                self.remote(owner, entry[0], command, out)
            if self.ending:
                break
        for index, calls in self.batches.items():
            self.send_batch(shards[index], calls)
        self.batches.clear()
        if out:
            self.write(b"".join(out))
        self.end_if_done()

    def reply(self, data: bytes, out: list[bytes]) -> None:
        if self.waiting:
            self.waiting.append(data)
        else:
            out.append(data)

    def remote(
        self, owner: Shard, fn: Callable[[Shard, list[bytes]], bytes], command: list[bytes], out: list[bytes]
    ) -> None:
        slot: Slot[None, bytes] = Slot(1, lambda parts: parts[0][1])
        self.waiting.append(slot)
        self.batches.setdefault(owner.index, []).append((slot, None, fn, command))

    def send_batch(self, owner: Shard, calls: list[Call]) -> None:
        try:
            owner.thread.send_msg(run_batch, owner, calls, self)
        except (RingFullError, ThreadExitedError):
            busy = b"-ERR the shard of this key has too much to do\r\n"
            for slot, *_ in calls:
                slot.reply = busy
            self.answered([])

    def answered(self, results: list[Answer]) -> None:
        """Back on the connection's thread."""
        for slot, tag, part in results:
            if slot.reply is None:
                slot.arrived(tag, part)
        out = []
        while self.waiting:
            first = self.waiting[0]
            reply = first if isinstance(first, bytes) else first.reply
            if reply is None:
                break
            out.append(reply)
            self.waiting.popleft()
        if out:
            self.write(b"".join(out))
        self.end_if_done()

    def end_if_done(self) -> None:
        if self.ending and not self.waiting:
            self.close()

    def spread(
        self,
        parts: list[tuple[Shard, Tag, Callable[[Shard, Argument], Part], Argument]],
        combine: Callable[[list[tuple[Tag, Part]]], bytes],
        out: list[bytes],
    ) -> None:
        """A command on several shards: `parts` are (shard, tag, fn, argument)."""
        shard = self.shard
        if all(owner is shard for owner, *_ in parts):
            self.reply(combine([(tag, fn(shard, argument)) for _, tag, fn, argument in parts]), out)
            return
        slot = Slot(len(parts), combine)
        self.waiting.append(slot)
        for owner, tag, fn, argument in parts:
            if owner is shard:
                slot.arrived(tag, fn(shard, argument))
            else:
                self.batches.setdefault(owner.index, []).append((slot, tag, fn, argument))

    def by_shard(
        self,
        fn: Callable[[Shard, list[Item]], Part],
        items: list[Item],
        key: Callable[[Any], bytes] = lambda item: item,
    ) -> list[tuple[Shard, list[int], Callable[[Shard, list[Item]], Part], list[Item]]]:
        shards = self.server.shards
        groups: dict[int, tuple[list[int], list[Item]]] = {}
        for place, item in enumerate(items):
            places, mine = groups.setdefault(zlib.crc32(key(item)) % len(shards), ([], []))
            places.append(place)
            mine.append(item)
        return [(shards[index], places, fn, mine) for index, (places, mine) in groups.items()]

    def on_all(
        self, fn: Callable[[Shard, Argument], Part], argument: Argument
    ) -> list[tuple[Shard, None, Callable[[Shard, Argument], Part], Argument]]:
        return [(shard, None, fn, argument) for shard in self.server.shards]

    def other(self, command: list[bytes], out: list[bytes]) -> None:
        """What is not about one key."""
        name, count = command[0].upper(), len(command)
        if name == b"\0PROTOCOL":
            self.reply(b"-ERR Protocol error: %b\r\n" % command[1], out)
            self.ending = True
        elif name == b"PING" and count <= 2:
            self.reply(b"+PONG\r\n" if count == 1 else bulk(command[1]), out)
        elif name == b"ECHO" and count == 2:
            self.reply(bulk(command[1]), out)
        elif name in (b"DEL", b"EXISTS") and count >= 2:
            fn = Shard.part_del if name == b"DEL" else Shard.part_exists
            self.spread(self.by_shard(fn, command[1:]), lambda parts: number(sum(part for _, part in parts)), out)
        elif name == b"MGET" and count >= 2:
            self.spread(self.by_shard(Shard.part_mget, command[1:]), lambda parts: merge(parts, count - 1), out)
        elif name == b"MSET" and count >= 3 and count % 2:
            pairs = list(zip(command[1::2], command[2::2], strict=True))
            parts = self.by_shard(Shard.part_mset, pairs, lambda pair: pair[0])
            self.spread(parts, lambda parts: OK if all(done for _, done in parts) else OUT_OF_MEMORY, out)
        elif name == b"DBSIZE" and count == 1:
            self.spread(self.on_all(Shard.part_size, None), lambda parts: number(sum(part for _, part in parts)), out)
        elif name in (b"FLUSHALL", b"FLUSHDB"):
            self.spread(self.on_all(Shard.part_flush, None), lambda parts: OK, out)
        elif name == b"KEYS" and count == 2:
            self.spread(self.on_all(Shard.part_keys, command[1]), all_keys, out)
        elif name == b"SCAN" and count >= 2:
            self.scan(command, out)
        elif name == b"INFO":
            self.spread(self.on_all(Shard.part_memory, None), self.server.info, out)
        elif name == b"COMMAND":
            self.reply(b"*0\r\n", out)
        elif name == b"CONFIG" and count >= 3 and command[1].upper() == b"GET":
            known = {b"save": b"", b"appendonly": b"no", b"maxmemory": b"%d" % self.server.max_memory}
            items = [item for key in command[2:] if key.lower() in known for item in (key, known[key.lower()])]
            body = b"".join(map(bulk, items))
            self.reply((b"%%%d\r\n" % (len(items) // 2) if self.maps else b"*%d\r\n" % len(items)) + body, out)
        elif name == b"CLIENT" and count >= 2:
            what = command[1].upper()
            self.reply(b":%d\r\n" % (id(self) & 0xFFFFFFF) if what == b"ID" else NIL if what == b"GETNAME" else OK, out)
        elif name == b"HELLO":
            if count > 1 and command[1] not in (b"2", b"3"):
                self.reply(b"-NOPROTO unsupported protocol version\r\n", out)
                return
            # Of what RESP3 has beyond RESP2, no reply here but maps would differ.
            self.maps = count > 1 and command[1] == b"3"
            self.reply(HELLO % ((b"%7", 3) if self.maps else (b"*14", 2)), out)
        elif name == b"SELECT" and count == 2:
            self.reply(OK if command[1] == b"0" else b"-ERR DB index is out of range\r\n", out)
        elif name == b"QUIT":
            self.reply(OK, out)
            self.ending = True
        elif name in KNOWN:
            self.reply(wrong_count(command), out)
        else:
            text = command[0][:128].replace(b"\r", b" ").replace(b"\n", b" ")
            self.reply(b"-ERR unknown command '%b'\r\n" % text, out)

    def scan(self, command: list[bytes], out: list[bytes]) -> None:
        """All of it at the first call: a cursor of 0 says that nothing is left."""
        pattern = b"*"
        options = command[2:]
        if len(options) % 2 or not command[1].isdigit():
            self.reply(SYNTAX if command[1].isdigit() else b"-ERR invalid cursor\r\n", out)
            return
        for option, value in zip(options[::2], options[1::2], strict=True):
            if option.upper() == b"MATCH":
                pattern = value
            elif option.upper() != b"COUNT":
                self.reply(SYNTAX, out)
                return
        parts = self.on_all(Shard.part_keys, pattern)
        self.spread(parts, lambda parts: b"*2\r\n$1\r\n0\r\n" + all_keys(parts), out)


KNOWN = set(b"PING ECHO DEL EXISTS MGET MSET DBSIZE KEYS SCAN CONFIG CLIENT SELECT".split())


def wrong_count(command: list[bytes]) -> bytes:
    return b"-ERR wrong number of arguments for '%b' command\r\n" % command[0].lower()


def merge(parts: list[tuple[list[int], list[bytes | None]]], count: int) -> bytes:
    values: list[bytes | None] = [None] * count
    for places, part in parts:
        for place, value in zip(places, part, strict=True):
            values[place] = value
    return array([NIL if value is None else bulk(value) for value in values])


def all_keys(parts: list[tuple[None, list[bytes]]]) -> bytes:
    return array([bulk(key) for _, keys in parts for key in keys])


def run_batch(owner: Shard, calls: list[Call], connection: Connection) -> None:
    """On the shard's thread: run the calls, send all answers back at once."""
    send_back(owner, connection, [(slot, tag, fn(owner, argument)) for slot, tag, fn, argument in calls])


def send_back(owner: Shard, connection: Connection, results: list[Answer]) -> None:
    try:
        connection.shard.thread.send_msg(connection.answered, results)
    except RingFullError:
        owner.call_later(100, send_back, owner, connection, results)
    except ThreadExitedError:
        pass  # and with it the connection


class Keeper:
    """All shards, as a connection sees them."""

    def __init__(self, shards: list[Shard], max_memory: int) -> None:
        self.shards = shards
        self.max_memory = max_memory
        self.began = time.monotonic()

    def info(self, parts: list[tuple[None, int]]) -> bytes:
        lines = [
            "# Server", "redis_version:7.0.0", "redis_mode:standalone", f"process_id:{os.getpid()}",
            f"uptime_in_seconds:{int(time.monotonic() - self.began)}", "# Memory",
            f"used_memory:{sum(part for _, part in parts)}", f"maxmemory:{self.max_memory}", "# Shards",
            f"shards:{len(self.shards)}",
        ]  # fmt: skip
        return bulk("\r\n".join([*lines, ""]).encode())


class Server(Keeper):
    """Shards, and the listeners in front of them."""

    def __init__(self, threads: list[SpdkThread], max_memory: int = 0) -> None:
        super().__init__([], max_memory)
        group = SockGroup("resp", max_sock_bytes=64 << 20)  # type: ignore[no-untyped-call, unused-ignore]
        self.group = group.register()
        for index, thread in enumerate(threads):
            shard = Shard(index, max_memory // len(threads))
            shard.thread, shard.call_later = thread, thread.call_later
            self.shards.append(shard)
        self.by_thread = {shard.thread: shard for shard in self.shards}

    def listen(self, address: tuple[str, int] | str) -> Listener:
        """On the first thread; the connections are handed to all in turn. Returns the Listener."""
        threads = [shard.thread for shard in self.shards]

        def begin() -> Listener:
            listen: Callable[..., Listener] = self.group.listen
            return listen(address, self.accepted, threads=threads)

        return threads[0].call(begin).result()

    def accepted(self, sock: Sock) -> None:
        shard = self.by_thread[sock.thread]

        def write(data: bytes) -> None:
            try:
                sock.write(data)
            except SockBufferError:
                sock.abort()  # a client that does not read its answers
            except SockClosedError:
                pass

        def close() -> None:
            if sock.state == "open":
                sock.close()

        connection = Connection(self, shard, write, close)
        sock.on_data = lambda sock, view: connection.received(bytes(view))
        sock.on_high_water = lambda sock: sock.pause_reading()
        sock.on_low_water = lambda sock: sock.resume_reading()

    def close(self) -> None:
        self.group.close_all().result()  # type: ignore[no-untyped-call, unused-ignore]
        self.group.unregister().result()
        for shard in self.shards:
            shard.thread.call(shard.disarm).result()


class NativeServer:
    """The same with native handlers: Python only accepts, and says when to stop reading."""

    def __init__(self, threads: list[SpdkThread], max_memory: int = 0) -> None:
        self.native = compile_native("resp_native")
        self.threads = threads
        self.shards = self.native.Shards(threads, max_memory)
        group = SockGroup("resp", max_sock_bytes=64 << 20)  # type: ignore[no-untyped-call, unused-ignore]
        self.group = group.register()
        self.pollers: list[Poller] = []
        for index, thread in enumerate(threads):
            tend, shard = self.native.__pyx_capi__["tend"], self.shards.address(index)
            self.pollers.append(thread.register_native_poller(tend, shard, 10_000, name="tend"))

    def listen(self, address: tuple[str, int] | str) -> Listener:
        """As `Server.listen`."""

        def begin() -> Listener:
            listen: Callable[..., Listener] = self.group.listen
            return listen(address, self.accepted, threads=self.threads)

        return self.threads[0].call(begin).result()

    def accepted(self, sock: Sock) -> None:
        functions = self.native.__pyx_capi__
        shard = self.shards.address(self.threads.index(sock.thread))
        sock.set_native(functions["on_data"], shard, on_close=functions["on_close"])
        sock.on_high_water = lambda sock: sock.pause_reading()
        sock.on_low_water = lambda sock: sock.resume_reading()

    def close(self) -> None:
        self.group.close_all().result()  # type: ignore[no-untyped-call, unused-ignore]
        self.group.unregister().result()
        for poller in self.pollers:
            poller.unregister()


def compile_native(name: str) -> Any:
    """Translate, compile and import ``native/<name>.pyx``. A program of yours does this in its setup.py."""
    if name in sys.modules:
        return sys.modules[name]
    if importlib.util.find_spec("Cython") is None:
        sys.exit("native handlers are compiled with Cython, which is not here: pip install cython setuptools")
    folder = Path(__file__).parent / "native"
    with tempfile.TemporaryDirectory() as work:
        for file in folder.glob(f"{name}.*"):
            shutil.copy(file, work)
        command = [sys.executable, "-m", "Cython.Build.Cythonize", "--inplace", "--quiet"]
        command += ["-X", "freethreading_compatible=True", f"{name}.pyx"]
        environment = {**os.environ, "CFLAGS": f"{os.environ.get('CFLAGS', '')} -O2 -I{work}"}
        subprocess.run(command, cwd=work, check=True, env=environment)
        sys.path.insert(0, work)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(work)


# The same program on asyncio, for the demonstration.


class AsyncioConnection(asyncio.Protocol):
    def __init__(self, server: "AsyncioServer") -> None:
        self.server = server

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self.connection = Connection(self.server, self.server.shards[0], transport.write, transport.close)

    def data_received(self, data: bytes) -> None:
        self.connection.received(data)


class AsyncioServer(Keeper):
    def __init__(self) -> None:
        super().__init__([Shard(0, 0)], 0)
        self.started = threading.Event()
        self.os_thread = threading.Thread(target=lambda: asyncio.run(self.main()))
        self.os_thread.start()
        self.started.wait()

    async def main(self) -> None:
        self.loop, self.ended = asyncio.get_running_loop(), asyncio.Event()
        self.shards[0].call_later = lambda delay_us, fn: self.loop.call_later(delay_us / 1e6, fn)
        server = await self.loop.create_server(lambda: AsyncioConnection(self), "127.0.0.1", 0)
        self.address = server.sockets[0].getsockname()
        self.started.set()
        async with server:
            await self.ended.wait()

    def close(self) -> None:
        self.loop.call_soon_threadsafe(self.ended.set)
        self.os_thread.join()


def drive(address: tuple[str, int], *, connections: int = 10, pipeline: int = 16, rounds: int = 150) -> float:
    """SET and GET by plain sockets; commands a second."""
    peers = [socket.create_connection(address) for _ in range(connections)]
    requests = []
    for start in range(connections):
        commands = [f"SET key{start}-{i} value{i}\r\n" for i in range(pipeline // 2)]
        commands += [f"GET key{start}-{i}\r\n" for i in range(pipeline // 2)]
        words = [command.split() for command in commands]
        requests.append(b"".join(array([bulk(word.encode()) for word in command]) for command in words))
    expected = sum(len(OK) + len(bulk(b"value%d" % i)) for i in range(pipeline // 2))
    began = time.perf_counter()
    for _ in range(rounds):
        for peer, request in zip(peers, requests, strict=True):
            peer.sendall(request)
        for peer in peers:
            left = expected
            while left:
                got = peer.recv(left)
                if not got:
                    raise ConnectionError("the server has closed the connection")
                left -= len(got)
    seconds = time.perf_counter() - began
    for peer in peers:
        peer.close()
    return connections * pipeline * rounds / seconds


def demonstrate() -> None:
    with Reactor() as reactor:
        server = Server([reactor.create_thread("shard 0")])
        ours = drive(server.listen(("127.0.0.1", 0)).sockname())
        server.close()
    native = 0.0
    if importlib.util.find_spec("Cython") is not None:
        with Reactor() as reactor:
            compiled = NativeServer([reactor.create_thread("shard 0")])
            native = drive(compiled.listen(("127.0.0.1", 0)).sockname())
            compiled.close()
    plain = AsyncioServer()
    theirs = drive(plain.address)
    plain.close()
    print("10 connections, pipeline 16, SET and GET, client in the same process")
    print(f"  spdkthread.sock, Python handlers  {ours:10,.0f} commands/s")
    if native:
        print(f"  spdkthread.sock, native handlers  {native:10,.0f} commands/s")
    print(f"  plain asyncio                     {theirs:10,.0f} commands/s")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, help="TCP port on 127.0.0.1; 0: any free one")
    parser.add_argument("--unix", metavar="PATH", help="a unix socket")
    parser.add_argument("--cores", default=None, help="cores of the reactors, such as 0,1 (default: one reactor)")
    parser.add_argument("--handlers", choices=["python", "native"], default="python")
    parser.add_argument("--max-memory", type=int, default=0, metavar="BYTES", help="of keys and values; 0: no limit")
    options = parser.parse_args()
    if options.port is None and options.unix is None:
        demonstrate()
        return
    cores: list[int | None] = [None] if options.cores is None else [int(core) for core in options.cores.split(",")]
    reactors = [Reactor(core).start() for core in cores]
    try:
        threads = [reactor.create_thread(f"shard {index}") for index, reactor in enumerate(reactors)]
        made = NativeServer if options.handlers == "native" else Server
        server: Server | NativeServer = made(threads, options.max_memory)
        if options.port is not None:
            host, port = server.listen(("127.0.0.1", options.port)).sockname()
            print(f"listening on {host}:{port}", flush=True)
        if options.unix is not None:
            server.listen(options.unix)
            print(f"listening on {options.unix}", flush=True)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            print("ending", file=sys.stderr)
        server.close()
    finally:
        for reactor in reactors:
            reactor.stop(timeout_s=5)


if __name__ == "__main__":
    main()
