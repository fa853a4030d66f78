"""Stream transports and servers of `aio.EventLoop`: what a protocol sees, and what its peer sees."""

import asyncio
import gc
import logging
import os
import resource
import selectors
import socket
import subprocess
import sys
import threading
import time
import weakref
from asyncio import constants

import pytest
from recorders import (
    WHERE,
    BufferedRecorder,
    Recorder,
    connect,
    drop,
    is_open,
    nothing_there,
    read_exactly,
    read_to_end,
    reset,
    runner,
    stream_pair,
    told,
    turns,
    until,
)
from support import PATIENCE_S, run_python

from spdkthread import aio
from spdkthread.aio.transport_stream import StreamTransport

MIB = 1 << 20


@pytest.fixture(params=[False, True], ids=["plain", "debug"])
def run(request):
    """Run a coroutine on a fresh loop."""
    return runner(request.param)


@pytest.fixture(params=["tcp", "unix"])
def family(request):
    return request.param


@pytest.fixture
def pair(family):
    """A socket for the loop and its peer."""
    ours, peer = stream_pair(family)
    yield ours, peer
    ours.close()
    peer.close()


# What a protocol is told ---------------------------------------------------------------------------------------------


def test_a_protocol_is_told_of_its_transport_then_of_data_then_of_the_end(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        assert protocol.calls == ["connection_made"]
        assert protocol.transport is transport
        assert type(transport) is StreamTransport
        peer.send(b"one")
        assert await protocol.received(3) == b"one"
        peer.close()
        assert await protocol.lost() is None
        assert protocol.calls == ["connection_made", "data_received", "eof_received", "connection_lost"]
        assert transport.is_closing()

    run(main())


def test_there_is_no_python_frame_between_the_loop_and_a_protocol():
    callers = []

    class Looks(Recorder):
        def data_received(self, data):
            callers.append(sys._getframe(1).f_code.co_name)
            super().data_received(data)

    async def main():
        ours, peer = stream_pair("tcp")
        transport, protocol = await connect(ours, Looks)
        peer.send(b"x")
        await protocol.received(1)
        transport.close()
        await protocol.lost()
        peer.close()

    runner(False)(main())
    assert callers == ["run_forever"]


def test_every_call_of_a_connection_is_in_the_context_that_it_was_made_in(run, pair):
    async def main():
        ours, peer = pair
        WHERE.set("there")
        transport, protocol = await connect(ours)
        WHERE.set("elsewhere")
        transport.pause_reading()
        transport.resume_reading()
        peer.send(b"x")
        await protocol.received(1)
        peer.shutdown(socket.SHUT_WR)
        await protocol.lost()
        assert protocol.contexts == dict.fromkeys(
            ["connection_made", "data_received", "eof_received", "connection_lost"], "there"
        )
        assert WHERE.get() == "elsewhere"

    run(main())


def test_what_a_protocol_sets_in_its_context_it_finds_there_again_and_another_connection_does_not(run):
    class Sets(Recorder):
        def connection_made(self, transport):
            WHERE.set(id(self))
            super().connection_made(transport)

    async def main():
        found = []
        for _ in range(2):
            ours, peer = stream_pair("tcp")
            transport, protocol = await connect(ours, Sets)
            peer.send(b"x")
            await protocol.received(1)
            found.append(protocol.contexts["data_received"] == id(protocol))
            transport.close()
            await protocol.lost()
            peer.close()
        assert found == [True, True]
        assert WHERE.get() == "nowhere"

    run(main())


def test_a_buffered_protocol_has_the_bytes_in_its_own_buffer(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours, BufferedRecorder)
        sent = os.urandom(5 * BufferedRecorder.size + 17)
        peer.send(sent)
        assert await protocol.received(len(sent)) == sent
        transport.close()
        await protocol.lost()

    run(main())


def test_the_protocol_can_be_changed_for_another_one_of_either_kind(run, pair):
    async def main():
        ours, peer = pair
        transport, first = await connect(ours)
        for protocol in (BufferedRecorder(), Recorder(), BufferedRecorder()):
            transport.set_protocol(protocol)
            assert transport.get_protocol() is protocol
            peer.send(b"abc")
            assert await protocol.received(3) == b"abc"
        transport.close()
        assert await protocol.lost() is None
        assert first.calls == ["connection_made"]

    run(main())


def test_a_transport_says_what_it_is(run):
    async def main():
        ours, peer = stream_pair("tcp")
        transport, protocol = await connect(ours)
        assert isinstance(transport, asyncio.Transport)
        assert transport.get_extra_info("peername") == peer.getsockname()
        assert transport.get_extra_info("sockname") == peer.getpeername()
        assert transport.get_extra_info("socket").fileno() == ours.fileno()
        assert transport.get_extra_info("socket").getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
        assert transport.get_extra_info("what") is None
        assert transport.get_extra_info("what", 1) == 1
        assert f"fd={ours.fileno()} read=polling write=<idle, bufsize=0>" in repr(transport)
        assert transport.can_write_eof()
        transport.close()
        assert "closing" in repr(transport)
        await protocol.lost()
        assert "closed" in repr(transport)
        peer.close()

    run(main())


# Writing -------------------------------------------------------------------------------------------------------------


def test_the_first_write_of_a_turn_is_at_the_peer_at_once(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        await turns()
        transport.write(b"now")
        assert peer.recv(10) == b"now"
        assert transport.get_write_buffer_size() == 0
        transport.close()
        await protocol.lost()

    run(main())


def test_further_writes_of_a_turn_go_out_together_at_its_end(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        await turns()
        for part in (b"a", b"b", bytearray(b"c"), memoryview(b"d")):
            transport.write(part)
        assert peer.recv(10) == b"a"
        assert transport.get_write_buffer_size() == 3
        assert nothing_there(peer)
        await turns(1)
        assert peer.recv(10) == b"bcd"
        assert transport.get_write_buffer_size() == 0
        # It gathers from now on, until a turn has one write only.
        transport.write(b"e")
        transport.write(b"f")
        assert nothing_there(peer)
        await turns(1)
        assert peer.recv(10) == b"ef"
        transport.write(b"g")
        await turns(1)
        assert peer.recv(10) == b"g"
        transport.write(b"h")
        assert peer.recv(10) == b"h"
        transport.close()
        await protocol.lost()

    run(main())


@pytest.mark.parametrize("end", ["close", "abort", "write_eof"])
def test_what_was_gathered_is_sent_before_a_connection_ends(run, pair, end):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        await turns()
        transport.write(b"a")
        transport.write(b"b")
        getattr(transport, end)()
        assert await read_to_end(peer) == b"ab"
        transport.close()
        await protocol.lost()

    run(main())


def test_what_is_written_before_the_loop_sleeps_is_sent(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        asyncio.get_running_loop().call_soon(lambda: [transport.write(b"x") for _ in range(10)])
        assert await read_exactly(peer, 10) == b"x" * 10
        transport.close()
        await protocol.lost()

    run(main())


@pytest.mark.parametrize("kind", ["write", "writelines", "pieces"])
def test_a_slow_peer_gets_everything_and_the_protocol_is_paused_meanwhile(run, pair, kind):
    sent = os.urandom(MIB) * 8

    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        if kind == "write":
            transport.write(sent)
        elif kind == "writelines":
            transport.writelines(sent[start : start + 1000] for start in range(0, len(sent), 1000))
        else:
            for start in range(0, len(sent), 10_000):
                transport.write(sent[start : start + 10_000])
        assert protocol.calls == ["connection_made", "pause_writing"]
        assert transport.get_write_buffer_size() > 64 * 1024
        assert "write=<polling" in repr(transport)
        assert await read_exactly(peer, len(sent)) == sent
        await protocol.expect(lambda: "resume_writing" in protocol.calls)
        assert transport.get_write_buffer_size() <= 16 * 1024
        transport.close()
        await protocol.lost()
        assert protocol.calls.count("pause_writing") == protocol.calls.count("resume_writing") == 1

    run(main())


def test_the_water_marks_are_those_that_were_set(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        assert transport.get_write_buffer_limits() == (16 * 1024, 64 * 1024)
        transport.set_write_buffer_limits(high=100)
        assert transport.get_write_buffer_limits() == (25, 100)
        transport.set_write_buffer_limits(low=100)
        assert transport.get_write_buffer_limits() == (100, 400)
        with pytest.raises(ValueError, match=r"high \(1\) must be >= low \(2\)"):
            transport.set_write_buffer_limits(1, 2)
        transport.set_write_buffer_limits(high=0)
        transport.write(b"x" * 4 * MIB)
        assert "pause_writing" in protocol.calls
        await read_exactly(peer, 4 * MIB)
        await protocol.expect(lambda: "resume_writing" in protocol.calls)
        assert transport.get_write_buffer_size() == 0
        transport.close()
        await protocol.lost()

    run(main())


def test_a_mark_of_nothing_pauses_for_what_the_kernel_does_not_take_only(run, pair):
    async def main():
        ours, _ = pair
        transport, protocol = await connect(ours)
        transport.set_write_buffer_limits(high=0)
        await turns()
        for _ in range(10):
            transport.write(b"x")
        assert "pause_writing" not in protocol.calls
        transport.close()
        await protocol.lost()

    run(main())


def test_bytes_that_change_after_the_write_are_sent_as_they_were(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        data = bytearray(b"x" * 4 * MIB)
        transport.write(data)
        data[:] = b"y" * len(data)
        transport.write(data)
        data.clear()
        got = await read_exactly(peer, 8 * MIB)
        assert got == b"x" * 4 * MIB + b"y" * 4 * MIB
        transport.close()
        await protocol.lost()

    run(main())


def test_any_memoryview_is_written_in_its_own_order(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        backwards = memoryview(b"abcdef")[::-1]
        transport.write(backwards)
        transport.write(memoryview(b"12345678").cast("I"))
        assert await read_exactly(peer, 14) == b"fedcba12345678"
        transport.close()
        await protocol.lost()

    run(main())


def test_what_cannot_be_written_is_refused(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        for wrong in ("text", 1, None, [b"x"]):
            with pytest.raises(TypeError, match="bytes-like"):
                transport.write(wrong)
        with pytest.raises(TypeError, match="bytes-like"):
            transport.writelines([b"x", "text"])
        transport.write(b"")
        transport.writelines([])
        transport.write_eof()
        transport.write_eof()
        for write in (transport.write, transport.writelines):
            with pytest.raises(RuntimeError, match="after write_eof"):
                write(b"x")
        assert await read_to_end(peer) == b""
        transport.close()
        await protocol.lost()

    run(main())


def test_lines_are_sent_at_once_and_behind_what_waits(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        await turns()
        transport.writelines([b"a", b"", bytearray(b"b"), memoryview(b"c")])
        assert peer.recv(10) == b"abc"
        transport.write(b"d" * 4 * MIB)
        transport.writelines([b"e"] * 1000)
        assert await read_exactly(peer, 4 * MIB + 1000) == b"d" * 4 * MIB + b"e" * 1000
        transport.close()
        await protocol.lost()

    run(main())


def test_writes_after_the_end_are_dropped_and_logged_in_the_end(run, pair, caplog):
    async def main():
        ours, _ = pair
        transport, protocol = await connect(ours)
        transport.abort()
        for _ in range(10):
            transport.write(b"x")
            transport.writelines([b"x"])
        await protocol.lost()
        transport.write(b"x")

    with caplog.at_level(logging.WARNING, "asyncio"):
        run(main())
    assert "socket.send() raised exception." in caplog.messages


# Reading -------------------------------------------------------------------------------------------------------------


def test_nothing_is_received_while_reading_is_paused(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        assert transport.is_reading()
        transport.pause_reading()
        transport.pause_reading()
        assert not transport.is_reading()
        peer.send(b"x")
        await asyncio.sleep(0.02)
        assert protocol.data == b""
        transport.resume_reading()
        transport.resume_reading()
        assert transport.is_reading()
        assert await protocol.received(1) == b"x"
        transport.close()
        assert not transport.is_reading()
        transport.resume_reading()
        await protocol.lost()

    run(main())


def test_reading_can_be_paused_before_it_begins_and_in_the_middle_of_it(run, pair):
    class Pauses(Recorder):
        def connection_made(self, transport):
            transport.pause_reading()
            super().connection_made(transport)

        def data_received(self, data):
            self.transport.pause_reading()
            super().data_received(data)

    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours, Pauses)
        sent = b"x" * 200_000
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(peer, sent))
        await asyncio.sleep(0.02)
        assert protocol.data == b""
        while len(protocol.data) < len(sent):
            before = protocol.calls.count("data_received")
            transport.resume_reading()
            await protocol.expect(lambda before=before: protocol.calls.count("data_received") > before)
            await turns()
            assert protocol.calls.count("data_received") == before + 1
        await sending
        transport.close()
        await protocol.lost()

    run(main())


def test_at_most_64_kib_are_received_at_a_time(run, pair):
    sizes = []

    class Measures(Recorder):
        def data_received(self, data):
            sizes.append(len(data))
            super().data_received(data)

    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours, Measures)
        await asyncio.get_running_loop().sock_sendall(peer, b"x" * MIB)
        await protocol.received(MIB)
        transport.close()
        await protocol.lost()

    run(main())
    assert max(sizes) <= 64 * 1024


def test_a_descriptor_that_is_ready_for_both_is_read_and_written(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        transport.write(b"w" * 8 * MIB)
        peer.send(b"r")
        assert await protocol.received(1) == b"r"
        assert await read_exactly(peer, 8 * MIB) == b"w" * 8 * MIB
        transport.close()
        await protocol.lost()

    run(main())


# Endings -------------------------------------------------------------------------------------------------------------


def test_a_transport_can_be_closed_in_data_received(run, pair):
    class Closes(Recorder):
        def data_received(self, data):
            super().data_received(data)
            self.transport.write(b"bye")
            self.transport.close()

    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours, Closes)
        peer.send(b"x" * 100_000)
        assert await protocol.lost() is None
        assert protocol.calls.count("data_received") == 1
        transport.close()
        transport.abort()

    run(main())


def test_close_sends_what_waits_and_abort_does_not(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        transport.write(b"x" * 8 * MIB)
        transport.close()
        await turns()
        assert "connection_lost" not in protocol.calls
        assert await read_to_end(peer) == b"x" * 8 * MIB
        assert await protocol.lost() is None

        ours, peer = stream_pair("tcp")
        transport, protocol = await connect(ours)
        transport.write(b"x" * 8 * MIB)
        transport.abort()
        assert transport.get_write_buffer_size() == 0
        assert await protocol.lost() is None
        assert len(await read_to_end(peer)) < 8 * MIB
        peer.close()

    run(main())


def test_connection_lost_comes_in_a_later_turn_and_once(run, pair):
    async def main():
        ours, _ = pair
        transport, protocol = await connect(ours)
        transport.close()
        transport.close()
        transport.abort()
        assert protocol.calls == ["connection_made"]
        await turns()
        assert protocol.calls == ["connection_made", "connection_lost"]
        assert not is_open(ours.fileno()) or ours.fileno() == -1

    run(main())


def test_each_direction_can_end_by_itself(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        protocol.keep_open = True
        peer.send(b"question")
        peer.shutdown(socket.SHUT_WR)
        await protocol.expect(lambda: "eof_received" in protocol.calls)
        assert "read=idle" in repr(transport)
        transport.write(b"a" * 4 * MIB)
        transport.write_eof()
        assert await read_to_end(peer) == b"a" * 4 * MIB
        assert protocol.calls.count("eof_received") == 1
        assert not transport.is_closing()
        transport.close()
        assert await protocol.lost() is None

    run(main())


@pytest.mark.parametrize("when", ["idle", "writing", "paused", "half closed"])
def test_a_peer_that_resets_ends_the_connection_with_its_error(run, when, caplog):
    async def main():
        ours, peer = stream_pair("tcp")
        transport, protocol = await connect(ours)
        if when == "writing":
            transport.write(b"x" * 8 * MIB)
        elif when == "paused":
            transport.pause_reading()
        elif when == "half closed":
            transport.write_eof()
        reset(peer)
        if when == "paused":
            # Nothing looks at the descriptor: the next write finds out.
            while not transport.is_closing():
                transport.write(b"x")
                await turns()
        assert isinstance(await protocol.lost(), ConnectionResetError | BrokenPipeError)
        assert transport.is_closing()

    run(main())
    assert not [record for record in caplog.records if record.levelno > logging.WARNING]


def test_a_connection_that_is_dropped_without_closing_warns_and_is_closed(run):
    async def main():
        ours, peer = stream_pair("unix")
        transport, protocol = await connect(ours)
        transport.pause_reading()
        del ours
        protocol.transport = None
        # What the loop runs last holds its arguments for a while.
        await turns()
        held = [transport]
        del transport
        with pytest.warns(ResourceWarning, match=r"unclosed transport <StreamTransport"):
            drop(held)
        assert await read_to_end(peer) == b""
        peer.close()

    run(main())


def test_a_socket_that_is_closed_elsewhere_stays_open_until_its_transport_is(run, pair):
    async def main():
        ours, peer = pair
        transport, protocol = await connect(ours)
        fd = ours.fileno()
        ours.close()
        assert is_open(fd)
        peer.send(b"x")
        assert await protocol.received(1) == b"x"
        transport.write(b"y")
        assert await read_exactly(peer, 1) == b"y"
        transport.close()
        await protocol.lost()
        assert not is_open(fd)

    run(main())


def test_a_descriptor_that_a_transport_has_is_refused_to_others(run, pair):
    async def main():
        loop = asyncio.get_running_loop()
        ours, _ = pair
        transport, protocol = await connect(ours)
        for refused in (loop.add_reader, loop.add_writer):
            with pytest.raises(RuntimeError, match="is used by transport"):
                refused(ours.fileno(), print)
        with pytest.raises(RuntimeError, match="is used by transport"):
            await connect(ours)
        transport.close()
        await protocol.lost()

    run(main())


# Exceptions of protocols ---------------------------------------------------------------------------------------------


class Oops(Exception):
    pass


@pytest.mark.parametrize("method", ["data_received", "get_buffer", "buffer_updated", "eof_received"])
def test_an_exception_of_a_protocol_is_told_and_ends_the_connection(run, pair, method):
    def fails(self, *args):
        raise Oops

    base = Recorder if method in ("data_received", "eof_received") else BufferedRecorder
    factory = type("Fails", (base,), {method: fails})

    async def main():
        ours, peer = pair
        with told() as contexts:
            transport, protocol = await connect(ours, factory)
            peer.send(b"x")
            if method == "eof_received":
                peer.shutdown(socket.SHUT_WR)
            assert isinstance(await protocol.lost(), Oops)
        (context,) = contexts
        assert context["message"] == f"Fatal error: protocol.{method}() call failed."
        assert context["transport"] is transport
        assert context["protocol"] is protocol
        assert context["exception"] is protocol.error

    run(main())


@pytest.mark.parametrize("buffer", [bytearray(), b"", None, memoryview(b"read only")])
def test_a_buffer_that_cannot_be_filled_ends_the_connection(run, pair, buffer):
    class Wrong(BufferedRecorder):
        def get_buffer(self, sizehint):
            return buffer

    async def main():
        ours, peer = pair
        with told() as contexts:
            transport, protocol = await connect(ours, Wrong)
            peer.send(b"x")
            assert isinstance(await protocol.lost(), RuntimeError | TypeError | BufferError)
        assert [context["message"] for context in contexts] == ["Fatal error: protocol.get_buffer() call failed."]
        assert transport.is_closing()

    run(main())


@pytest.mark.parametrize("method", ["pause_writing", "resume_writing"])
def test_an_exception_of_the_flow_control_is_told_and_the_connection_goes_on(run, pair, method):
    def fails(self):
        self.note(method)
        raise Oops

    factory = type("Fails", (Recorder,), {method: fails})

    async def main():
        ours, peer = pair
        with told() as contexts:
            transport, protocol = await connect(ours, factory)
            transport.write(b"x" * 4 * MIB)
            await read_exactly(peer, 4 * MIB)
            await protocol.expect(lambda: "resume_writing" in protocol.calls)
            transport.write(b"y")
            assert await read_exactly(peer, 1) == b"y"
            transport.close()
            assert await protocol.lost() is None
        assert [context["message"] for context in contexts] == [f"protocol.{method}() failed"]

    run(main())


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_what_ends_a_program_leaves_the_loop_and_nothing_of_the_turn_is_lost(error):
    class Ends(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise error

    ours, peer = stream_pair("tcp")
    loop = aio.EventLoop()
    try:

        async def main():
            return await connect(ours, Ends)

        transport, protocol = loop.run_until_complete(main())
        ran = []
        peer.send(b"x")
        loop.call_later(0.05, ran.append, 1)
        with pytest.raises(error):
            loop.run_forever()
        assert protocol.data == b"x"
        assert not transport.is_closing()
        transport.close()
        loop.run_until_complete(protocol.lost())
        loop.run_until_complete(asyncio.sleep(0.06))
        assert ran == [1]
    finally:
        loop.close()
        peer.close()


def test_an_exception_of_connection_made_or_connection_lost_is_told(run, pair):
    class Fails(Recorder):
        def connection_made(self, transport):
            super().connection_made(transport)
            raise Oops

        def connection_lost(self, exc):
            super().connection_lost(exc)
            raise Oops

    async def main():
        ours, peer = pair
        with told() as contexts:
            transport, protocol = await connect(ours, Fails)
            peer.send(b"x")
            assert await protocol.received(1) == b"x"
            transport.close()
            await protocol.lost()
            await turns()
        assert [type(context["exception"]) for context in contexts] == [Oops, Oops]
        assert await read_to_end(peer) == b""

    run(main())


# Servers -------------------------------------------------------------------------------------------------------------


class Echo(Recorder):
    def data_received(self, data):
        super().data_received(data)
        self.transport.write(data)


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


# Streams -------------------------------------------------------------------------------------------------------------


async def reader_of(sock, kind, limit):
    loop = asyncio.get_running_loop()
    reader = kind(limit=limit, loop=loop)
    transport, _ = await connect(sock, lambda: asyncio.StreamReaderProtocol(reader, loop=loop))
    return reader, transport


def test_a_reader_that_nobody_reads_holds_no_more_than_twice_its_limit_and_one_receive(run, pair):
    async def main():
        ours, peer = pair
        reader, transport = await reader_of(ours, asyncio.StreamReader, 1000)
        sending = asyncio.create_task(asyncio.get_running_loop().sock_sendall(peer, b"x" * 8 * MIB))
        await until(lambda: not transport.is_reading())
        assert 2000 < len(reader._buffer) <= 2000 + transport.max_size
        assert len(await reader.readexactly(8 * MIB)) == 8 * MIB
        await sending
        peer.send(b"line\nrest")
        assert await reader.readline() == b"line\n"
        peer.close()
        assert await reader.read() == b"rest"
        assert reader.at_eof()
        transport.close()
        await turns()

    run(main())


def test_a_reader_of_ones_own_class_is_fed_by_its_own_method(run, pair):
    fed = []

    class Reader(asyncio.StreamReader):
        def feed_data(self, data):
            fed.append(data)
            super().feed_data(data)

    async def main():
        ours, peer = pair
        reader, transport = await reader_of(ours, Reader, 1000)
        peer.send(b"abc")
        assert await reader.readexactly(3) == b"abc"
        transport.close()
        await turns()

    run(main())
    assert fed == [b"abc"]


def test_a_reader_whose_wait_was_cancelled_loses_nothing(run, pair):
    async def main():
        ours, peer = pair
        reader, transport = await reader_of(ours, asyncio.StreamReader, 1000)
        waits = asyncio.create_task(reader.read(10))
        await turns()
        waits.cancel()
        peer.send(b"abc")
        await asyncio.wait([waits])
        assert await reader.readexactly(3) == b"abc"
        transport.close()
        await turns()

    run(main())


# sendfile ------------------------------------------------------------------------------------------------------------


def test_a_file_is_sent_by_the_kernel_and_nothing_is_written_meanwhile(run, pair, tmp_path):
    content = os.urandom(4 * MIB)
    (tmp_path / "f").write_bytes(content)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = pair
        transport, protocol = await connect(ours)
        transport.write(b"head")
        with open(tmp_path / "f", "rb") as file:
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await turns()
            with pytest.raises(RuntimeError, match="sendfile is in progress"):
                transport.write(b"x")
            with pytest.raises(RuntimeError, match="sendfile is in progress"):
                transport.writelines([b"x"])
            assert await read_exactly(peer, 4 + len(content)) == b"head" + content
            assert await sending == len(content)
        transport.write(b"tail")
        assert await read_exactly(peer, 4) == b"tail"
        peer.send(b"x")
        assert await protocol.received(1) == b"x"
        transport.close()
        await protocol.lost()

    run(main())


def test_a_connection_that_is_lost_while_a_file_is_sent_ends_the_sending(run, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 8 * MIB)

    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = stream_pair("tcp")
        transport, protocol = await connect(ours)
        transport.write(b"x" * 8 * MIB)
        with open(tmp_path / "f", "rb") as file:
            sending = asyncio.create_task(loop.sendfile(transport, file))
            await turns()
            reset(peer)
            with pytest.raises(ConnectionError):
                await sending
        transport.close()
        await protocol.lost()

    run(main())


# The loop ------------------------------------------------------------------------------------------------------------


def test_debug_mode_logs_a_slow_protocol(caplog):
    class Slow(Recorder):
        def data_received(self, data):
            time.sleep(0.02)
            super().data_received(data)

    async def main():
        asyncio.get_running_loop().slow_callback_duration = 0.01
        ours, peer = stream_pair("tcp")
        transport, protocol = await connect(ours, Slow)
        peer.send(b"x")
        await protocol.received(1)
        transport.close()
        await protocol.lost()
        peer.close()

    with caplog.at_level(logging.WARNING, "asyncio"):
        runner(True)(main())
    assert [message for message in caplog.messages if "Executing <StreamTransport" in message and "seconds" in message]


@pytest.mark.parametrize(
    "selector", [name for name in ("SelectSelector", "PollSelector", "EpollSelector") if hasattr(selectors, name)]
)
def test_transports_work_with_any_selector(selector):
    async def main():
        server = await asyncio.get_running_loop().create_server(Echo, "127.0.0.1", 0)
        reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
        writer.write(b"x" * 8 * MIB)
        assert await reader.readexactly(8 * MIB) == b"x" * 8 * MIB
        writer.close()
        await writer.wait_closed()
        server.close()
        await server.wait_closed()
        await turns(10)

    def factory():
        return aio.EventLoop(selector=getattr(selectors, selector)())

    with asyncio.Runner(loop_factory=factory) as runner:
        runner.run(asyncio.wait_for(main(), PATIENCE_S))


def test_a_loop_that_sleeps_wakes_for_a_connection_and_for_another_thread(run):
    async def main():
        loop = asyncio.get_running_loop()
        ours, peer = stream_pair("tcp")
        transport, protocol = await connect(ours)
        came = asyncio.Event()
        for _ in range(20):
            before = len(protocol.data)
            threading.Timer(0.005, peer.send, [b"x"]).start()
            await protocol.received(before + 1)
            came.clear()
            threading.Timer(0.005, loop.call_soon_threadsafe, [came.set]).start()
            await asyncio.wait_for(came.wait(), PATIENCE_S)
        transport.close()
        await protocol.lost()
        peer.close()

    run(main())


def test_a_loop_that_is_closed_with_open_transports_warns_of_each_and_closes_them():
    loop = aio.EventLoop()
    ours, peer = stream_pair("unix")

    async def main():
        transport, protocol = await connect(ours)
        protocol.transport = None
        return transport

    transport = loop.run_until_complete(main())
    loop.close()
    with pytest.raises(RuntimeError, match="Event loop is closed"):
        transport.close()
    held = [transport]
    del transport
    with pytest.warns(ResourceWarning, match="unclosed transport"):
        drop(held)
    peer.setblocking(True)
    assert peer.recv(1) == b""
    peer.close()
    ours.close()


def test_the_child_of_a_fork_leaves_the_connections_of_its_parent():
    finished = run_python(
        """
import asyncio, os, socket
from spdkthread import aio

class Echo(asyncio.Protocol):
    def connection_made(self, transport):
        self.transport = transport
    def data_received(self, data):
        self.transport.write(data)

async def main():
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Echo, "127.0.0.1", 0)
    reader, writer = await asyncio.open_connection(*server.sockets[0].getsockname())
    writer.write(b"a")
    assert await reader.readexactly(1) == b"a"
    child = os.fork()
    if child == 0:
        writer.transport.pause_reading()
        writer.transport.abort()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    for word in (b"b", b"c"):
        writer.write(word)
        assert await reader.readexactly(1) == word
    writer.close()
    await writer.wait_closed()
    server.close()
    await server.wait_closed()
    print("fine")

aio.run(main())
"""
    )
    assert finished.stdout == "fine\n", finished.stderr


def test_a_subprocess_talks_through_the_loops_pipes(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "import sys; sys.stdout.write(sys.stdin.read().upper())",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        out, _ = await process.communicate(b"quiet" * 100_000)
        assert out == b"QUIET" * 100_000
        assert process.returncode == 0

    run(main())
