"""``python -m spdkthread rpc``: one call of a JSON-RPC method."""

import argparse
import json
import sys
from collections.abc import Sequence
from typing import Any

from spdkthread.rpc.client import Client
from spdkthread.rpc.errors import RpcError
from spdkthread.rpc.server import DEFAULT_PATH

__all__ = ["main"]

_DESCRIPTION = """\
Call a method of a JSON-RPC server, ours or an SPDK application's, and print its result as JSON.

  python -m spdkthread rpc rpc_get_methods
  python -m spdkthread rpc -s /tmp/a.sock thread_set_cpumask id=3 cpumask='"0x3"'
  python -m spdkthread rpc spdkthread_get_exit_blockers '{"id": 3}'
"""


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m spdkthread rpc",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("-s", "--socket", default=DEFAULT_PATH, metavar="PATH", help="default: %(default)s")
    parser.add_argument("-t", "--timeout", type=float, default=60.0, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument("method", metavar="METHOD", help="rpc_get_methods lists them")
    parser.add_argument(
        "params", nargs="*", metavar="PARAMS", help="one JSON object or array, or name=value, value being JSON or text"
    )
    arguments = parser.parse_args(argv)
    try:
        params = _params(arguments.params)
    except ValueError as error:
        parser.error(str(error))
    try:
        with Client(arguments.socket, timeout_s=arguments.timeout) as client:
            result = client.call(arguments.method, params)
    except (OSError, RpcError, ValueError) as error:
        print(f"{arguments.method}: {error}", file=sys.stderr)
        return 1
    print(json.dumps(result, indent=2))
    return 0


def _params(words: list[str]) -> Any:
    if not words:
        return None
    if len(words) == 1 and words[0].lstrip()[:1] in ("{", "["):
        return json.loads(words[0])
    params = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals or not name:
            raise ValueError(f"{word!r} is neither JSON nor name=value")
        try:
            params[name] = json.loads(value)
        except ValueError:
            params[name] = value
    return params
