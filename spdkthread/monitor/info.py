"""``python -m spdkthread info``: what a report of a fault needs."""

import argparse
import importlib.util
import json
import os
import platform
import select
import sys
import sysconfig
from collections.abc import Sequence
from typing import Any

from spdkthread._version import __version__

__all__ = ["main"]


def collect() -> dict[str, Any]:
    """The facts, by name."""
    import numpy

    from spdkthread import thread
    from spdkthread.bdev.device import uring_refusal
    from spdkthread.cores import allowed_cores
    from spdkthread.sock import sock

    refusal = uring_refusal()
    look = "epoll" if hasattr(select, "epoll") else "kqueue"
    sock_refusal = sock.uring_refusal()

    return {
        "spdkthread": __version__,
        "build": thread.__file__,
        "compiler": sysconfig.get_config_var("CC") or platform.python_compiler(),
        "python": sys.version.replace("\n", " "),
        "gil": bool(getattr(sys, "_is_gil_enabled", lambda: True)()),
        "free_threaded_build": bool(sysconfig.get_config_var("Py_GIL_DISABLED")),
        "numpy": numpy.__version__,
        "system": platform.platform(),
        "cores": sorted(allowed_cores()),
        "cores_of_the_machine": os.cpu_count(),
        "switch_interval_s": sys.getswitchinterval(),
        "io_uring": f"refused: {refusal}" if refusal else "available",
        "packages": [
            name
            for name in ("aio", "sock", "bdev", "rpc", "monitor", "trace", "testing")
            if importlib.util.find_spec(f"spdkthread.{name}") is not None
        ],
        "backends": {
            "descriptors": look,
            "sockets": f"{look} (io_uring was refused: {sock_refusal})" if sock_refusal else f"{look}, io_uring",
            "files": f"threads (io_uring was refused: {refusal})" if refusal else "io_uring",
        },
        "environment": {name: value for name, value in os.environ.items() if name.startswith("SPDKTHREAD_")},
    }


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m spdkthread info", description="Print what a report of a fault needs to say."
    )
    parser.add_argument("--json", action="store_true", help="as one JSON object")
    arguments = parser.parse_args(argv)
    facts = collect()
    if arguments.json:
        print(json.dumps(facts, indent=2))
        return 0
    width = max(map(len, facts))
    for name, value in facts.items():
        if isinstance(value, dict):
            value = ", ".join(f"{key} {one}" for key, one in value.items()) or "-"
        elif isinstance(value, list):
            value = ", ".join(map(str, value))
        print(f"{name.replace('_', ' '):<{width}}  {value}")
    return 0
