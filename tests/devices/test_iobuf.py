"""Buffers for I/O: two sizes, caches for each module on each thread, and gets that wait in one line over all of them."""

import collections
import gc
import itertools
import os
import subprocess
import sys
import textwrap

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule
from support import PATIENCE_S, OtherThread, drain, eventually, fill, finish, noop

from spdkthread import DeviceError, IoBuf, IoBufChannel, IoBufPool, NoThreadError, ThreadLib, WrongThreadError
from spdkthread.iobuf import live_buffers
from spdkthread.testing import ManualClock, poll_until_idle

pytestmark = pytest.mark.races

SMALL, LARGE = 4096, 8192


@pytest.fixture
def make_pool(lib):
    made = []

    def make(small_count=4, large_count=2, lib=lib, **options):
        options.setdefault("small_size", SMALL)
        options.setdefault("large_size", LARGE)
        pool = IoBufPool(small_count=small_count, large_count=large_count, lib=lib, **options)
        made.append(pool)
        return pool

    yield make
    for pool in made:
        pool.close()
        poll_until_idle(lib)


@pytest.fixture
def other(lib):
    return lib.create_thread("disk")


def on(thread, fn, *args, **options):
    with thread:
        return fn(*args, **options)


def open_channel(pool, thread, module="net", small_cache=0, large_cache=0):
    return on(thread, pool.channel, module, small_cache=small_cache, large_cache=large_cache)


# Buffers.


def test_a_buffer_is_as_long_as_asked_for_writable_and_aligned(make_pool, thread):
    channel = open_channel(make_pool(), thread)
    with thread:
        for nbytes in (1, 100, SMALL, SMALL + 1, LARGE):
            with channel.get(nbytes) as buf:
                assert isinstance(buf, IoBuf)
                assert len(buf) == nbytes
                with memoryview(buf) as view:
                    assert (view.nbytes, view.readonly, view.format) == (nbytes, False, "B")
                    view[:] = bytes(nbytes)
                    view[-1] = 7
                assert bytes(buf)[-1] == 7
                assert buf.address % 4096 == 0


def test_the_sizes_and_counts_are_those_asked_for_rounded_to_pages(lib, make_pool):
    pool = make_pool(small_count=3, small_size=1, large_count=1, large_size=4097)
    assert (pool.small_count, pool.small_size, pool.large_count, pool.large_size) == (3, 4096, 1, 8192)
    assert pool in lib.devices
    default = IoBufPool(lib=lib)
    assert (default.small_count, default.small_size) == (8192, 8192)
    assert (default.large_count, default.large_size) == (1024, 135168)
    default.close()


def test_a_pool_that_is_not_touched_takes_no_memory(lib, thread):
    def resident():
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    if not os.path.exists("/proc/self/statm"):
        return
    before = resident()
    pool = IoBufPool(small_count=1 << 15, small_size=1 << 15, lib=lib)
    assert resident() - before < 64 << 20
    pool.close()


def test_small_and_large_buffers_run_out_apart(make_pool, thread):
    channel = open_channel(make_pool(small_count=1, large_count=1), thread)
    with thread:
        small, large = channel.get(SMALL), channel.get(SMALL + 1)
        for nbytes in (1, LARGE):
            with pytest.raises(BufferError, match="net"):
                channel.get(nbytes)
        small.put()
        with channel.get(1):
            pass
        large.put()


def test_no_two_holders_have_the_same_memory(make_pool, thread):
    channel = open_channel(make_pool(small_count=8, large_count=3), thread, small_cache=3, large_cache=1)
    with thread:
        bufs = [channel.get(SMALL) for _ in range(8)] + [channel.get(LARGE) for _ in range(3)]
        spans = sorted((buf.address, buf.address + len(buf)) for buf in bufs)
        assert all(end <= start for (_, end), (start, _) in itertools.pairwise(spans))
        for buf in bufs:
            buf.put()


@pytest.mark.parametrize("nbytes", [0, -1, LARGE + 1, 1 << 70])
def test_a_size_that_no_buffer_has_is_refused(make_pool, thread, nbytes):
    channel = open_channel(make_pool(), thread)
    with thread, pytest.raises(ValueError, match="nbytes"):
        channel.get(nbytes, noop)


