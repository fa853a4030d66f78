"""A soak: the same work again and again, with memory, references and native blocks as they were; cycles collected.

python -m verify.soak --seconds 30 --seed 1
"""

import argparse
import asyncio
import gc
import json
import logging
import os
import random
import sys
import threading
import time
import weakref

from spdkthread import IoDevice, Reactor, RingFullError, ThreadLib
from spdkthread.aio import EventLoop, sleep_us
from spdkthread.testing import ManualClock, leak_counters

PATIENCE_S = 120
# Freed memory is not always given back at once; a leak of one object a round is far above this.
SLACK_BYTES = 4 << 20


class Node:
    """Something that refers to what refers to it."""


def by_hand(choose):
    """Threads, pollers, messages, devices, channels and iterations on a simulated clock."""
    clock = ManualClock()
    lib = ThreadLib(clock=clock, exception_handler=lambda context: None)
    threads = [lib.create_thread(ring_size=8, poller_policy=choose.choice(["one", "all"])) for _ in range(4)]
    device = IoDevice(create_channel=lambda channel: {}, destroy_channel=lambda channel: None, lib=lib).register()
    pollers = []
    for thread in threads:
        with thread:
            pollers.append(thread.register_poller(lambda: 1, choose.choice([0, 1, 5])))
            device.get_io_channel()
    for _ in range(50):
        thread = choose.choice(threads)
        try:
            thread.send_msg(choose.choice([len, print_nothing, fail]), "abc")
            thread.send_many(print_nothing, range(choose.randrange(12)))
        except RingFullError:
            pass
        clock.advance(us=1)
        thread.poll()
    with threads[0]:
        futures = [lib.for_each_thread(print_nothing), device.for_each_channel(print_nothing), device.unregister()]
    for poller in pollers:
        poller.unregister()
    for thread in threads:
        with thread:
            for channel in thread.io_channels:
                channel.put()
            thread.exit()
    while lib.threads:
        for thread in threads:
            thread.poll()
    assert all(future.done() for future in futures)
    lib.close()


def fail(*args):
    raise ValueError("on purpose")


def print_nothing(*args):
    return None


def on_reactors(choose):
    """Reactors, moves, calls from another OS thread, coroutines, descriptors, a stop."""
    lib = ThreadLib(exception_handler=lambda context: None)
    reactors = [Reactor(lib=lib, pin=False, spin_us=choose.choice([0, 50])).start() for _ in range(2)]
    threads = [reactors[n % 2].create_thread(ring_size=16) for n in range(4)]

    async def nap():
        await sleep_us(10)
        return 7

    futures = [thread.spawn(nap()) for thread in threads]
    reading, writing = os.pipe()
    handler = threads[0].register_fd(reading, lambda: os.read(reading, 10))
    os.write(writing, b"x")
    for thread in threads:
        thread.register_poller(print_nothing, 20)
        for _ in range(20):
            thread.send_msg_wait(print_nothing, 1, 2, 3, 4, 5, timeout_s=PATIENCE_S)
    reactors[0].move_thread(threads[0], reactors[1]).result(PATIENCE_S)
    assert [future.result(PATIENCE_S) for future in futures] == [7] * 4
    assert list(threads[1].executor().map(int, "123")) == [1, 2, 3]
    handler.unregister()
    for thread in threads:
        thread.call(lambda thread=thread: [poller.unregister() for poller in thread.pollers]).result(PATIENCE_S)
    for reactor in reactors:
        assert reactor.stop(PATIENCE_S).ok
    os.close(reading)
    os.close(writing)
    lib.close()


def on_asyncio(choose):
    async def main():
        await asyncio.gather(*[asyncio.sleep(choose.random() / 10_000) for _ in range(20)])

    loop = EventLoop()
    loop.run_until_complete(main())
    loop.close()


