"""What the kernel counts for an OS thread and a core."""

import contextlib
from pathlib import Path
from typing import NamedTuple

__all__ = ["TaskTimes", "context_switches", "irq_jiffies", "numa_node", "task_times"]


class TaskTimes(NamedTuple):
    """Jiffies (1/100 s) of one OS thread."""

    usr: int
    sys: int


def task_times(tid: int) -> TaskTimes:
    """The times of an OS thread of this process; zeros when they cannot be read."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        # The name, in parentheses, may have anything inside.
        fields = Path(f"/proc/self/task/{tid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return TaskTimes(int(fields[11]), int(fields[12]))
    return TaskTimes(0, 0)


def irq_jiffies(core: int) -> int:
    """The jiffies that a core has spent in interrupts since the machine started; 0 when they cannot be read."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in Path("/proc/stat").read_text().splitlines():
            name, *fields = line.split()
            if name == f"cpu{core}":
                return int(fields[5]) + int(fields[6])
    return 0


def context_switches(tid: int) -> tuple[int, int]:
    """How often an OS thread gave up its core, and how often the kernel took it away; zeros when it is not known."""
    counts = {"voluntary_ctxt_switches": 0, "nonvoluntary_ctxt_switches": 0}
    with contextlib.suppress(OSError, ValueError):
        for line in Path(f"/proc/self/task/{tid}/status").read_text(errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name in counts:
                counts[name] = int(value)
    return counts["voluntary_ctxt_switches"], counts["nonvoluntary_ctxt_switches"]


def numa_node(core: int) -> int:
    """The NUMA node of a core; -1 when the kernel does not say."""
    with contextlib.suppress(OSError, ValueError):
        for node in Path(f"/sys/devices/system/cpu/cpu{core}").glob("node*"):
            return int(node.name.removeprefix("node"))
    return -1
