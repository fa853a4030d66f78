from asyncio import transports

from spdkthread.aio.transport import Transport

__all__ = ["SocketTransport"]

class SocketTransportKind(transports.Transport): ...

class SocketTransport(Transport):
    def close(self) -> None: ...
    def __del__(self) -> None: ...
