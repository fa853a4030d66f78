"""Pipe transports of `aio.EventLoop`, and the subprocesses that have them."""

import asyncio
import io
import os
import pty
import socket
import subprocess
import sys
import tty

import pytest
from recorders import WHERE, Recorder, drop, is_open, told, turns
from support import PATIENCE_S

from spdkthread.aio.transport_pipe import ReadPipeTransport, WritePipeTransport

MIB = 1 << 20


async def reading(fd, factory=Recorder):
    return await asyncio.get_running_loop().connect_read_pipe(factory, open(fd, "rb", 0))


async def writing(fd, factory=Recorder):
    return await asyncio.get_running_loop().connect_write_pipe(factory, open(fd, "wb", 0))


async def drained(fd, count):
    """Read so many bytes of a descriptor that does not block."""
    data = b""
    while len(data) < count:
        try:
            part = os.read(fd, 65536)
        except BlockingIOError:
            await asyncio.sleep(0)
        else:
            assert part
            data += part
    return data


def test_a_pipe_carries_bytes_and_its_end(run):
    async def main():
        read_fd, write_fd = os.pipe()
        reader, here = await reading(read_fd)
        writer, there = await writing(write_fd)
        assert type(reader) is ReadPipeTransport
        assert isinstance(reader, asyncio.ReadTransport)
        assert type(writer) is WritePipeTransport
        assert isinstance(writer, asyncio.WriteTransport)
        assert reader.get_extra_info("pipe").fileno() == read_fd
        sent = os.urandom(4 * MIB)
        writer.write(sent)
        writer.writelines([b"a", bytearray(b"b"), memoryview(b"c")])
        assert there.calls == ["connection_made", "pause_writing"]
        await here.received(len(sent) + 3)
        assert here.data == sent + b"abc"
        await there.expect(lambda: "resume_writing" in there.calls)
        assert "polling" in repr(reader)
        writer.write_eof()
        assert await there.lost() is None
        assert await here.lost() is None
        assert here.calls[-2:] == ["eof_received", "connection_lost"]
        assert "closed" in repr(reader)
        assert not is_open(read_fd)
        assert not is_open(write_fd)

    run(main())


def test_what_waits_when_a_pipe_is_closed_is_written_and_abort_drops_it(run):
    async def main():
        for end in ("close", "abort"):
            read_fd, write_fd = os.pipe()
            os.set_blocking(read_fd, False)
            writer, protocol = await writing(write_fd)
            writer.write(b"x" * MIB)
            held = MIB - writer.get_write_buffer_size()
            getattr(writer, end)()
            writer.write(b"dropped")
            assert await drained(read_fd, MIB if end == "close" else held) == b"x" * (MIB if end == "close" else held)
            assert await protocol.lost() is None
            assert os.read(read_fd, 1) == b""
            os.close(read_fd)

    run(main())


def test_a_pipe_that_nothing_reads_any_more_ends_with_the_error_of_what_waited(run):
    async def main():
        for waits in (False, True):
            read_fd, write_fd = os.pipe()
            writer, protocol = await writing(write_fd)
            if waits:
                writer.write(b"x" * MIB)
            os.close(read_fd)
            error = await protocol.lost()
            assert isinstance(error, BrokenPipeError) if waits else error is None
            for _ in range(10):
                writer.write(b"x")

    run(main())


def test_reading_can_be_paused(run):
    async def main():
        read_fd, write_fd = os.pipe()
        reader, protocol = await reading(read_fd)
        reader.pause_reading()
        assert not reader.is_reading()
        os.write(write_fd, b"x")
        await asyncio.sleep(0.01)
        assert protocol.data == b""
        reader.resume_reading()
        assert await protocol.received(1) == b"x"
        reader.close()
        reader.close()
        await protocol.lost()
        os.close(write_fd)

    run(main())


def test_the_writing_end_of_a_pipe_is_not_read_and_goes_on_watching_for_its_reader(run):
    async def main():
        read_fd, write_fd = os.pipe()
        writer, protocol = await writing(write_fd)
        for method in (writer.pause_reading, writer.resume_reading, writer.is_reading):
            with pytest.raises(NotImplementedError, match="writing end"):
                method()
        os.close(read_fd)
        assert await protocol.lost() is None

    run(main())


