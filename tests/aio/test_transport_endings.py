"""Stream transports: ends of a connection, and exceptions of protocols."""

import asyncio
import logging
import socket

import pytest
from recorders import (
    MIB,
    BufferedRecorder,
    Oops,
    Recorder,
    connect,
    drop,
    is_open,
    read_exactly,
    read_to_end,
    reset,
    stream_pair,
    told,
    turns,
)

from spdkthread import aio

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
