"""The other ways in which Python threads are made to talk to each other, each measured as its users would write it.

A *receiver* is an OS thread that runs what it is sent:

    start(core)            begin, pinned to that core
    burst(n, fn, arg)      send fn(arg) n times, from any thread, in the tightest loop that the peer allows
    send(fn, arg)          once
    stop()

A *ping-pong* is two OS threads that answer each other: ``run(n, samples=None)`` makes n round trips and returns the
nanoseconds that they took; each single one is appended to `samples`.

Where a peer cannot carry a function (pyzmq), the receiver runs an agreed one: less work, to the peer's advantage.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable

RECEIVERS = {
    "SimpleQueue": ("queues", "SimpleQueueReceiver"),
    "asyncio": ("loops", "AsyncioReceiver"),
    "uvloop": ("loops", "UvloopReceiver"),
    "janus": ("queues", "JanusReceiver"),
    "culsans": ("queues", "CulsansReceiver"),
    "ThreadPoolExecutor": ("executor", "ExecutorReceiver"),
    "pyzmq inproc": ("zeromq", "ZmqReceiver"),
}

PINGPONGS = {
    "SimpleQueue": ("queues", "SimpleQueuePingPong"),
    "asyncio": ("loops", "AsyncioPingPong"),
    "uvloop": ("loops", "UvloopPingPong"),
    "janus": ("queues", "JanusPingPong"),
    "culsans": ("queues", "CulsansPingPong"),
    "ThreadPoolExecutor": ("executor", "ExecutorPingPong"),
    "pyzmq inproc": ("zeromq", "ZmqPingPong"),
}


def load(where: tuple[str, str]) -> Callable:
    """Import one peer; ImportError says that it is not installed."""
    return getattr(importlib.import_module(f"{__name__}.{where[0]}"), where[1])
