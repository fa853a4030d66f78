"""What the tests of transports have in common: protocols that note what happens to them, and peers that are plain sockets."""

import asyncio
import contextlib
import contextvars
import gc
import os
import socket
import struct

from support import PATIENCE_S

from spdkthread import aio

MIB = 1 << 20
WHERE = contextvars.ContextVar("WHERE", default="nowhere")


class Recorder(asyncio.Protocol):
    """Notes each call of the loop; `expect` waits for one."""

    def __init__(self):
        self.calls = []
        self.contexts = {}
        self.data = b""
        self.transport = None
        self.error = None
        self.keep_open = False
        self.changed = asyncio.Event()

    def note(self, name):
        self.calls.append(name)
        self.contexts[name] = WHERE.get()
        self.changed.set()

    async def expect(self, condition):
        while not condition():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), PATIENCE_S)

    async def received(self, count):
        await self.expect(lambda: len(self.data) >= count)
        return self.data

    async def lost(self):
        await self.expect(lambda: "connection_lost" in self.calls)
        return self.error

    def connection_made(self, transport):
        self.transport = transport
        self.note("connection_made")

    def data_received(self, data):
        self.data += data
        self.note("data_received")

    def eof_received(self):
        self.note("eof_received")
        return self.keep_open

    def pause_writing(self):
        self.note("pause_writing")

    def resume_writing(self):
        self.note("resume_writing")

    def connection_lost(self, exc):
        self.error = exc
        self.note("connection_lost")


class BufferedRecorder(Recorder, asyncio.BufferedProtocol):
    """The same with a buffer of its own."""

    size = 1000

    def __init__(self):
        super().__init__()
        self.buffer = bytearray(self.size)

    data_received = None

    def get_buffer(self, sizehint):
        return self.buffer

    def buffer_updated(self, nbytes):
        self.data += self.buffer[:nbytes]
        self.note("buffer_updated")


def stream_pair(family):
    """Two connected sockets, the first of them for the loop."""
    if family == "unix":
        ours, peer = socket.socketpair()
    else:
        with socket.create_server(("127.0.0.1", 0)) as server:
            peer = socket.create_connection(server.getsockname())
            ours, _ = server.accept()
    ours.setblocking(False)
    peer.setblocking(False)
    return ours, peer


async def connect(sock, factory=Recorder):
    """A transport and its protocol over a connected socket."""
    loop = asyncio.get_running_loop()
    if sock.family == socket.AF_UNIX:
        return await loop.create_unix_connection(factory, sock=sock)
    return await loop.create_connection(factory, sock=sock)


def reset(sock):
    """Close it so that its peer sees a reset."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


async def until(condition):
    """For what no protocol notes."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def turns(count=3):
    for _ in range(count):
        await asyncio.sleep(0)


async def read_to_end(sock):
    """What comes from a plain socket until its peer has closed."""
    loop = asyncio.get_running_loop()
    parts = []
    while part := await asyncio.wait_for(loop.sock_recv(sock, 65536), PATIENCE_S):
        parts.append(part)
    return b"".join(parts)


async def read_exactly(sock, count):
    loop = asyncio.get_running_loop()
    data = b""
    while len(data) < count:
        part = await asyncio.wait_for(loop.sock_recv(sock, count - len(data)), PATIENCE_S)
        assert part, f"the connection ended after {len(data)} of {count} bytes"
        data += part
    return data


def nothing_there(sock):
    try:
        return sock.recv(1, socket.MSG_PEEK) == b"never"
    except BlockingIOError:
        return True


def is_open(fd):
    try:
        os.fstat(fd)
    except OSError:
        return False
    return True


def drop(held):
    """Let go of the last references to what is in a list."""
    held.clear()
    gc.collect()


@contextlib.contextmanager
def told():
    """What the running loop's exception handler is called with."""
    loop = asyncio.get_running_loop()
    contexts = []
    loop.set_exception_handler(lambda loop, context: contexts.append(context))
    try:
        yield contexts
    finally:
        loop.set_exception_handler(None)


def runner(debug):
    def run(main):
        with asyncio.Runner(loop_factory=aio.EventLoop, debug=debug) as runner:
            return runner.run(asyncio.wait_for(main, PATIENCE_S))

    return run


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


class Oops(Exception):
    pass
