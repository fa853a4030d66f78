"""The defects of the seed revision, and of later ones, that concern devices and channels; and our rule instead.

The numbers are the rows of the defect table.
"""

import gc
import weakref

import pytest
from devices import end, get, put
from support import PATIENCE_S, drain, elsewhere, noop

from spdkthread import DeviceError, IoDevice, NoThreadError, WrongThreadError, get_thread


@pytest.fixture
def threads(lib):
    return [lib.create_thread(name) for name in "abc"]


@pytest.fixture
def device(lib):
    return IoDevice("disk", lib=lib).register()


def test_2_a_channel_replaced_while_the_hop_is_under_way_is_looked_up_on_arrival(threads, device):
    """Seed: the iterator carries a pointer to the channel that existed when the hop was sent."""
    old = get(threads[1], device)
    put(old)  # its destruction stands in the ring before the hop
    seen = []
    with threads[0]:
        future = device.for_each_channel(lambda it: seen.append(it.channel))
    threads[1].poll(max_msgs=1)
    assert "destroyed" in repr(old)
    new = get(threads[1], device)
    drain(*threads)
    assert seen == [new]
    assert new is not old
    assert future.result(0) == 0
    put(new)
    drain(*threads)
    end(device, *threads)


def test_3_an_iteration_never_visits_the_channels_of_another_device_of_that_name(lib, threads, device):
    """Seed: after unregister and register of a key, it finds the old device's channels."""
    old = [get(thread, device) for thread in threads]
    with threads[0]:
        ended = device.unregister()
    successor = IoDevice("disk", lib=lib).register()
    new = get(threads[1], successor)
    seen = []
    with threads[0]:
        successor.for_each_channel(lambda it: seen.append(it.channel))
    drain(*threads)
    assert seen == [new]
    assert get(threads[1], successor) is new
    put(new, new, *old)
    drain(*threads)
    assert ended.done()
    end(successor, *threads)


def test_3_the_device_outlives_an_iteration_whose_last_channel_goes(lib, threads):
    """Seed: the iteration touches freed memory."""
    device = IoDevice("disk", lib=lib).register()
    watch = weakref.ref(device)
    channels = [get(thread, device) for thread in threads]
    waiting = []
    with threads[0]:
        future = device.for_each_channel(lambda it: (it.defer(), waiting.append(it)))
        ended = device.unregister()
    drain(*threads)
    put(*channels)
    drain(*threads)
    del device, channels
    gc.collect()
    assert watch() is not None
    assert threads[0].exit_blockers == (
        "for_each_channel of device 'disk', deferred on thread 'a'",
        "the unregistration of device 'disk', which waits for 1 for_each_channel",
    )
    with threads[0]:
        waiting.pop().continue_()
    drain(*threads)
    assert future.result(0) == 0
    assert ended.result(0) is None
    del future, ended
    gc.collect()
    assert watch() is None


def test_4_an_iteration_completes_when_its_next_target_exits_in_between(threads, device):
    """Seed: the lock is released before the hop is sent; the target may exit in between."""
    channels = [get(thread, device) for thread in threads]
    seen = []

    def visit(it):
        seen.append(get_thread().name)
        if get_thread() is threads[0]:
            put(channels[1])
            with threads[1]:
                threads[1].exit()
            while not threads[1].is_exited:
                threads[1].poll()

    with threads[0]:
        future = device.for_each_channel(visit)
    drain(*threads)
    assert seen == ["a", "c"]
    assert future.result(0) == 0
    put(channels[0], channels[2])
    drain(*threads)
    end(device, threads[0])


