"""Where a JSON-RPC server listens: the path of a unix socket, or a host and a port."""

import ipaddress
import os
import re
import socket
from typing import Any, NamedTuple

__all__ = ["DEFAULT_PORT", "Address", "is_loopback", "read_address"]

DEFAULT_PORT = 5260
MAX_PATH_BYTES = 107

_HOST_AND_PORT = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.%]+)\]|(?P<host>[^/:\s]*)):(?P<port>\d{1,5})")


class Address(NamedTuple):
    """A unix socket's path, or a TCP host and port."""

    path: str | None
    host: str = ""
    port: int = 0

    def __str__(self) -> str:
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def family(self) -> socket.AddressFamily:
        """AF_UNIX, AF_INET or AF_INET6."""
        if self.path is not None:
            return socket.AF_UNIX
        return socket.AF_INET6 if ":" in self.host else socket.AF_INET

    @property
    def sockaddr(self) -> Any:
        """What ``bind`` and ``connect`` take."""
        return self.path if self.path is not None else (self.host, self.port)

    def bound_to(self, sockaddr: tuple) -> "Address":
        """The same with the port that the kernel chose."""
        return self._replace(port=sockaddr[1])


def read_address(text: str | os.PathLike[str]) -> Address:
    """Read a path, ``"host:port"`` or ``"[v6]:port"``; no host: 127.0.0.1.

    Raises
    ------
    ValueError
        When a path is longer than a unix socket's can be, or a port is above 65535.
    """
    name = os.fsdecode(os.fspath(text))
    if match := _HOST_AND_PORT.fullmatch(name):
        port = int(match["port"])
        if port > 65535:
            raise ValueError(f"a port is at most 65535, got {text!r}")
        return Address(None, match["v6"] or match["host"] or "127.0.0.1", port)
    path = os.path.abspath(name)
    if len(os.fsencode(path)) > MAX_PATH_BYTES:
        raise ValueError(
            f"path must have at most {MAX_PATH_BYTES} bytes, which is what a unix socket's can, got {text!r}"
        )
    return Address(path)


def is_loopback(address: Address) -> bool:
    """Whether only this machine can reach it."""
    if address.path is not None or address.host == "localhost":
        return True
    try:
        return ipaddress.ip_address(address.host).is_loopback
    except ValueError:
        return False
