"""Two reactors on two cores throw a message back and forth: how long a round trip takes.

The same through two queue.SimpleQueue and two OS threads, the usual way, for comparison: there each handover waits
for the GIL and for the kernel to wake the other thread.
"""

import queue
import sys
import threading
from itertools import pairwise
from time import perf_counter_ns

from spdkthread import Reactor
from spdkthread.cores import allowed_cores

ROUND_TRIPS = 20_000


def by_messages(round_trips: int) -> list[int]:
    """Each message runs the function that sends the answer."""
    times = []
    done = threading.Event()

    def serve() -> None:
        times.append(perf_counter_ns())
        if len(times) <= round_trips:
            there.send_msg(give_back)
        else:
            done.set()

    def give_back() -> None:
        here.send_msg(serve)

    with Reactor(idle="poll") as first, Reactor(idle="poll") as second:
        here, there = first.create_thread("here"), second.create_thread("there")
        here.send_msg(serve)
        done.wait()
    return times


def by_queues(round_trips: int) -> list[int]:
    times = [perf_counter_ns()]
    there: queue.SimpleQueue[int] = queue.SimpleQueue()
    here: queue.SimpleQueue[int] = queue.SimpleQueue()

    def give_back() -> None:
        for _ in range(round_trips):
            here.put(there.get())

    other = threading.Thread(target=give_back)
    other.start()
    for number in range(round_trips):
        there.put(number)
        here.get()
        times.append(perf_counter_ns())
    other.join()
    return times


def show(name: str, times: list[int]) -> None:
    trips = sorted(later - earlier for earlier, later in pairwise(times))
    figures = (f"p{share:g} {trips[int(len(trips) * share / 100)] / 1000:9,.1f}" for share in (50, 90, 99, 99.9))
    print(f"{name:12}", *figures, "us")


if len(allowed_cores()) < 2:
    sys.exit("ping_pong.py needs two cores: a reactor that never sleeps must have its own")
show("spdkthread", by_messages(ROUND_TRIPS))
show("SimpleQueue", by_queues(ROUND_TRIPS // 10))
