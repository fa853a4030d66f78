"""JSON-RPC as SPDK speaks it: a server that shows and changes what runs in this process, and a client.

``errors`` and ``framing`` know the protocol, ``address`` and ``server`` the sockets, ``gather`` how the state of
threads and reactors is read. The methods that SPDK has as well are in ``methods``, ``trace_methods``, ``sock_methods``
and ``notify``, what only this library has in ``own_methods``.
"""

from spdkthread.rpc import methods, notify, own_methods, sock_methods, trace_methods  # noqa: F401 - servers have them
from spdkthread.rpc.client import Client
from spdkthread.rpc.errors import RpcError, SocketInUseError
from spdkthread.rpc.server import DEFAULT_PATH, Server

__all__ = ["DEFAULT_PATH", "Client", "RpcError", "Server", "SocketInUseError", "notify"]
