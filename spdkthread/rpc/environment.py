"""SPDKTHREAD_RPC_SOCKET: a server in a program that knows nothing of it."""

import logging
import os

from spdkthread import late
from spdkthread.errors import SpdkThreadError
from spdkthread.forks import ReentrantLock
from spdkthread.lib import ThreadLib
from spdkthread.rpc.server import Server

__all__ = ["VARIABLE", "open_once"]

logger = logging.getLogger("spdkthread.rpc")

VARIABLE = "SPDKTHREAD_RPC_SOCKET"

_lock = ReentrantLock()
_tried_in: int | None = None
_server: Server | None = None


def open_once(lib: ThreadLib) -> None:
    """Open the server at the path in the environment, once in a process.

    A program that would run without it runs without it: when the socket cannot be opened, that is logged.
    """
    global _server, _tried_in
    path = os.environ.get(VARIABLE)
    with _lock:
        if not path or _tried_in == os.getpid():
            return
        _tried_in = os.getpid()
        try:
            _server = Server(path, lib=lib).start()
        except (OSError, SpdkThreadError, ValueError) as error:
            logger.warning("%s=%s: no RPC server: %s", VARIABLE, path, error)
            return


def _forget_in_child() -> None:
    global _server
    _server = None


os.register_at_fork(after_in_child=_forget_in_child)
late.fill("open_rpc_socket", open_once)
