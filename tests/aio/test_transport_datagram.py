"""Datagram transports of `aio.EventLoop`."""

import asyncio
import os
import socket

import pytest
from recorders import WHERE, drop, is_open, told, turns
from support import PATIENCE_S

from spdkthread.aio.transport_datagram import DatagramTransport


class Recorder(asyncio.DatagramProtocol):
    def __init__(self):
        self.transport = None
        self.calls = []
        self.got = []
        self.errors = []
        self.contexts = set()
        self.changed = asyncio.Event()

    def note(self, name):
        self.calls.append(name)
        self.contexts.add(WHERE.get())
        self.changed.set()

    async def expect(self, condition):
        while not condition():
            self.changed.clear()
            await asyncio.wait_for(self.changed.wait(), PATIENCE_S)

    def connection_made(self, transport):
        self.transport = transport
        self.note("connection_made")

    def datagram_received(self, data, addr):
        self.got.append((data, addr))
        self.note("datagram_received")

    def error_received(self, exc):
        self.errors.append(exc)
        self.note("error_received")

    def pause_writing(self):
        self.note("pause_writing")

    def resume_writing(self):
        self.note("resume_writing")

    def connection_lost(self, exc):
        self.errors.append(exc)
        self.note("connection_lost")

    async def lost(self):
        await self.expect(lambda: "connection_lost" in self.calls)
        return self.errors[-1]


async def endpoint(factory=Recorder, **options):
    return await asyncio.get_running_loop().create_datagram_endpoint(factory, **options)


async def bound(factory=Recorder):
    transport, protocol = await endpoint(factory, local_addr=("127.0.0.1", 0))
    return transport, protocol, transport.get_extra_info("sockname")


def test_datagrams_come_and_go_with_their_addresses(run):
    async def main():
        first, one, first_address = await bound()
        second, two, second_address = await bound()
        assert type(first) is DatagramTransport
        assert isinstance(first, asyncio.DatagramTransport)
        for size in (0, 1, 1400, 60_000):
            first.sendto(b"x" * size, second_address)
        await two.expect(lambda: len(two.got) == 4)
        assert two.got == [(b"x" * size, first_address) for size in (0, 1, 1400, 60_000)]
        for data in (b"a", bytearray(b"b"), memoryview(b"c")):
            second.sendto(data, first_address)
        await one.expect(lambda: len(one.got) == 3)
        assert [data for data, _ in one.got] == [b"a", b"b", b"c"]
        for transport, protocol in ((first, one), (second, two)):
            fd = transport.get_extra_info("socket").fileno()
            transport.close()
            assert await protocol.lost() is None
            assert not is_open(fd)

    run(main())


def test_a_connected_endpoint_sends_to_its_peer_only(run):
    async def main():
        server, there, address = await bound()
        client, here = await endpoint(remote_addr=address)
        client.sendto(b"x")
        client.sendto(b"y", address)
        with pytest.raises(ValueError, match="Invalid address: must be None or"):
            client.sendto(b"z", ("127.0.0.1", 1))
        await there.expect(lambda: len(there.got) == 2)
        server.sendto(b"answer", there.got[0][1])
        await here.expect(lambda: here.got)
        assert here.got == [(b"answer", address)]
        client.close()
        server.close()
        await here.lost()
        await there.lost()

    run(main())


def test_a_peer_that_is_not_there_is_an_error_of_the_protocol_and_not_the_end(run):
    async def main():
        gone, protocol, address = await bound()
        gone.close()
        await protocol.lost()
        client, here = await endpoint(remote_addr=address)
        client.sendto(b"x")
        await here.expect(lambda: here.errors)
        assert isinstance(here.errors[0], ConnectionRefusedError)
        assert not client.is_closing()
        client.sendto(b"y")
        client.close()
        assert await here.lost() is None

    run(main())


def test_what_is_wrong_is_refused_or_told(run):
    async def main():
        transport, protocol, _ = await bound()
        with pytest.raises(TypeError, match="bytes-like"):
            transport.sendto("text", ("127.0.0.1", 9))
        transport.sendto(b"x" * 100_000, ("127.0.0.1", 9))
        assert isinstance(protocol.errors[0], OSError)
        with told() as contexts:
            transport.sendto(b"x", "no address")
            assert isinstance(await protocol.lost(), TypeError)
        assert [context["message"] for context in contexts] == ["Fatal write error on datagram transport"]

    run(main())


