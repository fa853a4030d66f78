"""The parameters of SPDK's methods, read as strictly as SPDK reads them."""

import functools
from collections.abc import Callable
from typing import Any

from spdkthread.rpc.errors import invalid_params
from spdkthread.rpc.server import Method, Server

__all__ = ["Param", "boolean", "rpc_method", "string", "unsigned"]


def unsigned(bits: int) -> Callable[[Any], int]:
    """A decoder of unsigned integers; ``5.0`` is one, as in SPDK."""

    def decode(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, (int, float)) or value != int(value):
            raise ValueError("not an integer")
        if not 0 <= value < 1 << bits:
            raise ValueError(f"not an unsigned integer of {bits} bits")
        return int(value)

    return decode


def string(value: Any) -> str:
    """A decoder of strings; SPDK's end at a NUL, so none may be inside."""
    if not isinstance(value, str) or "\0" in value:
        raise ValueError("not a string without NUL")
    return value


def boolean(value: Any) -> bool:
    """A decoder of true and false."""
    if not isinstance(value, bool):
        raise ValueError("neither true nor false")
    return value


class Param:
    """One parameter: how it is read, and whether it may be missing."""

    def __init__(self, decode: Callable[[Any], Any], *, optional: bool = False):
        self.decode = decode
        self.optional = optional


def rpc_method(
    table: list[Method],
    name: str,
    params: dict[str, Param] | None = None,
    *,
    ignore_params: bool = False,
    states: str = "R",
) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: ``fn(server, **params)`` in `table` under its name.

    Parameters
    ----------
    params : dict, optional
        None: it takes none.
    ignore_params : bool
        It takes any and looks at none.
    states : str
        ``"S"`` start-up, ``"R"`` run time, ``"SR"`` both: when it may be called.
    """

    def add(fn: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(fn)
        def run(server: Server, given: Any) -> Any:
            if params is None:
                if given is not None and not ignore_params:
                    raise invalid_params(f"{name!r} requires no arguments")
                return fn(server)
            return fn(server, **_decode(name, params, given))

        table.append(Method(name, run, "S" in states, "R" in states))
        return fn

    return add


def _decode(name: str, params: dict[str, Param], given: Any) -> dict[str, Any]:
    if given is None:
        given = {}
    if not isinstance(given, dict):
        raise invalid_params(f"Invalid parameters: {name!r} takes an object")
    if getattr(given, "repeated", False):
        raise invalid_params(f"Invalid parameters: {name!r} was given a name twice")
    if unknown := [key for key in given if key not in params]:
        raise invalid_params(f"Invalid parameters: {name!r} has no parameter {unknown[0]!r}")
    if missing := [key for key, param in params.items() if not param.optional and key not in given]:
        raise invalid_params(f"Invalid parameters: {name!r} needs {missing[0]!r}")
    decoded = {}
    for key, value in given.items():
        try:
            decoded[key] = params[key].decode(value)
        except (ValueError, OverflowError) as error:
            raise invalid_params(f"Invalid parameters: {key!r} of {name!r} is {error}") from None
    return decoded
