"""Resources used up: without file descriptors or address space there are named errors, and with them things work again."""

import pytest
from support import run_python

pytestmark = [
    pytest.mark.faults,
    pytest.mark.no_tsan(
        reason="ThreadSanitizer hands a signal on at the next call that it knows, which may never come"
    ),
]

# File descriptors. Each program runs with room for n more of them, for n from 0 until it succeeds.

DESCRIPTORS = """
import gc, os, resource, socket, sys
from spdkthread import Reactor, ReactorGroup, SpdkThreadError, ThreadLib
from spdkthread.aio import EventLoop
import asyncio, selectors
from spdkthread.testing import leak_counters

def a_reactor():
    reactor = Reactor(lib=lib, pin=False).start()
    try:
        assert reactor.create_thread().call(abs, -1).result(60) == 1
    finally:
        assert reactor.stop(60).ok

def a_group():
    group = ReactorGroup(1, lib=lib, period_us=0)
    group.start()
    try:
        assert group.create_thread().call(abs, -1).result(60) == 1
    finally:
        assert group.stop(60).ok

def a_descriptor_by_hand():
    thread = lib.create_thread()
    try:
        reading, writing = os.pipe()
        try:
            with thread:
                seen = []
                handler = thread.register_fd(reading, lambda: seen.append(os.read(reading, 1)))
                os.write(writing, b"x")
                thread.poll()
                assert seen == [b"x"]
                handler.unregister()
        finally:
            os.close(reading)
            os.close(writing)
    finally:
        with thread:
            thread.exit()
        thread.poll()

def a_descriptor_on_a_reactor():
    reading, writing = os.pipe()
    try:
        reactor = Reactor(lib=lib, pin=False).start()
        try:
            thread = reactor.create_thread()
            arrived = []
            def register():
                arrived.append(thread.register_fd(reading, lambda: arrived.append(os.read(reading, 1))))
            thread.call(register).result(60)
            os.write(writing, b"x")
            import time
            give_up = time.monotonic() + 60
            while len(arrived) < 2 and time.monotonic() < give_up:
                time.sleep(0.001)
            assert arrived[1] == b"x"
            thread.call(arrived[0].unregister).result(60)
        finally:
            report = reactor.stop(60)
            assert report.ok, report
    finally:
        os.close(reading)
        os.close(writing)

def a_move_with_a_descriptor():
    reading, writing = os.pipe()
    try:
        first, second = [Reactor(lib=lib, pin=False).start() for _ in range(2)]
        try:
            thread = first.create_thread()
            handler = thread.call(thread.register_fd, reading, lambda: os.read(reading, 1)).result(60)
            try:
                first.move_thread(thread, second).result(60)
            finally:
                assert thread.call(abs, -1).result(60) == 1
                thread.call(handler.unregister).result(60)
        finally:
            assert first.stop(60).ok and second.stop(60).ok
    finally:
        os.close(reading)
        os.close(writing)

def a_loop():
    loop = EventLoop()
    try:
        loop.run_until_complete(asyncio.sleep(0.001))
    finally:
        loop.close()

def open_now():
    return len(os.listdir("/proc/self/fd"))

lib = ThreadLib(exception_handler=lambda context: None)
task = globals()[sys.argv[1]]
soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
failures = 0
for room in range(30):
    gc.collect()
    before, counters = open_now(), leak_counters()
    highest = max(map(int, os.listdir("/proc/self/fd")))
    spare = [os.dup(0) for _ in range(highest)]     # no gaps below the limit
    top = max(spare)
    # As many as `room` may be opened.
    resource.setrlimit(resource.RLIMIT_NOFILE, (top + 1 + room, hard))
    outcome = None
    try:
        task()
        outcome = "ok"
    except (SpdkThreadError, OSError) as error:
        assert str(error)
        outcome = type(error).__name__
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for fd in spare:
            os.close(fd)
    gc.collect()
    assert leak_counters() == counters, (room, outcome, counters, leak_counters())
    if outcome == "ok":
        break
    failures += 1
    task_again = task()     # with room it works at once
assert outcome == "ok"
gc.collect()
print("failures", failures > 0)
lib.close()
"""

TASKS = [
    "a_reactor",
    "a_group",
    "a_descriptor_by_hand",
    "a_descriptor_on_a_reactor",
    "a_move_with_a_descriptor",
    "a_loop",
]


@pytest.mark.parametrize("task", TASKS)
def test_without_file_descriptors_there_is_a_named_error_and_with_them_it_works_again(task):
    done = run_python(DESCRIPTORS.replace("sys.argv[1]", repr(task)))
    assert (done.returncode, done.stdout) == (0, "failures True\n"), done.stdout + done.stderr


MEMORY = """
import resource
from spdkthread import Reactor, SpdkThreadError, ThreadLib
from spdkthread.testing import ManualClock

def address_space():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[0]) * resource.getpagesize()

lib, live = ThreadLib(clock=ManualClock()), ThreadLib()
reactor = Reactor(lib=live, pin=False).start()
busy = reactor.create_thread("busy")
ran = []
resource.setrlimit(resource.RLIMIT_AS, (address_space() + (64 << 20), -1))
threads, refused = [], 0
for number in range(200):
    try:
        threads.append(lib.create_thread(ring_size=65_536))       # 4 MiB of address space each
    except MemoryError as error:
        assert "no memory for a message ring of 65536 slots" in str(error), error
        refused += 1
    busy.send_msg_wait(ran.append, number)
assert threads and refused, (len(threads), refused)
for thread in threads:
    for number in range(100):
        thread.send_msg(ran.append, number)
for thread in threads:
    with thread:
        thread.exit()
    while not thread.is_exited:
        thread.poll()
assert busy.call(abs, -1).result(60) == 1
assert len(ran) == 200 + 100 * len(threads)
del thread
threads.clear()
threads.append(lib.create_thread(ring_size=65_536))       # there is room again
with threads[0]:
    threads[0].exit()
threads[0].poll()
assert reactor.stop(60).ok
lib.close()
print("fine")
"""


def test_an_address_space_that_is_used_up_refuses_new_threads_and_nothing_else():
    done = run_python(MEMORY)
    assert (done.returncode, done.stdout) == (0, "fine\n"), done.stderr


# Signals


# Clocks
