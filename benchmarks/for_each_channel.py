"""`for_each_channel` over 1 to 1,000 threads of one reactor: when each has a channel, and when one in a hundred has."""

from __future__ import annotations

import threading
from time import perf_counter_ns

import spdkthread

from . import ours
from .environment import cores
from .for_each_thread import THREADS, chain
from .harness import Budget, Row, Side, compare

QUESTION = "What does for_each_channel cost per channel?"


def nothing(iterator) -> None:
    pass


def run(budget: Budget) -> list[Row]:
    ours.require("IoDevice")
    rows: list[Row] = []
    for threads in THREADS:
        for every in (1, 100):
            if every > threads:
                continue
            channels = threads // every
            rows += compare(
                f"{channels:,} channel{'s' * (channels > 1)} on {threads:,} thread{'s' * (threads > 1)}",
                iterations(threads, every),
                {"asyncio call_soon": chain("asyncio", channels)},
                budget,
                multiple=channels,
                figure="number-of-threads",
                series=f"a channel on 1 in {every}",
                x=threads,
            )
    return rows


def iterations(threads: int, every: int) -> Side:
    def side(count: int) -> float:
        lib = spdkthread.ThreadLib()
        device = spdkthread.IoDevice("benchmark", lib=lib).register()
        reactor = ours.reactor(lib, cores()[0])
        each = [reactor.create_thread(ring_size=64) for _ in range(threads)]
        with_channel = each[::every]
        channels = [thread.call(thread.get_io_channel, device).result() for thread in with_channel]
        left = count // len(channels)
        begin = end = 0
        done = threading.Event()

        def again(iterator=None, status: int = 0) -> None:
            nonlocal left, end
            if left == 0:
                end = perf_counter_ns()
                done.set()
                return
            left -= 1
            device.for_each_channel(nothing, None, again)

        def start() -> None:
            nonlocal begin
            begin = perf_counter_ns()
            again()

        each[0].send_msg(start)
        done.wait()
        for thread, channel in zip(with_channel, channels, strict=True):
            thread.call(channel.put).result()
        each[0].call(device.unregister).result()
        reactor.stop()
        return end - begin

    return side
