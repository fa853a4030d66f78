"""SPDK's thread library and reactor for Python, as typed Cython classes.

Threads with preallocated message rings, pollers, timers on ``time.perf_counter_ns`` ticks, and a reactor that spins
without the GIL and takes it only for Python work. This file only assembles names.
"""

from spdkthread._version import __version__

try:
    from spdkthread.clock import TICKS_HZ, ManualClock, ticks
except ModuleNotFoundError as _error:
    if _error.name != "spdkthread.clock":
        raise
    raise ImportError(
        f"spdkthread was found in {__path__[0]}, its source tree, whose modules are not compiled for this Python. "
        "Either compile them there (make build PYTHON=...), or, when it is installed, import it from another directory "
        "or with python -P, which does not look into the current one."
    ) from None
from spdkthread.errors import (
    AwaitError,
    DeviceError,
    FdError,
    NoThreadError,
    ReactorError,
    RingFullError,
    RingFullTimeoutError,
    SpdkThreadError,
    ThreadExitedError,
    WrongThreadError,
)
from spdkthread.fd_handler import FdHandler
from spdkthread.for_each import for_each_thread
from spdkthread.group import ReactorGroup
from spdkthread.io_device import IoChannel, IoChannelIter, IoDevice
from spdkthread.lib import ThreadLib, default_lib
from spdkthread.poller import Poller
from spdkthread.reactor import Reactor, get_reactor
from spdkthread.report import LeftoverChannel, LeftoverMessage, LeftoverPoller, LeftoverUnregistration, ShutdownReport
from spdkthread.stats import ReactorStats, ThreadStats
from spdkthread.thread import SpdkThread, get_thread

__all__ = [
    "TICKS_HZ",
    "AwaitError",
    "DeviceError",
    "FdError",
    "FdHandler",
    "IoChannel",
    "IoChannelIter",
    "IoDevice",
    "LeftoverChannel",
    "LeftoverMessage",
    "LeftoverPoller",
    "LeftoverUnregistration",
    "ManualClock",
    "NoThreadError",
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
    "ThreadExitedError",
    "ThreadLib",
    "ThreadStats",
    "WrongThreadError",
    "__version__",
    "default_lib",
    "for_each_thread",
    "get_reactor",
    "get_thread",
    "ticks",
]
