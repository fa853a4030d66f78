"""Spin locks: their owner is an SpdkThread, and each misuse is an error with SPDK's number."""

import gc

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule
from support import PATIENCE_S, OtherThread, eventually, finish

from spdkthread import SpinLock, SpinLockError, ThreadLib
from spdkthread.testing import ManualClock

pytestmark = pytest.mark.races

NOT_SPDK_THREAD, DEADLOCK, WRONG_THREAD, CANNOT_WAIT, HELD = range(1, 6)
HELD_AT_RETURN, DESTROYED, NOT_INITIALIZED = range(7, 10)


def refused(number, fn, *named):
    with pytest.raises(SpinLockError) as caught:
        fn()
    assert caught.value.number == number
    for name in named:
        assert name in str(caught.value)
    return caught.value


def test_a_lock_is_held_by_the_thread_that_locked_it(lib, thread):
    other = lib.create_thread("disk")
    lock = SpinLock("table")
    assert lock.owner is None
    with thread:
        assert not lock.held()
        with lock as same:
            assert same is lock
            assert lock.held()
            assert lock.owner is thread
            assert "held by 'net'" in repr(lock)
            with other:
                assert not lock.held()
        assert not lock.held()
    assert lock.owner is None
    lock.destroy()


def test_a_lock_needs_an_spdk_thread_to_be_locked_but_not_to_be_made_or_destroyed():
    lock = SpinLock("table")
    for call in (lock.lock, lock.unlock, lock.held, lock.__enter__):
        error = refused(NOT_SPDK_THREAD, call, "table", "not an SPDK thread")
        assert error.lock is lock
        assert error.owner is None
    lock.destroy()


def test_its_owner_may_not_lock_it_again(thread):
    lock = SpinLock("table")
    with thread, lock:
        error = refused(DEADLOCK, lock.lock, "table", "net")
        assert error.owner is thread
        assert lock.held()
    assert lock.owner is None


def test_another_thread_may_not_unlock_it(lib, thread):
    other = lib.create_thread("disk")
    lock = SpinLock("table")
    with thread, lock:
        with other:
            assert refused(WRONG_THREAD, lock.unlock, "table", "net", "disk").owner is thread
        assert lock.held()
    with thread:
        refused(WRONG_THREAD, lock.unlock, "table")


def test_waiting_for_an_owner_that_is_suspended_below_is_refused(lib, thread):
    other = lib.create_thread("disk")
    lock = SpinLock("table")
    with thread, lock:
        with other:
            assert refused(CANNOT_WAIT, lock.lock, "table", "net").owner is thread
    with other, lock:
        pass


def test_a_held_lock_is_not_destroyed(thread):
    lock = SpinLock("table")
    with thread, lock:
        refused(HELD, lock.destroy, "table", "net")
        assert lock.held()
    lock.destroy()
    refused(DESTROYED, lock.destroy)


def test_a_destroyed_lock_and_one_never_initialised_say_so(thread):
    lock = SpinLock("table")
    lock.destroy()
    raw = SpinLock.__new__(SpinLock)
    with thread:
        for call in (lock.lock, lock.unlock, lock.held):
            refused(DESTROYED, call, "table")
        for call in (raw.lock, raw.unlock, raw.held, raw.destroy):
            refused(NOT_INITIALIZED, call)
    raw.__init__("late")
    with thread, raw:
        pass
    with pytest.raises(SpinLockError, match="initialised already"):
        raw.__init__("again")


@pytest.mark.parametrize("name", [3, b"table", object()])
def test_a_name_is_a_str(name):
    with pytest.raises(TypeError, match="name must be"):
        SpinLock(name)


def test_names_of_any_length_and_script_are_told(thread):
    lock = SpinLock("Größe-" * 40)
    with thread, lock:
        refused(DEADLOCK, lock.lock, lock.name)


# A lock that a callback left held.


def reported(errors, thread, *named):
    (context,) = errors
    error = context["exception"]
    assert isinstance(error, SpinLockError)
    assert error.number == HELD_AT_RETURN
    assert error.owner is context["thread"] is thread
    for name in named:
        assert name in str(error)
    errors.clear()
    return context


