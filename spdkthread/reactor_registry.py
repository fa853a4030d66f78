"""The registry of this process's reactors: their names and cores, and what becomes of them at exit and after a fork."""

import atexit
import itertools
import os
import threading
import time
import warnings

from spdkthread import late
from spdkthread.checks import check_integer
from spdkthread.cores import allowed_cores
from spdkthread.error_log import describe
from spdkthread.errors import ReactorError
from spdkthread.forks import ReentrantLock
from spdkthread.termination import Termination
from spdkthread.weak_registry import WeakRegistry

__all__ = [
    "all_reactors",
    "available_cores",
    "check_os_threads",
    "claim_core",
    "refuse_missing",
    "register_reactor",
    "warn_if_crowded",
]

_reactors = WeakRegistry()
# Two reactors that are made at once must not take one name.
_naming = ReentrantLock()


def register_reactor(mine, name):
    """Note a new reactor. Returns its name: `name`, or where that is None one by its core that no other reactor has."""
    with _naming:
        if name is None:
            taken = {one.name for one in all_reactors() if one is not mine}
            numbers = itertools.chain([""], (f"_{number}" for number in itertools.count(2)))
            name = next(free for number in numbers if (free := f"reactor_{mine.core}{number}") not in taken)
        mine._set_name(name)
        _reactors.add(mine)
    # The first reactor opens an RPC server for its library.
    if os.environ.get("SPDKTHREAD_RPC_SOCKET"):
        late.find("open_rpc_socket")(mine.lib)
    return name


def all_reactors():
    """Every reactor that exists."""
    return _reactors.all()


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


def check_os_threads(reactor):
    """Raise `ReactorError` where ``threading.Thread`` starts no OS thread: a reactor would stop all the others."""
    starter = getattr(threading, "_start_joinable_thread", None) or getattr(threading, "_start_new_thread", None)
    # affinity.pyx puts its own function there, which says what it starts threads by: Python's, or a replacement.
    starter = getattr(starter, "_spdkthread_starts_by", starter)
    if starter is None or type(starter) is type(len):
        return
    culprit = getattr(starter, "__module__", "other code").partition(".")[0]
    raise ReactorError(
        f"{reactor!r} cannot be started: {culprit} has replaced the threads of Python by its own, which share one OS "
        "thread; leave out that part of its monkey patching (gevent: patch_all(thread=False)), or drive the reactor "
        "by run() in a process of its own"
    )


@atexit.register
def stop_forgotten():
    """Interpreter exit: stop what still runs, while that is still possible."""
    forgotten = [one for one in all_reactors() if one.state in ("running", "stopping")]
    termination = Termination(forgotten)
    for one in forgotten:
        one._stop_together(termination)
    give_up = time.monotonic() + 5.0
    for one in forgotten:
        # A callback that does not return is not waited for.
        if not one.join(timeout_s=max(0.0, give_up - time.monotonic())):
            one._abort()
            one.join(timeout_s=0.5)


def mark_dead():
    """In the child of a fork: other OS threads and their loops do not exist here, and descriptors are the parent's too.

    The child begins with this, while the numbers of inherited descriptors still mean what they meant in the parent.
    """
    for one in all_reactors():
        one._die()


os.register_at_fork(after_in_child=mark_dead)
