"""concurrent.futures.ThreadPoolExecutor with one worker."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from time import perf_counter_ns

from ..harness import pin, pinned


class ExecutorReceiver:
    def start(self, core: int) -> None:
        self._executor = ThreadPoolExecutor(1, initializer=pin, initargs=(core,))
        self._executor.submit(int).result()
        self.send = self._executor.submit

    def burst(self, count: int, fn, arg) -> None:
        submit = self._executor.submit
        for _ in range(count):
            submit(fn, arg)

    def stop(self) -> None:
        self._executor.shutdown()


class ExecutorPingPong:
    """A round trip is ``submit(fn).result()``: there is no cheaper way to hear back."""

    def start(self, first: int, second: int) -> None:
        self._first = first
        self._executor = ThreadPoolExecutor(1, initializer=pin, initargs=(second,))
        self._executor.submit(int).result()

    def run(self, count: int, samples: list[int] | None = None) -> float:
        submit = self._executor.submit
        with pinned(self._first):
            begin = last = perf_counter_ns()
            for _ in range(count):
                submit(int).result()
                if samples is not None:
                    now = perf_counter_ns()
                    samples.append(now - last)
                    last = now
            return perf_counter_ns() - begin

    def stop(self) -> None:
        self._executor.shutdown()
