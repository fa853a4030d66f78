"""Look into a running program: an RPC server with a method of one's own, and what `top` would show.

Run it with `python examples/looking_inside.py`; with `--serve SECONDS` it stays, for
`python -m spdkthread top -s PATH` in another terminal.
"""

import argparse
import os
import tempfile
import time

from spdkthread import Reactor
from spdkthread.rpc import Client, Server


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--serve", type=float, default=0.0, metavar="SECONDS", help="how long to stay")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        path = os.path.join(directory, "spdkthread.sock")
        with Reactor() as reactor, Server(path) as server:
            net = reactor.create_thread("net")
            poller = net.call(lambda: net.register_poller(lambda: 1, 1000, name="accept")).result()

            @server.method("greet")
            def greet(name: str = "you") -> str:
                return f"hello, {name}"

            # What another process would do.
            with Client(path) as client:
                print(client.call("greet", {"name": "top"}))
                for thread in client.call("thread_get_stats")["threads"]:
                    print(f"{thread['name']}: {thread['timed_pollers_count']} timed poller, {thread['busy']} ns busy")
                for blockers in client.call("spdkthread_get_exit_blockers"):
                    print(f"{blockers['name']} would be kept by {', '.join(blockers['blockers'])}")
            if arguments.serve:
                print(f"python -m spdkthread top -s {path}")
                time.sleep(arguments.serve)
            net.call(poller.unregister).result()


if __name__ == "__main__":
    main()