@pytest.mark.parametrize("arguments", [(1.5,), ("1",), (None,), (True,), (1, 3)])
def test_arguments_of_another_type_are_refused(make_pool, thread, arguments):
    channel = open_channel(make_pool(), thread)
    with thread, pytest.raises(TypeError):
        channel.get(*arguments)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"small_count": 0}, ValueError),
        ({"large_count": -1}, ValueError),
        ({"small_size": 0}, ValueError),
        ({"small_size": 1 << 40}, ValueError),
        ({"small_size": 8193, "large_size": 8192}, ValueError),
        ({"small_count": "4"}, TypeError),
        ({"name": 3}, TypeError),
        ({"lib": 3}, TypeError),
    ],
)
def test_a_pool_of_nonsense_is_refused(lib, options, error):
    with pytest.raises(error):
        IoBufPool(**{"lib": lib, **options})


@pytest.mark.parametrize(
    ("options", "error"),
    [({"module": 3}, TypeError), ({"small_cache": -1}, ValueError), ({"large_cache": "x"}, TypeError)],
)
def test_a_channel_of_nonsense_is_refused(make_pool, thread, options, error):
    pool = make_pool()
    with thread, pytest.raises(error):
        pool.channel(**{"module": "net", **options})
    assert pool.channels_count == 0


def test_a_second_put_is_refused_and_has_no_effect(make_pool, thread):
    channel = open_channel(make_pool(small_count=2), thread, small_cache=2)
    with thread:
        buf = channel.get(1)
        buf.put()
        with pytest.raises(DeviceError, match="put already"):
            buf.put()
        with pytest.raises(DeviceError, match="put already"), buf:
            pass
        with pytest.raises(BufferError, match="no memory"):
            memoryview(buf)
        assert buf.address == 0
        two = [channel.get(1), channel.get(1)]
        assert len({one.address for one in two}) == 2
        for one in two:
            one.put()


def test_a_buffer_in_use_by_a_view_is_not_put(make_pool, thread):
    channel = open_channel(make_pool(), thread)
    with thread:
        buf = channel.get(100)
        view = memoryview(buf)
        with pytest.raises(BufferError, match="in use"):
            buf.put()
        view.release()
        buf.put()


def test_a_with_block_may_put_the_buffer_itself(make_pool, thread):
    channel = open_channel(make_pool(), thread)
    with thread:
        with channel.get(1) as buf:
            buf.put()
        assert channel.held == 0


def test_a_buffer_that_is_dropped_goes_back_with_a_warning(make_pool, thread):
    channel = open_channel(make_pool(small_count=1), thread)
    with thread:
        with pytest.warns(ResourceWarning, match="net"):
            channel.get(1)
        with channel.get(1):
            pass


def test_buffers_may_be_put_on_any_os_thread(make_pool, thread):
    channel = open_channel(make_pool(small_count=1), thread, small_cache=1)
    buf = on(thread, channel.get, 1)
    OtherThread(buf.put).outcome()
    assert channel.held == 0
    with thread, channel.get(1):
        pass


def test_a_channel_is_used_on_its_thread_only(make_pool, thread, other):
    pool = make_pool()
    with pytest.raises(NoThreadError):
        pool.channel("net")
    channel = open_channel(pool, thread)
    assert (channel.pool, channel.module, channel.thread) == (pool, "net", thread)
    for call in (lambda: channel.get(1), channel.close, lambda: channel.abort(noop)):
        with pytest.raises(WrongThreadError):
            call()
        with other, pytest.raises(WrongThreadError):
            call()


@pytest.mark.parametrize("cls", [IoBuf, IoBufChannel])
def test_only_the_library_makes_buffers_and_channels(cls):
    for make in (cls, lambda: cls.__new__(cls)):
        with pytest.raises(TypeError):
            make()


# Waiting.


def test_a_get_that_finds_none_is_called_back_by_a_message(make_pool, thread):
    channel = open_channel(make_pool(small_count=1), thread)
    got = []
    with thread:
        buf = channel.get(1)
        assert channel.get(77, got.append) is None
        assert (channel.waiting, channel.held) == (1, 1)
        buf.put()
        assert got == []
    drain(thread)
    (late,) = got
    assert len(late) == 77
    memoryview(late)[0] = 1
    with thread:
        assert (channel.waiting, channel.held) == (0, 1)
        late.put()


def test_cb_is_not_called_where_a_buffer_is_returned(make_pool, thread):
    channel = open_channel(make_pool(), thread)
    got = []
    with thread, channel.get(1, got.append):
        pass
    drain(thread)
    assert got == []


