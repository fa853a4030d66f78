"""I/O channels: one per thread and device, counted references, destruction one message later, contexts."""

import ctypes
import gc
import weakref

import numpy
import pytest
from channels import end, get, put
from support import PATIENCE_S, drain, elsewhere, fill, finish, noop

from spdkthread import (
    DeviceError,
    IoChannel,
    IoChannelIter,
    IoDevice,
    NoThreadError,
    ThreadExitedError,
    ThreadLib,
    WrongThreadError,
    get_thread,
)

pytestmark = pytest.mark.gil_off


class Log(list):
    """What happened to the channels of one device."""

    def create(self, channel):
        self.append(("create", channel.thread.name))

    def destroy(self, channel):
        self.append(("destroy", channel.thread.name))


@pytest.fixture
def log():
    return Log()


@pytest.fixture
def threads(lib):
    return [lib.create_thread(name) for name in "abcd"]


@pytest.fixture
def make_device(lib):
    """Makes registered devices; at the end puts what is left of their channels and unregisters them."""
    made = []

    def make(*args, kind=IoDevice, **options):
        device = kind(*(args or ("disk",)), lib=lib, **options).register()
        made.append(device)
        return device

    yield make
    for device in made:
        for channel in device.channels:
            with channel.thread:
                while channel.ref_count:
                    channel.put()
        if device.is_registered:
            janitor = lib.create_thread("janitor")
            with janitor:
                device.unregister()
        drain(*lib.threads)
        assert device.state == "unregistered"


@pytest.fixture
def device(make_device, log):
    return make_device(create_channel=log.create, destroy_channel=log.destroy)


# Getting and putting


def test_the_first_get_creates_the_channel_at_once(thread, device, log):
    with thread:
        channel = device.get_io_channel()
    assert log == [("create", "net")]
    assert isinstance(channel, IoChannel)
    assert (channel.device, channel.thread, channel.ctx, channel.ref_count) == (device, thread, None, 1)
    assert thread.io_channels == (channel,)
    assert device.channels == (channel,)


def test_a_second_get_is_the_same_channel_with_one_more_reference(thread, device, log):
    with thread:
        channel = device.get_io_channel()
        assert thread.get_io_channel(device) is channel
    assert channel.ref_count == 2
    assert log == [("create", "net")]


def test_every_thread_has_a_channel_of_its_own(threads, device, log):
    channels = []
    for thread in threads:
        with thread:
            channels.append(thread.get_io_channel(device))
    assert len(set(channels)) == 4
    assert log == [("create", name) for name in "abcd"]
    assert device.channels_count == 4
    assert [channel.thread for channel in channels] == threads


def test_every_device_has_a_channel_of_its_own_on_a_thread(thread, make_device):
    devices = [make_device(f"d{number}") for number in range(100)]
    with thread:
        channels = [device.get_io_channel() for device in devices]
        assert [device.get_io_channel() for device in devices] == channels
    assert thread.io_channels == tuple(channels)
    assert [channel.device for channel in channels] == devices


def test_ref_adds_a_reference_without_a_look_up(thread, device):
    with thread:
        channel = device.get_io_channel()
        assert channel.ref() is channel
        assert channel.ref_count == 2
        channel.put()
        assert channel.ref_count == 1


def test_the_last_put_destroys_one_message_later(thread, device, log):
    with thread:
        channel = device.get_io_channel()
        channel.ref()
        channel.put()
        assert thread.pending_msgs == 0
        channel.put()
    assert log == [("create", "net")]
    assert channel.ref_count == 0
    assert thread.io_channels == (channel,)
    assert device.channels_count == 1
    thread.poll()
    assert log == [("create", "net"), ("destroy", "net")]
    assert thread.io_channels == ()
    assert device.channels_count == 0


def test_destruction_comes_after_the_messages_sent_before_the_put(thread, device, log):
    with thread:
        channel = device.get_io_channel()
        thread.send_msg(log.append, "before")
        channel.put()
        thread.send_msg(log.append, "after")
    drain(thread)
    assert log == [("create", "net"), "before", ("destroy", "net"), "after"]


