import asyncio
import ssl
from asyncio import sslproto
from typing import Any

__all__ = ["TlsProtocol", "TlsTransport", "start_tls"]

class TlsTransport(sslproto._SSLProtocolTransport): ...
class TlsProtocol(sslproto.SSLProtocol): ...

async def start_tls(
    loop: asyncio.AbstractEventLoop,
    transport: Any,
    protocol: asyncio.BaseProtocol,
    context: ssl.SSLContext,
    server_side: bool,
    server_hostname: str | None,
    handshake_timeout: float | None,
    shutdown_timeout: float | None,
) -> Any: ...
