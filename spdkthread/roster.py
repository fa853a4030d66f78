"""The reactors of this process, the cores that they have, and what becomes of them at its end and after a fork."""

import atexit
import os
import threading
import time
import warnings
import weakref

from spdkthread.checks import check_integer
from spdkthread.cores import allowed_cores
from spdkthread.ending import Ending
from spdkthread.error_log import describe
from spdkthread.errors import ReactorError
from spdkthread.lib import ThreadLib

__all__ = ["all_reactors", "available_cores", "claim_core", "enlist", "refuse_missing", "warn_if_crowded"]

_known: dict = {}  # id -> weak reference
_lock = threading.RLock()


def enlist(mine):
    with _lock:
        _known[id(mine)] = weakref.ref(mine)


def all_reactors():
    """Every reactor that exists. Not a WeakSet: one of those cannot be read while another OS thread adds to it."""
    with _lock:
        found = {key: reference() for key, reference in _known.items()}
        for key, one in found.items():
            if one is None:
                del _known[key]
    return [one for one in found.values() if one is not None]


def available_cores():
    """The cores that this process may use, also when asked on an OS thread that is bound to one of them."""
    cores = set(allowed_cores())
    for one in all_reactors():
        cores |= one._cores_before()
    return frozenset(cores)


def claim_core(mine, core):
    """The core that `mine` gets: the one it asks for, or the least used of the allowed ones."""
    allowed = available_cores()
    if core is not None:
        core = check_integer("core", core)
        refuse_missing([core], allowed)
        return core
    used = [other.core for other in all_reactors() if other is not mine and other.state not in ("stopped", "dead")]
    return min(sorted(allowed), key=used.count)


def refuse_missing(cores, allowed):
    """Raise `ReactorError` for cores that are not among those that the process may use."""
    missing = [core for core in cores if core not in allowed]
    if missing:
        which = f"core {missing[0]} is" if len(missing) == 1 else f"cores {missing} are"
        raise ReactorError(
            f"{which} not available; this process may use {sorted(allowed)}, by its affinity mask when spdkthread was "
            "imported and that of the calling OS thread"
        )


def warn_if_crowded(mine):
    """Two reactors on one core, one of which never sleeps, take turns at the kernel's pace."""
    others = [
        other for other in all_reactors() if other is not mine and other.core == mine.core and other.state == "running"
    ]
    # A user's idle object may be equal to anything.
    if not others or not any(isinstance(one.idle, str) and one.idle == "poll" for one in [mine, *others]):
        return
    warnings.warn(
        f"{describe(mine)} shares its core with {', '.join([other.name for other in others])}, and idle='poll' never "
        "gives it up; use 'adaptive' or 'yield' where there are fewer cores than reactors",
        RuntimeWarning,
        stacklevel=2,
    )


@atexit.register
def stop_forgotten():
    """Interpreter exit: stop what still runs, while that is still possible."""
    forgotten = [one for one in all_reactors() if one.state in ("running", "stopping")]
    ending = Ending(forgotten)
    for one in forgotten:
        one._begin_end(ending)
    give_up = time.monotonic() + 5.0
    for one in forgotten:
        # A callback that does not return is not waited for.
        if not one.join(timeout_s=max(0.0, give_up - time.monotonic())):
            one._abort()
            one.join(timeout_s=0.5)


def mark_dead():
    """In the child of a fork."""
    global _lock
    _lock = threading.RLock()
    for one in all_reactors():
        one._die()
    for lib in list(ThreadLib._all()):
        lib._after_fork()


os.register_at_fork(after_in_child=mark_dead)
