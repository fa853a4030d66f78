from typing import Literal

from spdkthread.thread import SpdkThread

__all__ = ["FdHandler"]

class FdHandler:
    def __init__(self) -> None: ...
    @property
    def fd(self) -> int:
        """The file descriptor."""

    @property
    def name(self) -> str:
        """Its name, by default that of its function."""

    @property
    def thread(self) -> SpdkThread:
        """The thread on which its function runs."""

    @property
    def registered(self) -> bool:
        """Whether it is watched; False before its registration has arrived and after its end."""

    @property
    def events(self) -> Literal["r", "w", "rw"]: ...
    def modify(self, events: Literal["r", "w", "rw"]) -> None: ...
    def unregister(self) -> None: ...
