"""The event loop, its thread and its timers on several OS threads."""

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest
from support import PATIENCE_S, OtherThread, eventually, finish, noop

from spdkthread import (
    LoopThreadError,
    ReactorError,
    ThreadExitedError,
    WrongThreadError,
    aio,
)


@contextlib.contextmanager
def running_loop(loop=None):
    """A loop that another OS thread runs, asleep most of the time."""
    made = aio.EventLoop(spin_us=0) if loop is None else loop
    runner = OtherThread(made.run_forever)
    eventually(made.is_running)
    try:
        yield made
    finally:
        made.call_soon_threadsafe(made.stop)
        runner.outcome()
        if loop is None:
            made.close()


def test_a_timer_cancelled_on_another_os_thread_while_the_loop_runs_does_not_run_and_is_forgotten():
    ran = []

    class Thing:
        def __call__(self):
            ran.append("cancelled")

    with running_loop() as loop:
        things = [Thing() for _ in range(200)]
        references = [weakref.ref(thing) for thing in things]
        made = threading.Event()
        handles = []

        def make():
            handles.extend(loop.call_later(3600 + number % 7, thing) for number, thing in enumerate(things))
            handles.extend(loop.call_later(0.05, ran.append, "kept") for _ in range(2))
            things.clear()
            made.set()

        loop.call_soon_threadsafe(make)
        assert made.wait(PATIENCE_S)
        for handle in handles[:200]:
            handle.cancel()
            handle.cancel()
        handles.clear()
        eventually(lambda: len(ran) == 2)
        gc.collect()
        assert ran == ["kept", "kept"]
        assert [reference() for reference in references] == [None] * 200


def test_a_timer_made_on_another_os_thread_while_the_loop_sleeps_runs_in_time():
    with running_loop() as loop:
        ran = threading.Event()
        cancelled = []
        loop.call_later(0.001, cancelled.append, 1).cancel()
        handle = loop.call_later(0.001, ran.set)
        assert isinstance(handle, asyncio.TimerHandle)
        assert ran.wait(PATIENCE_S)
        ran.clear()
        loop.call_at(loop.time() - 1, ran.set)
        assert ran.wait(PATIENCE_S)
        assert not cancelled


def test_timers_come_and_go_on_several_os_threads_at_once():
    ran = []
    with running_loop() as loop:
        over = threading.Event()

        def tick():
            if not over.is_set():
                loop.call_later(0, tick)

        def others():
            for number in range(500):
                late = loop.call_later(3000 + number, ran.append, "cancelled")
                loop.call_later(1e-6 * number, ran.append, "ran")
                late.cancel()
                assert loop.thread.next_poller_expiration is not None

        loop.thread.register_poller(int, 1000)
        eventually(lambda: loop.thread.has_pollers)
        loop.call_soon_threadsafe(tick)
        threads = [OtherThread(others) for _ in range(3)]
        for thread in threads:
            thread.outcome()
        eventually(lambda: len(ran) == 1500)
        over.set()
        loop.call_soon_threadsafe(lambda: [poller.unregister() for poller in loop.thread.pollers])
    assert set(ran) == {"ran"}


def test_of_a_thread_that_is_driven_elsewhere_the_next_expiration_is_never_too_late(lib, clock):
    thread = lib.create_thread()
    with thread:
        early = thread.register_poller(int, 100)
        thread.register_poller(int, 200)
        early.unregister()
        assert thread.next_poller_expiration == 200_000
        assert OtherThread(lambda: thread.next_poller_expiration).outcome() <= 200_000
    assert OtherThread(lambda: thread.next_poller_expiration).outcome() == 200_000


def test_a_second_loop_of_one_thread_is_refused_by_name_until_the_first_is_closed(live_lib):
    thread = live_lib.create_thread("wanted")
    first = aio.EventLoop(thread)
    with pytest.raises(WrongThreadError, match=r"'wanted'.*EventLoop.*belongs to.*EventLoop"):
        aio.EventLoop(thread)
    assert first.run_until_complete(asyncio.sleep(0, "still runs")) == "still runs"
    first.close()
    second = aio.EventLoop(thread)
    assert second.run_until_complete(asyncio.sleep(0, "runs")) == "runs"
    second.close()