def test_datagrams_that_the_kernel_does_not_take_wait_and_the_protocol_is_paused(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = socket.socketpair(type=socket.SOCK_DGRAM)
        ours.setblocking(False)
        peer.setblocking(False)
        transport, protocol = await loop.create_datagram_endpoint(Recorder, sock=ours)
        sent = [b"%06d" % number * 200 for number in range(1000)]
        for data in sent:
            transport.sendto(data)
        assert "pause_writing" in protocol.calls
        assert transport.get_write_buffer_size() > 64 * 1024
        got = [await asyncio.wait_for(loop.sock_recv(peer, 65536), PATIENCE_S) for _ in sent]
        assert got == sent
        await protocol.expect(lambda: "resume_writing" in protocol.calls)
        await turns()
        assert transport.get_write_buffer_size() == 0
        # What waits when it is closed is sent.
        for data in sent:
            transport.sendto(data)
        transport.close()
        got = [await asyncio.wait_for(loop.sock_recv(peer, 65536), PATIENCE_S) for _ in sent]
        assert got == sent
        assert await protocol.lost() is None
        peer.close()

    run(main())


def test_abort_drops_what_waits(run):
    async def main():
        ours, peer = socket.socketpair(type=socket.SOCK_DGRAM)
        ours.setblocking(False)
        transport, protocol = await endpoint(sock=ours)
        for _ in range(1000):
            transport.sendto(b"x" * 1000)
        assert transport.get_write_buffer_size()
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost() is None
        transport.sendto(b"x")
        peer.close()

    run(main())


def test_a_unix_datagram_may_be_large(run):
    async def main():
        ours, peer = socket.socketpair(type=socket.SOCK_DGRAM)
        ours.setblocking(False)
        transport, protocol = await endpoint(sock=ours)
        data = os.urandom(150_000)
        peer.send(data)
        await protocol.expect(lambda: protocol.got)
        assert protocol.got[0][0] == data
        transport.close()
        await protocol.lost()
        peer.close()

    run(main())


def test_a_protocol_may_pause_and_close_in_the_middle_of_many_datagrams(run):
    class Stops(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if len(self.got) == 3:
                self.transport.pause_reading()
            elif len(self.got) == 5:
                self.transport.close()

    async def main():
        transport, protocol, address = await bound(Stops)
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            for number in range(10):
                sender.sendto(b"%d" % number, address)
            await protocol.expect(lambda: len(protocol.got) == 3)
            await asyncio.sleep(0.01)
            assert len(protocol.got) == 3
            transport.resume_reading()
            await protocol.lost()
        assert [data for data, _ in protocol.got] == [b"0", b"1", b"2", b"3", b"4"]

    run(main())


def test_an_exception_of_a_protocol_is_told_and_the_endpoint_stays(run):
    class Fails(Recorder):
        def datagram_received(self, data, addr):
            super().datagram_received(data, addr)
            if data == b"bad":
                raise ZeroDivisionError

    async def main():
        with told() as contexts:
            transport, protocol, address = await bound(Fails)
            with socket.socket(type=socket.SOCK_DGRAM) as sender:
                for data in (b"bad", b"good"):
                    sender.sendto(data, address)
                await protocol.expect(lambda: len(protocol.got) == 2)
            await turns()
            transport.close()
            await protocol.lost()
        assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError]

    run(main())


def test_every_call_is_in_the_context_that_the_endpoint_was_made_in(run):
    async def main():
        WHERE.set("there")
        transport, protocol, address = await bound()
        WHERE.set("elsewhere")
        with socket.socket(type=socket.SOCK_DGRAM) as sender:
            sender.sendto(b"x", address)
        await protocol.expect(lambda: protocol.got)
        transport.close()
        await protocol.lost()
        assert protocol.contexts == {"there"}

    run(main())


def test_a_forgotten_endpoint_warns(run):
    async def main():
        transport, protocol, _ = await bound()
        transport.pause_reading()
        protocol.transport = None
        await turns()
        held = [transport]
        del transport
        with pytest.warns(ResourceWarning, match="unclosed transport <DatagramTransport"):
            drop(held)

    run(main())