def test_every_call_is_in_the_context_that_the_pipe_was_connected_in(run):
    async def main():
        read_fd, write_fd = os.pipe()
        WHERE.set("there")
        _, protocol = await reading(read_fd)
        WHERE.set("elsewhere")
        os.write(write_fd, b"x")
        await protocol.received(1)
        os.close(write_fd)
        await protocol.lost()
        assert set(protocol.contexts.values()) == {"there"}

    run(main())


def test_an_exception_of_a_protocol_is_told(run):
    class Fails(Recorder):
        def data_received(self, data):
            super().data_received(data)
            raise ZeroDivisionError

    async def main():
        read_fd, write_fd = os.pipe()
        with told() as contexts:
            reader, protocol = await reading(read_fd, Fails)
            os.write(write_fd, b"x")
            await protocol.received(1)
            await turns()
        assert [type(context["exception"]) for context in contexts] == [ZeroDivisionError]
        reader.close()
        await protocol.lost()
        os.close(write_fd)

    run(main())


def test_a_plain_file_is_no_pipe(run, tmp_path):
    async def main():
        loop = asyncio.get_running_loop()
        with open(tmp_path / "f", "w+b") as file:
            for make in (loop.connect_read_pipe, loop.connect_write_pipe):
                with pytest.raises(ValueError, match="Pipe transport is"):
                    await make(Recorder, file)
            assert not file.closed

    run(main())


def test_a_socket_may_be_a_pipe(run):
    async def main():
        ours, peer = socket.socketpair()
        loop = asyncio.get_running_loop()
        writer, protocol = await loop.connect_write_pipe(Recorder, ours)
        writer.write(b"x")
        assert peer.recv(1) == b"x"
        peer.close()
        assert await protocol.lost() is None

    run(main())


def test_a_terminal_is_read_and_written_by_two_transports_of_one_descriptor(run):
    async def main():
        loop = asyncio.get_running_loop()
        master, slave = pty.openpty()
        tty.setraw(slave)
        ends = [io.FileIO(slave, "r"), io.FileIO(slave, "w", closefd=False)]
        reader, here = await loop.connect_read_pipe(Recorder, ends[0])
        writer, there = await loop.connect_write_pipe(Recorder, ends[1])
        os.write(master, b"in")
        assert await here.received(2) == b"in"
        # More than a terminal holds: the writer waits for the descriptor that the reader waits for.
        sent = b"o" * 100_000
        writer.write(sent)
        assert writer.get_write_buffer_size()
        os.set_blocking(master, False)
        assert await drained(master, len(sent)) == sent
        os.write(master, b"more")
        assert await here.received(6) == b"inmore"
        writer.close()
        await there.lost()
        reader.close()
        await here.lost()
        os.close(master)

    run(main())


def test_forgotten_pipes_warn(run):
    async def main():
        read_fd, write_fd = os.pipe()
        reader, here = await reading(read_fd)
        reader.pause_reading()
        here.transport = None
        await turns()
        held = [reader]
        del reader
        with pytest.warns(ResourceWarning, match="unclosed transport <ReadPipeTransport"):
            drop(held)
        os.close(write_fd)

    run(main())


def test_subprocesses_read_write_and_end(run):
    source = "import sys; data = sys.stdin.buffer.read(); sys.stdout.buffer.write(data[::-1]); sys.stderr.write('done')"

    async def main():
        async def one(number):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", source, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE
            )
            data = os.urandom(300_000 + number)
            out, err = await asyncio.wait_for(process.communicate(data), PATIENCE_S)
            assert out == data[::-1]
            assert err == b"done"
            assert process.returncode == 0

        await asyncio.gather(*(one(number) for number in range(3)))

    run(main())


def test_a_subprocess_that_does_not_read_is_written_to_in_vain(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", "import sys; sys.stdin.close()", stdin=subprocess.PIPE
        )
        with pytest.raises((BrokenPipeError, ConnectionResetError)):
            while True:
                process.stdin.write(b"x" * MIB)
                await process.stdin.drain()
        await asyncio.wait_for(process.wait(), PATIENCE_S)

    run(main())
