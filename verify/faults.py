"""Allocation failures: for each scenario the first allocation of the native core fails, then the second, and so on.

    python -m verify.faults --seed 1 [--scenario NAME]        in a build with SPDKTHREAD_FAULTS=1

A failure may come out as `MemoryError` from the call, in a future or at the exception handler, as nothing else. After
it everything that was accepted runs, every future is resolved, the thread or reactor works, nothing has leaked.
"""

import argparse
import asyncio
import contextlib
import faulthandler
import functools
import gc
import json
import mmap
import os
import random
import re
import socket
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path

from spdkthread import IoBufPool, IoDevice, Reactor, SpdkThreadError, ThreadLib, alloc
from spdkthread.aio import EventLoop, sleep_us, switch_to
from spdkthread.bdev import Bdev
from spdkthread.bdev.job import NativeJob
from spdkthread.ring import MessageRing
from spdkthread.sock import SockGroup
from spdkthread.testing import ManualClock, leak_counters
from spdkthread.timers import TimerQueue

PATIENCE_S = 120

# What allocates in the native core, and a scenario that goes there. A new place needs a scenario.
SITES = {
    ("core.pyx", "make_room"): "sockets",
    ("datagram_core.pyx", "make_bytes"): "datagrams",
    ("datagram_core.pyx", "make_waiting"): "datagrams",
    ("datagram_core.pyx", "new_block"): "datagrams",
    ("device.pyx", "__cinit__"): "storage over io_uring",
    ("device.pyx", "_begin"): "storage over threads",
    ("histogram.pyx", "__cinit__"): "storage over io_uring",
    ("device_table.pyx", "device_add"): "channels",
    ("iobuf.pyx", "__init__"): "buffers",
    ("iobuf.pyx", "create_channel"): "buffers",
    ("iobuf_waiting.pyx", "waiting_serials"): "buffers",
    ("job.pyx", "__init__"): "a workload of bdevperf",
    ("pointer_map.pyx", "grow"): "channels",
    ("reactor_members.pyx", "make_room"): "a reactor",
    ("ring.pyx", "ring_create"): "threads",
    ("ring.pyx", "overflow_new"): "for_each_thread with full rings",
    ("sock.pyx", "__cinit__"): "sockets",
    ("sock.pyx", "_open"): "sockets",
    ("thread_poll.pyx", "queue_ready"): "timers of call_later",
    ("timers.pyx", "timer_queue_init"): "timers",
    ("uring_group.pyx", "keep_input"): "sockets over io_uring",
    ("uring_group.pyx", "uring_attach"): "sockets over io_uring",
    ("uring_group.pyx", "uring_group_open"): "sockets over io_uring",
    ("wakeup.pyx", "wakeup_make_ready_map"): "a crowded reactor",
    ("wakeup.pyx", "wakeup_take"): "the first wake-up states",
}


def noop(*args):
    return None


def allowed(error):
    return isinstance(error, MemoryError) and "no memory" in str(error)


