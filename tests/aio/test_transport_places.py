"""Transports where descriptors and cores are few: descriptor 0 is theirs, or one core is all there is."""

import pytest
from support import run_python

# Streams by TCP, with TLS left out, and by a unix socket; datagrams; a pipe: each says hello and hears it back.
PROGRAM = """
import asyncio, os, socket, sys, tempfile
from spdkthread.aio import EventLoop

{begin}


class Datagrams(asyncio.DatagramProtocol):
    def connection_made(self, transport):
        self.transport = transport
        self.heard = asyncio.get_running_loop().create_future()

    def datagram_received(self, data, address):
        if data.isupper():
            self.heard.set_result(data)
        else:
            self.transport.sendto(data.upper(), address)


class Heard(asyncio.Protocol):
    def __init__(self):
        self.data = asyncio.get_running_loop().create_future()

    def data_received(self, data):
        self.data.set_result(data)


async def echo(reader, writer):
    writer.write(await reader.readline())
    await writer.drain()
    writer.close()
    await writer.wait_closed()


async def say_hello(reader, writer):
    writer.write(b"hello\\n")
    assert await reader.read() == b"hello\\n"
    writer.close()
    await writer.wait_closed()


async def main():
    {first}
    loop = asyncio.get_running_loop()
    for _ in range(3):
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()
        await asyncio.gather(*[say_hello(*await asyncio.open_connection(*address)) for _ in range(5)])
        server.close()
        await server.wait_closed()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "socket")
        server = await asyncio.start_unix_server(echo, path)
        await say_hello(*await asyncio.open_unix_connection(path))
        server.close()
        await server.wait_closed()
    ours, _ = await loop.create_datagram_endpoint(Datagrams, local_addr=("127.0.0.1", 0))
    theirs, protocol = await loop.create_datagram_endpoint(Datagrams, remote_addr=ours.get_extra_info("sockname"))
    theirs.sendto(b"hello")
    assert await protocol.heard == b"HELLO"
    ours.close()
    theirs.close()
    read, write = os.pipe()
    reading, heard = await loop.connect_read_pipe(Heard, os.fdopen(read, "rb", 0))
    writing, _ = await loop.connect_write_pipe(asyncio.BaseProtocol, os.fdopen(write, "wb", 0))
    writing.write(b"hello")
    assert await heard.data == b"hello"
    writing.close()
    reading.close()
    await asyncio.sleep(0.01)
    {last}


asyncio.Runner(loop_factory=EventLoop).run(main())
print("fine")
"""
CLOSE_0 = "os.close(0)"
# The next file gets 0, which is a transport's: all of them have given it back.
STILL_FREE = "assert os.dup(1) == 0, '0 is not free again'"
ONE_CORE = "os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})"


@pytest.mark.parametrize(
    ("begin", "first", "last"),
    [("", CLOSE_0, STILL_FREE), (f"if hasattr(os, 'sched_setaffinity'): {ONE_CORE}", "", "")],
    ids=["descriptor 0", "one core"],
)
def test_transports_work(begin, first, last):
    result = run_python(PROGRAM.format(begin=begin, first=first, last=last))
    assert result.stdout == "fine\n", result.stderr
    assert result.stderr == ""
    assert result.returncode == 0


@pytest.mark.parametrize(
    "begin", [CLOSE_0, f"if hasattr(os, 'sched_setaffinity'): {ONE_CORE}"], ids=["descriptor 0", "one core"]
)
def test_sockets_of_a_reactor_work(begin):
    result = run_python(
        f"""
import os, socket
from spdkthread import Reactor
from spdkthread.sock import SockGroup

{begin}

group = SockGroup("net").register()
with Reactor(pin=False) as reactor:
    thread = reactor.create_thread("net")

    def accepted(sock):
        sock.on_data = lambda sock, view: sock.write(view)

    def on_batch(sock, batch):
        batch.reply(0, batch[0])

    listener = thread.call(group.listen, ("127.0.0.1", 0), accepted).result()
    datagrams = thread.call(lambda: group.open_datagram(("127.0.0.1", 0), on_batch=on_batch)).result()
    assert listener.fileno() > 2 and datagrams.fileno() > 2, (listener, datagrams)
    for kind, address in (
        (socket.SOCK_STREAM, listener.sockname()), (socket.SOCK_DGRAM, datagrams.sockname()), (socket.SOCK_STREAM, listener.sockname())
    ):
        with socket.socket(socket.AF_INET, kind) as peer:
            peer.settimeout(30)
            peer.connect(address)
            for _ in range(20):
                peer.send(b"hello")
                assert peer.recv(100) == b"hello"
    group.close_all().result()
    group.unregister().result()
print("fine")
"""
    )
    assert result.stdout == "fine\n", result.stderr
    assert result.returncode == 0