def test_a_get_before_the_destruction_revives_the_channel(thread, device, log):
    with thread:
        channel = device.get_io_channel()
        channel.put()
        assert device.get_io_channel() is channel
    drain(thread)
    assert log == [("create", "net")]
    assert channel.ref_count == 1
    assert thread.io_channels == (channel,)


def test_get_put_get_put_destroys_once_and_by_the_second_message(thread, device, log):
    with thread:
        for _ in range(2):
            device.get_io_channel().put()
    thread.poll(max_msgs=1)
    assert log == [("create", "net")]
    thread.poll(max_msgs=1)
    assert log == [("create", "net"), ("destroy", "net")]
    assert thread.pending_msgs == 0


def test_a_get_after_the_destruction_makes_another_channel(thread, device, log):
    with thread:
        first = device.get_io_channel()
        first.put()
        thread.poll()
        second = device.get_io_channel()
    assert second is not first
    assert log == [("create", "net"), ("destroy", "net"), ("create", "net")]


def test_the_destruction_has_room_when_the_ring_is_full(lib, device, log):
    narrow = lib.create_thread("narrow", ring_size=2)
    with narrow:
        channel = device.get_io_channel()
        fill(narrow)
        channel.put()
    drain(narrow)
    assert log[-1] == ("destroy", "narrow")


def test_a_with_statement_puts_at_the_end(thread, device):
    with thread:
        with device.get_io_channel() as channel:
            assert channel.ref_count == 1
        assert channel.ref_count == 0
        with pytest.raises(ValueError, match="inside"), device.get_io_channel():
            raise ValueError("inside")
        assert channel.ref_count == 0
    drain(thread)


def test_the_context_manager_of_a_device_gets_and_puts(thread, device):
    with thread:
        context = device.channel()
        assert device.channels_count == 0
        with context as channel:
            assert channel is device.get_io_channel()
            channel.put()
            with pytest.raises(DeviceError, match="entered already"):
                context.__enter__()
        assert channel.ref_count == 0
    drain(thread)


def test_the_context_manager_of_a_device_is_an_asynchronous_one_too(thread, device):
    seen = []

    async def work():
        async with device.channel() as channel:
            seen.append((channel.thread, channel.ref_count))

    with thread, pytest.raises(StopIteration):
        work().send(None)
    assert seen == [(thread, 1)]
    drain(thread)
    assert thread.io_channels == ()


def test_a_channel_that_is_gone_is_let_go(thread, device):
    with thread:
        channel = device.get_io_channel()
        channel.put()
    drain(thread)
    watch = weakref.ref(channel)
    del channel
    gc.collect()
    assert watch() is None


# create_channel and destroy_channel


def test_what_create_channel_returns_becomes_the_context(thread, make_device):
    device = make_device(create_channel=lambda channel: {"on": channel.thread.name})
    with thread:
        assert device.get_io_channel().ctx == {"on": "net"}


def test_a_subclass_may_override_both(thread, make_device):
    class Disk(IoDevice):
        def create_channel(self, channel):
            return [self.name]

        def destroy_channel(self, channel):
            channel.ctx.append("destroyed")

    device = make_device("disk", kind=Disk)
    with thread:
        ctx = device.get_io_channel().ctx
        device.channels[0].put()
    drain(thread)
    assert ctx == ["disk", "destroyed"]


def test_both_run_on_the_thread_of_the_channel_which_is_current(thread, make_device):
    seen = []
    device = make_device(
        create_channel=lambda channel: seen.append(get_thread()),
        destroy_channel=lambda channel: seen.append(get_thread()),
    )
    with thread:
        device.get_io_channel().put()
    thread.poll()
    assert seen == [thread, thread]


def test_a_context_is_let_go_after_the_destruction(thread, make_device):
    class Context:
        pass

    device = make_device(create_channel=lambda channel: Context())
    with thread:
        channel = device.get_io_channel()
    watch = weakref.ref(channel.ctx)
    with thread:
        channel.put()
    drain(thread)
    assert channel.ctx is None
    gc.collect()
    assert watch() is None


