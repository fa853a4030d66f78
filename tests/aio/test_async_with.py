"""`async with` of reactors and groups: the asyncio loop goes on while they start and stop."""

import asyncio
import threading

import pytest
from support import PATIENCE_S, eventually

from spdkthread import AwaitError, Reactor, ReactorGroup


@pytest.mark.parametrize("make", [Reactor, lambda lib: ReactorGroup(1, lib=lib, period_us=0)])
def test_it_starts_and_stops(live_lib, make):
    async def main():
        one = make(lib=live_lib)
        async with one as entered:
            assert entered is one
            thread = one.create_thread("net")
            assert await asyncio.wrap_future(thread.call(int)) == 0
        return one

    one = asyncio.run(main())
    assert {reactor.state for reactor in getattr(one, "reactors", (one,))} == {"stopped"}


def test_the_loop_goes_on_while_it_stops(live_lib):
    go_on = threading.Event()

    async def main():
        turns = 0
        async with Reactor(lib=live_lib) as reactor:
            held = reactor.create_thread("net").call(go_on.wait, PATIENCE_S)
            while not held.running():
                await asyncio.sleep(0)

            async def count():
                """Begins when the stop waits: before that nothing is awaited."""
                nonlocal turns
                for _ in range(10):
                    turns += 1
                    await asyncio.sleep(0)
                go_on.set()

            counting = asyncio.create_task(count())
        await counting
        return turns, reactor.state, held.result()

    assert asyncio.run(main()) == (10, "stopped", True)


def test_a_start_that_fails_raises(live_lib):
    async def main():
        with Reactor(lib=live_lib) as reactor:
            async with reactor:
                pass

    with pytest.raises(Exception, match="running already"):
        asyncio.run(main())


def test_one_that_is_cancelled_while_it_starts_is_stopped(live_lib):
    reactor = Reactor(lib=live_lib)

    async def use():
        async with reactor:
            await asyncio.sleep(PATIENCE_S)

    async def main():
        task = asyncio.create_task(use())
        await asyncio.sleep(0)  # it has begun to start
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    eventually(lambda: reactor.state == "stopped")


def test_an_exception_leaves_the_block_after_the_stop(live_lib):
    reactor = Reactor(lib=live_lib)

    async def main():
        async with reactor:
            raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):
        asyncio.run(main())
    assert reactor.state == "stopped"


def test_without_an_asyncio_loop_it_is_refused(live_lib):
    reactor = Reactor(lib=live_lib)

    async def use():
        async with reactor:
            pass

    with pytest.raises(AwaitError, match="asyncio loop"):
        use().send(None)
    assert reactor.state == "new"
