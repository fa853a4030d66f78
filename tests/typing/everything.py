"""A program that uses every public name, for mypy --strict and pyright; it also runs."""

import asyncio
import concurrent.futures
import ctypes
import os
from collections.abc import Awaitable, Iterable
from typing import Any, Literal, assert_type

import numpy as np

import spdkthread
from spdkthread import (
    TICKS_HZ,
    AwaitError,
    DeviceError,
    FdError,
    FdHandler,
    IoBuf,
    IoBufChannel,
    IoBufPool,
    IoChannel,
    IoChannelIter,
    IoDevice,
    LeftoverChannel,
    LeftoverMessage,
    LeftoverOther,
    LeftoverPoller,
    LeftoverUnregistration,
    LoopExitedError,
    LoopThreadError,
    ManualClock,
    NestedLoopError,
    NoThreadError,
    NotIdleError,
    Poller,
    Reactor,
    ReactorError,
    ReactorGroup,
    ReactorStats,
    RingFullError,
    RingFullTimeoutError,
    ShutdownReport,
    SpdkThread,
    SpdkThreadError,
    SpinLock,
    SpinLockError,
    ThreadExitedError,
    ThreadLib,
    ThreadStats,
    Timer,
    WrongThreadError,
    __version__,
    aio,
    call_unaffinitized,
    default_lib,
    for_each_thread,
    get_reactor,
    get_thread,
    scheduler,
    testing,
    ticks,
)
from spdkthread.cores import allowed_cores, parse_cores
from spdkthread.stats import ContextSwitches

ERRORS: tuple[type[SpdkThreadError], ...] = (
    AwaitError,
    DeviceError,
    FdError,
    LoopExitedError,
    LoopThreadError,
    NestedLoopError,
    NoThreadError,
    NotIdleError,
    ReactorError,
    RingFullError,
    RingFullTimeoutError,
    SpinLockError,
    ThreadExitedError,
    WrongThreadError,
)


def add(a: int, b: int) -> int:
    return a + b


def handle(context: dict[str, Any]) -> None:
    print(context["message"])


class Idle:
    """An idle strategy."""

    def idle(self, work_count: int) -> None:
        os.sched_yield()

    def reset(self) -> None:
        pass


class Stay:
    """A scheduler."""

    def balance(self, snapshot: scheduler.Snapshot) -> Iterable[scheduler.Move]:
        return [scheduler.Move(thread.id, thread.core) for thread in snapshot.threads]


class Table(IoDevice):
    def create_channel(self, channel: IoChannel) -> list[int]:
        assert_type(channel.thread, SpdkThread)
        return []

    def destroy_channel(self, channel: IoChannel) -> None:
        channel.ctx.clear()


def clocks() -> None:
    clock = ManualClock(start=5)
    assert_type(clock.now, int)
    assert_type(clock.advance(us=1.5, ticks=3), int)
    assert ticks() > 0
    assert TICKS_HZ == 1_000_000_000
    assert spdkthread.__version__ == __version__
    lib = ThreadLib(clock=clock, exception_handler=handle)
    lib.exception_handler = None
    assert lib.exception_handler is None
    thread = lib.create_thread("driven", cpumask=None, ring_size=64, poller_policy="all")
    assert lib.get_thread_by_id(thread.id) is thread
    assert_type(lib.app_thread, SpdkThread | None)
    assert_type(lib.threads, tuple[SpdkThread, ...])
    assert_type(lib.devices, tuple[IoDevice, ...])
    assert_type(lib.error_count + lib.lost_msgs, int)
    print(lib.error_log)
    with thread as current:
        assert get_thread() is current
        visited: list[str] = []
        lib.for_each_thread(lambda: visited.append("thread"), lambda: visited.append("end"))
        for_each_thread(lambda: None, lib=lib)
        thread.poll()
    assert_type(testing.poll_threads([thread], rounds=2), int)
    assert_type(testing.poll_until_idle([thread], max_rounds=100), int)
    assert_type(testing.leak_counters(), dict[str, int])
    testing.run_for(clock, [thread], us=5)
    assert lib.manual_clock is clock
    assert visited == ["thread", "end"]
    with thread:
        thread.exit()
    assert_type(thread.poll(max_msgs=0, now=clock.now), int)
    lib.close()


