"""Notifications: what happened in a program, kept for clients that ask. A client is never told without asking.

Types are registered by the program; the library itself has none.
"""

import itertools
import os
from collections import deque
from typing import Any, NamedTuple

from spdkthread.forks import ReentrantLock
from spdkthread.rpc.decode import Param, rpc_method, unsigned
from spdkthread.rpc.server import Method, Server, add_table

__all__ = ["METHODS", "Notification", "notifications", "register_type", "send"]

KEPT = 1024
MAX_BYTES = 127

METHODS: list[Method] = []


class Notification(NamedTuple):
    """One notification; its id counts up from 0."""

    type: str
    ctx: str
    id: int


_types: list[str] = []
_kept: deque[Notification] = deque(maxlen=KEPT)
_ids = itertools.count()
_lock = ReentrantLock()


def register_type(type: str) -> None:
    """Have a type of notifications. A second time it does nothing.

    Raises
    ------
    TypeError, ValueError
        When it is no str, empty, or longer than 127 bytes.

    Notes
    -----
    **Thread safety:** any OS thread. Answers to ``spdk_notify_type_register``.
    """
    _check("type", type)
    with _lock:
        if type not in _types:
            _types.append(type)


def send(type: str, ctx: str = "") -> int:
    """Keep a notification; the oldest of more than 1,024 is dropped.

    Returns
    -------
    int
        Its id.

    Raises
    ------
    ValueError
        When no such type was registered, or `ctx` has more than 127 bytes.

    Notes
    -----
    **Thread safety:** any OS thread. Answers to ``spdk_notify_send``.
    """
    _check("type", type)
    _check("ctx", ctx, empty=True)
    with _lock:
        if type not in _types:
            raise ValueError(f"no type {type!r} of notifications was registered: register_type({type!r}) first")
        made = Notification(type, ctx, next(_ids))
        _kept.append(made)
    return made.id


def notifications(first_id: int = 0, max_count: int | None = None) -> list[Notification]:
    """Those kept, from `first_id` on or from the oldest, at most `max_count`. **Thread safety:** any OS thread."""
    with _lock:
        found = [one for one in _kept if one.id >= first_id]
    return found if max_count is None else found[:max_count]


def _check(name: str, value: object, *, empty: bool = False) -> None:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a str, got {type(value).__name__}")
    if not value and not empty:
        raise ValueError(f"{name} must not be empty")
    if len(value.encode()) > MAX_BYTES:
        raise ValueError(f"{name} must have at most {MAX_BYTES} bytes, got {len(value.encode())}")


@rpc_method(METHODS, "notify_get_types")
def notify_get_types(server: Server) -> list[str]:
    return list(_types)


@rpc_method(
    METHODS,
    "notify_get_notifications",
    {"id": Param(unsigned(64), optional=True), "max": Param(unsigned(64), optional=True)},
)
def notify_get_notifications(server: Server, id: int = 0, max: int | None = None) -> list[dict[str, Any]]:
    return [one._asdict() for one in notifications(id, max)]


def _forget_in_child() -> None:
    # What happened in the parent is the parent's to tell.
    global _ids
    _kept.clear()
    _ids = itertools.count()


os.register_at_fork(after_in_child=_forget_in_child)

add_table(METHODS, {"get_notification_types": "notify_get_types", "get_notifications": "notify_get_notifications"})
