"""`aio.EventLoopPolicy` and `aio.install()`, and the executor of a thread as a loop's and as dask's."""

import asyncio
import concurrent.futures
import sys
import threading
import unittest

import pytest
from support import elsewhere, finish, run_python

from spdkthread import NestedLoopError, aio, get_thread

pytestmark = pytest.mark.skipif(sys.version_info >= (3, 14), reason="asyncio has given up policies")


@pytest.fixture
def installed():
    aio.install()
    yield
    asyncio.set_event_loop_policy(None)


def test_asyncio_makes_our_loop_when_the_policy_is_installed(installed):
    async def which():
        return asyncio.get_running_loop(), get_thread()

    loop, thread = asyncio.run(which())
    assert type(loop) is aio.EventLoop
    assert thread is loop.thread
    made = asyncio.new_event_loop()
    assert type(made) is aio.EventLoop
    made.close()


def test_each_os_thread_has_a_loop_of_its_own(installed):
    def one():
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        try:
            return loop is asyncio.get_event_loop() and loop.run_until_complete(asyncio.sleep(0, loop))
        finally:
            asyncio.set_event_loop(None)
            loop.close()

    assert type(elsewhere(one)) is aio.EventLoop
    assert isinstance(asyncio.get_event_loop_policy(), aio.EventLoopPolicy)


def test_the_policy_is_one_of_asyncios():
    assert issubclass(aio.EventLoopPolicy, asyncio.AbstractEventLoopPolicy)
    loop = aio.EventLoopPolicy().new_event_loop()
    assert type(loop) is aio.EventLoop
    loop.close()


def test_asynchronous_test_cases_run_on_the_loop(installed):
    ran = []

    class Case(unittest.IsolatedAsyncioTestCase):
        async def test_one(self):
            ran.append(type(asyncio.get_running_loop()))

    result = unittest.TestResult()
    Case("test_one").run(result)
    assert result.wasSuccessful(), result.errors + result.failures
    assert ran == [aio.EventLoop]


def test_subprocesses_run_under_the_policy(installed):
    async def main():
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", "print(1)", stdout=asyncio.subprocess.PIPE)
        return (await process.communicate())[0]

    assert asyncio.run(main()) == b"1\n"


def test_a_program_that_knows_only_asyncio_runs_on_the_loop():
    finished = run_python(
        "import asyncio\nfrom spdkthread import aio\naio.install()\n"
        "async def main():\n    print(type(asyncio.get_running_loop()).__name__)\nasyncio.run(main())"
    )
    assert finished.stdout == "EventLoop\n", finished.stderr


def test_nest_asyncio_is_refused_by_name():
    """What it asks a loop first says why it cannot be patched."""
    loop = aio.EventLoop()
    with pytest.raises(NestedLoopError, match="nest_asyncio cannot patch"):
        hasattr(loop, "_nest_patched")
    loop.close()


def test_the_executor_of_a_thread_is_the_loops_default(reactor):
    thread = reactor.create_thread("work")

    async def main():
        loop = asyncio.get_running_loop()
        loop.set_default_executor(thread.executor())
        return await asyncio.gather(*(loop.run_in_executor(None, get_thread) for _ in range(5)))

    assert aio.run(main()) == [thread] * 5


def test_other_executors_are_asyncios_to_judge():
    async def main():
        loop = asyncio.get_running_loop()
        with pytest.raises(TypeError):
            loop.set_default_executor("no executor")
        loop.set_default_executor(concurrent.futures.ThreadPoolExecutor(1))
        return await loop.run_in_executor(None, threading.get_ident)

    assert aio.run(main()) != threading.get_ident()


def test_dask_reads_how_many_threads_an_executor_has(lib):
    threads = [lib.create_thread(f"t{number}") for number in range(3)]
    assert aio.ThreadExecutor(threads)._max_workers == 3
    assert threads[0].executor()._max_workers == 1
    finish(*threads)
