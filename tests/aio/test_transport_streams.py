"""asyncio's streams and sendfile on the loop's transports."""

import asyncio
import os

import pytest
from recorders import (
    MIB,
    connect,
    read_exactly,
    reset,
    stream_pair,
    turns,
    until,
)


async def reader_of(sock, kind, limit):
    loop = asyncio.get_running_loop()
    reader = kind(limit=limit, loop=loop)
    transport, _ = await connect(sock, lambda: asyncio.StreamReaderProtocol(reader, loop=loop))
    return reader, transport


def test_a_reader_that_is_not_read_holds_no_more_than_twice_its_limit_and_one_receive(run, pair):
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
