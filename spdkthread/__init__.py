"""SPDK's thread library and reactor for Python, as typed Cython classes.

Threads with preallocated message rings, pollers, timers on ``time.perf_counter_ns`` ticks, and a reactor that spins
without the GIL and takes it only for Python work. This file only says which module each name is in.

The modules are imported when a name of theirs is first used, and not here: a thread that imports ``spdkthread`` holds
the package's import lock, and another one that imports ``spdkthread.aio`` at the same time holds that module's and
waits for the package's. Were the package to wait for one of its modules, the two would wait for each other.
"""

import importlib
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any

from spdkthread._version import __version__

if TYPE_CHECKING:
    from spdkthread.affinity import call_unaffinitized
    from spdkthread.call_later import Timer
    from spdkthread.clock import TICKS_HZ, ManualClock, ticks
    from spdkthread.errors import (
        AwaitError,
        DeviceError,
        FdError,
        LoopExitedError,
        LoopThreadError,
        NestedLoopError,
        NoThreadError,
        NotIdleError,
        ReactorError,
        RingFullError,
        RingFullTimeoutError,
        SpdkThreadError,
        SpinLockError,
        ThreadExitedError,
        WrongThreadError,
    )
    from spdkthread.fd_handler import FdHandler
    from spdkthread.for_each_channel import IoChannelIter
    from spdkthread.group import ReactorGroup
    from spdkthread.io_device import IoChannel, IoDevice
    from spdkthread.iobuf import IoBuf, IoBufChannel, IoBufPool
    from spdkthread.lib import ThreadLib, default_lib
    from spdkthread.poller import Poller
    from spdkthread.reactor import Reactor, get_reactor
    from spdkthread.report import (
        LeftoverChannel,
        LeftoverMessage,
        LeftoverOther,
        LeftoverPoller,
        LeftoverUnregistration,
        ShutdownReport,
    )
    from spdkthread.spinlock import SpinLock
    from spdkthread.stats import ReactorStats, ThreadStats
    from spdkthread.thread import SpdkThread, get_thread
    from spdkthread.thread_iteration import for_each_thread

__all__ = [
    "TICKS_HZ",
    "AwaitError",
    "DeviceError",
    "FdError",
    "FdHandler",
    "IoBuf",
    "IoBufChannel",
    "IoBufPool",
    "IoChannel",
    "IoChannelIter",
    "IoDevice",
    "LeftoverChannel",
    "LeftoverMessage",
    "LeftoverOther",
    "LeftoverPoller",
    "LeftoverUnregistration",
    "LoopExitedError",
    "LoopThreadError",
    "ManualClock",
    "NestedLoopError",
    "NoThreadError",
    "NotIdleError",
    "Poller",
    "Reactor",
    "ReactorError",
    "ReactorGroup",
    "ReactorStats",
    "RingFullError",
    "RingFullTimeoutError",
    "ShutdownReport",
    "SpdkThread",
    "SpdkThreadError",
    "SpinLock",
    "SpinLockError",
    "ThreadExitedError",
    "ThreadLib",
    "ThreadStats",
    "Timer",
    "WrongThreadError",
    "__version__",
    "call_unaffinitized",
    "default_lib",
    "for_each_thread",
    "get_reactor",
    "get_thread",
    "ticks",
]

# The modules of the core, and the names of each that are this package's.
_HOMES = {
    "affinity": ("call_unaffinitized",),
    "call_later": ("Timer",),
    "clock": ("ManualClock", "TICKS_HZ", "ticks"),
    "errors": (
        "AwaitError",
        "DeviceError",
        "FdError",
        "LoopExitedError",
        "LoopThreadError",
        "NestedLoopError",
        "NoThreadError",
        "NotIdleError",
        "ReactorError",
        "RingFullError",
        "RingFullTimeoutError",
        "SpdkThreadError",
        "SpinLockError",
        "ThreadExitedError",
        "WrongThreadError",
    ),
    "fd_handler": ("FdHandler",),
    "thread_iteration": ("for_each_thread",),
    "group": ("ReactorGroup",),
    "iobuf": ("IoBuf", "IoBufChannel", "IoBufPool"),
    "for_each_channel": ("IoChannelIter",),
    "io_device": ("IoChannel", "IoDevice"),
    "lib": ("ThreadLib", "default_lib"),
    "poller": ("Poller",),
    "reactor": ("Reactor", "get_reactor"),
    "report": (
        "LeftoverChannel",
        "LeftoverMessage",
        "LeftoverOther",
        "LeftoverPoller",
        "LeftoverUnregistration",
        "ShutdownReport",
    ),
    "spinlock": ("SpinLock",),
    "stats": ("ReactorStats", "ThreadStats"),
    "thread": ("SpdkThread", "get_thread"),
}

_MODULE_OF = {name: module for module, names in _HOMES.items() for name in names}

# What a thread's methods reach in the layers above it. They come with the first thing that can make a thread: an import
# in the middle of a program may be interrupted by a signal handler, or a destructor, that needs the same module.
_MAKERS = {"group", "io_device", "lib", "reactor", "thread"}
_REACHED = (
    "aio.coroutine",
    "aio.acall",
    "aio.foreign",
    "aio.executor",
    "thread_iteration",
    "io_device",
    "placement",
    "reactor",
)

if PathFinder.find_spec("spdkthread.thread", __path__) is None:
    raise ImportError(
        f"the spdkthread in {__path__[0]} has no extension modules for this Python: it is the source tree. Build it "
        "there with `make build`, or run Python in another directory to import the spdkthread that is installed",
        name=__name__,
    )


def __getattr__(name: str) -> Any:
    module = _MODULE_OF.get(name)
    if module is not None:
        value = getattr(importlib.import_module(f"{__name__}.{module}"), name)
        if module in _MAKERS:
            for reached in _REACHED:
                importlib.import_module(f"{__name__}.{reached}")
        globals()[name] = value
        return value
    if not name.startswith("_"):
        try:
            return importlib.import_module(f"{__name__}.{name}")
        except ModuleNotFoundError as error:
            if error.name != f"{__name__}.{name}":
                raise
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
