"""``python -m spdkthread COMMAND``: look at what runs, and run it."""

import importlib
import importlib.util
import sys
from collections.abc import Sequence

from spdkthread._version import __version__

__all__ = ["COMMANDS", "main"]

# Name: module and function, which gets the arguments behind the name, and what it does. A command whose module is not
# there is not offered.
COMMANDS = {
    "info": ("spdkthread.monitor.info:main", "what a bug report needs: versions, build, GIL, cores, back-ends"),
    "run": ("spdkthread.monitor.run:main", "run a script on some cores, with an RPC server, with another idle mode"),
    "top": ("spdkthread.monitor.top:main", "a live view of reactors, threads and pollers, also of an SPDK application"),
    "rpc": ("spdkthread.rpc.command:main", "call a method of a JSON-RPC server"),
    "trace": ("spdkthread.trace:main", "record what runs"),
    "perf": ("spdkthread.monitor.perf:main", "messages, turns and pollers a second: event_perf and its kin"),
    "bdevperf": ("spdkthread.bdev.perf:main", "requests a second of a file or block device"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit status."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_usage())
        return 0 if arguments else 2
    if arguments[0] == "--version":
        print(f"spdkthread {__version__}")
        return 0
    name, *rest = arguments
    if name not in COMMANDS or not _is_here(name):
        print(f"python -m spdkthread: there is no command {name!r}\n\n{_usage()}", file=sys.stderr)
        return 2
    module, _, function = COMMANDS[name][0].partition(":")
    try:
        return getattr(importlib.import_module(module), function)(rest) or 0
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        # What reads our output has ended. Nothing is left for the interpreter to write at its end.
        sys.stdout = None  # type: ignore[assignment]
        return 141


def _is_here(name: str) -> bool:
    try:
        return importlib.util.find_spec(COMMANDS[name][0].partition(":")[0]) is not None
    except ModuleNotFoundError:
        return False


def _usage() -> str:
    lines = ["usage: python -m spdkthread COMMAND ...", ""]
    lines += [f"  {name:<9} {what}" for name, (_, what) in COMMANDS.items() if _is_here(name)]
    lines += ["", "python -m spdkthread COMMAND --help says more. --version: the version."]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