def test_gets_are_served_in_their_order_over_threads_and_modules(make_pool, thread, other):
    pool = make_pool(small_count=1)
    channels = [open_channel(pool, one, module) for one in (thread, other) for module in ("net", "log")]
    buf = on(thread, channels[0].get, 1)
    order = []

    def put_on(number):
        def cb(buf):
            order.append(number)
            buf.put()

        return cb

    turns = [2, 0, 3, 1, 0, 2]
    for number in turns:
        assert on(channels[number].thread, channels[number].get, 1, put_on(number)) is None
    on(thread, buf.put)
    for _ in range(20):
        thread.poll()
        other.poll()
    assert order == turns


def test_a_get_goes_behind_those_that_wait_although_its_cache_has_buffers(make_pool, thread, other):
    pool = make_pool(small_count=2)
    cached = open_channel(pool, thread, "cached", small_cache=2)
    hungry = open_channel(pool, other, "hungry")
    got = []
    assert on(other, hungry.get, 1, got.append) is None
    with thread:
        with pytest.raises(BufferError):
            cached.get(1)
        assert cached.get(1, got.append) is None
    drain(thread, other)
    assert [buf.channel for buf in got] == [hungry, cached]
    for buf in got:
        buf.put()


def test_caches_of_other_threads_are_asked_back_for_a_get_that_waits(make_pool, thread, other):
    pool = make_pool(small_count=2)
    cached = open_channel(pool, thread, "cached", small_cache=2)
    hungry = open_channel(pool, other, "hungry")
    with thread:
        two = [cached.get(1), cached.get(1)]
    got = []
    assert on(other, hungry.get, 1, got.append) is None
    with thread:
        two.pop().put()  # beside the message: straight to the get that waits
    drain(thread, other)
    assert len(got) == 1
    on(other, got.pop().put)
    on(thread, two.pop().put)


def test_a_put_into_a_cache_reaches_a_get_that_began_to_wait_before(make_pool, thread, other):
    pool = make_pool(small_count=1)
    cached = open_channel(pool, thread, "cached", small_cache=1)
    hungry = open_channel(pool, other, "hungry")
    buf = on(thread, cached.get, 1)
    on(thread, buf.put)  # into the cache
    got = []
    assert on(other, hungry.get, 1, got.append) is None
    fill(thread)  # the message that asks for the cache was sent already
    drain(thread, other)
    assert len(got) == 1
    on(other, got.pop().put)


def test_a_full_ring_loses_no_buffer(make_pool, lib, other):
    tiny = lib.create_thread("tiny", ring_size=2)
    pool = make_pool(small_count=1)
    cached, hungry = open_channel(pool, tiny, "cached", small_cache=1), open_channel(pool, other, "hungry")
    buf = on(tiny, cached.get, 1)
    got = []
    fill(tiny)
    assert on(other, hungry.get, 1, got.append) is None
    assert on(tiny, cached.get, 1, got.append) is None
    on(tiny, buf.put)
    drain(tiny, other)
    on(other, got.pop().put)
    drain(tiny, other)
    on(tiny, got.pop().put)
    assert got == []


def test_a_get_that_waits_can_be_aborted(make_pool, thread):
    channel = open_channel(make_pool(small_count=1), thread)
    got = []
    first, second = got.append, lambda buf: got.append(buf)
    with thread:
        buf = channel.get(1)
        channel.get(1, first)
        channel.get(1, second)
        assert channel.abort(first)
        assert not channel.abort(noop)
        assert channel.waiting == 1
        buf.put()
        assert not channel.abort(second), "on its way"
    drain(thread)
    assert len(got) == 1
    on(thread, got.pop().put)


def test_a_callback_that_raises_is_reported_and_its_buffer_goes_back(make_pool, thread, errors):
    channel = open_channel(make_pool(small_count=1), thread)

    def fail(buf):
        raise KeyError("x")

    with thread:
        buf = channel.get(1)
        channel.get(1, fail)
        buf.put()
    drain(thread)
    assert errors.types == [KeyError]
    with pytest.warns(ResourceWarning):
        errors.clear()
    gc.collect()
    assert channel.held == 0


# Statistics and the end.


def counts(pool, threads, module):
    future = pool.stats()
    drain(*threads)
    return future.result(0)[module]


