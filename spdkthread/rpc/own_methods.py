"""What only this library has to show, as ``spdkthread_*``."""

import os
import sys
from concurrent.futures import Future
from typing import Any

from spdkthread._version import __version__
from spdkthread.clock import TICKS_HZ
from spdkthread.rpc.decode import Param, rpc_method, unsigned
from spdkthread.rpc.errors import invalid_params
from spdkthread.rpc.gather import ReactorView, ThreadView
from spdkthread.rpc.machine import context_switches
from spdkthread.rpc.methods import read_reactors, read_threads
from spdkthread.rpc.server import Method, Server, add_table

__all__ = ["METHODS"]

METHODS: list[Method] = []


@rpc_method(METHODS, "spdkthread_get_rings")
def get_rings(server: Server) -> Future:
    """What waits, waited and was refused in the message ring of each thread, and what its callbacks did."""

    def write(views: list[ThreadView]) -> dict[str, Any]:
        return {"tick_rate": TICKS_HZ, "threads": [_ring(view) for view in views]}

    return read_threads(server, write)


def _ring(view: ThreadView) -> dict[str, Any]:
    stats = view.stats
    return {
        "name": view.name,
        "id": view.id,
        "state": view.state,
        "ring_size": view.ring_size,
        "pending": view.pending_msgs,
        "high_water": stats.high_water,
        "refused": stats.ring_full,
        "msgs_run": stats.msgs_run,
        "pollers_run": stats.pollers_run,
        "polls": stats.polls,
        "errors": stats.errors,
        "answered": view.answered,
    }


@rpc_method(METHODS, "spdkthread_get_reactors")
def get_reactors(server: Server) -> Future:
    """How each reactor sleeps, wakes and waits for the GIL, and what holds up one that does not answer."""

    def write(views: list[ReactorView]) -> dict[str, Any]:
        return {"tick_rate": TICKS_HZ, "pid": os.getpid(), "reactors": [_reactor(view) for view in views]}

    return read_reactors(server, write)


def _reactor(view: ReactorView) -> dict[str, Any]:
    voluntary, taken = context_switches(view.tid) if view.tid else (0, 0)
    return {
        "lcore": view.lcore,
        "core": view.core,
        "name": view.name,
        "state": view.state,
        "idle_mode": view.idle,
        **view.stats._asdict(),
        "voluntary_switches": voluntary,
        "involuntary_switches": taken,
        "threads": [id for id, *_ in view.threads],
        "answered": view.answered,
        "running": view.running or None,
    }


@rpc_method(METHODS, "spdkthread_get_exit_blockers", {"id": Param(unsigned(64), optional=True)})
def get_exit_blockers(server: Server, id: int | None = None) -> list[dict[str, Any]]:
    """What keeps each thread, or one, from exiting."""
    threads = server.lib.threads
    if id is not None:
        threads = tuple(thread for thread in threads if thread.id == id)
        if not threads:
            raise invalid_params(f"Thread {id} does not exist")
    return [
        {"name": thread.name, "id": thread.id, "state": thread.state, "blockers": list(thread.exit_blockers)}
        for thread in threads
    ]


@rpc_method(METHODS, "spdkthread_get_errors")
def get_errors(server: Server) -> dict[str, Any]:
    """The exceptions that left callbacks: how many, and each distinct one of the default handler's log."""
    lib = server.lib
    return {
        "error_count": lib.error_count,
        "lost_msgs": lib.lost_msgs,
        "failures": [
            {
                "message": one.message,
                "exception": one.exception,
                "count": one.count,
                "thread_id": one.thread_id,
                "first_ns": one.first_ns,
                "last_ns": one.last_ns,
            }
            for one in lib.error_log.records()
        ],
    }


@rpc_method(METHODS, "spdkthread_get_info")
def get_info(server: Server) -> dict[str, Any]:
    """What runs here: the versions, the process, whether the interpreter has a GIL."""
    gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    return {
        "version": __version__,
        "python": sys.version.split()[0],
        "gil": bool(gil),
        "pid": os.getpid(),
        "executable": sys.executable,
        "threads": len(server.lib.threads),
        "devices": [device.name for device in server.lib.devices],
    }


add_table(METHODS)