def test_create_channel_that_raises_refuses_the_channel_and_leaves_nothing(thread, make_device, errors):
    destroyed = []

    def refuse(channel):
        raise OSError("no such disk")

    device = make_device(create_channel=refuse, destroy_channel=destroyed.append)
    with thread:
        for _ in range(2):
            with pytest.raises(OSError, match="no such disk"):
                device.get_io_channel()
    assert destroyed == []
    assert errors == []
    assert thread.io_channels == ()
    assert device.channels_count == 0
    assert thread.pending_msgs == 0
    assert thread.exit_blockers == ()


def test_a_channel_can_be_got_after_create_channel_has_raised_once(thread, make_device):
    answers = [ValueError("not yet"), "ready"]

    def create(channel):
        answer = answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer

    device = make_device(create_channel=create)
    with thread:
        with pytest.raises(ValueError, match="not yet"):
            device.get_io_channel()
        assert device.get_io_channel().ctx == "ready"


def test_getting_the_same_device_inside_create_channel_is_refused(thread, make_device):
    device = make_device(create_channel=lambda channel: device.get_io_channel())
    with thread, pytest.raises(DeviceError, match="create_channel"):
        device.get_io_channel()
    assert thread.io_channels == ()
    assert device.channels_count == 0


def test_create_channel_may_survive_its_own_reentrant_get(thread, make_device):
    refused = []

    def create(channel):
        try:
            device.get_io_channel()
        except DeviceError as error:
            refused.append(error)

    device = make_device(create_channel=create)
    with thread:
        assert device.get_io_channel().ref_count == 1
    assert len(refused) == 1


def test_create_channel_may_get_a_channel_of_another_device_and_of_another_thread(threads, make_device):
    lower = make_device("lower")

    def create(channel):
        with threads[1]:
            return lower.get_io_channel(), threads[1].get_io_channel(upper) if channel.thread is threads[0] else None

    upper = make_device("upper", create_channel=create)
    with threads[0]:
        channel = upper.get_io_channel()
    assert channel.ctx[0].thread is threads[1]
    assert channel.ctx[1].device is upper
    assert [one.thread.name for one in upper.channels] == ["a", "b"]


@pytest.mark.parametrize("what", ["ref", "put"])
def test_a_channel_that_is_being_created_can_neither_be_referenced_nor_put(thread, make_device, what):
    device = make_device(create_channel=lambda channel: getattr(channel, what)())
    with thread, pytest.raises(DeviceError, match="has not returned yet"):
        device.get_io_channel()
    assert thread.exit_blockers == ()


def test_a_device_unregistered_inside_its_create_channel_gives_no_channel_and_ends(thread, make_device, log):
    gone = []

    def create(channel):
        log.create(channel)
        device.unregister(gone.append)

    device = make_device(create_channel=create, destroy_channel=log.destroy)
    with thread, pytest.raises(DeviceError, match="unregistered while"):
        device.get_io_channel()
    assert log == [("create", "net"), ("destroy", "net")]
    assert thread.io_channels == ()
    drain(thread)
    assert gone == [device]
    assert device.state == "unregistered"


def test_a_get_inside_destroy_channel_makes_another_channel(thread, make_device):
    made = []

    def destroy(channel):
        if len(made) < 2:
            made.append(device.get_io_channel())

    device = make_device(destroy_channel=destroy)
    with thread:
        first = device.get_io_channel()
        first.put()
    drain(thread)
    assert made[0] is not first
    assert thread.io_channels == (made[0],)
    assert device.channels_count == 1


def test_destroy_channel_that_raises_is_reported_and_the_channel_is_gone(thread, make_device, errors):
    def destroy(channel):
        raise ValueError("stuck")

    device = make_device(destroy_channel=destroy)
    with thread:
        device.get_io_channel().put()
    drain(thread)
    assert errors.types == [ValueError]
    assert errors[0]["device"] is device
    assert errors[0]["thread"] is thread
    assert "destroy_channel of device 'disk' failed on thread 'net'" in errors[0]["message"]
    assert device.channels_count == 0
    assert thread.exit_blockers == ()
    assert thread.stats.errors == 1


