"""Tracing by RPC: SPDK's methods on one group of trace points, and two of our own that start a trace and write it.

A trace of this library records every kind of event or none: the mask of the group says which of them are written to
the file.
"""

import os
from typing import Any

from spdkthread import trace
from spdkthread.rpc.decode import Param, rpc_method, string, unsigned
from spdkthread.rpc.errors import INTERNAL_ERROR, RpcError, invalid_params
from spdkthread.rpc.server import Method, Server, add_table

__all__ = ["METHODS"]

METHODS: list[Method] = []

GROUP = "spdkthread"
ALL_TPOINTS = (1 << len(trace.KINDS)) - 1
MAX_ENTRIES = 1 << 26

_mask = 0


def _check_group(name: str) -> None:
    if name not in (GROUP, "all"):
        raise invalid_params(f"Invalid parameters: the groups are {GROUP!r} and 'all', not {name!r}")


def _set_mask(mask: int) -> bool:
    """Record while any trace point is enabled; what has been recorded is dropped when the last one is disabled."""
    global _mask
    if mask and not trace.is_running():
        trace.start()
    elif not mask and trace.is_running():
        trace.stop()
    _mask = mask
    return True


@rpc_method(METHODS, "trace_enable_tpoint_group", {"name": Param(string)}, states="SR")
def trace_enable_tpoint_group(server: Server, name: str) -> bool:
    _check_group(name)
    return _set_mask(ALL_TPOINTS)


@rpc_method(METHODS, "trace_disable_tpoint_group", {"name": Param(string)}, states="SR")
def trace_disable_tpoint_group(server: Server, name: str) -> bool:
    _check_group(name)
    return _set_mask(0)


_POINTS = {"name": Param(string), "tpoint_mask": Param(unsigned(64))}


@rpc_method(METHODS, "trace_set_tpoint_mask", _POINTS, states="SR")
def trace_set_tpoint_mask(server: Server, name: str, tpoint_mask: int) -> bool:
    _check_group(name)
    return _set_mask((_current_mask() | tpoint_mask) & ALL_TPOINTS)


@rpc_method(METHODS, "trace_clear_tpoint_mask", _POINTS, states="SR")
def trace_clear_tpoint_mask(server: Server, name: str, tpoint_mask: int) -> bool:
    _check_group(name)
    return _set_mask(_current_mask() & ~tpoint_mask)


def _current_mask() -> int:
    # A trace that the program started itself has every event.
    return (_mask or ALL_TPOINTS) if trace.is_running() else 0


@rpc_method(METHODS, "trace_get_tpoint_group_mask", states="SR")
def trace_get_tpoint_group_mask(server: Server) -> dict[str, Any]:
    mask = _current_mask()
    points = [
        {"name": name.upper().replace(" ", "_"), "tpoint_id": number - 1, "enabled": bool(mask >> (number - 1) & 1)}
        for number, name in trace.KINDS.items()
    ]
    group = {"enabled": bool(mask), "mask": "0x1", "tpoint_mask": f"{mask:#x}", "tpoints": points}
    return {"tpoint_group_mask": f"{int(bool(mask)):#x}", GROUP: group}


@rpc_method(METHODS, "trace_get_info", states="SR")
def trace_get_info(server: Server) -> dict[str, Any]:
    mask = _current_mask()
    # The rings are memory of the process: no file of shared memory shows them.
    return {
        "tpoint_shm_path": "",
        "tpoint_group_mask": f"{int(bool(mask)):#x}",
        GROUP: {"mask": "0x1", "tpoint_mask": f"{mask:#x}"},
    }


@rpc_method(METHODS, "trace_clear")
def trace_clear(server: Server) -> bool:
    """Forget what has been recorded so far."""
    if trace.is_running():
        trace.stop()
        trace.start()
    return True


@rpc_method(METHODS, "spdkthread_trace_start", {"entries": Param(unsigned(32), optional=True)}, states="SR")
def spdkthread_trace_start(server: Server, entries: int = 32768) -> bool:
    """Start a trace with so many events for each OS thread."""
    global _mask
    if not 1 <= entries <= MAX_ENTRIES:
        raise invalid_params(f"Invalid parameters: entries must be between 1 and {MAX_ENTRIES}")
    try:
        trace.start(entries)
    except trace.TraceError as error:
        raise RpcError(INTERNAL_ERROR, str(error)) from None
    _mask = ALL_TPOINTS
    return True


@rpc_method(METHODS, "spdkthread_trace_save", {"path": Param(string)}, states="SR")
def spdkthread_trace_save(server: Server, path: str) -> dict[str, Any]:
    """Stop the trace and write it where this process can, for Perfetto."""
    global _mask
    if not os.path.isabs(path):
        raise invalid_params("Invalid parameters: the path must be absolute: it is this process's to write to")
    mask = _current_mask()
    try:
        recorded = trace.stop()
    except trace.TraceError as error:
        raise RpcError(INTERNAL_ERROR, str(error)) from None
    _mask = 0
    if mask != ALL_TPOINTS:
        recorded = recorded.only(name for number, name in trace.KINDS.items() if mask >> (number - 1) & 1)
    try:
        recorded.save(path)
    except OSError as error:
        raise RpcError(INTERNAL_ERROR, f"{path}: {error.strerror}") from None
    return {"path": path, "events": len(recorded), "lost": recorded.lost}


ALIASES = {
    "disable_tpoint_group": "trace_disable_tpoint_group",
    "enable_tpoint_group": "trace_enable_tpoint_group",
    "get_tpoint_group_mask": "trace_get_tpoint_group_mask",
}

add_table(METHODS, ALIASES)
