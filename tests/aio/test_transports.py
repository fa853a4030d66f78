"""Stream transports: their protocol, writing, reading, and the loop under them."""

import asyncio
import logging
import os
import selectors
import socket
import subprocess
import sys
import threading
import time

import pytest
from recorders import (
    MIB,
    WHERE,
    BufferedRecorder,
    Echo,
    Recorder,
    connect,
    drop,
    nothing_there,
    read_exactly,
    read_to_end,
    runner,
    stream_pair,
    turns,
)
from support import PATIENCE_S, run_python

from spdkthread import aio
from spdkthread.aio.transport_stream import StreamTransport

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
