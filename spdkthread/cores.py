"""Sets of cores, in the notations that people use."""

import os
from collections.abc import Iterable

from spdkthread.checks import check_integer

__all__ = ["allowed_cores", "keep_to", "parse_cores"]


def parse_cores(spec: str | Iterable[int]) -> frozenset[int]:
    """Read a set of core numbers.

    Parameters
    ----------
    spec : str or iterable of int
        ``"0-3,6"``, a hexadecimal mask ``"0x4f"``, or the numbers themselves.

    Returns
    -------
    frozenset of int
        Never empty.

    Raises
    ------
    TypeError
        When `spec` is neither, or holds something that is not an int.
    ValueError
        When it cannot be read, is empty, or holds a negative number.

    Notes
    -----
    **Thread safety:** any OS thread. Answers to ``spdk_cpuset_parse``.
    """
    if isinstance(spec, str):
        cores = _parse_text(spec)
    elif isinstance(spec, Iterable) and not isinstance(spec, (bytes, bytearray)):
        cores = set()
        for core in spec:
            cores.add(check_integer("a core", core))
    else:
        raise TypeError(f"cores must be a string or an iterable of ints, got {type(spec).__name__}")
    if not cores:
        raise ValueError(f"no core in {spec!r}")
    if min(cores) < 0:
        raise ValueError(f"a core is not negative, got {spec!r}")
    return frozenset(cores)


def _parse_text(text: str) -> set[int]:
    stripped = text.strip()
    try:
        if stripped[:2] in ("0x", "0X"):
            mask = int(stripped, 16)
            return {bit for bit in range(mask.bit_length()) if mask >> bit & 1}
        cores: set[int] = set()
        for part in stripped.strip("[]").split(","):
            first, dash, last = part.strip().partition("-")
            low, high = _number(first), _number(last) if dash else _number(first)
            if high < low:
                raise ValueError
            if high - low > 65535:
                raise ValueError
            cores.update(range(low, high + 1))
        return cores
    except ValueError:
        raise ValueError(f"cannot read {text!r} as cores: use '0-3,6' or a mask like '0x4f'") from None


def _number(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError
    return int(text)


def _cores_of(os_thread: int) -> frozenset[int]:
    if hasattr(os, "sched_getaffinity"):
        return frozenset(os.sched_getaffinity(os_thread))
    return frozenset(range(os.cpu_count() or 1))


# An affinity belongs to an OS thread, and a program may bind each of its own, the main one too.
_at_import = _cores_of(0)


def allowed_cores() -> frozenset[int]:
    """The cores that this process may use: its own when spdkthread was imported, and those of the calling OS thread.

    A program that wants to keep its reactors to fewer cores names them.
    """
    return _at_import | _cores_of(0)


def keep_to(cores: frozenset[int]) -> None:
    """Bind the process to some of its cores, before it makes reactors: they know no others then.

    Raises
    ------
    ValueError
        For cores that it may not use, and on a system that binds none.
    """
    global _at_import
    if not hasattr(os, "sched_setaffinity"):
        raise ValueError("this system does not bind a process to cores")
    if missing := sorted(cores - allowed_cores()):
        raise ValueError(f"cores {missing} are not available, only {sorted(allowed_cores())}")
    os.sched_setaffinity(0, cores)
    _at_import = frozenset(cores)