def messages(thread: SpdkThread) -> None:
    thread.send_msg(add, 1, 2)
    assert_type(thread.try_send_msg(add, 1, 2), bool)
    thread.send_msg_wait(add, 1, 2, timeout_s=1)
    assert_type(thread.send_many(hex, range(3)), int)
    thread.send_critical_msg(lambda: None)
    thread.exec_msg(add, 1, 2)
    thread.send_msg(print, "anything", 1)
    future = thread.call(add, 1, 2)
    assert_type(future.result(timeout=5), int)
    assert_type(thread.call(lambda: "text").result(), str)
    assert list(concurrent.futures.as_completed([future])) == [future]
    assert not future.cancel()


def native(thread: SpdkThread) -> None:
    libc = ctypes.CDLL(None)
    libc.free.restype, libc.free.argtypes = None, [ctypes.c_void_p]
    libc.time.restype, libc.time.argtypes = ctypes.c_int, [ctypes.c_void_p]
    now = np.zeros((), dtype="i8")
    thread.send_native(libc.free, None)
    poller = thread.register_native_poller(libc.time, now, period_us=100, name="time", fixed_rate=True)
    thread.call_later_native(1, libc.free, None)
    assert_type(poller, Poller)
    poller.unregister()


def pollers(thread: SpdkThread) -> None:
    poller = thread.register_poller(lambda: 0, period_us=250.5, name="beat")
    poller.pause()
    poller.resume()
    state: Literal["waiting", "running", "paused", "unregistered"] = poller.state
    print(poller.name, poller.id, state, poller.period_us, poller.period_ticks, poller.thread)
    print(poller.fixed_rate, poller.deadline)
    timer = thread.call_later(1e9, add, 1, 2)
    assert_type(timer, Timer)
    assert_type(timer.deadline, int)
    assert_type(timer.is_pending, bool)
    thread.call(lambda: None).result()
    print(timer.name, timer.thread, thread.timers, thread.next_expiration)
    assert_type(timer.cancel(), bool)
    assert_type(poller.run_count + poller.busy_count + poller.error_count + poller.overrun_count, int)
    read_end, write_end = os.pipe()
    handler = thread.register_fd(read_end, lambda: os.read(read_end, 1), "r", name="pipe")
    assert_type(handler, FdHandler)
    thread.call(handler.modify, "r").result()
    print(handler.fd, handler.name, handler.thread, handler.events, handler.registered)
    handler.unregister()
    poller.unregister()
    thread.call(lambda: None).result()
    os.close(read_end)
    os.close(write_end)


def devices(thread: SpdkThread) -> None:
    device = Table("table").register()
    assert_type(device, Table)
    print(device.name, device.lib, device.state, device.is_registered, device.ctx_dtype, device.channels)

    def use() -> int:
        with device.get_io_channel() as channel, thread.get_io_channel(device) as again, device.channel() as third:
            assert channel is again is third
            channel.ref().put()
            print(channel.device, channel.thread, channel.ctx, channel.ref_count)
            return device.channels_count

    def visit(it: IoChannelIter) -> int | None:
        assert it.channel is not None
        print(it.device, it.channel, it.ctx)
        it.defer()
        it.continue_(0)
        return None

    assert_type(thread.call(use).result(), int)
    keep = thread.call(device.get_io_channel).result()
    status = thread.call(device.for_each_channel, visit, "context", None).result()
    assert_type(status.result(), int)
    thread.call(keep.put).result()
    thread.call(device.unregister).result().result()
    IoDevice(create_channel=lambda channel: 1, destroy_channel=lambda channel: None, ctx_dtype=None, lib=None)


