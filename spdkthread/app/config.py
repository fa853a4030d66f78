"""A JSON configuration: RPCs by subsystem, replayed before and after the framework is initialized."""

import json
import os
from collections.abc import Iterator
from typing import Any, NamedTuple

from spdkthread.errors import SpdkThreadError
from spdkthread.rpc.errors import RpcError
from spdkthread.rpc.server import Server

__all__ = ["ConfigError", "Request", "load_config", "replay"]


class ConfigError(SpdkThreadError):
    """A configuration cannot be read, or one of its RPCs failed."""


class Request(NamedTuple):
    """One RPC of a configuration."""

    subsystem: str
    method: str
    params: dict[str, Any] | None


def load_config(config: str | os.PathLike[str] | dict[str, Any]) -> list[Request]:
    """Read a configuration as ``save_config`` of SPDK's ``rpc.py`` writes it.

    Parameters
    ----------
    config : path or dict
        ``{"subsystems": [{"subsystem": name, "config": [{"method": name, "params": {...}}, ...]}, ...]}``.

    Raises
    ------
    ConfigError
        When it has another form, or is no JSON.
    OSError
        When the file cannot be read.

    Notes
    -----
    **Thread safety:** any OS thread. Answers to ``spdk_subsystem_load_config``.
    """
    where = "the configuration"
    if not isinstance(config, dict):
        where = repr(os.fspath(config))
        with open(config, encoding="utf-8") as file:
            try:
                config = json.load(file)
            except ValueError as error:
                raise ConfigError(f"{where} is no JSON: {error}") from None
    try:
        return list(_requests(config))
    except (AttributeError, KeyError, TypeError, ValueError):
        raise ConfigError(
            f'{where} must be {{"subsystems": [{{"subsystem": name, "config": [{{"method": name, "params": {{}}}}]}}]}}'
        ) from None


def _requests(config: Any) -> Iterator[Request]:
    for subsystem in config["subsystems"]:
        for one in subsystem.get("config") or ():
            params = one.get("params")
            if not isinstance(one["method"], str) or not isinstance(params, dict | None):
                raise ValueError(one)
            yield Request(subsystem["subsystem"], one["method"], params)


def replay(server: Server, requests: list[Request], *, startup: bool) -> None:
    """Call those methods of a configuration that are of the start-up state, or the others.

    A method of both states is called once, in the start-up state. An unknown one is an error when the others are.

    Raises
    ------
    ConfigError
        When one fails; the later ones are not called.
    """
    for one in requests:
        if server.is_startup_method(one.method) == startup:
            try:
                server.call(one.method, one.params)
            except RpcError as error:
                raise ConfigError(f"{one.method} of subsystem {one.subsystem!r} with {one.params}: {error}") from error