class World:
    """A library whose threads are polled here, and what a scenario started."""

    def __init__(self):
        self.clock = ManualClock()
        self.reported = []
        self.lib = ThreadLib(clock=self.clock, exception_handler=self.reported.append)
        self.live = ThreadLib(exception_handler=self.reported.append)
        self.futures, self.reactors, self.devices, self.loops = [], [], [], []
        self.cleanup = contextlib.ExitStack()
        self.ran = []
        self.expected = 0

    def thread(self, **options):
        return self.lib.create_thread(**{"ring_size": 1} | options)

    def send(self, thread):
        """A message that must run once it was taken."""
        thread.send_msg(self.ran.append, 1)
        self.expected += 1

    def full(self, count=3):
        """Threads whose ring has no room left."""
        threads = [self.thread() for _ in range(count)]
        for thread in threads:
            self.send(thread)
        return threads

    def device(self, **options):
        device = IoDevice(lib=self.lib, **options).register()
        self.devices.append(device)
        return device

    def reactor(self, **options):
        reactor = Reactor(lib=self.live, pin=False, **options)
        self.reactors.append(reactor)
        return reactor

    def poll(self, rounds=50):
        for _ in range(rounds):
            self.clock.advance(us=10)
            for thread in self.lib.threads:
                thread.poll()

    def poll_until(self, predicate):
        """What comes from the kernel takes its time."""
        end = time.monotonic() + PATIENCE_S
        while not predicate():
            self.poll(1)
            assert time.monotonic() < end, "never became true"

    def bdev(self, backend):
        path = os.path.join(self.cleanup.enter_context(tempfile.TemporaryDirectory()), "disk")
        bdev = Bdev.open(path, create_bytes=1 << 16, depth=8, backend=backend, lib=self.lib)
        self.devices.append(bdev)
        return bdev

    def settle(self):
        """All is over: what was accepted has run, and no future is pending."""
        self.poll()
        for future in self.futures:
            error = future.exception(0 if not self.reactors else PATIENCE_S)
            assert error is None or allowed(error), repr(error)
        self.prove_that_it_works()
        for reactor in self.reactors:
            report = reactor.stop(PATIENCE_S)
            assert report.ok, report
        for loop in self.loops:
            loop.close()
        for thread in self.lib.threads:
            with thread:
                for channel in thread.io_channels:
                    for _ in range(channel.ref_count):
                        channel.put()
                for poller in thread.pollers:
                    poller.unregister()
        self.poll()
        with self.lib.create_thread("janitor"):
            for device in self.devices:
                if device.is_registered:
                    device.unregister()
        self.poll()
        for thread in self.lib.threads:
            with thread:
                thread.exit()
        self.poll()
        assert self.lib.threads == (), [thread.exit_blockers for thread in self.lib.threads]
        assert all(allowed(context["exception"]) for context in self.reported), self.reported
        assert len(self.ran) == self.expected, (len(self.ran), self.expected)
        self.lib.close()
        self.live.close()
        self.cleanup.close()

    def prove_that_it_works(self):
        thread = self.lib.create_thread("proof")
        seen = []
        thread.send_msg(seen.append, "message")
        with thread:
            poller = thread.register_poller(lambda: seen.append("timer"), 1)
            channel = thread.get_io_channel(self.device())
            self.lib.for_each_thread(lambda: seen.append("visit"))
        self.poll(10)
        assert {"message", "timer", "visit"} == set(seen), seen
        with thread:
            poller.unregister()
            channel.put()
        for reactor in self.reactors:
            if reactor.state == "running":
                assert reactor.create_thread("proof").call(int, "7").result(PATIENCE_S) == 7


# Scenarios


def threads(world):
    for _ in range(3):
        world.send(world.thread(ring_size=8))


def timers(world):
    for policy in ("one", "all"):
        thread = world.thread(poller_policy=policy)
        with thread:
            thread.register_poller(noop, 5)
        other = world.thread()
        other.register_poller(noop, 5)


def timers_of_call_later(world):
    thread = world.thread()
    with thread:
        timer = thread.call_later(5, noop)
        thread.call_later(6, noop).cancel()
    timer.cancel()


def buffers(world):
    thread = world.thread(ring_size=64)
    pool = IoBufPool(small_count=4, small_size=4096, large_count=2, large_size=8192, lib=world.lib)
    try:
        with thread:
            channel = pool.channel("net", small_cache=0, large_cache=0)
            held = [channel.get(100) for _ in range(4)]
            channel.get(100, lambda buffer: buffer.put())  # waits
            stats = pool.stats()
        world.futures.append(stats)
        world.poll(20)
        with thread:
            for buffer in held:
                buffer.put()
        world.poll(20)
    finally:
        held = buffer = None
        pool.close()


def a_crowded_reactor(world):
    """More threads than are looked at one by one in each turn."""
    reactor = world.reactor()
    for _ in range(70):
        reactor.create_thread(ring_size=8).send_msg(world.ran.append, 1)
        world.expected += 1
    end = time.monotonic() + 0.05
    while time.monotonic() < end:
        reactor.poll()


def native_pollers(world):
    import ctypes

    fn = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p)(("PyGILState_Check", ctypes.CDLL(None)))
    thread = world.thread()
    with thread:
        thread.register_native_poller(fn, None, 5).unregister()


def channels(world):
    threads = [world.thread(ring_size=64) for _ in range(20)]
    for device in [world.device() for _ in range(5)]:
        for thread in threads:
            with thread:
                thread.get_io_channel(device)


