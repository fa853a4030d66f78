from typing import Final

__all__ = ["COMPLETION_SIGNATURE", "MESSAGE_SIGNATURE", "POLLER_SIGNATURE", "NativeCall"]

MESSAGE_SIGNATURE: Final[str]
POLLER_SIGNATURE: Final[str]
COMPLETION_SIGNATURE: Final[str]

class NativeCall: ...
