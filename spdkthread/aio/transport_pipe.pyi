import asyncio
from asyncio import transports
from collections.abc import Iterable
from typing import Any

from spdkthread.aio.transport import Transport

__all__ = ["PipeTransport", "ReadPipeTransport", "WritePipeTransport"]

class ReadPipeTransportKind(transports.ReadTransport): ...
class WritePipeTransportKind(transports.WriteTransport): ...

class PipeTransport(Transport):
    def __del__(self) -> None: ...

class ReadPipeTransport(PipeTransport):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None: ...
    def close(self) -> None: ...

class WritePipeTransport(PipeTransport):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        pipe: Any,
        protocol: asyncio.BaseProtocol,
        waiter: asyncio.Future[None] | None = None,
        extra: dict[str, Any] | None = None,
    ) -> None: ...
    def write(self, data: bytes | bytearray | memoryview) -> None: ...
    def writelines(self, list_of_data: Iterable[bytes | bytearray | memoryview]) -> None: ...
    def write_eof(self) -> None: ...
    def can_write_eof(self) -> bool: ...
    def close(self) -> None: ...
