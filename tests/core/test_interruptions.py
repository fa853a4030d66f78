"""Executors, coroutines, timers and event loops beside collections at every allocation and signals at any moment.

What interrupts them calls the library itself. Every future is settled with its own outcome, and every timer runs once or
is cancelled.
"""

import interruptions
import pytest

SETTING = """
import asyncio, concurrent.futures
from spdkthread import aio

lib = spdkthread.ThreadLib()
net, disk, small = lib.create_thread("net"), lib.create_thread("disk"), lib.create_thread("small", ring_size=1)
executor, narrow = aio.ThreadExecutor([net, disk]), small.executor()
loop = aio.EventLoop(lib.create_thread("loop"))
mine, yours = os.pipe()
os.write(yours, b"x" * 10)

outcomes = []       # (future, what it may come to)
hits, made, cancelled = [], [], []

leaving = []

def poll():
    for one in (net, disk, small, *crew, *leaving):
        try:
            one.poll()
        except spdkthread.WrongThreadError:
            pass            # what this interrupts is polling it

def submit():
    outcomes.append((executor.submit(abs, -7), (7,)))
    poll()

def submit_to_a_full_ring():
    outcomes.extend((narrow.submit(abs, -7), (7,)) for _ in range(3))
    poll()

crew = [net]
roaming = aio.ThreadExecutor(lambda: tuple(crew))

def submit_where_threads_come_and_go():
    crew.append(lib.create_thread(ring_size=8))
    outcomes.append((roaming.submit(abs, -7), (7,)))
    poll()
    if len(crew) > 4:
        old = crew.pop(1)
        old.exit()
        leaving.append(old)
    poll()

def cancel_a_submitted_call():
    future = executor.submit(abs, -7)
    future.cancel()
    outcomes.append((future, (7, "cancelled")))
    poll()

def map_calls():
    iterator = executor.map(abs, (-1, -2))
    poll()
    outcomes.append((net.call(int), (0,)))
    del iterator

async def work():
    await aio.sleep_us(1)
    number = os.dup(mine)       # one handler a descriptor
    try:
        await aio.fd_ready(number)
    finally:
        os.close(number)
    await aio.switch_to(disk)
    value = await net.call(abs, -7)
    try:
        async for number in counting():
            value += number
            break
    finally:
        await another_turn()
    return value

async def counting():
    try:
        yield 0
        yield 1
    finally:
        await aio.sleep_us(0)

async def another_turn():
    await aio.sleep_us(0)

def spawn():
    outcomes.append((net.spawn(work()), (7,)))
    poll()

def cancel_a_spawned_coroutine():
    future = net.spawn(work())
    poll()
    future.cancel()
    outcomes.append((future, (7, "cancelled")))
    poll()

def call_later():
    made.append(1)
    net.call_later(1, hits.append, 1)
    timer = disk.call_later(5, hits.append, 1)
    made.append(1)
    if timer.cancel():
        cancelled.append(1)
    poll()

turning = []

def turn():
    '''Of the loop; where this interrupts one nothing.'''
    if not turning and asyncio._get_running_loop() is None:
        turning.append(1)
        loop.call_soon(loop.stop)
        try:
            loop.run_forever()
        finally:
            turning.clear()

def schedule():
    for call in (loop.call_soon, loop.call_soon_threadsafe):
        made.append(1)
        call(hits.append, 1)
    for delay in (0, 1e-6):
        made.append(1)
        loop.call_later(delay, hits.append, 1)
    loop.call_later(3600, hits.append, 1).cancel()
    turn()

async def in_loop():
    await asyncio.sleep(0)
    await asyncio.sleep(1e-6)
    first = await net.acall(abs, -3)
    return first + await loop.run_in_executor(executor, abs, -4)

def run_tasks():
    if asyncio._get_running_loop() is None:
        outcomes.append((asyncio.run_coroutine_threadsafe(in_loop(), loop), (7,)))
        turn()
        poll()

def outcome_of(future):
    return "cancelled" if future.cancelled() else future.result(0)

def settle():
    '''Everything comes to its end now.'''
    give_up = time.monotonic() + 30
    while not all(future.done() for future, _ in outcomes) or len(hits) + len(cancelled) < len(made):
        assert time.monotonic() < give_up, [future for future, _ in outcomes if not future.done()]
        poll()
        turn()
    assert len(hits) + len(cancelled) == len(made)
    wrong = [(future, right) for future, right in outcomes if outcome_of(future) not in right]
    assert not wrong, wrong
    outcomes.clear()
    for one in (executor, narrow, roaming):
        one.shutdown()
    loop.close()
"""

USES = [
    "submit",
    "submit_where_threads_come_and_go",
    "submit_to_a_full_ring",
    "cancel_a_submitted_call",
    "map_calls",
    "spawn",
    "cancel_a_spawned_coroutine",
    "call_later",
    "schedule",
    "run_tasks",
]


@pytest.mark.parametrize("use", USES)
def test_destructors_may_use_executors_coroutines_timers_and_loops_at_any_allocation(use):
    interruptions.program(
        f"""
        for act in ({", ".join(USES)}):
            at_every_allocation(act, {use}, rounds=25)
        settle()
        """,
        SETTING,
    )


@pytest.mark.parametrize("act", USES)
def test_signal_handlers_may_use_executors_coroutines_timers_and_loops_at_any_moment(act):
    interruptions.program(
        f"""
        after = itertools.cycle(({", ".join(USES)}))
        busy = []
        def handler():
            if not busy:
                busy.append(1)
                try:
                    next(after)()
                finally:
                    busy.clear()
        under_signals({act}, handler, seconds=0.5)
        settle()
        """,
        SETTING,
    )
