"""Mistakes that a type checker has to find: each comment that silences one is an error where there is nothing to silence."""

# pyright: reportUnnecessaryTypeIgnoreComment=true

import asyncio

from spdkthread import Reactor, ReactorGroup, SpdkThread, aio


def add(a: int, b: int) -> int:
    return a + b


def arguments(thread: SpdkThread, executor: aio.ThreadExecutor) -> None:
    thread.send_msg(add, 1)  # type: ignore[arg-type]
    thread.send_msg(add, 1, "2")  # type: ignore[arg-type]
    thread.try_send_msg(add, 1, 2, 3)  # type: ignore[arg-type]
    thread.send_msg_wait(add, "1", 2, timeout_s=1)  # type: ignore[arg-type]
    thread.send_many(add, [1, 2])  # type: ignore[arg-type]
    thread.exec_msg(add)  # type: ignore[arg-type]
    thread.call(add, None, 2)  # type: ignore[arg-type]
    thread.acall(add, 1, b"2")  # type: ignore[arg-type]
    thread.send_msg(3)  # type: ignore[arg-type]
    executor.submit(add, 1, c=2)  # type: ignore[call-arg]
    thread.register_poller(add)  # type: ignore[arg-type]
    thread.register_poller(lambda: "busy")  # type: ignore[arg-type, return-value]


async def results(thread: SpdkThread) -> None:
    a: str = await thread.acall(add, 1, 2)  # type: ignore[arg-type]
    b: str = await thread.call(add, 1, 2)  # type: ignore[arg-type]
    c: str = thread.call(add, 1, 2).result()  # type: ignore[assignment]
    d: str = thread.spawn(asyncio.sleep(0, 1)).result()  # type: ignore[assignment]
    print(a, b, c, d)


def choices() -> None:
    Reactor(idle="never")  # type: ignore[arg-type]
    ReactorGroup(scheduler="fair")  # type: ignore[arg-type]
    ReactorGroup(1).create_thread("a", ring_sise=8)  # type: ignore[call-arg]
    ReactorGroup(1).create_thread("a", poller_policy="some")  # type: ignore[arg-type]
