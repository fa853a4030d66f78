"""``python -m spdkthread run``: a script, with what it would otherwise have to ask for itself."""

import argparse
import atexit
import os
import runpy
import sys
from collections.abc import Sequence
from pathlib import Path

from spdkthread.core_claims import CoreClaims, CoreInUseError
from spdkthread.cores import allowed_cores, keep_to, parse_cores
from spdkthread.trace import start_from_environment

__all__ = ["main"]


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m spdkthread run",
        description="Run a Python script. Its reactors take the cores, the idle mode and the RPC socket given here.",
    )
    parser.add_argument(
        "--cores",
        metavar="CORES",
        help='the cores that it may use: "0-3,6" or a mask "0x4f"; default: all allowed',
    )
    parser.add_argument(
        "--rpc", metavar="PATH", help="open a JSON-RPC server there when the script makes its first Reactor"
    )
    parser.add_argument(
        "--idle", choices=("adaptive", "poll", "yield"), help='the idle mode of each Reactor that would be "adaptive"'
    )
    parser.add_argument(
        "--trace", metavar="FILE", help="record a trace and write it there at the end; %%p is the process's number"
    )
    parser.add_argument(
        "--lock-cores", action="store_true", help="claim the cores by lock files, as SPDK's applications do"
    )
    parser.add_argument("script", metavar="SCRIPT", help="a file, or with -m before it the name of a module")
    parser.add_argument("-m", dest="module", action="store_true", help="SCRIPT is the name of a module")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="...", help="the script's own")
    arguments = parser.parse_args(argv)
    if arguments.cores is not None:
        try:
            keep_to(parse_cores(arguments.cores))
        except (OSError, ValueError) as error:
            parser.error(f"--cores {arguments.cores}: {error}")
    if arguments.lock_cores:
        try:
            # Until the process ends.
            claims = CoreClaims(allowed_cores())
        except (CoreInUseError, OSError) as error:
            parser.error(f"--lock-cores: {error}")
        atexit.register(claims.release)
    if arguments.trace is not None:
        start_from_environment(arguments.trace)
    if arguments.rpc is not None:
        os.environ["SPDKTHREAD_RPC_SOCKET"] = os.path.abspath(arguments.rpc)
    if arguments.idle is not None:
        os.environ["SPDKTHREAD_IDLE"] = arguments.idle
    sys.argv = [arguments.script, *arguments.arguments]
    if arguments.module:
        sys.path.insert(0, os.getcwd())
        runpy.run_module(arguments.script, run_name="__main__", alter_sys=True)
        return 0
    if not Path(arguments.script).is_file():
        parser.error(f"there is no file {arguments.script!r}")
    sys.path.insert(0, str(Path(arguments.script).resolve().parent))
    runpy.run_path(arguments.script, run_name="__main__")
    return 0
