"""The machine that a figure was measured on, printed with every table: a figure without it means nothing."""

import functools
import os
import platform
import sys
import sysconfig
from importlib import metadata


@functools.cache
def cores() -> list[int]:
    """Return the cores that this process could use when it was asked first, in order: later some threads are pinned."""
    if hasattr(os, "sched_getaffinity"):
        return sorted(os.sched_getaffinity(0))
    return list(range(os.cpu_count() or 1))


def cpu_model() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            for line in file:
                if line.startswith("model name"):
                    return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def cpu_times() -> dict[str, float] | None:
    """Return the machine's CPU time and our own so far, in seconds, or None where the kernel does not tell."""
    try:
        with open("/proc/stat") as file:
            fields = [int(field) for field in file.readline().split()[1:]]
    except (OSError, ValueError):
        return None
    hertz = os.sysconf("SC_CLK_TCK")
    times = os.times()
    # Guest time is part of user time already, so the first eight fields are the whole.
    return {
        "all": sum(fields[:8]) / hertz,
        "idle": (fields[3] + fields[4]) / hertz,
        "steal": fields[7] / hertz,
        "own": times.user + times.system + times.children_user + times.children_system,
    }


def cpu_shares(before: dict[str, float] | None, after: dict[str, float] | None) -> dict[str, float]:
    """Return which share of the machine others took between two `cpu_times`, in percent."""
    if before is None or after is None or after["all"] == before["all"]:
        return {}
    passed = {key: after[key] - before[key] for key in after}
    others = passed["all"] - passed["idle"] - passed["steal"] - passed["own"]
    return {
        "steal_percent": 100 * passed["steal"] / passed["all"],
        "others_percent": max(0.0, 100 * others / passed["all"]),
    }


def is_free_threaded() -> bool:
    return bool(sysconfig.get_config_var("Py_GIL_DISABLED")) and not getattr(sys, "_is_gil_enabled", lambda: True)()


def version(distribution: str) -> str:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return "not installed"


def library_version() -> str:
    # Not the installed distribution's: the tree itself may be on the path.
    try:
        import spdkthread
    except ImportError as reason:
        return f"not there ({reason})"
    return spdkthread.__version__


def describe() -> dict[str, object]:
    """Return the facts that do not change during a run."""
    return {
        "cpu": cpu_model(),
        "cores": len(cores()),
        "system": f"{platform.system()} {platform.release()} {platform.machine()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "build": "free-threaded" if is_free_threaded() else "GIL",
        "switch_interval_ms": 1000 * sys.getswitchinterval(),
        "spdkthread": library_version(),
        "peers": {name: version(name) for name in ("uvloop", "janus", "culsans", "pyzmq")},
    }


def sentence(facts: dict[str, object]) -> str:
    """Return the facts of one table as a line of text."""
    raw = facts.get("raw_line_ns")
    steal = facts.get("steal_percent")
    others = facts.get("others_percent")
    return "; ".join(
        [
            f"{facts['cpu']}, {facts['cores']} cores",
            f"cache-line round trip {raw[0]:.0f} ns (one line) {raw[1]:.0f} ns (a line each way)"
            if raw
            else "cache-line round trip not measured",
            "steal unknown" if steal is None else f"steal {steal:.1f} %",
            "other load unknown" if others is None else f"other processes {others:.0f} %",
            f"{facts['python']} ({facts['build']})",
            f"switch interval {facts['switch_interval_ms']:g} ms",
            f"spdkthread {facts['spdkthread']}",
        ]
    )
