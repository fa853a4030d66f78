"""The stall watchdog names the callback that holds up its reactor, with the line at which it is.

It costs the reactor nothing: an OS thread of its own looks at counters that the loop keeps anyway.
"""

import logging
import sys
import time
from itertools import pairwise

from spdkthread import Reactor

logging.basicConfig(stream=sys.stdout, format="%(name)s %(levelname)s: %(message)s")


def read_the_configuration() -> None:
    time.sleep(0.1)  # the culprit


beats: list[float] = []
with Reactor(stall_ms=20) as reactor:
    thread = reactor.create_thread("control", poller_policy="all")
    poller = thread.register_poller(lambda: beats.append(time.perf_counter()), period_us=1_000)
    time.sleep(0.05)
    thread.send_msg(read_the_configuration)
    time.sleep(0.2)
    poller.unregister()

longest = max(b - a for a, b in pairwise(beats))
print(
    f"a poller of the same thread waited {longest * 1000:.0f} ms instead of 1; stalls counted: {reactor.stats.stalls}"
)
