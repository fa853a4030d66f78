from typing import Final

__all__ = ["COMPLETION_SIGNATURE", "MESSAGE_SIGNATURE", "POLLER_SIGNATURE", "NativeCall", "add_signature"]

MESSAGE_SIGNATURE: Final[str]
POLLER_SIGNATURE: Final[str]
COMPLETION_SIGNATURE: Final[str]

class NativeCall: ...

def add_signature(signature: str, arguments: tuple[str, ...], other_names: tuple[str, ...] = ()) -> None: ...
