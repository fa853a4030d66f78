"""What programs of asyncio do on the event loop, and what those of the library do there."""

import asyncio
import concurrent.futures
import logging
import os
import signal
import socket
import sys
import threading
import time
import warnings

import pytest
from support import OtherThread

from spdkthread import (
    WrongThreadError,
    aio,
    get_thread,
)

# The rest of asyncio


def test_streams_carry_data_both_ways(run):
    async def echo(reader, writer):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async def main():
        server = await asyncio.start_server(echo, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]

            async def client(number):
                reader, writer = await asyncio.open_connection("127.0.0.1", port)
                message = bytes([number % 256]) * 50_000
                writer.write(message)
                received = await reader.readexactly(len(message))
                writer.close()
                await writer.wait_closed()
                return received == message

            return await asyncio.gather(*(client(number) for number in range(100)))

    assert run(main()) == [True] * 100


def test_datagrams_arrive(run):
    class Receiver(asyncio.DatagramProtocol):
        def __init__(self, future):
            self.future = future

        def datagram_received(self, data, address):
            self.future.set_result(data)

    async def main():
        loop = asyncio.get_running_loop()
        received = loop.create_future()
        receiving, _ = await loop.create_datagram_endpoint(lambda: Receiver(received), local_addr=("127.0.0.1", 0))
        sending, _ = await loop.create_datagram_endpoint(
            asyncio.DatagramProtocol, remote_addr=receiving.get_extra_info("sockname")
        )
        sending.sendto(b"datagram")
        result = await received
        sending.close()
        receiving.close()
        return result

    assert run(main()) == b"datagram"


def test_readers_and_writers_are_called_and_removed(run):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = socket.socketpair()
        with reader, writer:
            readable, writable = loop.create_future(), loop.create_future()
            loop.add_reader(reader, lambda: readable.done() or readable.set_result(reader.recv(10)))
            loop.add_writer(writer, lambda: writable.done() or writable.set_result("writable"))
            assert await writable == "writable"
            assert loop.remove_writer(writer)
            assert not loop.remove_writer(writer)
            writer.send(b"data")
            assert await readable == b"data"
            assert loop.remove_reader(reader)

    run(main())


def test_a_subprocess_runs(run):
    async def main():
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-c",
            "print(input()[::-1])",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        output, _ = await process.communicate(b"abc\n")
        return output, process.returncode

    with warnings.catch_warnings():
        # Python 3.12 and later: forking with threads, which pytest's own timeout has.
        warnings.simplefilter("ignore", DeprecationWarning)
        assert run(main()) == (b"cba\n", 0)


@pytest.mark.no_tsan(reason="programs that are started with it loaded into them crash now and then")
def test_a_subprocess_that_is_killed_is_seen_to_end(run):
    async def main():
        process = await asyncio.create_subprocess_shell("read line", stdin=asyncio.subprocess.PIPE)
        process.kill()
        return await process.wait()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        assert run(main()) == -signal.SIGKILL


def test_a_unix_socket_server_answers(run, tmp_path):
    async def answer(reader, writer):
        writer.write((await reader.readline()).upper())
        writer.close()
        await writer.wait_closed()

    async def main():
        async with await asyncio.start_unix_server(answer, tmp_path / "socket"):
            reader, writer = await asyncio.open_unix_connection(tmp_path / "socket")
            writer.write(b"who\n")
            received = await reader.read()
            writer.close()
            await writer.wait_closed()
            return received

    assert run(main()) == b"WHO\n"


def test_signals_reach_their_handlers(run):
    async def main():
        loop = asyncio.get_running_loop()
        came = loop.create_future()
        loop.add_signal_handler(signal.SIGUSR1, came.set_result, "usr1")
        os.kill(os.getpid(), signal.SIGUSR1)
        result = await came
        assert loop.remove_signal_handler(signal.SIGUSR1)
        return result

    assert run(main()) == "usr1"


def test_executors_work(run):
    async def main():
        loop = asyncio.get_running_loop()
        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            results = await asyncio.gather(*(loop.run_in_executor(pool, pow, 2, number) for number in range(20)))
        assert await asyncio.to_thread(threading.get_ident) != threading.get_ident()
        return results

    assert run(main()) == [2**number for number in range(20)]


def test_async_generators_are_shut_down(run):
    closed = []

    async def numbers():
        try:
            yield 1
            yield 2
        finally:
            await asyncio.sleep(0)
            closed.append("closed")

    async def main():
        generator = numbers()
        await anext(generator)
        return generator

    generator = run(main())
    assert closed == ["closed"]
    del generator