def test_destroy_channel_that_interrupts_leaves_the_poll_and_the_channel_is_gone(thread, make_device):
    def destroy(channel):
        raise KeyboardInterrupt

    device = make_device(destroy_channel=destroy)
    with thread:
        device.get_io_channel().put()
    with pytest.raises(KeyboardInterrupt):
        thread.poll()
    assert device.channels_count == 0
    assert thread.exit_blockers == ()


# Bad input


def test_more_puts_than_gets_are_refused(thread, device):
    with thread:
        channel = device.get_io_channel()
        channel.put()
        with pytest.raises(DeviceError, match="no reference left"):
            channel.put()
        assert channel.ref_count == 0
        drain(thread)
        with pytest.raises(DeviceError, match="destroyed"):
            channel.put()
    assert channel.ref_count == 0


def test_a_channel_without_references_is_got_and_not_referenced(thread, device):
    with thread:
        channel = device.get_io_channel()
        channel.put()
        with pytest.raises(DeviceError, match="no reference left"):
            channel.ref()
        drain(thread)
        with pytest.raises(DeviceError, match="no reference left"):
            channel.ref()


def test_ref_and_put_belong_on_the_channels_own_thread(threads, device):
    with threads[0]:
        channel = device.get_io_channel()
    for call in (channel.ref, channel.put, channel.__exit__):
        arguments = (None, None, None) if call == channel.__exit__ else ()
        with pytest.raises(WrongThreadError, match=r"'disk' on 'a'.*no current"):
            call(*arguments)
        with threads[1], pytest.raises(WrongThreadError, match="'b'"):
            call(*arguments)
        with threads[0], pytest.raises(WrongThreadError):
            elsewhere(call, *arguments)
    assert channel.ref_count == 1


def test_a_thread_gets_channels_for_itself_only(threads, device):
    with pytest.raises(WrongThreadError):
        threads[0].get_io_channel(device)
    with threads[1], pytest.raises(WrongThreadError):
        threads[0].get_io_channel(device)
    assert device.channels_count == 0


def test_a_get_without_a_current_thread_is_refused(device):
    with pytest.raises(NoThreadError, match="'disk'"):
        device.get_io_channel()


def test_a_device_that_is_not_registered_gives_no_channel(lib, thread):
    device = IoDevice("new", lib=lib)
    with thread:
        for call in (device.get_io_channel, lambda: thread.get_io_channel(device)):
            with pytest.raises(DeviceError, match="'new' unregistered"):
                call()
    assert thread.io_channels == ()


@pytest.mark.parametrize("nonsense", [None, "disk", 3, IoDevice])
def test_only_a_device_has_channels(thread, nonsense):
    with thread:
        with pytest.raises(TypeError, match="IoDevice"):
            thread.get_io_channel(nonsense)
        with pytest.raises(TypeError, match="IoDevice"):
            thread.get_io_channel(thread)


def test_a_device_gives_no_channel_to_a_thread_of_another_library(device):
    other = ThreadLib()
    stranger = other.create_thread("stranger")
    with stranger, pytest.raises(DeviceError, match="different libraries"):
        device.get_io_channel()
    finish(stranger)
    other.close()


def test_an_exited_thread_gets_no_channel(thread, device):
    finish(thread)
    with thread, pytest.raises(ThreadExitedError):
        device.get_io_channel()
    assert device.channels_count == 0


def test_a_channel_is_not_made_by_hand():
    with pytest.raises(TypeError):
        IoChannel()


def test_attributes_are_read_only(thread, device):
    with thread:
        channel = device.get_io_channel()
    for name in ("device", "thread", "ctx", "ref_count"):
        with pytest.raises(AttributeError):
            setattr(channel, name, None)


# Contexts of a NumPy type


@pytest.mark.parametrize("dtype", ["i8", numpy.float32, "V100", [("head", "u4"), ("data", "u1", (60,))]])
def test_a_context_is_a_zeroed_array_of_shape_nothing(thread, make_device, dtype):
    device = make_device(ctx_dtype=dtype)
    with thread:
        ctx = device.get_io_channel().ctx
    assert isinstance(ctx, numpy.ndarray)
    assert ctx.shape == ()
    assert ctx.dtype == numpy.dtype(dtype) == device.ctx_dtype
    assert ctx.tobytes() == bytes(ctx.itemsize)
    assert ctx.flags.writeable
    assert ctx.ctypes.data % 64 == 0


