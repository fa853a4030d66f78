"""Objects of users' subclasses are told apart by what they are, whatever they say about equality, truth and length."""

import pytest
from support import PATIENCE_S, noop

from spdkthread import IoDevice, Reactor, ReactorGroup, SpdkThread, ThreadLib, get_reactor
from spdkthread.scheduler import make_scheduler


class Odd:
    """Equal to everything, false, empty."""

    def __eq__(self, other):
        return True

    def __hash__(self):
        return 1

    def __bool__(self):
        return False

    def __len__(self):
        return 0


class Unhashable:
    __hash__ = None

    def __eq__(self, other):
        raise AssertionError("must not be called")

    def __bool__(self):
        raise AssertionError("must not be called")


@pytest.fixture(params=[Odd, Unhashable])
def odd(request):
    return request.param


def subclass(odd, base):
    return type(f"{odd.__name__}{base.__name__}", (odd, base), {})


def test_two_threads_that_are_equal_are_both_polled(make_reactor, live_lib, odd):
    first, second = make_reactor(pin=False).start(), make_reactor(pin=False).start()
    worker = subclass(odd, SpdkThread)
    threads = [worker("worker", lib=live_lib) for _ in range(2)]
    for thread in threads:
        first.add_thread(thread)
    assert [thread.call(int).result(PATIENCE_S) for thread in threads] == [0, 0]
    assert len(first.threads) == 2
    first.move_thread(threads[0], second).result(PATIENCE_S)
    assert [len(reactor.threads) for reactor in (first, second)] == [1, 1]
    assert [thread.call(int).result(PATIENCE_S) for thread in threads] == [0, 0]
    threads[0].exit()
    assert first.stop(timeout_s=PATIENCE_S).ok
    assert second.stop(timeout_s=PATIENCE_S).ok
    assert all(thread.is_exited for thread in threads)


def test_an_odd_thread_does_everything_by_hand(lib, odd):
    thread = subclass(odd, SpdkThread)("odd", lib=lib)
    other = subclass(odd, SpdkThread)("odd", lib=lib)
    ran = []
    with thread:
        poller = thread.register_poller(noop)
        device = IoDevice("disk", lib=lib)
        device.register()
        thread.get_io_channel(device).put()
    thread.send_msg(ran.append, 1)
    other.send_msg(ran.append, 2)
    with thread:
        lib.for_each_thread(lambda: ran.append("each"))
    for _ in range(10):
        thread.poll()
        other.poll()
    assert sorted(map(str, ran)) == ["1", "2", "each", "each"]
    with thread:
        poller.unregister()
        device.unregister()
    for _ in range(10):
        thread.poll()
        other.poll()


def test_reactors_that_are_equal_have_threads_of_their_own(live_lib, odd):
    kind = subclass(odd, Reactor)
    first, second = kind(lib=live_lib, pin=False).start(), kind(lib=live_lib, pin=False).start()
    try:
        one, two = first.create_thread(), second.create_thread()
        assert one.call(get_reactor).result(PATIENCE_S) is first
        assert two.call(get_reactor).result(PATIENCE_S) is second
        first.move_thread(one, second).result(PATIENCE_S)
        assert one.call(get_reactor).result(PATIENCE_S) is second
    finally:
        for reactor in (first, second):
            assert reactor.stop(timeout_s=PATIENCE_S).ok


def test_libraries_that_are_equal_are_both_known(odd):
    kind = subclass(odd, ThreadLib)
    libs = [kind() for _ in range(2)]
    assert sum(any(known is lib for lib in libs) for known in ThreadLib._all()) == 2
    for lib in libs:
        lib.close()
    del libs, lib
    assert not any(isinstance(known, kind) for known in ThreadLib._all())


def test_a_scheduler_and_an_idle_object_that_are_equal_to_every_name(live_lib, odd):
    class Scheduler(odd):
        def balance(self, snapshot):
            return []

    class Idle(odd):
        def idle(self, work_count):
            pass

        def reset(self):
            pass

    scheduler = Scheduler()
    assert make_scheduler(scheduler) is scheduler
    with ReactorGroup(1, scheduler=scheduler, period_us=0, lib=live_lib, idle=Idle()) as group:
        assert group.create_thread().call(int).result(PATIENCE_S) == 0
