import asyncio
import socket
from asyncio import transports
from typing import Any

from spdkthread.aio.transport_socket import SocketTransport

__all__ = ["DatagramTransport"]

class DatagramTransportKind(transports.Transport, transports.DatagramTransport): ...

class DatagramTransport(SocketTransport):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        sock: socket.socket,
        protocol: asyncio.BaseProtocol,
        address: Any = None,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None: ...
    def sendto(self, data: bytes | bytearray | memoryview, addr: Any = None) -> None: ...
