"""The errors of JSON-RPC, with the codes that SPDK sends."""

from spdkthread.errors import SpdkThreadError

__all__ = [
    "INTERNAL_ERROR",
    "INVALID_PARAMS",
    "INVALID_REQUEST",
    "METHOD_NOT_FOUND",
    "PARSE_ERROR",
    "WRONG_STATE",
    "RpcError",
    "SocketInUseError",
    "invalid_params",
]

PARSE_ERROR = -32700
INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
WRONG_STATE = -1


class RpcError(SpdkThreadError):
    """What a method answers instead of a result; raised in a method of the server, and by `Client.call`.

    Parameters
    ----------
    code : int
        A 32-bit number: JSON-RPC's own are from -32768 to -32000.
    message : str
    """

    def __init__(self, code: int, message: str):
        super().__init__(code, message)
        self.code = code
        self.message = message

    def __str__(self) -> str:
        return f"{self.message} ({self.code})"


class SocketInUseError(SpdkThreadError):
    """Another server, perhaps of another process, has the path of the socket."""


def invalid_params(message: str = "Invalid parameters") -> RpcError:
    """The error for parameters that a method does not take."""
    return RpcError(INVALID_PARAMS, message)
