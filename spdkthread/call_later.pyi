from spdkthread.thread import SpdkThread

__all__ = ["Timer"]

def live_timers() -> int: ...

class Timer:
    @property
    def thread(self) -> SpdkThread:
        """The thread on which it runs."""

    @property
    def name(self) -> str: ...
    @property
    def deadline(self) -> int: ...
    @property
    def is_pending(self) -> bool: ...
    def cancel(self) -> bool: ...
