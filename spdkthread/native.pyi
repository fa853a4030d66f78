from typing import Final

__all__ = ["MESSAGE_SIGNATURE", "POLLER_SIGNATURE", "NativeCall"]

MESSAGE_SIGNATURE: Final[str]
POLLER_SIGNATURE: Final[str]

class NativeCall: ...
