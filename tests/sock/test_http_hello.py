"""The HTTP server among the examples: kept connections, requests sent ahead, and what is no HTTP."""

import importlib.util
import socket
from pathlib import Path

import pytest
from support import PATIENCE_S, eventually

from spdkthread import default_lib

EXAMPLE = Path(__file__).parents[2] / "examples" / "http_hello.py"
GET = b"GET %b HTTP/1.1\r\nHost: here\r\n\r\n"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("http_hello", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def server(example):
    made = example.Server()
    yield made
    made.close()
    assert default_lib().error_count == 0


@pytest.fixture
def client(server):
    with socket.create_connection(server.address, timeout=PATIENCE_S) as made:
        yield made


def responses(client, count):
    """Status and body of so many responses."""
    found = []
    with client.makefile("rb") as file:
        for _ in range(count):
            status = int(file.readline().split()[1])
            length = 0
            while (line := file.readline().strip()) != b"":
                if line.lower().startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            found.append((status, file.read(length)))
    return found


def test_a_connection_is_kept(client):
    for _ in range(3):
        client.send(GET % b"/")
        assert responses(client, 1) == [(200, b"Hello, world!\n")]


def test_requests_that_are_sent_ahead_are_answered_in_their_order(client):
    client.send(
        GET % b"/"
        + GET % b"/none"
        + GET % b"/?query=1"
        + b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\n\r\nabc"
    )
    assert [status for status, _ in responses(client, 4)] == [200, 404, 200, 405]


def test_a_request_may_come_byte_by_byte(client):
    for byte in GET % b"/":
        client.send(bytes([byte]))
    assert responses(client, 1) == [(200, b"Hello, world!\n")]


def test_head_has_no_body(client):
    client.send(b"HEAD / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
    data = client.makefile("rb").read()
    assert b"Content-Length: 14" in data
    assert data.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    "request_", [b"GET / HTTP/1.0\r\n\r\n", b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n"]
)
def test_a_client_that_wants_one_request_only(client, request_):
    client.send(request_ + GET % b"/")
    assert responses(client, 1) == [(200, b"Hello, world!\n")]
    assert client.recv(100) == b""


@pytest.mark.parametrize(
    ("nonsense", "status"),
    [
        (b"what?\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"GET / HTTP/1.1\r\nHost: here\r\nContent-Length: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 20, 400),
        (b"GET /" + b"x" * 100_000 + b" HTTP/1.1\r\n", 431),
    ],
)
def test_what_is_no_http_is_refused_and_the_connection_closed(client, nonsense, status):
    client.send(nonsense)
    assert [status for status, _ in responses(client, 1)] == [status]
    try:
        assert client.recv(100) == b""
    except ConnectionResetError:
        pass  # it was closed while more was on the way


def test_who_waits_before_sending_a_body_is_told_to_go_on(client):
    client.send(b"POST / HTTP/1.1\r\nHost: here\r\nContent-Length: 3\r\nExpect: 100-continue\r\n\r\n")
    assert responses(client, 1)[0][0] == 100
    client.send(b"abc")
    assert responses(client, 1)[0][0] == 405


def test_a_client_that_does_not_read_is_not_read_from(server, client):
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    client.setblocking(False)
    block, sent = GET % b"/" * 500, 0
    try:
        while sent < 64 << 20:
            sent += client.send(block)
    except BlockingIOError:
        pass

    def pending():
        return sum(sock.pending_bytes for sock in sockets())

    def sockets():
        def look():
            channel = server.group.get_io_channel()
            channel.put()
            return channel.ctx.sockets

        return server.thread.call(look).result(PATIENCE_S)

    eventually(lambda: any(sock.is_paused for sock in sockets()))
    assert pending() < 1 << 20
    with socket.create_connection(server.address, timeout=PATIENCE_S) as other:
        other.send(GET % b"/")
        assert responses(other, 1) == [(200, b"Hello, world!\n")]
