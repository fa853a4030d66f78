"""pyzmq over inproc: bytes in, bytes out, and an agreed function in place of one that travels."""

from __future__ import annotations

import threading
from time import perf_counter_ns

import zmq

from ..harness import pin, pinned

ADDRESS = "inproc://benchmark"


class ZmqReceiver:
    """Carries eight bytes. A function other than the first one goes beside the socket, and is rare."""

    def start(self, core: int) -> None:
        self._context = zmq.Context()
        self._pull = self._context.socket(zmq.PULL)
        self._pull.set_hwm(0)
        self._pull.bind(ADDRESS)
        self._fn = None
        self._others: dict[bytes, tuple] = {}
        self._local = threading.local()
        self._thread = threading.Thread(target=self._run, args=(core,), daemon=True)
        self._thread.start()

    def _run(self, core: int) -> None:
        pin(core)
        recv, others = self._pull.recv, self._others
        while True:
            data = recv()
            if data == b"message!":
                self._fn(1)
            elif data == b"stop":
                return
            else:
                fn, arg = others.pop(data)
                fn(arg)

    def _push(self):
        # A ZeroMQ socket belongs to one thread.
        if not hasattr(self._local, "socket"):
            self._local.socket = self._context.socket(zmq.PUSH)
            self._local.socket.set_hwm(0)
            self._local.socket.connect(ADDRESS)
        return self._local.socket

    def send(self, fn, arg) -> None:
        key = b"%d.%d" % (threading.get_ident(), perf_counter_ns())
        self._others[key] = fn, arg
        self._push().send(key)

    def burst(self, count: int, fn, arg) -> None:
        self._fn = fn
        send = self._push().send
        for _ in range(count):
            send(b"message!")

    def stop(self) -> None:
        self._push().send(b"stop")
        self._thread.join(10)
        self._context.destroy(linger=0)


class ZmqPingPong:
    def start(self, first: int, second: int) -> None:
        self._first = first
        self._context = zmq.Context()
        self._here = self._context.socket(zmq.PAIR)
        self._here.bind(ADDRESS)
        self._thread = threading.Thread(target=self._echo, args=(second,), daemon=True)
        self._thread.start()

    def _echo(self, core: int) -> None:
        pin(core)
        there = self._context.socket(zmq.PAIR)
        there.connect(ADDRESS)
        recv, send = there.recv, there.send
        while (data := recv()) != b"stop":
            send(data)
        there.close()

    def run(self, count: int, samples: list[int] | None = None) -> float:
        send, recv = self._here.send, self._here.recv
        with pinned(self._first):
            begin = last = perf_counter_ns()
            for _ in range(count):
                send(b"message!")
                recv()
                if samples is not None:
                    now = perf_counter_ns()
                    samples.append(now - last)
                    last = now
            return perf_counter_ns() - begin

    def stop(self) -> None:
        self._here.send(b"stop")
        self._thread.join(10)
        self._context.destroy(linger=0)
