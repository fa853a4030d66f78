from typing import Any, SupportsIndex

from spdkthread.io_device import IoChannel, IoDevice
from spdkthread.lib import ThreadLib

__all__ = ["IoChannelIter"]

class IoChannelIter:
    def defer(self) -> None: ...
    def continue_(self, status: SupportsIndex = 0) -> None: ...
    @property
    def device(self) -> IoDevice:
        """The device that is visited."""

    @property
    def channel(self) -> IoChannel | None:
        """The channel of the thread on which the function runs; None for the completion."""

    @property
    def ctx(self) -> Any:
        """What was given to `IoDevice.for_each_channel`."""

    @property
    def lib(self) -> ThreadLib:
        """The library of the device."""
