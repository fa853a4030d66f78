"""Files and block devices as I/O devices: each SpdkThread reads and writes them through a channel of its own."""

from spdkthread.bdev.device import Bdev, BdevChannel
from spdkthread.bdev.errors import AlignmentError, BackendError, QueueFullError
from spdkthread.bdev.histogram import Histogram

__all__ = ["AlignmentError", "BackendError", "Bdev", "BdevChannel", "Histogram", "QueueFullError"]