def test_statistics_tell_hits_batches_waits_and_the_most_held(make_pool, thread):
    pool = make_pool(small_count=8)
    channel = open_channel(pool, thread, small_cache=2)
    with thread:
        bufs = [channel.get(1) for _ in range(8)]  # 2 of the cache, then batches of 2
        channel.get(1, noop)
        channel.abort(noop)
        for buf in bufs:
            buf.put()
    seen = counts(pool, [thread], "net")
    assert seen["small"] == {
        "cache": 5,
        "main": 3,
        "retry": 1,
        "high_water": 8,
        "waiting": 0,
        "held": 0,
        "cache_size": 2,
    }
    assert (seen["cache"], seen["main"], seen["retry"], seen["high_water"]) == (5, 3, 1, 8)
    assert set(seen["large"].values()) == {0}


def test_every_channel_of_a_module_is_counted_closed_ones_too(make_pool, thread, other):
    pool = make_pool(small_count=4)
    channels = [open_channel(pool, one, "net") for one in (thread, thread, other)]
    bufs = [on(channel.thread, channel.get, 1) for channel in channels]
    assert counts(pool, [thread, other], "net")["small"]["high_water"] == 3
    assert counts(pool, [thread, other], "net")["held"] == 3
    for channel, buf in zip(channels, bufs, strict=True):
        on(channel.thread, buf.put)
    on(thread, channels[0].close)
    seen = counts(pool, [thread, other], "net")["small"]
    assert (seen["main"], seen["high_water"], seen["held"]) == (3, 3, 0)


def test_statistics_of_a_pool_without_channels_are_empty(make_pool):
    assert make_pool().stats().result(0) == {}


def test_close_names_the_modules_that_still_hold_buffers(make_pool, thread, other):
    pool = make_pool(small_count=2, large_count=1)
    net, log, disk = (open_channel(pool, *args) for args in ((thread, "net"), (thread, "log"), (other, "disk")))
    bufs = [on(thread, net.get, 1), on(thread, net.get, LARGE), on(other, disk.get, 1)]
    got = []
    on(thread, log.get, 1, got.append)
    with pytest.raises(DeviceError) as caught:
        pool.close()
    for words in (
        "'net' still holds 2 buffers (1 small, 1 large)",
        "'disk' still holds 1 buffer",
        "1 get of module 'log'",
    ):
        assert words in str(caught.value)
    assert pool.is_registered, "the pool goes on"
    for buf in bufs:
        on(buf.channel.thread, buf.put)
    drain(thread, other)
    on(thread, got.pop().put)
    closed = pool.close()
    drain(thread, other)
    assert closed.result(0) is None
    assert pool.close().result(0) is None
    for call in (pool.stats, lambda: on(thread, pool.channel, "net"), lambda: on(thread, net.get, 1)):
        with pytest.raises(DeviceError):
            call()


def test_a_channel_that_holds_buffers_or_waits_is_not_closed(make_pool, thread):
    channel = open_channel(make_pool(small_count=1), thread)
    with thread:
        buf = channel.get(1)
        channel.get(1, noop)
        with pytest.raises(DeviceError, match="holds 1 buffer, 1 waiting"):
            channel.close()
        channel.abort(noop)
        buf.put()
        channel.close()
        channel.close()
        with pytest.raises(DeviceError, match="closed"):
            channel.get(1)


def test_a_channel_keeps_its_thread_and_says_what_it_holds(make_pool, lib):
    pool = make_pool()
    leaving = lib.create_thread("leaving")
    channel = open_channel(pool, leaving, "net")
    buf = on(leaving, channel.get, 1)
    on(leaving, leaving.exit)
    for _ in range(5):
        leaving.poll()
    assert leaving.state == "exiting"
    assert any("net" in words and "holds 1 buffer" in words for words in leaving.exit_blockers)
    on(leaving, buf.put)
    on(leaving, channel.close)
    for _ in range(5):
        leaving.poll()
    assert leaving.is_exited


def test_a_closed_channel_gives_its_cache_back(make_pool, thread, other):
    pool = make_pool(small_count=2)
    with thread, pool.channel("net", small_cache=2, large_cache=0):
        with other, pytest.raises(BufferError):
            pool.channel("disk").get(1)
    with other:
        channel = pool.channel("disk", small_cache=0)
        bufs = [channel.get(1), channel.get(1)]
        for buf in bufs:
            buf.put()


def test_a_cache_larger_than_the_pool_does_not_take_it_all(make_pool, thread, other):
    pool = make_pool(small_count=2)
    channels = [on(one, pool.channel, "net") for one in (thread, other)]
    bufs = [on(channel.thread, channel.get, 1) for channel in channels]
    for buf in bufs:
        on(buf.channel.thread, buf.put)