def test_4_iterations_complete_while_threads_on_reactors_come_and_go(make_reactor, live_lib):
    reactors = [make_reactor().start() for _ in range(2)]
    home = reactors[0].create_thread("home")
    device = IoDevice("disk", lib=live_lib).register()

    def come(left):
        thread = get_thread()
        channel = device.get_io_channel()
        thread.exit()

        def go():
            channel.put()
            if left:
                reactors[left % 2].create_thread().send_msg(come, left - 1)

        thread.send_msg(go)

    for number in range(6):
        reactors[number % 2].create_thread().send_msg(come, 60)
    for _ in range(300):
        future = home.call(device.for_each_channel, noop).result(PATIENCE_S)
        assert future.result(PATIENCE_S) == 0
    while live_lib.threads != (home,):
        home.call(noop).result(PATIENCE_S)
    assert device.channels_count == 0
    home.call(device.unregister).result(PATIENCE_S).result(PATIENCE_S)


def test_5_unregister_during_an_iteration_is_deferred_and_its_callback_comes(threads, device):
    """Seed: refused by a line in the log; the callback never comes."""
    channel = get(threads[1], device)
    log = []
    with threads[0]:
        iteration = device.for_each_channel(noop, None, lambda it, status: log.append("iterated"))
        ended = device.unregister(lambda gone: log.append("unregistered"))
        with pytest.raises(DeviceError):
            device.for_each_channel(noop)
    put(channel)
    drain(*threads)
    assert log == ["iterated", "unregistered"]
    assert iteration.done()
    assert ended.done()


def test_10_put_from_another_thread_is_refused(threads, device):
    """Seed: legal, and the count is not atomic."""
    channel = get(threads[0], device)
    with threads[1], pytest.raises(WrongThreadError):
        channel.put()
    with pytest.raises(WrongThreadError):
        elsewhere(channel.put)
    assert channel.ref_count == 1
    put(channel)
    drain(*threads)
    end(device, *threads)


def test_11_too_many_puts_raise(threads, device):
    """Seed: the count goes to 2**32 - 1 unnoticed."""
    channel = get(threads[0], device)
    put(channel)
    for _ in range(2):
        with pytest.raises(DeviceError):
            put(channel)
        assert channel.ref_count == 0
        drain(*threads)
    end(device, *threads)


def test_12_a_device_unregistered_while_create_channel_fails_still_ends(lib, threads):
    """Seed: the device is leaked and its callback never comes."""
    log = []

    def create(channel):
        with threads[1]:
            device.unregister(lambda gone: log.append((gone, get_thread())))
        raise OSError("no such disk")

    device = IoDevice("disk", create_channel=create, lib=lib).register()
    with pytest.raises(OSError, match="no such disk"):
        get(threads[0], device)
    drain(*threads)
    assert log == [(device, threads[1])]
    assert device.state == "unregistered"


def test_12_a_device_unregistered_while_create_channel_succeeds_gives_no_channel_and_ends(lib, threads):
    log = []

    def create(channel):
        with threads[1]:
            device.unregister(lambda gone: log.append("gone"))

    device = IoDevice(
        "disk", create_channel=create, destroy_channel=lambda channel: log.append("destroyed"), lib=lib
    ).register()
    with pytest.raises(DeviceError):
        get(threads[0], device)
    drain(*threads)
    assert log == ["destroyed", "gone"]


def test_13_a_reentrant_get_raises_instead_of_giving_a_half_built_channel(lib, threads):
    device = IoDevice("disk", create_channel=lambda channel: device.get_io_channel(), lib=lib).register()
    with pytest.raises(DeviceError):
        get(threads[0], device)
    assert threads[0].io_channels == ()
    end(device, *threads)


def test_13_an_iteration_does_not_see_a_half_built_channel(lib, thread):
    """The thread is entered, not polled, so create_channel may poll it: nothing that runs there finds the channel."""
    seen = []

    def create(channel):
        device.for_each_channel(seen.append)
        while thread.pending_msgs:
            thread.poll()

    device = IoDevice("disk", create_channel=create, lib=lib).register()
    channel = get(thread, device)
    assert seen == []
    put(channel)
    drain(thread)
    end(device, thread)


