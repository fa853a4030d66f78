"""``python -m spdkthread perf``: how many messages, turns and pollers a second, as SPDK's own small programs ask."""

import argparse
import json
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

from spdkthread.group import ReactorGroup
from spdkthread.lib import ThreadLib
from spdkthread.thread import SpdkThread, get_thread

__all__ = ["event_perf", "main", "poller_perf", "reactor_perf"]

_DESCRIPTION = """\
event_perf    each thread sends to the next one, core to core, as soon as a message has come
reactor_perf  each thread sends to itself, with so many messages under way (-q)
poller_perf   so many pollers (-b) on each core, of one period (-l microseconds, 0: in every turn)
"""


def event_perf(lib: ThreadLib, group: ReactorGroup, seconds: float, depth: int) -> dict[str, Any]:
    """Messages from core to core."""
    return _messages(lib, group, seconds, depth, to_next=True)


def reactor_perf(lib: ThreadLib, group: ReactorGroup, seconds: float, depth: int) -> dict[str, Any]:
    """Messages of each thread to itself."""
    return _messages(lib, group, seconds, depth, to_next=False)


def _messages(lib: ThreadLib, group: ReactorGroup, seconds: float, depth: int, *, to_next: bool) -> dict[str, Any]:
    threads = [reactor.create_thread(f"perf_{reactor.core}") for reactor in group]
    over = threading.Event()

    def step(place: int) -> None:
        if not over.is_set():
            target = (place + 1) % len(threads) if to_next else place
            threads[target].send_msg(step, target)

    for place, thread in enumerate(threads):
        for _ in range(depth):
            thread.send_msg(step, place)
    return _measure(threads, seconds, over.set, lambda thread: thread.stats.msgs_run)


def poller_perf(lib: ThreadLib, group: ReactorGroup, seconds: float, count: int, period_us: float) -> dict[str, Any]:
    """Runs of pollers."""
    threads = [reactor.create_thread(f"perf_{reactor.core}", poller_policy="all") for reactor in group]

    def register() -> None:
        thread = get_thread()
        assert thread is not None
        for number in range(count):
            thread.register_poller(lambda: 0, period_us, name=f"perf_{number}")

    def unregister() -> None:
        thread = get_thread()
        assert thread is not None
        for poller in thread.pollers:
            poller.unregister()

    for thread in threads:
        thread.call(register).result()
    return _measure(
        threads,
        seconds,
        lambda: [thread.call(unregister).result() for thread in threads],
        lambda thread: thread.stats.pollers_run,
    )


def _measure(
    threads: list[SpdkThread], seconds: float, end: Callable[[], object], count: Callable[[SpdkThread], int]
) -> dict[str, Any]:
    began = time.perf_counter()
    before = [count(thread) for thread in threads]
    time.sleep(seconds)
    after = [count(thread) for thread in threads]
    passed = time.perf_counter() - began
    end()
    per_core = {
        thread.name.removeprefix("perf_"): round((late - early) / passed)
        for thread, early, late in zip(threads, before, after, strict=True)
    }
    return {"seconds": round(passed, 3), "per_second": sum(per_core.values()), "per_core": per_core}


def main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m spdkthread perf",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("event_perf", "reactor_perf", "poller_perf"))
    parser.add_argument("-t", "--seconds", type=float, default=1.0, help="default: %(default)g")
    parser.add_argument("-m", "--cores", metavar="CORES", help='"0-3,6" or a mask "0x4f"; default: one core')
    parser.add_argument("-q", "--depth", type=int, default=1, help="messages per thread, default: %(default)d")
    parser.add_argument("-b", "--pollers", type=int, default=1, help="pollers per core; default: %(default)d")
    parser.add_argument("-l", "--period", type=float, default=0, metavar="US", help="of each; default: %(default)g")
    parser.add_argument(
        "--idle", choices=("adaptive", "poll", "yield"), default="adaptive", help="default: %(default)s"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    arguments = parser.parse_args(argv)
    if not arguments.seconds > 0 or not 1 <= arguments.depth <= 1024 or arguments.pollers < 1:
        parser.error("--seconds and --pollers must be above 0, and --depth from 1 to 1024")
    lib = ThreadLib()
    with ReactorGroup(arguments.cores or 1, idle=arguments.idle, lib=lib, period_us=0) as group:
        if arguments.what == "poller_perf":
            figures = poller_perf(lib, group, arguments.seconds, arguments.pollers, arguments.period)
        else:
            measure = event_perf if arguments.what == "event_perf" else reactor_perf
            figures = measure(lib, group, arguments.seconds, arguments.depth)
    figures = {"what": arguments.what, **figures}
    if arguments.json:
        print(json.dumps(figures))
    else:
        for core, count in figures["per_core"].items():
            print(f"core {core}: {count:>12,} a second")
        print(f"all:    {figures['per_second']:>12,} a second, {figures['what']}, {figures['seconds']} s")
    return 0
