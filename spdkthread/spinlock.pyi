from types import TracebackType
from typing import Self

from spdkthread.thread import SpdkThread

__all__ = ["SpinLock"]

REASONS: dict[int, str]

class SpinLock:
    def __init__(self, name: str | None = None) -> None: ...
    def __enter__(self) -> Self: ...
    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc_value: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...
    def lock(self) -> None: ...
    def unlock(self) -> None: ...
    def held(self) -> bool: ...
    def destroy(self) -> None: ...
    @property
    def name(self) -> str:
        """For the errors."""

    @property
    def owner(self) -> SpdkThread | None: ...