def channels_of_full_threads(world):
    """The message that ends a channel finds no room."""
    device = world.device()
    for thread in [world.thread() for _ in range(3)]:
        with thread:
            channel = thread.get_io_channel(device)
            world.send(thread)
            channel.put()


def for_each_thread_with_full_rings(world):
    first, *_ = world.full()
    with first:
        for _ in range(3):
            world.futures.append(world.lib.for_each_thread(noop, noop))


def for_each_channel_with_full_rings(world):
    device = world.device()
    threads = [world.thread() for _ in range(3)]
    for thread in threads:
        with thread:
            thread.get_io_channel(device)
        world.send(thread)
    with threads[0]:
        for status in (0, 1):
            world.futures.append(device.for_each_channel(lambda it, status=status: status, None, noop))


def device_ends_with_full_rings(world):
    threads = world.full()
    for other in threads[1:]:
        device = world.device()
        with other:
            channel = other.get_io_channel(device)
        with threads[0]:
            world.futures.append(device.unregister(noop))
        with other:
            channel.put()
    with threads[0]:
        world.futures.append(world.device().unregister(noop))


def requests_from_elsewhere_to_full_rings(world):
    thread = world.thread(ring_size=2)
    with thread:
        poller = thread.register_poller(noop)
    world.send(thread)
    world.send(thread)
    reading, writing = os.pipe()
    try:
        poller.pause()
        poller.resume()
        thread.register_poller(noop, 3)
        handler = thread.register_fd(reading, noop)
        handler.unregister()
        thread.exit()
    finally:
        world.poll()
        os.close(reading)
        os.close(writing)


def futures_and_messages(world):
    thread = world.thread(ring_size=4)
    for _ in range(3):
        world.futures.append(thread.call(int, "1"))
    thread.send_critical_msg(noop)


def first_wakeup_states(world):
    """More reactors than there ever were, so that their wake-up states are made now."""
    spare = []
    try:
        while True:
            spare.append(world.reactor())
            if alloc.failure_pending() is False or len(spare) > 8:
                break
    finally:
        for reactor in spare:
            reactor.create_thread().send_msg(noop)


def a_reactor(world):
    """More threads than its table has room for."""
    reactor = world.reactor(idle="yield")
    for _ in range(40):
        reactor.create_thread(ring_size=8).send_msg(world.ran.append, 1)
        world.expected += 1
        reactor.poll()


def a_running_reactor(world):
    reactor = world.reactor(spin_us=0).start()
    for _ in range(40):
        world.futures.append(reactor.create_thread(ring_size=2).call(int, "1"))


def moves(world):
    first, second = world.reactor(idle="yield"), world.reactor(idle="yield")
    threads = [first.create_thread(ring_size=2) for _ in range(40)]
    for thread in threads:
        thread.send_msg(world.ran.append, 1)
        world.expected += 1
        world.futures.append(first.move_thread(thread, second))
    second.poll()


def moves_between_running_ones(world):
    first, second = world.reactor(spin_us=0).start(), world.reactor(spin_us=0).start()
    for thread in [first.create_thread(ring_size=2) for _ in range(40)]:
        world.futures.append(thread.call(int, "1"))
        world.futures.append(first.move_thread(thread, second))


def coroutines(world):
    first, second = world.full(2)

    async def travel():
        await switch_to(second)
        await sleep_us(5)
        await switch_to(first)

    try:
        coroutine = travel()
        world.futures.append(first.spawn(coroutine))
    except SpdkThreadError:
        coroutine.close()
    world.poll(5)
    coroutine = travel()
    world.futures.append(first.spawn(coroutine))
    world.send(second)


def sleepers(world):
    """Those that come after one whose timer found no memory."""
    thread = world.thread(ring_size=8)

    async def nap():
        await sleep_us(5)

    for _ in range(3):
        world.futures.append(thread.spawn(nap()))
        world.poll(3)


def an_event_loop(world):
    loop = EventLoop()
    world.loops.append(loop)

    async def main():
        sender = threading.Thread(target=lambda: [loop.call_soon_threadsafe(noop) for _ in range(10)])
        sender.start()
        await asyncio.gather(*[asyncio.sleep(0.0001 * n) for n in range(5)])
        await asyncio.to_thread(sender.join)
        return await loop.run_in_executor(None, int, "7")

    threading.excepthook = lambda arguments: None
    try:
        assert loop.run_until_complete(main()) == 7
        loop.run_until_complete(loop.shutdown_default_executor())
    finally:
        threading.excepthook = threading.__excepthook__


