from collections.abc import Callable
from concurrent.futures import Future

from spdkthread.lib import ThreadLib

__all__ = ["for_each_thread"]

def for_each_thread(
    fn: Callable[[], object], cpl: Callable[[], object] | None = None, *, lib: ThreadLib | None = None
) -> Future[None]: ...

class Iteration:
    @property
    def lib(self) -> ThreadLib: ...
