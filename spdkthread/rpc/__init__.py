"""JSON-RPC as SPDK speaks it: a server that shows and changes what runs in this process, and a client.

``errors`` and ``framing`` know the protocol, ``server`` the sockets, ``gather`` how the state of threads and reactors
is read, ``methods`` what SPDK calls its methods and ``own_methods`` what only this library has.
"""

from spdkthread.rpc.client import Client
from spdkthread.rpc.errors import RpcError, SocketInUseError
from spdkthread.rpc.server import DEFAULT_PATH, Server

__all__ = ["DEFAULT_PATH", "Client", "RpcError", "Server", "SocketInUseError"]
