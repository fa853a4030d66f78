"""Client: calls methods of a JSON-RPC server on a unix socket, ours or SPDK's."""

import json
import socket
import threading
import time
from types import TracebackType
from typing import Any, Self

from spdkthread.checks import check_number
from spdkthread.rpc.address import read_address
from spdkthread.rpc.errors import RpcError

__all__ = ["Client"]

# As SPDK's client: above it a response is refused.
MAX_RESPONSE_BYTES = 32 * 1024 * 1024


class Client:
    """A connection to the JSON-RPC server of a process.

    Parameters
    ----------
    path : str
        Of the server's unix socket, or ``"host:port"``.
    timeout_s : float, default 60
        Seconds that one call may take.

    Raises
    ------
    OSError
        When nothing listens there.

    Examples
    --------
    >>> with Client("/var/tmp/spdk.sock") as client:  # doctest: +SKIP
    ...     client.call("thread_get_stats")

    Notes
    -----
    **Thread safety:** any OS thread; one call at a time, the others wait. Not on a reactor's own OS thread, which it
    would block. Answers to ``spdk.rpc.client.JSONRPCClient``.
    """

    def __init__(self, path: str = "/var/tmp/spdk.sock", *, timeout_s: float = 60.0):
        if not check_number("timeout_s", timeout_s, "seconds") > 0:
            raise ValueError(f"timeout_s must be above 0, got {timeout_s!r}")
        self.path = path
        self.timeout_s = timeout_s
        self._lock = threading.Lock()
        self._next_id = 0
        self._rest = b""
        address = read_address(path)
        self._socket: socket.socket | None = socket.socket(address.family, socket.SOCK_STREAM)
        try:
            self._socket.settimeout(timeout_s)
            self._socket.connect(address.sockaddr)
        except OSError as error:
            self._socket.close()
            raise OSError(error.errno, f"{error.strerror}: no JSON-RPC server answers there", path) from None

    def __repr__(self) -> str:
        return f"<Client of {self.path!r}{', closed' if self._socket is None else ''}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection. A second call does nothing."""
        with self._lock:
            self._close()

    def call(self, method: str, params: dict[str, Any] | list[Any] | None = None) -> Any:
        """Call a method and return its result.

        Parameters
        ----------
        method : str
        params : dict or list, optional

        Returns
        -------
        object
            The result, as ``json`` reads it.

        Raises
        ------
        RpcError
            The error that the server answered with.
        TimeoutError
            When there is no answer within ``timeout_s``. The connection is closed then.
        OSError
            When the connection ends.
        """
        with self._lock:
            if self._socket is None:
                raise ConnectionError(f"{self!r}: make a new one")
            self._next_id += 1
            request: dict[str, Any] = {"jsonrpc": "2.0", "id": self._next_id, "method": method}
            if params is not None:
                request["params"] = params
            text = json.dumps(request).encode() + b"\n"
            try:
                answer = self._exchange(text, self._next_id)
            except BaseException as error:
                # What is left of this answer would be taken for the next one's.
                self._close()
                if isinstance(error, TimeoutError):
                    raise TimeoutError(f"{method} was not answered within {self.timeout_s:g} s by {self!r}") from None
                raise
        if "error" in answer:
            raise RpcError(answer["error"]["code"], answer["error"]["message"])
        return answer["result"]

    def _exchange(self, text: bytes, id: int) -> dict[str, Any]:
        give_up = time.monotonic() + self.timeout_s
        assert self._socket is not None
        self._socket.settimeout(self.timeout_s)
        self._socket.sendall(text)
        while True:
            answer = json.loads(self._read_line(give_up))
            # An error without an id answers what could not be read as a request.
            if isinstance(answer, dict) and (
                answer.get("id") == id or (answer.get("id") is None and "error" in answer)
            ):
                return answer

    def _read_line(self, give_up: float) -> bytes:
        """The next response: compact JSON, which has no end of line inside, and an end of line."""
        assert self._socket is not None
        pieces = [self._rest]
        size = len(self._rest)
        while b"\n" not in pieces[-1]:
            left_s = give_up - time.monotonic()
            if left_s <= 0:
                raise TimeoutError
            self._socket.settimeout(left_s)
            data = self._socket.recv(1 << 16)
            if not data:
                raise ConnectionError(f"the server of {self!r} closed the connection before it answered")
            size += len(data)
            if size > MAX_RESPONSE_BYTES:
                raise ConnectionError(f"a response to {self!r} is larger than {MAX_RESPONSE_BYTES} bytes")
            pieces.append(data)
        line, _, self._rest = b"".join(pieces).partition(b"\n")
        return line

    def _close(self) -> None:
        closing, self._socket = self._socket, None
        if closing is not None:
            closing.close()
