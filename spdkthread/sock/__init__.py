"""Sockets on SpdkThreads. See `SockGroup`, and ``docs/sockets.md``."""

from spdkthread.sock.datagram import DatagramBatch, DatagramSet, DatagramSock
from spdkthread.sock.errors import SockBackendError, SockBufferError, SockClosedError, SockLimitError
from spdkthread.sock.group import SockGroup
from spdkthread.sock.sock import Listener, Sock, SockChannel

__all__ = [
    "DatagramBatch",
    "DatagramSet",
    "DatagramSock",
    "Listener",
    "Sock",
    "SockBackendError",
    "SockBufferError",
    "SockChannel",
    "SockClosedError",
    "SockGroup",
    "SockLimitError",
]
