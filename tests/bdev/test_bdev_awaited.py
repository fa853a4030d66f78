"""Block devices from coroutines: those of an SpdkThread, and those of asyncio."""

import asyncio
import contextlib
import errno

import pytest

from spdkthread import aio
from spdkthread.bdev import Bdev, QueueFullError, device

CONTENT = bytes(range(256)) * 64


@pytest.fixture(params=["auto", "threads"])
def bdev(request, live_lib, tmp_path):
    (tmp_path / "disk").write_bytes(CONTENT)
    bdev = Bdev.open(tmp_path / "disk", depth=8, lib=live_lib, backend=request.param)
    yield bdev
    bdev.unregister().result(60)
    device._plan()


async def work(bdev, thread=None):
    buffer, first, second = bytearray(64), bytearray(5), bytearray(6)
    assert await bdev.read(buffer, 64, thread=thread) == 64
    assert buffer == CONTENT[64:128]
    assert await bdev.write(b"hello", 0, thread=thread) == 5
    assert await bdev.writev([b" ", b"world"], 5, thread=thread) == 6
    assert await bdev.flush(thread=thread) == 0
    assert await bdev.readv([first, second], 0, thread=thread) == 11
    assert first + second == b"hello world"
    assert await bdev.write_zeroes(0, 5, thread=thread) == 5
    assert await bdev.discard(4096, 4096, thread=thread) == 4096
    device._plan(-errno.EIO)
    with pytest.raises(OSError, match="disk") as failed:
        await bdev.read(buffer, 0, thread=thread)
    assert failed.value.errno == errno.EIO
    with pytest.raises(ValueError):
        await bdev.read(buffer, -1, thread=thread)
    return "done"


def test_from_a_spawned_coroutine(bdev, reactor):
    thread = reactor.create_thread("io")
    assert thread.spawn(work(bdev)).result(60) == "done"


def test_from_asyncio_through_a_chosen_thread(bdev, reactor):
    thread = reactor.create_thread("io")
    assert asyncio.run(work(bdev, thread)) == "done"


def test_from_asyncio_through_whatever_thread_there_is(bdev, reactor):
    reactor.create_thread("io")
    assert asyncio.run(work(bdev)) == "done"


def test_many_at_once_and_one_too_many(bdev, reactor):
    thread = reactor.create_thread("io")

    async def together():
        async with bdev.channel():
            reads = [bdev.read(bytearray(16), 16 * block) for block in range(8)]
            with pytest.raises(QueueFullError):
                await bdev.read(bytearray(16), 0)
            return [await read for read in reads]

    assert thread.spawn(together()).result(60) == [16] * 8


def test_from_the_event_loop_of_an_spdk_thread(bdev, live_lib):
    with contextlib.closing(aio.EventLoop(live_lib.create_thread("loop"))) as loop:
        assert loop.run_until_complete(work(bdev)) == "done"