def an_executor(world):
    thread = world.thread()
    executor = thread.executor()
    for _ in range(5):
        world.futures.append(executor.submit(int, "7"))


def storage(world, backend):
    """A channel, a histogram, requests of each kind."""
    bdev = world.bdev(backend)
    thread = world.thread(ring_size=64)
    done = []

    def cb(count, error):
        assert error is None, error
        done.append(count)

    with thread:
        channel = bdev.get_io_channel()
        channel.enable_histogram()
        channel.writev([b"four", b"more"], 4096, cb)
    world.poll_until(lambda: done)
    buffers = [bytearray(4), bytearray(4)]
    with thread:
        channel.readv(buffers, 4096, cb)
        channel.read(bytearray(100), 0, cb)
        channel.flush(cb)
    world.poll_until(lambda: len(done) == 4)
    assert buffers == [b"four", b"more"]
    assert channel.histogram.count == 4


def a_workload_of_bdevperf(world):
    bdev = world.bdev("auto")
    thread = world.thread(ring_size=64)
    with thread:
        channel = bdev.get_io_channel()
        job = NativeJob(channel, mmap.mmap(-1, 1 << 14), 4096, 4, "verify", 0, 16, 0.005)
        job.start()
    world.poll_until(lambda: job.finished)
    assert job.errors == 0


def sockets(world):
    """A connection whose peer does not read until all is written."""
    group = SockGroup("net", lib=world.lib).register()
    world.devices.append(group)
    thread = world.thread(ring_size=64)
    socks = []
    try:
        with thread:
            listener = group.listen(("127.0.0.1", 0), socks.append)
        with socket.create_connection(listener.sockname(), PATIENCE_S) as peer:
            world.poll_until(lambda: socks or world.reported)
            if socks:
                with thread:
                    for _ in range(3):
                        socks[0].write(bytes(1 << 20))
                received = 0
                peer.setblocking(False)
                while received < 3 << 20:
                    world.poll(1)
                    with contextlib.suppress(BlockingIOError):
                        received += len(peer.recv(1 << 20)) or 4 << 20
                assert received == 3 << 20, received
    finally:
        with thread:
            group.close_all()
        world.poll()


def sockets_over_io_uring(world):
    """A connection that receives while it is paused, or ends where there is no memory for what came."""
    group = SockGroup("net", lib=world.lib, backend="auto").register()
    world.devices.append(group)
    thread = world.thread(ring_size=64)
    socks, heard, closed = [], [], []

    def accepted(sock):
        sock.on_data = lambda sock, view: heard.append(len(view))
        sock.on_close = lambda sock, error: closed.append(error)
        socks.append(sock)

    try:
        with thread:
            listener = group.listen(("127.0.0.1", 0), accepted)
        with socket.create_connection(listener.sockname(), PATIENCE_S) as peer:
            world.poll_until(lambda: socks or world.reported)
            if socks:
                world.poll(5)
                with thread:
                    socks[0].pause_reading()
                peer.sendall(bytes(1000))
                world.poll(5)
                if not closed:
                    with thread:
                        socks[0].resume_reading()
                world.poll_until(lambda: sum(heard) == 1000 or closed)
    finally:
        with thread:
            group.close_all()
        world.poll()


def datagrams(world):
    """A socket that sends many to another one at once."""
    group = SockGroup("net", lib=world.lib).register()
    world.devices.append(group)
    thread = world.thread(ring_size=64)
    heard = []
    try:
        with thread:
            sock = group.open_datagram(("127.0.0.1", 0), on_batch=lambda sock, batch: heard.extend(map(bytes, batch)))
            other = group.open_datagram(remote=sock.sockname())
            assert other.send_many(bytes(100 * 200), 100) == 200
        world.poll_until(lambda: other.datagrams_out == 200 and len(heard) > 100)
    finally:
        with thread:
            group.close_all()
        world.poll()


def the_structures_by_themselves(world):
    assert MessageRing(8).push(noop, 1)
    queue = TimerQueue()
    queue.add(5, "five")
    assert queue.pop_expired(6) == "five"