def test_tasks_groups_timeouts_and_queues_work(run):
    async def main():
        queue = asyncio.Queue(maxsize=10)
        got = []

        async def produce():
            for number in range(100):
                await queue.put(number)
            await queue.put(None)

        async def consume():
            while (number := await queue.get()) is not None:
                got.append(number)

        async with asyncio.TaskGroup() as group:
            group.create_task(produce())
            group.create_task(consume())
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(3600)
        with pytest.raises(ExceptionGroup) as raised:
            async with asyncio.TaskGroup() as group:
                group.create_task(asyncio.sleep(3600))
                group.create_task(asyncio.to_thread(int, "no number"))
        assert [type(error) for error in raised.value.exceptions] == [ValueError]
        return got

    assert run(main()) == list(range(100))


def test_debug_mode_warns_of_slow_callbacks(loop, caplog):
    loop.set_debug(True)
    loop.slow_callback_duration = 0.001
    loop.call_soon(time.sleep, 0.01)
    loop.call_soon(loop.stop)
    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.run_forever()
    assert any("Executing" in record.message and "sleep" in record.message for record in caplog.records)


def test_without_debug_mode_no_slow_callback_is_logged(loop, caplog):
    loop.slow_callback_duration = 0.001
    loop.call_soon(time.sleep, 0.01)
    loop.call_soon(loop.stop)
    with caplog.at_level(logging.WARNING, "asyncio"):
        loop.run_forever()
    assert not caplog.records


def test_debug_mode_can_be_switched_while_it_runs(caplog):
    async def main():
        loop = asyncio.get_running_loop()
        loop.slow_callback_duration = 0.001
        for debug in (True, False, True):
            loop.set_debug(debug)
            handle = loop.call_soon(time.sleep, 0.005)
            assert bool(handle._source_traceback) is debug
            await asyncio.sleep(0.001)

    with caplog.at_level(logging.WARNING, "asyncio"), asyncio.Runner(loop_factory=aio.EventLoop) as runner:
        runner.run(main())
    assert sum("sleep(0.005)" in record.message for record in caplog.records) == 2


def test_debug_mode_says_where_a_callback_was_scheduled(loop):
    loop.set_debug(True)
    for handle in (loop.call_soon(int), loop.call_later(5, int), loop.call_at(5, int), loop.call_soon_threadsafe(int)):
        assert handle._source_traceback[-1].filename == __file__
        handle.cancel()


def test_debug_mode_refuses_calls_from_the_wrong_os_thread(loop):
    loop.set_debug(True)

    async def main():
        for method in (loop.call_soon, lambda fn: loop.call_later(1, fn), lambda fn: loop.call_at(1, fn)):
            with pytest.raises(RuntimeError, match="Non-thread-safe"):
                await asyncio.to_thread(method, int)

    loop.run_until_complete(main())
    loop.run_until_complete(loop.shutdown_default_executor())


# With the rest of the library


def test_acall_from_it_and_spawn_on_it(run, reactor):
    net = reactor.create_thread("net")

    async def on_thread():
        await aio.sleep_us(100)
        here = get_thread()
        await aio.switch_to(net)
        return here, get_thread(), await here.acall(get_thread)

    async def main():
        mine = asyncio.get_running_loop().thread
        results = await asyncio.gather(*(net.acall(pow, number, 2) for number in range(500)))
        assert results == [number**2 for number in range(500)]
        assert await mine.acall(get_thread) is mine
        here, there, back = await mine.spawn(on_thread())
        assert (here, there, back) == (mine, net, mine)
        with pytest.raises(ZeroDivisionError):
            await net.acall(divmod, 1, 0)
        return "done"

    assert run(main()) == "done"


def test_descriptors_of_its_thread_are_served_while_it_sleeps(run):
    async def main():
        loop = asyncio.get_running_loop()
        reader, writer = os.pipe()
        came = loop.create_future()
        handler = loop.thread.register_fd(reader, lambda: came.done() or came.set_result(os.read(reader, 1)))
        await asyncio.sleep(0.01)
        sender = OtherThread(os.write, writer, b"x")
        result = await came
        sender.outcome()
        handler.unregister()
        os.close(reader)
        os.close(writer)
        return result

    assert run(main()) == b"x"


def test_waiting_for_its_own_thread_raises_instead_of_deadlocking(run):
    async def main():
        future = asyncio.get_running_loop().thread.call(int)
        with pytest.raises(WrongThreadError):
            future.result()
        return await future

    assert run(main()) == 0


def test_an_active_poller_of_its_thread_and_the_loop_take_turns(run):
    runs = []

    async def main():
        poller = asyncio.get_running_loop().thread.register_poller(lambda: runs.append(1))
        for _ in range(50):
            await asyncio.sleep(0)
        poller.unregister()

    run(main())
    assert len(runs) >= 25
