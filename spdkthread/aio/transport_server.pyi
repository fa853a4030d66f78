import asyncio
import socket
import ssl
from collections.abc import Callable

from spdkthread.aio.fd_watcher import FdWatcher

__all__ = ["Listener"]

class Listener(FdWatcher):
    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        factory: Callable[[], asyncio.BaseProtocol],
        sock: socket.socket,
        tls_context: ssl.SSLContext | None,
        server: asyncio.AbstractServer | None,
        backlog: int,
        handshake_timeout: float | None,
        shutdown_timeout: float | None,
    ) -> None: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...