def test_15_a_look_up_finds_the_channel_among_thousands(lib, thread):
    """Seed: two linear searches under one global lock. What it costs is a benchmark; here, that it is right."""
    devices = [IoDevice(f"d{number}", lib=lib).register() for number in range(3000)]
    channels = [get(thread, device) for device in devices]
    for device, channel in zip(devices, channels, strict=True):
        assert get(thread, device) is channel
        put(channel, channel)
    drain(thread)
    assert thread.io_channels == ()
    for device in devices:
        with thread:
            device.unregister()
    drain(thread)


def test_16_an_iteration_asks_only_the_threads_that_have_a_channel(lib, device):
    """Seed: it looks at every channel of every thread, under the lock."""
    threads = [lib.create_thread(f"t{number}", ring_size=2) for number in range(300)]
    channel = get(threads[150], device)
    with threads[0]:
        future = device.for_each_channel(noop)
    assert [thread.id for thread in threads if thread.pending_msgs] == [threads[150].id]
    drain(*threads)
    assert future.done()
    put(channel)
    drain(*threads)
    end(device, *threads)


def test_21_a_completion_without_a_current_thread_raises(threads, device):
    """Seed and HEAD: the completion goes to no thread and is lost, or a NULL pointer is followed."""
    channel = get(threads[1], device)
    with pytest.raises(NoThreadError):
        device.for_each_channel(noop, None, noop)
    put(channel)
    drain(*threads)
    end(device, *threads)


def test_25_the_thread_that_asked_for_an_unregistration_cannot_exit_before_it_has_heard(threads, device):
    """Seed: the completion goes to a thread that is gone. HEAD: it counts only once the callback runs."""
    channel = get(threads[1], device)
    log = []
    with threads[0]:
        device.unregister(lambda gone: log.append(get_thread().state))
        threads[0].exit()
    for _ in range(10):
        drain(*threads)
        threads[0].poll()
    assert threads[0].state == "exiting"
    put(channel)
    drain(*threads)
    threads[0].poll()
    assert log == ["exiting"]
    assert threads[0].is_exited


def test_25_also_while_the_unregistration_is_deferred_by_an_iteration(threads, device):
    """HEAD: with a deferred unregistration the requester can reach EXITED; the message then aborts the process."""
    channel = get(threads[1], device)
    waiting, log = [], []
    with threads[2]:
        device.for_each_channel(lambda it: (it.defer(), waiting.append(it)))
    with threads[0]:
        device.unregister(log.append)
        threads[0].exit()
    put(channel)
    for _ in range(10):
        drain(*threads)
        threads[0].poll()
    assert threads[0].state == "exiting"
    with threads[1]:
        waiting.pop().continue_()
    drain(*threads)
    threads[0].poll()
    assert log == [device]
    assert threads[0].is_exited


def test_head_the_completion_of_an_iteration_does_not_race_with_the_end_of_the_device(make_reactor, live_lib):
    """HEAD: continue sends the completion and then reads the device, which the completion path may have freed."""
    reactors = [make_reactor().start() for _ in range(2)]
    home, away = (reactor.create_thread() for reactor in reactors)
    for _ in range(200):
        device = IoDevice("disk", lib=live_lib).register()
        watch = weakref.ref(device)
        channel = away.call(device.get_io_channel).result(PATIENCE_S)
        order = []

        def visit(it):
            it.defer()
            it.channel.put()
            get_thread().send_msg(it.continue_)

        def begin(device=device, order=order, visit=visit):
            iteration = device.for_each_channel(visit, None, lambda it, status: order.append((it.device, status)))
            return iteration, device.unregister(lambda gone: order.append(gone))

        iteration, ended = home.call(begin).result(PATIENCE_S)
        assert ended.result(PATIENCE_S) is None
        assert iteration.result(0) == 0
        assert order == [(device, 0), device]
        del device, channel, order, begin, iteration, ended
        home.call(noop).result(PATIENCE_S)
        away.call(noop).result(PATIENCE_S)
    gc.collect()
    assert watch() is None