def cycles(choose):
    """Each of these is a ring of references through the library, dropped without an end: the collector finds it.

    Returns weak references that have to be dead after a collection.
    """
    lib = ThreadLib(clock=ManualClock(), exception_handler=lambda context: None)
    watches = []

    def watched():
        node = Node()
        watches.append(weakref.ref(node))
        return node

    # A message that holds its own thread.
    thread, node = lib.create_thread(ring_size=8), watched()
    node.thread = thread
    thread.send_msg(print_nothing, node, thread)
    # A poller whose function holds the poller.
    thread, node = lib.create_thread(ring_size=8), watched()
    with thread:
        node.poller = thread.register_poller(lambda node=node: node.poller and 0, choose.choice([0, 5]))
    # A future whose callback holds the future.
    thread, node = lib.create_thread(ring_size=8), watched()
    node.future = thread.call(print_nothing, node)
    node.future.add_done_callback(lambda future, node=node: None)
    # A channel whose context holds the channel, and a device whose function holds the device.
    node = watched()
    node.device = IoDevice(create_channel=lambda channel, node=node: [channel, node], lib=lib).register()
    thread = lib.create_thread(ring_size=8)
    with thread:
        node.channel = thread.get_io_channel(node.device)
        node.future = lib.for_each_thread(lambda node=node: None)
        node.iteration = node.device.for_each_channel(lambda it, node=node: it.defer())
    for _ in range(5):
        thread.poll()
    # A coroutine that waits for ever, held by what it holds.
    thread, node = lib.create_thread(ring_size=8), watched()

    async def wait(node):
        await sleep_us(1e9)

    node.coroutine = thread.spawn(wait(node))
    thread.poll()
    # A reactor that never ran, and its library's handler that holds it. With a message in the ring of its thread it
    # would stay: what waits for a reactor is not shown to the collector, which may not look while it is taken out.
    node = watched()
    other = ThreadLib()
    node.reactor = Reactor(lib=other, pin=False)
    node.thread = node.reactor.create_thread(ring_size=8)
    other.exception_handler = lambda context, node=node: None
    # A reactor that ran and was stopped, with a thread that holds it.
    node = watched()
    other = ThreadLib()
    node.reactor = Reactor(lib=other, pin=False).start()
    node.thread = node.reactor.create_thread(ring_size=8)
    node.thread.call(print_nothing, node).result(PATIENCE_S)
    node.reactor.stop(PATIENCE_S)
    return watches


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")


def measure():
    for _ in range(3):
        gc.collect()
    return {
        "resident": resident_bytes(),
        "blocks": sys.getallocatedblocks(),
        "objects": len(gc.get_objects()),
        "descriptors": len(os.listdir("/proc/self/fd")),
        "os threads": threading.active_count(),
        "references": sys.getrefcount(print_nothing) + sys.getrefcount(Node) + sys.getrefcount(None) % 2**31,
    } | leak_counters()


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--seconds", type=float, default=10)
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    logging.disable(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: None
    choose = random.Random(options.seed)
    begin = time.monotonic()
    rounds = collected = 0

    def work(until):
        nonlocal rounds, collected
        while time.monotonic() < until:
            by_hand(choose)
            on_reactors(choose)
            on_asyncio(choose)
            watches = cycles(choose)
            gc.collect()
            gc.collect()
            alive = [number for number, watch in enumerate(watches) if watch() is not None]
            assert not alive, f"cycles that were not collected: {alive}"
            collected += len(watches)
            rounds += 1

    work(begin + options.seconds * 0.3)
    first, warm = measure(), rounds
    work(begin + options.seconds)
    last, done = measure(), rounds - warm
    assert done > 0, "no round after the warm-up"
    # Less than one object in two rounds: each round makes thousands. Blocks are also kept by asyncio's and Python's
    # own free lists, which fill for some hundred rounds; plain asyncio's loop does the same.
    grown = {name: last[name] - first[name] for name in first if last[name] > first[name]}
    for name, slack in (("blocks", 500), ("objects", 20), ("references", 20)):
        if grown.get(name, 0) <= max(slack, done // 2):
            grown.pop(name, None)
    if grown.get("resident", 0) <= SLACK_BYTES:
        grown.pop("resident", None)
    print(
        json.dumps(
            {
                "rounds": rounds,
                "cycles collected": collected,
                "resident MiB at first": round(first["resident"] / 2**20, 1),
                "resident MiB at last": round(last["resident"] / 2**20, 1),
                "blocks grown": last["blocks"] - first["blocks"],
                "grown": grown,
                "seed": options.seed,
            }
        )
    )
    if grown:
        sys.exit(f"grown in {done} rounds: {grown}")


if __name__ == "__main__":
    main()