def test_a_message_that_leaves_a_lock_held_is_reported_and_the_lock_is_free(lib, thread, errors):
    lock = SpinLock("table")
    before = lib.error_count, thread.stats.errors
    thread.send_msg(lock.lock)
    ran = []
    thread.send_msg(lambda: ran.append(lock.owner))
    thread.poll()
    assert reported(errors, thread, "table", "net", "lock")["fn"] == lock.lock
    assert ran == [None]
    assert (lib.error_count, thread.stats.errors) == (before[0] + 1, before[1] + 1)


def test_each_lock_that_is_left_is_reported(thread, errors):
    locks = [SpinLock(name) for name in ("first", "second")]

    def both():
        for lock in locks:
            lock.lock()

    thread.send_msg(both)
    thread.poll()
    assert [error.lock for error in errors.exceptions] == locks[::-1]
    assert [lock.owner for lock in locks] == [None, None]
    errors.clear()


def test_a_message_that_raises_and_leaves_a_lock_held_is_reported_for_both(thread, errors):
    lock = SpinLock("table")

    def fail():
        lock.lock()
        raise KeyError("x")

    thread.send_msg(fail)
    thread.poll()
    assert errors.types == [KeyError, SpinLockError]
    assert lock.owner is None
    errors.clear()


def test_ctrl_c_out_of_a_message_that_holds_a_lock_still_ends_the_poll(thread, errors):
    lock = SpinLock("table")

    def interrupted():
        lock.lock()
        raise KeyboardInterrupt

    thread.send_msg(interrupted)
    with pytest.raises(KeyboardInterrupt):
        thread.poll()
    reported(errors, thread, "interrupted")
    assert lock.owner is None


def test_active_and_timed_pollers_are_checked(clock, thread, errors):
    lock = SpinLock("table")

    def poll():
        lock.lock()

    with thread:
        for period_us in (0, 10):
            poller = thread.register_poller(poll, period_us, name="look")
            clock.advance(us=20)
            thread.poll()
            assert reported(errors, thread, "table", "look")["poller"] is poller
            assert lock.owner is None
            poller.unregister()


def test_a_poller_that_unregisters_itself_is_checked(thread, errors):
    lock = SpinLock("table")

    def poll():
        poller.unregister()
        lock.lock()

    with thread:
        poller = thread.register_poller(poll, name="once")
    thread.poll()
    reported(errors, thread, "once")
    assert thread.pollers == ()


def test_timers_critical_messages_and_descriptors_are_checked(clock, thread, errors):
    import os

    lock = SpinLock("table")
    with thread:
        thread.call_later(5, lock.lock)
    clock.advance(us=5)
    thread.poll()
    reported(errors, thread, "timer")
    thread.send_critical_msg(lock.lock)
    thread.poll()
    reported(errors, thread, "message")
    read, write = os.pipe()
    os.write(write, b"x")
    with thread:
        handler = thread.register_fd(read, lock.lock, name="pipe")
    thread.poll()
    assert reported(errors, thread, "handler", "pipe")["fd_handler"] is handler
    with thread:
        handler.unregister()
    os.close(read)
    os.close(write)


def test_a_coroutine_may_not_keep_a_lock_over_an_await(thread, errors):
    from spdkthread import aio

    lock = SpinLock("table")

    async def main():
        lock.lock()
        await aio.sleep_us(0)
        return lock.held()

    future = thread.spawn(main())
    for _ in range(10):
        thread.poll()
    assert future.result(0) is False
    reported(errors, thread, "table")


def test_a_thread_that_is_dropped_lets_its_locks_go():
    lib = ThreadLib(clock=ManualClock())
    thread = lib.create_thread("gone")
    lock = SpinLock("table")
    with thread:
        lock.lock()
    lib.exception_handler = lambda context: None
    finish(thread)
    assert lock.owner is None
    lib.close()


def test_a_lock_that_is_held_lives(thread, errors):
    with thread:
        SpinLock("table").lock()
    gc.collect()
    thread.send_msg(int)
    thread.poll()
    reported(errors, thread, "table")


