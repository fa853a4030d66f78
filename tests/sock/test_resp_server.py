"""The example server of Redis' protocol, driven by a raw client."""

import importlib.util
import socket
import time
from pathlib import Path

import pytest
from support import PATIENCE_S, eventually, finish

from spdkthread import Reactor, default_lib

PATH = Path(__file__).parents[2] / "examples" / "resp_server.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("resp_server", PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


KINDS = [(handlers, shards) for handlers in ("python", "native") for shards in (1, 2)]


UNSEEN = pytest.mark.no_tsan(reason="the example is compiled without it, so that it sees no order among its messages")


@pytest.fixture(
    params=[pytest.param(kind, marks=UNSEEN if kind[0] == "native" else ()) for kind in KINDS],
    ids=[f"{handlers}, {shards} shards" for handlers, shards in KINDS],
)
def server(request, example):
    handlers, shards = request.param
    reactors = [Reactor(spin_us=0).start() for _ in range(shards)]
    threads = [reactor.create_thread(f"shard {number}") for number, reactor in enumerate(reactors)]
    made = (example.Server if handlers == "python" else example.NativeServer)(threads, max_memory=200_000)
    made.address = made.listen(("127.0.0.1", 0)).sockname()
    yield made
    made.close()
    for reactor in reactors:
        assert not reactor.stop(timeout_s=PATIENCE_S).still_running
    finish(*(thread for thread in default_lib().threads if thread in threads))


def keys_in(server):
    """Keys that the shards have, those included that have expired and are still there."""
    if hasattr(server, "native"):
        return server.shards.keys()
    return sum(len(shard.data) for shard in server.shards)


class Client:
    def __init__(self, address):
        self.socket = socket.create_connection(address, timeout=PATIENCE_S)
        self.file = self.socket.makefile("rb")

    def send(self, *words):
        words = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        self.raw(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%b\r\n" % (len(word), word) for word in words))

    def raw(self, data):
        self.socket.sendall(data)

    def reply(self):
        line = self.file.readline()
        assert line.endswith(b"\r\n"), line
        kind, rest = line[:1], line[1:-2]
        if kind == b"$":
            return None if rest == b"-1" else self.file.read(int(rest) + 2)[:-2]
        if kind == b"*":
            return [self.reply() for _ in range(int(rest))]
        return int(rest) if kind == b":" else (line[:-2] if kind == b"-" else rest)

    def __call__(self, *words):
        self.send(*words)
        return self.reply()

    def close(self):
        self.file.close()
        self.socket.close()


@pytest.fixture
def client(server):
    made = Client(server.address)
    yield made
    made.close()


def test_commands_without_keys(client):
    assert client("PING") == b"PONG"
    assert client("ping", "x") == b"x"
    assert client("ECHO", b"\x00\r\n") == b"\x00\r\n"
    assert client("SELECT", 0) == b"OK"
    assert client("SELECT", 1).startswith(b"-ERR DB index")
    assert client("COMMAND", "DOCS") == []
    assert client("CONFIG", "GET", "save") == [b"save", b""]
    assert client("CLIENT", "SETINFO", "LIB-NAME", "x") == b"OK"
    assert b"used_memory:0" in client("INFO")
    assert client("HELLO", 2)[5:6] == [2]
    assert client("HELLO", 9).startswith(b"-NOPROTO")
    assert client("NOPE").startswith(b"-ERR unknown command 'NOPE'")
    assert client("GET").startswith(b"-ERR wrong number of arguments for 'get'")


def test_one_key(client):
    assert client("GET", "k") is None
    assert client("SET", "k", "v") == b"OK"
    assert client("get", "k") == b"v"
    assert client("SET", "k", "w", "NX") is None
    assert client("SET", "k", "w", "XX") == b"OK"
    assert client("SET", "other", "w", "XX") is None
    assert client("SET", "k", "w", "NX", "XX") == b"-ERR syntax error"
    assert client("APPEND", "k", "xyz") == 4
    assert client("STRLEN", "k") == 4
    assert client("INCR", "n") == 1
    assert client("INCRBY", "n", 41) == 42
    assert client("DECR", "n") == 41
    assert client("INCR", "k").startswith(b"-ERR value is not an integer")
    assert client("SET", "n", 2**63 - 1) == b"OK"
    assert client("INCR", "n").startswith(b"-ERR increment or decrement would overflow")


def test_several_keys(client):
    keys = [f"key {number}" for number in range(20)]
    assert client("MSET", *(word for key in keys for word in (key, key.upper()))) == b"OK"
    assert client("MGET", *keys, "none") == [key.upper().encode() for key in keys] + [None]
    assert client("EXISTS", *keys, keys[0], "none") == 21
    assert client("DBSIZE") == 20
    assert sorted(client("KEYS", "key 1*")) == sorted(key.encode() for key in keys if key.startswith("key 1"))
    cursor, found = client("SCAN", 0, "MATCH", "*", "COUNT", 5)
    assert cursor == b"0"
    assert len(found) == 20
    assert client("DEL", *keys[:5], "none") == 5
    assert client("FLUSHALL") == b"OK"
    assert client("DBSIZE") == 0


def test_expiry(client, server):
    assert client("SET", "k", "v", "PX", 20) == b"OK"
    assert client("SET", "stays", "v", "EX", 1000) == b"OK"
    assert client("TTL", "stays") in (999, 1000)
    assert client("TTL", "none") == -2
    assert client("SET", "forever", "v") == b"OK"
    assert client("PTTL", "forever") == -1
    assert client("PEXPIRE", "forever", 20) == 1
    assert client("EXPIRE", "none", 20) == 0
    # By the timer, without a look at the keys.
    eventually(lambda: keys_in(server) == 1)
    assert client("GET", "k") is None
    assert client("SET", "stays", "v") == b"OK"
    assert client("TTL", "stays") == -1
    assert client("EXPIRE", "stays", 0) == 1
    assert client("EXISTS", "stays") == 0
    assert client("SET", "k", "v", "EX", "0").startswith(b"-ERR invalid expire time")


def test_replies_of_a_pipeline_come_in_order(client):
    for number in range(500):
        client.send("SET", f"k{number}", number)
        client.send("GET", f"k{number}")
        client.send("PING", number)
        client.send("MGET", f"k{number}", f"k{number - 1}")
    for number in range(500):
        assert client.reply() == b"OK"
        assert client.reply() == b"%d" % number
        assert client.reply() == b"%d" % number
        assert client.reply() == [b"%d" % number, b"%d" % (number - 1) if number else None]


def test_a_command_that_comes_byte_by_byte(client):
    for byte in b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nvalue\r\n":
        client.raw(bytes([byte]))
        time.sleep(0)
    assert client.reply() == b"OK"
    client.raw(b"GET k\r\n\r\nPING\r\n")
    assert client.reply() == b"value"
    assert client.reply() == b"PONG"


def test_a_large_value(client):
    value = b"x" * 90_000
    assert client("SET", "large", value) == b"OK"
    assert client("GET", "large") == value


def test_memory_is_bounded(client):
    replies = [client("SET", f"k{number}", b"x" * 10_000) for number in range(40)]
    assert b"OK" in replies
    assert replies[-1].startswith(b"-OOM")
    assert client("FLUSHALL") == b"OK"
    assert client("SET", "k", "v") == b"OK"


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        (b"*1\r\n!4\r\n", b"-ERR Protocol error: expected '$', got '!'"),
        (b"*x\r\n", b"-ERR Protocol error: invalid multibulk length"),
        (b"*1048577\r\n", b"-ERR Protocol error: invalid multibulk length"),
        (b"*1\r\n$-5\r\n", b"-ERR Protocol error: invalid bulk length"),
        (b"*1\r\n$999999999999\r\n", b"-ERR Protocol error: invalid bulk length"),
        (b"x" * 70_000, b"-ERR Protocol error: too big inline request"),
    ],
)
def test_protocol_errors_are_answered_and_end_the_connection(client, request_, answer):
    client.raw(b"PING\r\n" + request_)
    assert client.reply() == b"PONG"
    assert client.reply() == answer
    try:
        assert client.file.read() == b""
    except ConnectionResetError:
        pass  # what it had not read of the request