SCENARIOS = {
    "threads": threads,
    "timers": timers,
    "timers of call_later": timers_of_call_later,
    "buffers": buffers,
    "a crowded reactor": a_crowded_reactor,
    "native pollers": native_pollers,
    "channels": channels,
    "channels of full threads": channels_of_full_threads,
    "for_each_thread with full rings": for_each_thread_with_full_rings,
    "for_each_channel with full rings": for_each_channel_with_full_rings,
    "device ends with full rings": device_ends_with_full_rings,
    "requests from elsewhere to full rings": requests_from_elsewhere_to_full_rings,
    "futures and messages": futures_and_messages,
    "the first wake-up states": first_wakeup_states,
    "a reactor": a_reactor,
    "a running reactor": a_running_reactor,
    "moves": moves,
    "moves between running reactors": moves_between_running_ones,
    "coroutines": coroutines,
    "sleepers": sleepers,
    "an event loop": an_event_loop,
    "an executor": an_executor,
    "storage over io_uring": functools.partial(storage, backend="auto"),
    "storage over threads": functools.partial(storage, backend="threads"),
    "a workload of bdevperf": a_workload_of_bdevperf,
    "sockets": sockets,
    "sockets over io_uring": sockets_over_io_uring,
    "datagrams": datagrams,
    "the structures by themselves": the_structures_by_themselves,
}


def check_sites():
    """Every place in the sources that allocates has a scenario."""
    found = set()
    for source in (Path(__file__).parent.parent / "spdkthread").rglob("*.p[yx][xd]"):
        function = ""
        for line in source.read_text().splitlines():
            if start := re.match(r"\s*(?:def|cdef|cpdef)\b.*?(\w+)\((?:.*:)?$", line):
                function = start[1]
            elif re.search(r"\bcore_(calloc|map)\(", line) and not line.lstrip().startswith("cdef void *core"):
                found.add((source.name, function))
    assert found == set(SITES), f"places that allocate without a scenario, or gone: {found ^ set(SITES)}"
    assert set(SITES.values()) <= set(SCENARIOS), set(SITES.values()) - set(SCENARIOS)


def resolve(futures):
    for future in futures:
        try:
            future.exception(PATIENCE_S)
        except Exception as failure:
            raise AssertionError(f"a future is never resolved: {failure!r}") from None


def once(scenario, nth):
    """One run in which the nth allocation fails; whether there were so many."""
    gc.collect()
    before = leak_counters()
    world = World()
    error = None
    alloc.fail_allocation(nth)
    try:
        scenario(world)
        world.poll(20)
    except MemoryError as failure:
        error = str(failure)
        if not allowed(failure):
            raise
    finally:
        if world.reactors:
            # A live reactor may not have come to its allocation yet.
            resolve(world.futures)
        happened = not alloc.failure_pending()
        alloc.fail_allocation(0)
    world.settle()
    seen = bool(error or world.reported or any(future.exception(0) for future in world.futures))
    del world
    gc.collect()
    after = leak_counters()
    assert after == before, {name: (before[name], after[name]) for name in after if after[name] != before[name]}
    return happened, seen


def main():
    arguments = argparse.ArgumentParser()
    arguments.add_argument("--scenario", choices=list(SCENARIOS), action="append")
    arguments.add_argument("--seed", type=int, default=1)
    options = arguments.parse_args()
    faulthandler.dump_traceback_later(600, exit=True)
    check_sites()
    names = options.scenario or list(SCENARIOS)
    random.Random(options.seed).shuffle(names)
    total, failed = {}, []
    for name in names:
        nth, failures, visible = 0, 0, 0
        while True:
            nth += 1
            try:
                happened, seen = once(SCENARIOS[name], nth)
            except Exception as error:
                failed.append(f"{name}, allocation {nth}: {type(error).__name__}: {error}")
                traceback.print_exc()
                break
            if not happened:
                break
            failures += 1
            visible += seen
        total[name] = failures
    idle = [name for name in SITES.values() if name in names and not total[name]]
    failed += [f"{name}: no allocation failed" for name in idle]
    print("\n".join(failed), file=sys.stderr)
    print(json.dumps({"allocations failed": sum(total.values()), "scenarios": len(names), "by scenario": total}))
    sys.exit(bool(failed))


if __name__ == "__main__":
    main()
