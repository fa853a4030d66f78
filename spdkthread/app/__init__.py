"""The application framework: a program of reactors from its command line and configuration to its exit status.

For programs that want SPDK's frame: cores from a mask and claimed by lock files, an RPC socket, a JSON configuration
that is replayed, a start that can wait for RPC, an orderly end on SIGINT and SIGTERM. What it is made of
(`ReactorGroup`, `rpc.Server`, `CoreClaims`) can be used without it.
"""

from spdkthread.app.application import App, current_app, run
from spdkthread.app.config import ConfigError, load_config
from spdkthread.app.options import AppOptions, add_arguments, parse_args
from spdkthread.core_claims import CoreClaims, CoreInUseError

__all__ = [
    "App",
    "AppOptions",
    "ConfigError",
    "CoreClaims",
    "CoreInUseError",
    "add_arguments",
    "current_app",
    "load_config",
    "parse_args",
    "run",
]