# Between OS threads.


def test_python_code_that_waits_lets_the_owner_have_the_gil(lib, thread):
    """The owner needs the GIL to unlock: it would never get it from a loop that spins attached."""
    other = lib.create_thread("disk")
    lock = SpinLock("table")
    order = []

    def wait():
        with other, lock:
            order.append("waited")

    with thread:
        with lock:
            waiter = OtherThread(wait)
            for _ in range(20_000):
                order.append(0)
            order.clear()
            order.append("held")
        waiter.outcome()
    assert order == ["held", "waited"]


def test_two_reactors_never_hold_it_at_once(make_reactor):
    threads = [make_reactor().start().create_thread(f"t{number}") for number in range(2)]
    lock = SpinLock("count")
    count = [0]
    each = 3000

    def add(times):
        for _ in range(times):
            with lock:
                now = count[0]
                count[0] = now + 1

    futures = [thread.call(add, each // 10) for _ in range(10) for thread in threads]
    for future in futures:
        future.result(PATIENCE_S)
    assert count == [2 * each]
    eventually(lambda: lock.owner is None)


class SpinLocks(RuleBasedStateMachine):
    """Two locks, two threads on one OS thread, and what a plain model says of each call."""

    def __init__(self):
        super().__init__()
        self.lib = ThreadLib(clock=ManualClock(), exception_handler=self.reported)
        self.threads = [self.lib.create_thread(name) for name in "ab"]
        self.locks = [SpinLock(name) for name in ("one", "two")]
        self.owners = [None, None]
        self.destroyed = [False, False]
        self.seen = []

    def reported(self, context):
        self.seen.append(context["exception"])

    def call(self, number, expected, fn):
        if expected:
            refused(expected, fn, self.locks[number].name)
            return None
        return fn()

    which = st.integers(0, 1)
    on = st.sampled_from([0, 1, None])

    def check(self, number, on):
        if self.destroyed[number]:
            return DESTROYED
        return NOT_SPDK_THREAD if on is None else 0

    def here(self, on):
        from contextlib import nullcontext

        return nullcontext() if on is None else self.threads[on]

    @rule(number=which, on=on)
    def lock(self, number, on):
        expected = self.check(number, on)
        if not expected and self.owners[number] is not None:
            expected = DEADLOCK if self.owners[number] == on else CANNOT_WAIT
        with self.here(on):
            self.call(number, expected, self.locks[number].lock)
        if not expected:
            self.owners[number] = on

    @rule(number=which, on=on)
    def unlock(self, number, on):
        expected = self.check(number, on)
        if not expected and self.owners[number] != on:
            expected = WRONG_THREAD
        with self.here(on):
            self.call(number, expected, self.locks[number].unlock)
        if not expected:
            self.owners[number] = None

    @rule(number=which, on=on)
    def held(self, number, on):
        expected = self.check(number, on)
        with self.here(on):
            held = self.call(number, expected, self.locks[number].held)
        if not expected:
            assert held is (self.owners[number] == on)

    @rule(number=which)
    def destroy(self, number):
        expected = DESTROYED if self.destroyed[number] else HELD if self.owners[number] is not None else 0
        self.call(number, expected, self.locks[number].destroy)
        self.destroyed[number] = True if not expected else self.destroyed[number]

    @precondition(lambda self: any(self.destroyed))
    @rule(number=which)
    def make_again(self, number):
        if self.destroyed[number]:
            self.locks[number] = SpinLock(self.locks[number].name)
            self.destroyed[number] = False

    @rule(on=which)
    def a_message_returns(self, on):
        left = [number for number in range(2) if self.owners[number] == on]
        self.threads[on].send_msg(int)
        self.threads[on].poll()
        assert sorted(error.lock.name for error in self.seen) == sorted(self.locks[number].name for number in left)
        assert all(error.number == HELD_AT_RETURN for error in self.seen)
        self.seen.clear()
        for number in left:
            self.owners[number] = None

    def teardown(self):
        finish(*self.threads)
        self.seen.clear()
        self.lib.close()


SpinLocks.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestSpinLocks = SpinLocks.TestCase