def buffers(thread: SpdkThread) -> None:
    pool = IoBufPool(small_count=2, small_size=4096, large_count=1, large_size=8192, name="io", lib=thread.lib)
    print(pool.small_count, pool.small_size, pool.large_count, pool.large_size)

    def later(buf: IoBuf) -> None:
        buf.put()

    def use() -> None:
        channel = pool.channel("net", small_cache=1, large_cache=0)
        assert_type(channel, IoBufChannel)
        buf = channel.get(100, later)
        assert buf is not None
        with buf as same:
            assert len(same) == 100
            print(same.address, same.channel, channel.pool, channel.module, channel.thread, channel.held)
            print(channel.waiting, channel.abort(later))
        channel.close()

    thread.call(use).result()
    assert_type(pool.stats().result(), dict[str, dict[str, Any]])
    assert_type(pool.close(), concurrent.futures.Future[None])


def spin_locks(thread: SpdkThread) -> None:
    lock = SpinLock("table")

    def use() -> None:
        with lock:
            print(lock.name, lock.owner, lock.held())
        lock.lock()
        lock.unlock()

    thread.call(use).result()
    try:
        lock.lock()
    except SpinLockError as error:
        print(error.lock, error.owner, error.reason, error.number)
    lock.destroy()


def look_at(thread: SpdkThread) -> None:
    state: Literal["running", "exiting", "exited"] = thread.state
    print(thread.name, thread.id, thread.lib, state, thread.is_running, thread.is_exited, thread.is_idle)
    print(thread.cpumask, thread.ring_size, thread.pending_msgs, thread.has_active_pollers, thread.has_pollers)
    print(thread.next_poller_expiration, thread.pollers, thread.io_channels, thread.exit_blockers)
    stats: ThreadStats = thread.call(lambda: thread.stats).result()
    print(stats.busy_ticks, stats.idle_ticks, stats.msgs_run, stats.pollers_run, stats.polls, stats.errors)
    print(stats.ring_full, stats.high_water)
    thread.bind(True)
    assert thread.is_bound
    thread.bind(False)
    assert_type(thread.set_cpumask(None).result(), SpdkThread)


async def on_thread(there: SpdkThread, fd: int) -> str:
    await aio.sleep_us(10)
    await aio.fd_ready(fd, "r")
    assert_type(await there.acall(add, 1, 2), int)
    assert_type(await there.call(add, 1, 2), int)
    await aio.switch_to(there)
    return "there"


async def under_asyncio(thread: SpdkThread) -> None:
    assert_type(await thread.acall(add, 1, 2), int)
    answer: Awaitable[int] = thread.acall(add, 1, 2)
    assert_type(sum(await asyncio.gather(answer, thread.acall(add, 3, 4))), int)
    call = thread.acall(add, 1, 2)
    assert_type(call.cancel(), bool)
    assert_type(call.cancelled() or call.done(), bool)
    assert_type(await thread.call(add, 1, 2), int)
    assert_type(await asyncio.wrap_future(thread.call(add, 1, 2)), int)
    assert_type(await asyncio.wait_for(thread.acall(add, 1, 2), 5), int)


def results(thread: SpdkThread, other: SpdkThread) -> None:
    read_end, write_end = os.pipe()
    os.write(write_end, b"x")
    assert_type(thread.spawn(on_thread(other, read_end)).result(), str)
    asyncio.run(under_asyncio(thread))
    with asyncio.Runner(loop_factory=aio.EventLoop) as runner:
        runner.run(under_asyncio(thread))
    loop = aio.EventLoop(idle="adaptive", spin_us=10)
    assert_type(loop.thread, SpdkThread)
    loop.close()
    aio.new_event_loop().close()
    aio.install()
    aio.EventLoopPolicy().new_event_loop().close()
    aio.run(under_asyncio(thread))
    assert_type(call_unaffinitized(add, 1, 2), int)
    os.close(read_end)
    os.close(write_end)
    executor = thread.executor()
    assert_type(executor, aio.ThreadExecutor)
    with executor:
        assert_type(executor.submit(add, 1, b=2).result(), int)
        assert list(executor.map(add, [1, 2], [3, 4], chunksize=2)) == [4, 6]
    aio.ThreadExecutor([thread]).shutdown(wait=True, cancel_futures=True)