def test_quit(client):
    client.raw(b"SET k v\r\nQUIT\r\nPING\r\n")
    assert client.reply() == b"OK"
    assert client.reply() == b"OK"
    assert client.file.read() == b""


def test_a_client_that_never_reads_is_paused_and_others_are_served(client, server):
    assert client("SET", "k", b"x" * 50_000) == b"OK"
    silent = Client(server.address)
    silent.socket.setblocking(False)
    try:
        for _ in range(100_000):
            silent.socket.send(b"GET k\r\n" * 100)
    except BlockingIOError:
        pass
    assert client("PING") == b"PONG"
    silent.close()
    assert client("GET", "k") == b"x" * 50_000


def test_many_clients_and_shards_at_once(server):
    """Each sees its own commands in order, whichever shard has the keys."""
    clients = [Client(server.address) for _ in range(8)]
    for turn in range(20):
        for number, client in enumerate(clients):
            for step in range(10):
                client.send("INCR", f"counter {number} {step % 3}")
                client.send("SET", f"own {number}", f"{turn} {step}")
                client.send("GET", f"own {number}")
                client.send("EXISTS", f"own {number}", "none", f"counter {number} 0")
        for client in clients:
            for step in range(10):
                assert client.reply() == turn * [4, 3, 3][step % 3] + step // 3 + 1
                assert client.reply() == b"OK"
                assert client.reply() == b"%d %d" % (turn, step)
                assert client.reply() == 2
    for client in clients:
        client.close()


def test_a_client_that_goes_with_commands_under_way(server, client):
    for _ in range(20):
        gone = Client(server.address)
        gone.raw(b"".join(b"INCR k%d\r\nMGET k1 k2 k3 k4 k5\r\n" % number for number in range(200)))
        gone.close()
    assert client("PING") == b"PONG"
    eventually(lambda: client("DBSIZE") == 200)


@pytest.mark.parametrize(
    ("pattern", "found"),
    [("*", 4), ("h?llo", 2), ("h[ae]llo", 2), ("h[^a]llo", 1), ("h[a-b]llo", 1), ("*l*o", 3), ("x\\*", 1), ("", 0)],
)
def test_patterns_of_keys(client, pattern, found):
    assert client("MSET", "hello", 1, "hallo", 1, "halo", 1, "x*", 1) == b"OK"
    assert len(client("KEYS", pattern)) == found
