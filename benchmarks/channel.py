"""Get and put of an I/O channel that exists, and of one that is created and destroyed each time."""

from __future__ import annotations

import threading

from . import ours
from .environment import cores
from .harness import Budget, Row, compare, pinned, timed

QUESTION = "What does getting and putting an I/O channel cost?"


def run(budget: Budget) -> list[Row]:
    ours.require("IoDevice")
    from spdkthread import IoDevice

    thread = ours.one_driven_thread()
    device = IoDevice("benchmark", lib=thread.lib).register()
    local, lock = threading.local(), threading.Lock()
    local.ctx = device

    def get_put(count: int) -> None:
        get = thread.get_io_channel
        for _ in range(count):
            get(device).put()

    def local_look_up(count: int) -> None:
        for _ in range(count):
            local.ctx  # noqa: B018

    def with_lock(count: int) -> None:
        for _ in range(count):
            with lock:
                pass

    def create_destroy(count: int) -> None:
        get, poll = thread.get_io_channel, thread.poll
        for _ in range(count):
            get(device).put()
            poll()

    with pinned(cores()[0]), thread:
        channel = thread.get_io_channel(device)
        rows = compare(
            "get + put, existing",
            timed(get_put),
            {"threading.local attribute": timed(local_look_up), "an uncontended Lock": timed(with_lock)},
            budget,
        )
        channel.put()
        thread.poll()
        rows += compare("get + put, created and destroyed", timed(create_destroy), {}, budget)
    return rows