def reactors() -> None:
    core = min(allowed_cores())
    reactor = Reactor(core, name="first", idle=Idle(), spin_us=10, lib=None, pin=False, stall_ms=1000)
    assert_type(reactor.start(), Reactor)
    thread = reactor.create_thread("one", cpumask="0-1023", ring_size=1024, poller_policy="one")
    other = default_lib().create_thread("two")
    reactor.add_thread(other)
    state: Literal["new", "running", "stopping", "stopped", "dead"] = reactor.state
    print(reactor.core, reactor.name, reactor.idle, reactor.spin_us, reactor.pin, reactor.lib, state, reactor.tid)
    print(reactor.threads)
    switches = reactor.context_switches()
    assert_type(switches, ContextSwitches)
    assert_type(switches.voluntary + switches.involuntary, int)
    assert thread.call(get_reactor).result() is reactor
    with Reactor(pin=False) as target:
        reactor.move_thread(other, target).result()
        for use in (messages, native, pollers, devices, buffers, spin_locks, look_at):
            use(thread)
        results(thread, other)
        target.move_thread(other, reactor).result()
    stats: ReactorStats = reactor.stats
    print(stats.busy_ticks, stats.idle_ticks, stats.turns, stats.parks, stats.wakes, stats.stalls)
    print(stats.gil_waits, stats.gil_wait_ticks, stats.slices_lost)
    report: ShutdownReport = reactor.stop(timeout_s=30)
    assert_type(reactor.join(timeout_s=30), bool)
    assert report.ok, report
    assert_type(report.leftover_msgs, tuple[LeftoverMessage, ...])
    assert_type(report.leftover_pollers, tuple[LeftoverPoller, ...])
    assert_type(report.leftover_channels, tuple[LeftoverChannel, ...])
    assert_type(report.leftover_unregistrations, tuple[LeftoverUnregistration, ...])
    assert_type(report.leftover_others, tuple[LeftoverOther, ...])
    for other_left in report.leftover_others:
        print(other_left.thread, other_left.kind, other_left.name)
    for message in report.leftover_msgs:
        print(message.thread, message.name)
    for poller in report.leftover_pollers:
        print(poller.thread, poller.name)
    for channel in report.leftover_channels:
        print(channel.thread, channel.device, channel.ref_count)
    for unregistration in report.leftover_unregistrations:
        print(unregistration.thread, unregistration.name)
    assert report.still_running == ()
    by_hand = Reactor(pin=False)
    by_hand.create_thread().send_msg(by_hand.stop)
    assert_type(by_hand.run(), ShutdownReport)
    assert_type(Reactor(pin=False).poll(), int)


def groups() -> None:
    core = min(allowed_cores())
    assert parse_cores(str(core)) == {core}
    group = ReactorGroup(
        [core], scheduler="static", period_us=0, idle="yield", lib=None, stall_ms=None, isolated=None, spin_us=50
    )
    with group as started:
        thread = started.create_thread("placed", cpumask=[core], ring_size=64, poller_policy="all")
        assert_type(thread, SpdkThread)
        assert_type(group[core], Reactor)
        assert [reactor.core for reactor in group] == [core]
        assert len(group) == 1
        assert_type(group.reactors, tuple[Reactor, ...])
        assert_type(group.for_each_reactor(lambda: None, cpl=lambda: None), concurrent.futures.Future[None])
        group.scheduler = Stay()
        assert isinstance(group.scheduler, scheduler.Scheduler)
        assert_type(group.snapshot(), scheduler.Snapshot)
        for moved in group.balance():
            assert_type(moved.result(), SpdkThread)
        with group.executor() as executor:
            assert_type(executor.submit(add, 1, 2).result(), int)
        print(group.lib, group.isolated, group.period_us)
    assert_type(group.stop(timeout_s=30), ShutdownReport)
    assert_type(group.join(timeout_s=30), bool)


if __name__ == "__main__":
    clocks()
    reactors()
    groups()
    print("everything used;", len(ERRORS), "errors named")
