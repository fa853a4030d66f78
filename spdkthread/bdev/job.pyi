from _typeshed import WriteableBuffer

from spdkthread.bdev.device import BdevChannel
from spdkthread.bdev.histogram import Histogram

__all__ = ["NativeJob"]

WORKLOADS: tuple[str, ...]

class NativeJob:
    def __init__(
        self,
        channel: BdevChannel,
        memory: WriteableBuffer,
        nbytes: int,
        depth: int,
        workload: str,
        first: int,
        blocks: int,
        seconds: float,
        read_percent: int = 50,
        seed: int = 1,
    ) -> None: ...
    @property
    def channel(self) -> BdevChannel: ...
    @property
    def histogram(self) -> Histogram: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
    @property
    def finished(self) -> bool: ...
    @property
    def requests(self) -> int: ...
    @property
    def errors(self) -> int: ...
    @property
    def first_error(self) -> int: ...
    @property
    def reads(self) -> int: ...
    @property
    def writes(self) -> int: ...
    @property
    def elapsed_s(self) -> float: ...