def test_a_thread_that_is_dropped_with_a_channel_leaves_its_cache_to_the_others():
    lib = ThreadLib(clock=ManualClock())
    pool = IoBufPool(small_count=2, large_count=1, lib=lib)
    lost, other = lib.create_thread("lost"), lib.create_thread("other")
    on(lost, pool.channel, "net", small_cache=2)
    with lost:
        lost.exit()
    channel = open_channel(pool, other)
    got = []
    assert on(other, channel.get, 1, got.append) is None
    poll_until_idle([lost, other])
    on(other, got.pop().put)
    pool.close()
    poll_until_idle([lost, other])
    finish(lost, other)
    lib.close()


def test_buffers_outlive_their_pool(lib, thread):
    pool = IoBufPool(small_count=1, large_count=1, lib=lib)
    channel = open_channel(pool, thread)
    buf = on(thread, channel.get, 1)
    del pool, channel
    gc.collect()
    memoryview(buf)[0] = 3
    pool = buf.channel.pool
    on(thread, buf.put)
    pool.close()
    drain(thread)


def test_a_child_of_a_fork_can_use_and_close_the_pool():
    program = """
        import os
        from spdkthread import IoBufPool, ThreadLib
        lib = ThreadLib()
        pool = IoBufPool(small_count=2, lib=lib)
        thread = lib.create_thread("a")
        with thread:
            channel = pool.channel("net")
            buf = channel.get(1)
            memoryview(buf)[0] = 1
        child = os.fork()
        if child == 0:
            memoryview(buf)[0] = 2
            buf.put()
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0
        assert bytes(buf) == b"\\1"
        with thread:
            buf.put()
        pool.close()
        for _ in range(9):
            thread.poll()
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(program)], check=True, timeout=PATIENCE_S)


# Between reactors.


def test_two_reactors_share_few_buffers_and_none_is_had_twice(live_lib, make_reactor):
    threads = [make_reactor().start().create_thread(f"t{number}") for number in range(2)]
    pool = IoBufPool(small_count=3, small_size=SMALL, large_count=1, large_size=LARGE, lib=live_lib)
    each, at_once = 600, 4
    done = [collections.deque() for _ in threads]

    class Worker:
        def __init__(self, number):
            self.number = number
            self.channel = pool.channel(f"m{number}", small_cache=2 * number)
            self.left = each
            self.had = 0

        def go(self):
            for _ in range(at_once):
                self.next()

        def next(self):
            if self.left:
                self.left -= 1
                buf = self.channel.get(8, self.use)
                if buf is not None:
                    self.use(buf)

        def use(self, buf):
            memoryview(buf)[:] = (stamp := self.had.to_bytes(7, "little") + bytes([self.number]))
            threads[self.number].send_msg(self.check, buf, stamp)

        def check(self, buf, stamp):
            assert bytes(buf) == stamp
            buf.put()
            self.had += 1
            if self.had == each:
                done[self.number].append(self.had)
            else:
                self.next()

    workers = [thread.call(Worker, number).result(PATIENCE_S) for number, thread in enumerate(threads)]
    for worker, thread in zip(workers, threads, strict=True):
        thread.send_msg(worker.go)
    eventually(lambda: all(done))
    assert [worker.had for worker in workers] == [each, each]
    stats = pool.stats().result(PATIENCE_S)
    assert stats["m0"]["held"] == stats["m1"]["held"] == 0
    assert live_buffers() == 0
    pool.close().result(PATIENCE_S)


# A plain model.


class Pools(RuleBasedStateMachine):
    """Two threads with three channels; everything that was sent has run after each step."""

    def __init__(self):
        super().__init__()
        self.lib = ThreadLib(clock=ManualClock())
        self.threads = [self.lib.create_thread(name) for name in "ab"]

    @initialize(
        small=st.integers(1, 6), large=st.integers(1, 3), caches=st.lists(st.integers(0, 3), min_size=6, max_size=6)
    )
    def begin(self, small, large, caches):
        self.pool = IoBufPool(small_count=small, small_size=SMALL, large_count=large, large_size=LARGE, lib=self.lib)
        self.count = [small, large]
        self.free = [small, large]
        self.channels, self.size, self.cached = [], [], []
        for number in range(3):
            thread = self.threads[number % 2]
            sizes = caches[2 * number : 2 * number + 2]
            self.channels.append(open_channel(self.pool, thread, f"m{number}", *sizes))
            self.size.append(
                [size if size <= count else count // 8 for size, count in zip(sizes, self.count, strict=True)]
            )
            self.cached.append([0, 0])
            for which in range(2):
                if self.free[which] >= self.size[number][which]:
                    self.cached[number][which] = self.size[number][which]
                    self.free[which] -= self.size[number][which]
        self.held = [[[], []] for _ in range(3)]
        self.most = [[0, 0] for _ in range(3)]
        self.waits = [collections.deque(), collections.deque()]
        self.got = []
        self.hits, self.batches, self.retries = ([[0, 0] for _ in range(3)] for _ in range(3))

    def batch(self, number, which):
        return max(1, min(self.size[number][which], 32))

    def hold(self, number, which, buf):
        held = self.held[number][which]
        held.append(buf)
        self.most[number][which] = max(self.most[number][which], len(held))

    def serve(self, which):
        expected = []
        # What is free in the pool first; then each thread is asked for its caches while something waits.
        for asked in ((), (0, 2), (1,)):
            if self.waits[which]:
                for number in asked:
                    self.free[which] += self.cached[number][which]
                    self.cached[number][which] = 0
            while self.waits[which] and self.free[which]:
                self.free[which] -= 1
                expected.append(self.waits[which].popleft())
        poll_until_idle(self.threads)
        got, self.got = self.got, []
        # Each thread has them in order; between two threads the polls decide.
        for thread in range(2):
            assert [one[0] for one in got if one[0] % 2 == thread] == [
                number for number in expected if number % 2 == thread
            ]
        for number, buf in got:
            assert (len(buf) > SMALL) == which
            self.hold(number, which, buf)

    @rule(number=st.integers(0, 2), which=st.integers(0, 1), waits=st.booleans())
    def get(self, number, which, waits):
        channel = self.channels[number]
        nbytes = (SMALL, LARGE)[which]
        found = None
        if not self.waits[which]:
            if self.cached[number][which]:
                found = "cache"
                self.hits[number][which] += 1
            elif self.free[which]:
                found = "pool"
                self.batches[number][which] += 1
                taken = min(self.free[which], self.batch(number, which))
                self.free[which] -= taken
                self.cached[number][which] += taken
        cb = (lambda buf: self.got.append((number, buf))) if waits else None
        with channel.thread:
            if found:
                self.cached[number][which] -= 1
                buf = channel.get(nbytes, cb)
                assert len(buf) == nbytes
                self.hold(number, which, buf)
            elif waits:
                assert channel.get(nbytes, cb) is None
                self.waits[which].append(number)
                self.retries[number][which] += 1
            else:
                with pytest.raises(BufferError):
                    channel.get(nbytes)
        self.serve(which)

    @rule(number=st.integers(0, 2), which=st.integers(0, 1), here=st.booleans())
    def put(self, number, which, here):
        if not self.held[number][which]:
            return
        buf = self.held[number][which].pop(0)
        if here:
            on(buf.channel.thread, buf.put)
        else:
            buf.put()
        if here and self.size[number][which] and not self.waits[which]:
            self.cached[number][which] += 1
            if self.cached[number][which] >= self.size[number][which] + self.batch(number, which):
                self.cached[number][which] -= self.batch(number, which)
                self.free[which] += self.batch(number, which)
        else:
            self.free[which] += 1
        self.serve(which)

    @rule()
    def stats(self):
        future = self.pool.stats()
        poll_until_idle(self.threads)
        stats = future.result(0)
        for number in range(3):
            for which, size in enumerate(("small", "large")):
                assert stats[f"m{number}"][size] == {
                    "cache": self.hits[number][which],
                    "main": self.batches[number][which],
                    "retry": self.retries[number][which],
                    "high_water": self.most[number][which],
                    "waiting": self.waits[which].count(number),
                    "held": len(self.held[number][which]),
                    "cache_size": self.size[number][which],
                }

    @invariant()
    def nothing_waits_while_a_buffer_is_free(self):
        if not hasattr(self, "pool"):
            return
        for which in range(2):
            held = sum(len(held[which]) for held in self.held)
            assert not self.waits[which] or held == self.count[which]
            addresses = {buf.address for held in self.held for buf in held[which]}
            assert len(addresses) == held
        assert live_buffers() == sum(len(one) for held in self.held for one in held)

    def teardown(self):
        if hasattr(self, "pool"):
            while any(one for held in self.held for one in held):
                for number in range(3):
                    for which in range(2):
                        self.put(number, which, True)
            self.pool.close()
        poll_until_idle(self.threads)
        finish(*self.threads)
        self.lib.close()


Pools.TestCase.settings = settings(max_examples=40, stateful_step_count=40, deadline=None)
TestPools = Pools.TestCase
