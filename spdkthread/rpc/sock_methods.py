"""SPDK's methods about its socket implementations, answered for `spdkthread.sock`.

The options that a group of sockets takes are arguments of `SockGroup`, so those set by RPC before the start are what
the application framework makes its group with; what SPDK has and this library has not (zero copy, placement ids, TLS in
the kernel) is off and cannot be set.
"""

from typing import Any

from spdkthread.rpc.decode import Param, boolean, rpc_method, string, unsigned
from spdkthread.rpc.errors import INTERNAL_ERROR, RpcError, invalid_params
from spdkthread.rpc.server import Method, Server, add_table

__all__ = ["IMPLEMENTATIONS", "METHODS"]

METHODS: list[Method] = []

IMPLEMENTATIONS = ("epoll",)
_RECV_BUF_SIZE = 64 << 10

_u32 = unsigned(32)
_OPTIONS: dict[str, Any] = {
    "recv_buf_size": _RECV_BUF_SIZE,
    "send_buf_size": 0,
    "enable_recv_pipe": False,
    "enable_quickack": False,
    "enable_placement_id": 0,
    "enable_zerocopy_send_server": False,
    "enable_zerocopy_send_client": False,
    "zerocopy_threshold": 0,
    "tls_version": 0,
    "enable_ktls": False,
}


def _check_name(name: str) -> None:
    if name not in IMPLEMENTATIONS:
        raise invalid_params(f"Invalid parameters: the socket implementations are {list(IMPLEMENTATIONS)}")


@rpc_method(METHODS, "sock_impl_get_options", {"impl_name": Param(string)}, states="SR")
def sock_impl_get_options(server: Server, impl_name: str) -> dict[str, Any]:
    _check_name(impl_name)
    return {**_OPTIONS, **server.sock_options}


@rpc_method(
    METHODS,
    "sock_impl_set_options",
    {
        "impl_name": Param(string),
        **{
            name: Param(boolean if isinstance(value, bool) else _u32, optional=True) for name, value in _OPTIONS.items()
        },
    },
    states="S",
)
def sock_impl_set_options(server: Server, impl_name: str, **options: Any) -> bool:
    _check_name(impl_name)
    for name, value in options.items():
        if name == "recv_buf_size":
            if value < 4096:
                raise invalid_params("Invalid parameters: recv_buf_size must be at least 4096")
        elif value != _OPTIONS[name]:
            raise RpcError(INTERNAL_ERROR, f"{name} is {_OPTIONS[name]} here and cannot be set")
    server.sock_options.update(options)
    return True


@rpc_method(METHODS, "sock_set_default_impl", {"impl_name": Param(string)}, states="S")
def sock_set_default_impl(server: Server, impl_name: str) -> bool:
    _check_name(impl_name)
    return True


@rpc_method(METHODS, "sock_get_default_impl", states="SR")
def sock_get_default_impl(server: Server) -> dict[str, str]:
    return {"impl_name": IMPLEMENTATIONS[0]}


add_table(METHODS)
