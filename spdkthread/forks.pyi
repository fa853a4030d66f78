from types import TracebackType
from typing import Literal

from typing_extensions import disjoint_base

__all__ = ["ReentrantLock"]

@disjoint_base
class ReentrantLock:
    def __enter__(self) -> Literal[True]: ...
    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None: ...
    def acquire(self, blocking: bool = True, timeout: float = -1) -> bool: ...
    def release(self) -> None: ...
