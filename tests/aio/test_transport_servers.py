"""Servers of the event loop."""

import asyncio
import gc
import os
import resource
import socket
import time
import weakref
from asyncio import constants

import pytest
from recorders import (
    WHERE,
    Echo,
    Oops,
    read_exactly,
    read_to_end,
    reset,
    runner,
    told,
    turns,
)
from support import PATIENCE_S


@pytest.fixture
def many_descriptors():
    """Room for two descriptors a connection, where the system gives it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 3000
    if soft != resource.RLIM_INFINITY and soft < wanted:
        limit = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.parametrize("factory", [Echo, None], ids=["protocol", "streams"])
def test_a_thousand_connections_are_served_at_once(many_descriptors, factory):
    count = 1000
    protocols = []
    ended = []

    def make():
        protocols.append(factory())
        return protocols[-1]

    async def echo(reader, writer):
        protocols.append(writer)
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()
        ended.append(writer)

    async def main():
        loop = asyncio.get_running_loop()
        if factory is None:
            server = await asyncio.start_server(echo, "127.0.0.1", 0, backlog=count)
        else:
            server = await loop.create_server(make, "127.0.0.1", 0, backlog=count)
        address = server.sockets[0].getsockname()
        clients = []
        for _ in range(count):
            client = socket.socket()
            client.setblocking(False)
            await loop.sock_connect(client, address)
            clients.append(client)
        for number, client in enumerate(clients):
            await loop.sock_sendall(client, b"%04d" % number)
        for number, client in enumerate(clients):
            assert await read_exactly(client, 4) == b"%04d" % number
        assert len(protocols) == count
        for client in clients:
            client.close()
        server.close()
        await server.wait_closed()
        if factory is not None:
            for protocol in protocols:
                await protocol.lost()
        else:
            while len(ended) < count:
                await asyncio.sleep(0.01)
        await turns(10)

    runner(False)(main())


def test_connections_and_resets_leave_nothing_behind(run):
    made = weakref.WeakSet()

    class Counted(Echo):
        def connection_made(self, transport):
            made.add(transport)
            super().connection_made(transport)

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Counted, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()

        async def one(number):
            client = socket.socket()
            client.setblocking(False)
            await loop.sock_connect(client, address)
            if number % 3:
                await loop.sock_sendall(client, b"x")
            if number % 3 == 2:
                await read_exactly(client, 1)
            if number % 2:
                reset(client)
            else:
                client.close()

        for number in range(30):
            await one(number)
        await asyncio.sleep(0.05)
        open_before = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
        for number in range(300):
            await one(number)
        give_up = time.monotonic() + PATIENCE_S
        while any(not transport.is_closing() for transport in made) and time.monotonic() < give_up:
            await asyncio.sleep(0.01)
        await turns(5)
        gc.collect()
        assert not made
        if open_before:
            assert len(os.listdir("/proc/self/fd")) <= open_before
        server.close()
        await server.wait_closed()

    run(main())


def test_each_connection_of_a_server_has_a_context_of_its_own(run):
    class Sets(Echo):
        def data_received(self, data):
            self.note(f"found {WHERE.get()}")
            WHERE.set(data.decode())
            super().data_received(data)

    made = []

    def factory():
        made.append(Sets())
        return made[-1]

    async def main():
        loop = asyncio.get_running_loop()
        WHERE.set("server")
        server = await loop.create_server(factory, "127.0.0.1", 0)
        WHERE.set("main")
        for _ in range(2):
            _, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
            for word in (b"a", b"b"):
                writer.write(word)
                while not made or not made[-1].data.endswith(word):
                    await asyncio.sleep(0.001)
            writer.close()
            await writer.wait_closed()
            await made[-1].lost()
        server.close()
        await server.wait_closed()
        for protocol in made:
            assert [call for call in protocol.calls if "found" in call] == ["found server", "found a"]

    run(main())


def test_a_server_without_descriptors_pauses_says_so_and_goes_on(run, monkeypatch):
    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", 0.05)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        clients = [socket.create_connection(server.sockets[0].getsockname()) for _ in range(3)]
        with told() as contexts:
            # The numbers below the limit that are free are taken first.
            fillers = [os.dup(0)]
            while fillers[-1] != len(fillers) - 1 + fillers[0] and len(fillers) < 50:
                fillers.append(os.dup(0))
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(fillers) + 1, hard))
            try:
                while True:
                    try:
                        fillers.append(os.dup(0))
                    except OSError:
                        break
                while not contexts:
                    await asyncio.sleep(0.001)
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                for fd in fillers:
                    os.close(fd)
        assert contexts[0]["message"] == "socket.accept() out of system resource"
        assert contexts[0]["socket"].fileno() == server.sockets[0].fileno()
        assert isinstance(contexts[0]["exception"], OSError)
        for client in clients:
            client.setblocking(False)
            await loop.sock_sendall(client, b"x")
            assert await read_exactly(client, 1) == b"x"
            client.close()
        server.close()
        await server.wait_closed()
        await turns(10)

    run(main())


def test_a_server_that_is_closed_while_it_pauses_does_not_come_back(run, monkeypatch):
    monkeypatch.setattr(constants, "ACCEPT_RETRY_DELAY", 0.02)

    class Exhausted(socket.socket):
        def accept(self):
            raise OSError(24, "too many open files")

    async def main():
        loop = asyncio.get_running_loop()
        listening = Exhausted()
        listening.bind(("127.0.0.1", 0))
        with told() as contexts:
            server = await loop.create_server(Echo, sock=listening)
            client = socket.create_connection(listening.getsockname())
            while not contexts:
                await asyncio.sleep(0.001)
            server.close()
            await server.wait_closed()
            count = len(contexts)
            await asyncio.sleep(0.06)
            assert len(contexts) == count
        client.close()

    run(main())


def test_an_exception_of_a_factory_closes_the_connection_and_is_told_in_debug_mode(run):
    def fails():
        raise Oops

    async def main():
        loop = asyncio.get_running_loop()
        with told() as contexts:
            server = await loop.create_server(fails, "127.0.0.1", 0)
            client = socket.create_connection(server.sockets[0].getsockname())
            client.setblocking(False)
            assert await read_to_end(client) == b""
            client.close()
            server.close()
            await server.wait_closed()
        assert [type(context["exception"]) for context in contexts] == [Oops] * loop.get_debug()

    run(main())


def test_closing_a_server_leaves_its_connections(run):
    async def main():
        loop = asyncio.get_running_loop()
        server = await loop.create_server(Echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"a")
        assert await reader.readexactly(1) == b"a"
        server.close()
        writer.write(b"b")
        assert await reader.readexactly(1) == b"b"
        writer.close()
        await writer.wait_closed()
        await asyncio.wait_for(server.wait_closed(), PATIENCE_S)
        await turns(10)

    run(main())


def test_a_unix_server_serves(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        path = str(tmp_path / "s")
        server = await loop.create_unix_server(Echo, path)
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"x" * 300_000)
        assert await reader.readexactly(300_000) == b"x" * 300_000
        writer.write_eof()
        assert await reader.read() == b""
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await turns(10)

    run(main())
