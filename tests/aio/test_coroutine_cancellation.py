"""Cancelling a coroutine on an SpdkThread."""

import asyncio
import concurrent.futures
import os

import pytest
from spawned import for_ever
from support import PATIENCE_S, drain, eventually

from spdkthread import (
    aio,
)
from spdkthread.testing import poll_until_idle


def test_cancelling_before_it_ran_means_that_it_never_runs(thread):
    log = []
    future = thread.spawn(for_ever(log))
    assert future.cancel()
    assert future.cancelled()
    drain(thread)
    assert log == []


def test_cancelling_throws_where_it_waits(thread):
    log = []
    future = thread.spawn(for_ever(log))
    drain(thread)
    assert future.running()
    assert future.cancel()
    assert not future.done()
    drain(thread)
    assert log == ["cancelled", "cleaned up"]
    assert future.cancelled()
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result()
    assert thread.next_poller_expiration is None or not thread.has_active_pollers


def test_cancelling_on_its_own_thread_acts_at_once(thread):
    log = []
    future = thread.spawn(for_ever(log))
    drain(thread)
    with thread:
        future.cancel()
    assert future.cancelled()
    assert log == ["cancelled", "cleaned up"]


def test_a_coroutine_may_refuse_its_cancellation(thread):
    async def stubborn():
        try:
            await aio.sleep_us(1e9)
        except asyncio.CancelledError:
            await aio.sleep_us(0)
            return "stayed"

    future = thread.spawn(stubborn())
    drain(thread)
    future.cancel()
    drain(thread)
    assert future.result() == "stayed"
    assert not future.cancel()


def test_a_coroutine_that_cancels_itself_hears_of_it_at_its_next_wait(thread):
    futures = []

    async def main():
        futures[0].cancel()
        await aio.sleep_us(0)
        raise AssertionError("it went on")

    futures.append(thread.spawn(main()))
    drain(thread)
    assert futures[0].cancelled()


def test_cancelling_what_waits_for_an_acall_cancels_the_call(lib):
    here, there = lib.create_thread("here"), lib.create_thread("there")
    ran = []

    async def main():
        await there.acall(ran.append, 1)

    future = here.spawn(main())
    drain(here)
    future.cancel()
    poll_until_idle([here, there])
    assert future.cancelled()
    assert ran == []


def test_cancelling_follows_a_coroutine_that_moves(lib):
    first, second = lib.create_thread("first"), lib.create_thread("second")
    log = []

    async def main():
        await aio.switch_to(second)
        await for_ever(log)

    future = first.spawn(main())
    drain(first)
    future.cancel()
    poll_until_idle([first, second])
    assert future.cancelled()
    moved = first.spawn(main())
    poll_until_idle([first, second])
    moved.cancel()
    poll_until_idle([first, second])
    assert moved.cancelled()
    assert log == ["cancelled", "cleaned up"] * 2


def test_cancelling_lets_go_of_the_descriptor(thread):
    reader, writer = os.pipe()

    async def main():
        await aio.fd_ready(reader)

    future = thread.spawn(main())
    drain(thread)
    future.cancel()
    drain(thread)
    assert future.cancelled()
    again = thread.spawn(main())
    os.write(writer, b"x")
    drain(thread)
    thread.poll()
    assert again.done()
    os.close(reader)
    os.close(writer)


def test_cancelling_from_another_os_thread_ends_a_coroutine_on_a_reactor(reactor):
    thread = reactor.create_thread("net")
    log = []
    future = thread.spawn(for_ever(log))
    eventually(future.running)
    assert future.cancel()
    with pytest.raises(concurrent.futures.CancelledError):
        future.result(PATIENCE_S)
    assert log == ["cancelled", "cleaned up"]