def test_a_context_stays_at_one_address_and_cannot_be_resized(thread, make_device):
    device = make_device(ctx_dtype=[("count", "i8"), ("sum", "f8")])
    with thread:
        channel = device.get_io_channel()
    address = channel.ctx.ctypes.data
    channel.ctx["count"] = 7
    channel.ctx[...] = (8, 0.5)
    with pytest.raises(ValueError, match="resize"):
        channel.ctx.resize((100,), refcheck=False)
    gc.collect()
    assert channel.ctx is channel.ctx
    assert channel.ctx.ctypes.data == address
    assert ctypes.c_int64.from_address(address).value == 8


def test_the_contexts_of_two_threads_share_no_cache_line(threads, make_device):
    device = make_device(ctx_dtype="u1")
    for thread in threads:
        with thread:
            device.get_io_channel()
    assert len({channel.ctx.ctypes.data // 64 for channel in device.channels}) == 4


def test_create_channel_may_fill_the_context(thread, make_device):
    def create(channel):
        channel.ctx["limit"] = 9

    device = make_device(create_channel=create, ctx_dtype=[("limit", "i4")])
    with thread:
        assert device.get_io_channel().ctx["limit"] == 9


def test_a_context_got_again_after_its_destruction_is_zeroed_again(thread, make_device):
    device = make_device(ctx_dtype="i8")
    with thread:
        with device.get_io_channel() as channel:
            channel.ctx[...] = 5
        drain(thread)
        assert device.get_io_channel().ctx == 0


def test_an_array_outlives_its_channel(thread, make_device):
    device = make_device(ctx_dtype="i8")
    with thread, device.get_io_channel() as channel:
        ctx = channel.ctx
        ctx[...] = 5
    drain(thread)
    del channel
    gc.collect()
    assert ctx == 5


# On reactors


def test_channels_on_running_reactors(make_reactor, live_lib, log):
    reactors = [make_reactor().start() for _ in range(2)]
    threads = [reactors[number % 2].create_thread(f"t{number}") for number in range(8)]
    device = IoDevice("disk", create_channel=log.create, destroy_channel=log.destroy, lib=live_lib).register()
    channels = [thread.call(thread.get_io_channel, device).result(PATIENCE_S) for thread in threads]
    assert device.channels == tuple(channels)
    for channel in channels:
        channel.thread.call(channel.put).result(PATIENCE_S)
    future = threads[0].call(device.unregister).result(PATIENCE_S)
    future.result(PATIENCE_S)
    assert sorted(log) == sorted((what, f"t{number}") for number in range(8) for what in ("create", "destroy"))
    for thread in threads:
        thread.call(noop).result(PATIENCE_S)


@pytest.mark.seed
def test_put_from_another_thread_is_refused(threads, device):
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


@pytest.mark.seed
def test_too_many_puts_raise(threads, device):
    """Seed: the count goes to 2**32 - 1 unnoticed."""
    channel = get(threads[0], device)
    put(channel)
    for _ in range(2):
        with pytest.raises(DeviceError):
            put(channel)
        assert channel.ref_count == 0
        drain(*threads)
    end(device, *threads)


@pytest.mark.seed
def test_a_reentrant_get_raises_instead_of_giving_a_half_built_channel(lib, threads):
    device = IoDevice("disk", create_channel=lambda channel: device.get_io_channel(), lib=lib).register()
    with pytest.raises(DeviceError):
        get(threads[0], device)
    assert threads[0].io_channels == ()
    end(device, *threads)


@pytest.mark.seed
def test_a_look_up_finds_the_channel_among_thousands(lib, thread):
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


@pytest.mark.parametrize("kind", [IoChannel, IoChannelIter])
@pytest.mark.races
def test_what_only_the_library_makes_cannot_be_made_half(kind):
    """Its repr followed a NULL."""
    for make in (kind, lambda: kind.__new__(kind), lambda: type("Sub", (kind,), {})(), lambda: object.__new__(kind)):
        with pytest.raises(TypeError):
            make()
