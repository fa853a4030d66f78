"""What says in its docstring that any OS thread may call it, called by many at once on the same objects."""

import itertools
import threading

import pytest
from support import PATIENCE_S, noop

from spdkthread import IoDevice, ReactorError, RingFullError, SpdkThread, ThreadExitedError, ThreadLib, ticks
from spdkthread.testing import ManualClock

ROUNDS = 30
numbers = itertools.count()


def test_messages_of_one_sender_stay_in_order(shared):
    for thread in shared.threads:
        seen = []
        for number in range(ROUNDS):
            thread.send_msg_wait(seen.append, number, timeout_s=PATIENCE_S)
        sent = ROUNDS
        while sent < 2 * ROUNDS:
            sent += thread.send_many(seen.append, range(sent, 2 * ROUNDS))
        while sent < 3 * ROUNDS:
            sent += thread.try_send_msg(seen.append, sent)
        over = threading.Event()
        thread.send_msg_wait(over.set, timeout_s=PATIENCE_S)
        assert over.wait(PATIENCE_S)
        assert seen == list(range(3 * ROUNDS))


def test_calls_come_back_to_whom_they_belong(shared):
    for _ in range(ROUNDS):
        mine = next(numbers)
        for thread in shared.threads:
            try:
                assert thread.call(abs, -mine).result(PATIENCE_S) == mine
            except RingFullError:
                pass


def test_executors_are_shared(shared):
    executor = shared.threads[0].executor()
    mine = next(numbers)
    assert list(executor.map(lambda number: number + mine, range(ROUNDS))) == [n + mine for n in range(ROUNDS)]


def test_pollers_come_and_go(shared):
    for thread in shared.threads:
        ran = threading.Event()
        poller = thread.register_poller(ran.set, next(numbers) % 2 * 10)
        assert ran.wait(PATIENCE_S)
        poller.pause()
        poller.resume()
        assert poller.state in ("waiting", "running", "paused")
        poller.unregister()
        poller.unregister()


def test_threads_move_while_others_send(shared):
    first, second = shared.reactors
    for thread in shared.threads:
        for source, to in ((first, second), (second, first)):
            try:
                error = source.move_thread(thread, to).exception(PATIENCE_S)
                assert error is None or isinstance(error, ReactorError)
            except ReactorError:
                pass  # another one has moved it


def test_threads_are_made_and_exit(shared):
    for number in range(5):
        thread = shared.reactors[number % 2].create_thread(ring_size=4)
        assert shared.lib.get_thread_by_id(thread.id) is thread
        assert thread in shared.lib.threads
        future = thread.call(noop)
        thread.exit()
        assert future.result(PATIENCE_S) is None
        with pytest.raises(ThreadExitedError):
            while True:
                thread.try_send_msg(noop)


def test_devices_and_channels(shared):
    device = IoDevice(create_channel=lambda channel: [], lib=shared.lib).register()
    visited = []

    def work(thread):
        channel = device.get_io_channel()
        again = thread.get_io_channel(device)
        assert channel is again
        again.put()

    for thread in shared.threads:
        while True:
            try:
                thread.call(work, thread).result(PATIENCE_S)
                break
            except RingFullError:
                pass
    over = threading.Event()

    def iterate():
        device.for_each_channel(lambda it: visited.append(it.channel), None, lambda it, status: over.set())

    shared.threads[0].send_msg_wait(iterate, timeout_s=PATIENCE_S)
    assert over.wait(PATIENCE_S)
    assert len(visited) == 4

    def end():
        for channel in visited:
            if channel.thread.is_bound or channel.ref_count:
                channel.thread._send_library_msg(channel.put)
        device.unregister(lambda device: gone.set())

    gone = threading.Event()
    shared.threads[0].send_msg_wait(end, timeout_s=PATIENCE_S)
    assert gone.wait(PATIENCE_S)
    assert device.channels_count == 0


def test_iterations_over_all_threads(shared):
    visited = []
    over = threading.Event()
    shared.threads[0].send_msg_wait(
        lambda: shared.lib.for_each_thread(lambda: visited.append(1), over.set), timeout_s=PATIENCE_S
    )
    assert over.wait(PATIENCE_S)
    assert len(visited) >= 4


def test_what_may_be_read_on_any_os_thread(shared):
    for _ in range(ROUNDS):
        for thread in shared.threads:
            assert thread.stats.errors == 0
            assert 0 <= thread.pending_msgs <= thread.ring_size + 16
            assert thread.state in ("running", "exiting", "exited")
            assert repr(thread)
            assert thread.io_channels is not None
            assert isinstance(thread.pollers, tuple)
        for reactor in shared.reactors:
            assert reactor.state == "running"
            assert reactor.stats.turns >= 0
            assert len(reactor.threads) <= 64
        assert ticks() > 0


def test_libraries_of_ones_own_have_nothing_in_common():
    clock = ManualClock()
    lib = ThreadLib(clock=clock)
    thread = SpdkThread("own", lib=lib, ring_size=8)
    assert thread.id == 1
    ran = []
    with thread:
        poller = thread.register_poller(lambda: ran.append(1), 5)
    for _ in range(ROUNDS):
        thread.send_msg(ran.append, 2)
        clock.advance(us=5)
        thread.poll()
    poller.unregister()
    with thread:
        poller.unregister()
        thread.exit()
    while not thread.is_exited:
        thread.poll()
    lib.close()
    assert len(ran) == 2 * ROUNDS