def test_the_thread_of_a_loop_is_refused_by_a_reactor_that_comes_later(make_reactor, live_lib):
    thread = live_lib.create_thread("wanted")
    loop = aio.EventLoop(thread)
    with pytest.raises(ReactorError, match=r"'wanted'.*belongs to.*EventLoop"):
        make_reactor().add_thread(thread)
    loop.close()


def test_an_exited_thread_is_refused(live_lib):
    thread = live_lib.create_thread("gone")
    finish(thread)
    with pytest.raises(ThreadExitedError, match="gone"):
        aio.EventLoop(thread)


def test_a_loop_whose_thread_another_os_thread_drives_says_so_in_an_error_that_asyncios_users_catch(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)
    with running_loop(loop), pytest.raises(RuntimeError):
        loop.run_forever()
    with running_loop(loop), pytest.raises(WrongThreadError):
        thread.poll()
    entered, leave = threading.Event(), threading.Event()

    def hold():
        with thread:
            entered.set()
            leave.wait(PATIENCE_S)

    holder = OtherThread(hold)
    assert entered.wait(PATIENCE_S)
    with pytest.raises(LoopThreadError, match="'mine'") as caught:
        loop.run_forever()
    leave.set()
    holder.outcome()
    assert isinstance(caught.value, RuntimeError)
    loop.close()


def test_a_loop_closed_while_another_os_thread_drives_its_thread_lets_go_of_it_there(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)
    entered, leave = threading.Event(), threading.Event()

    def drive():
        with thread:
            entered.set()
            leave.wait(PATIENCE_S)
            thread.exit()
            while not thread.is_exited:
                thread.poll()

    driver = OtherThread(drive)
    assert entered.wait(PATIENCE_S)
    loop.close()
    leave.set()
    driver.outcome()
    assert thread.is_exited


def test_a_loop_that_is_closed_in_a_callback_of_its_own_thread_lets_go_of_it(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)
    thread.send_msg(loop.close)
    thread.poll()
    assert loop.is_closed()
    assert thread.exit_blockers == ()


def test_what_keeps_the_thread_of_a_loop_has_the_name_of_the_loop(live_lib):
    thread = live_lib.create_thread("mine")
    loop = aio.EventLoop(thread)
    assert thread.exit_blockers == ("event loop <EventLoop on thread 'mine'>, which is not closed",)
    loop.close()
    assert thread.exit_blockers == ()


def test_call_soon_threadsafe_while_the_loop_is_being_closed_goes_in_or_is_a_runtime_error():
    """A collection in the middle of the call closes the loop."""
    outcomes = []
    for _ in range(20):
        loop = aio.EventLoop()
        closing = []

        def collect(phase, info, loop=loop, closing=closing):
            if phase == "start" and not closing:
                closing.append(1)
                loop.close()

        before = gc.get_threshold()
        gc.callbacks.append(collect)
        gc.set_threshold(1)
        try:
            while not closing:
                loop.call_soon_threadsafe(int)
        except RuntimeError as error:
            outcomes.append(str(error))
        finally:
            gc.set_threshold(*before)
            gc.callbacks.remove(collect)
            loop.close()
    assert set(outcomes) <= {"Event loop is closed"}


def test_a_loop_that_is_forgotten_with_timers_pending_is_collected_with_a_warning():
    loop = aio.EventLoop()
    handles = [loop.call_later(delay, noop) for delay in (3600, 1, 0)]
    handles.append(loop.call_at(loop.time() - 5, noop))
    reference = weakref.ref(loop)
    handles.clear()
    del loop
    with pytest.warns(ResourceWarning, match="unclosed event loop"):
        gc.collect()
    assert reference() is None


def test_what_a_pending_timer_holds_is_seen_by_the_collector(loop):
    class Thing:
        def __call__(self):
            pass

    thing = Thing()
    thing.handle = loop.call_later(3600, thing)
    assert thing in gc.get_referents(thing.handle) or thing.handle in gc.get_referents(loop)
    assert thing.handle in gc.get_referents(loop)
