"""What an application is started with, from Python or from a command line."""

import argparse
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from spdkthread.cores import parse_cores
from spdkthread.lib import ThreadLib

__all__ = ["AppOptions", "add_arguments", "parse_args"]


@dataclass(kw_only=True)
class AppOptions:
    """The options of `run`. Answers to ``struct spdk_app_opts``."""

    name: str = "spdkthread"
    """For messages."""
    cores: int | str | Iterable[int] | None = None
    """As for `ReactorGroup`."""
    lock_cores: bool = True
    """Claim them, see `spdkthread.app.CoreClaims`."""
    idle: Literal["adaptive", "poll", "yield"] = "adaptive"
    scheduler: Literal["static", "dynamic"] = "static"
    period_us: float = 1_000_000
    """Of the scheduler, in microseconds."""
    rpc: str | None = None
    """Where a JSON-RPC server listens, as for `spdkthread.rpc.Server`; None: nowhere."""
    rpcs_allowed: Iterable[str] | None = None
    """The methods that its clients may call; None: all."""
    wait_for_rpc: bool = False
    """Start no reactor before a client has called ``framework_start_init``."""
    config: str | dict[str, Any] | None = None
    """A JSON configuration, or the path of one: its RPCs are replayed."""
    trace: str | None = None
    """Record a trace from the start and write it there at the end."""
    shutdown: Callable[["Any"], object] | None = None
    """``shutdown(app)`` on the app thread, when SIGINT or SIGTERM comes; it calls ``app.stop()``, now or later. None:
    the signal stops the application."""
    lib: ThreadLib | None = None
    """By default a library of its own, closed at the end."""
    lock_directory: str = field(default="/var/tmp", repr=False)
    """Where the lock files of the cores are."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of every application to a parser; one of the program's own with such a name is an error there.

    Notes
    -----
    **Thread safety:** any OS thread. Answers to ``spdk_app_usage``.
    """
    group = parser.add_argument_group("application framework")
    group.add_argument("-m", "--cpumask", metavar="CORES", help='the cores: "0-3,6", "[0,2]" or a mask "0x4f"')
    group.add_argument("--disable-cpumask-locks", action="store_true", help="do not claim the cores by lock files")
    group.add_argument("-r", "--rpc-socket", metavar="PATH", help="listen for JSON-RPC there, a path or HOST:PORT")
    group.add_argument("--rpcs-allowed", metavar="NAMES", help="comma-separated methods that may be called")
    group.add_argument("--wait-for-rpc", action="store_true", help="start when framework_start_init is called")
    group.add_argument("-c", "--config", metavar="FILE", help="replay the RPCs of this JSON configuration")
    group.add_argument("-e", "--trace", metavar="FILE", help="record a trace and write it there at the end")
    group.add_argument("--idle", choices=("adaptive", "poll", "yield"), default="adaptive", help="default: %(default)s")
    group.add_argument(
        "--scheduler", choices=("static", "dynamic"), default="static", help="where threads go; default: %(default)s"
    )


def parse_args(
    argv: Sequence[str] | None = None, parser: argparse.ArgumentParser | None = None
) -> tuple[AppOptions, argparse.Namespace]:
    """Read a command line.

    Parameters
    ----------
    argv : sequence of str, optional
        By default ``sys.argv[1:]``.
    parser : argparse.ArgumentParser, optional
        With the program's own arguments; those of `add_arguments` are added.

    Returns
    -------
    tuple of AppOptions and argparse.Namespace
        The options of `run`, and everything that was parsed.

    Raises
    ------
    SystemExit
        With status 0 for ``--help`` and 2 for what cannot be read, as ``argparse`` does.

    Notes
    -----
    **Thread safety:** any OS thread. Answers to ``spdk_app_parse_args``.
    """
    if parser is None:
        parser = argparse.ArgumentParser()
    add_arguments(parser)
    found = parser.parse_args(argv)
    if found.cpumask is not None:
        try:
            parse_cores(found.cpumask)
        except ValueError as error:
            parser.error(f"--cpumask {found.cpumask}: {error}")
    if found.wait_for_rpc and found.rpc_socket is None:
        parser.error("--wait-for-rpc needs --rpc-socket: nothing could end the wait")
    options = AppOptions(
        name=parser.prog,
        cores=found.cpumask,
        lock_cores=not found.disable_cpumask_locks,
        idle=found.idle,
        scheduler=found.scheduler,
        rpc=found.rpc_socket,
        rpcs_allowed=None if found.rpcs_allowed is None else [name for name in found.rpcs_allowed.split(",") if name],
        wait_for_rpc=found.wait_for_rpc,
        config=found.config,
        trace=found.trace,
    )
    return options, found
