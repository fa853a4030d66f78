"""Devices and channels from native code: found and counted without the GIL, contexts at work in native pollers."""

import sys
import sysconfig

import pytest
from channels import end
from compiled import compiled
from support import PATIENCE_S, drain, eventually

from spdkthread import DeviceError, IoDevice

COUNTERS = [("polls", "u8"), ("limit", "u8")]


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return compiled("channel_probe", tmp_path_factory.mktemp("channel_probe"))


class Counting(IoDevice):
    """A device whose channel is a native poller on the channel's own context."""

    def __init__(self, fn, *args, limit=10, **options):
        super().__init__(*args, ctx_dtype=COUNTERS, **options)
        self.fn = fn
        self.limit = limit
        self.pollers = {}

    def create_channel(self, channel):
        channel.ctx["limit"] = self.limit
        self.pollers[channel] = channel.thread.register_native_poller(self.fn, channel.ctx, name="count")

    def destroy_channel(self, channel):
        self.pollers.pop(channel).unregister()


def test_a_compiled_module_keeps_the_gil_of_a_free_threaded_build_off(probe):
    has_gil = getattr(sys, "_is_gil_enabled", lambda: True)()
    assert has_gil is not bool(sysconfig.get_config_var("Py_GIL_DISABLED"))


def test_a_native_poller_registered_in_create_channel_works_on_the_context(lib, thread, probe):
    device = Counting(probe.__pyx_capi__["count_poll"], "counting", lib=lib).register()
    with thread:
        channel = device.get_io_channel()
    for _ in range(15):
        thread.poll()
    assert channel.ctx["polls"] == 10
    assert thread.pollers[0].busy_count == 10
    assert thread.pollers[0].run_count == 15
    with thread:
        channel.put()
    drain(thread)
    assert thread.pollers == ()
    end(device, thread)


def test_native_code_finds_the_channel_of_the_thread_on_which_it_runs(lib, probe):
    threads = [lib.create_thread(name) for name in "ab"]
    device = IoDevice("disk", ctx_dtype=COUNTERS, lib=lib).register()
    for number, thread in enumerate(threads, 1):
        with thread:
            device.get_io_channel().ctx["limit"] = 5 * number
            thread.register_native_poller(probe.__pyx_capi__["find_and_count"], probe.device_address(device))
    for _ in range(20):
        for thread in threads:
            thread.poll()
    assert [int(channel.ctx["polls"]) for channel in device.channels] == [5, 10]
    for channel in device.channels:
        with channel.thread:
            channel.put()
    for _ in range(3):
        for thread in threads:
            thread.poll()
    for thread in threads:
        with thread:
            thread.pollers[0].unregister()
    end(device, *threads)


def test_pointer_and_size_are_those_of_the_array(lib, thread, probe):
    device = IoDevice("disk", ctx_dtype=COUNTERS, lib=lib).register()
    plain = IoDevice("plain", lib=lib).register()
    with thread:
        channel, without = device.get_io_channel(), plain.get_io_channel()
    assert probe.describe(channel) == (channel.ctx.ctypes.data, 16, thread.id, True)
    assert probe.describe(without) == (0, 0, thread.id, True)
    with thread:
        channel.put()
        without.put()
    drain(thread)
    assert probe.describe(channel)[:2] == (0, 0)
    end(device, thread)
    end(plain, thread)


def test_a_look_up_answers_null_where_there_is_no_channel(lib, thread, probe):
    seen = []
    device = IoDevice("disk", create_channel=lambda channel: seen.append(probe.find(device)), lib=lib).register()
    other = lib.create_thread("other")
    with thread:
        assert probe.find(device) is None
        channel = device.get_io_channel()
        assert probe.find(device) is channel
        channel.put()
        assert probe.find(device) is channel, "it waits for its destruction"
    with other:
        assert probe.find(device) is None
    drain(thread)
    with thread:
        assert probe.find(device) is None
    assert seen == [None], "no get finds it while it is being created"
    end(device, thread)


def test_native_get_and_put_count_references_and_leave_the_last_one_to_python(lib, thread, probe):
    device = IoDevice("disk", lib=lib).register()
    assert probe.get_native(device) is None, "no current thread"
    with thread:
        assert probe.get_native(device) is None, "no channel yet"
        channel = device.get_io_channel()
        assert probe.get_native(device) is channel
        assert channel.ref_count == 2
        assert probe.put_native(channel)
        assert not probe.put_native(channel)
        assert channel.ref_count == 1
        future = device.unregister()
        assert probe.get_native(device) is None, "unregistered"
        with pytest.raises(DeviceError):
            device.get_io_channel()
        channel.put()
        assert not probe.put_native(channel)
    drain(thread)
    assert future.done()


def test_native_get_and_put_need_no_python(lib, thread, probe):
    device = IoDevice("disk", lib=lib).register()
    with thread, device.get_io_channel() as channel:
        assert probe.time_get_put(device, 100_000) > 0
        assert channel.ref_count == 1
    drain(thread)
    end(device, thread)


def test_native_pollers_on_contexts_run_on_two_reactors_at_once(live_lib, make_reactor, probe):
    threads = [make_reactor().start().create_thread(f"t{number}") for number in range(2)]
    device = Counting(probe.__pyx_capi__["count_poll"], "counting", limit=100_000, lib=live_lib).register()
    channels = [thread.call(device.get_io_channel).result(PATIENCE_S) for thread in threads]
    eventually(lambda: all(channel.ctx["polls"] == 100_000 for channel in channels))
    sums = []
    future = threads[0].call(device.for_each_channel, lambda it: sums.append(int(it.channel.ctx["polls"])))
    assert future.result(PATIENCE_S).result(PATIENCE_S) == 0
    assert sums == [100_000, 100_000]
    for channel in channels:
        channel.thread.call(channel.put).result(PATIENCE_S)
    threads[0].call(device.unregister).result(PATIENCE_S).result(PATIENCE_S)
