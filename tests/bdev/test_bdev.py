"""Block devices: requests on buffers of the caller's, over io_uring and over OS threads alike."""

import contextlib
import ctypes
import errno
import gc
import mmap
import os

import pytest
from channels import end
from compiled import compiled
from support import elsewhere, eventually, run_python

from spdkthread import DeviceError, NoThreadError, ThreadLib, WrongThreadError
from spdkthread.bdev import AlignmentError, BackendError, Bdev, QueueFullError, device
from spdkthread.testing import poll_until_idle

COMPLETION = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64)
CONTENT = bytes(range(256)) * 64


@pytest.fixture(autouse=True)
def real_calls():
    yield
    left = device._plan_left()
    device._plan()
    device._refuse_uring(0)
    assert left == 0


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(CONTENT)
    return path


def descriptors():
    """What a device and its channels open; where the system does not say, nothing."""
    links = []
    for fd in os.listdir("/proc/self/fd") if os.path.exists("/proc/self/fd") else ():
        with contextlib.suppress(OSError):
            links.append(os.readlink(f"/proc/self/fd/{fd}"))
    return sorted(link for link in links if link.endswith(("disk", "[io_uring]", "[eventfd]")))


class Rig:
    """A device, a thread that the test polls, its channel, and what has completed."""

    def __init__(self, lib, path, **options):
        self.lib = lib
        self.bdev = Bdev.open(path, lib=lib, **options)
        self.thread = lib.create_thread("io")
        with self.thread:
            self.channel = self.bdev.get_io_channel()
        self.done = []

    def cb(self, *result):
        self.done.append(result)

    def begin(self, what, *args, cb=None):
        with self.thread:
            getattr(self.channel, what)(*args, cb or self.cb)

    def run(self, count):
        eventually(lambda: self.thread.poll() is not None and len(self.done) >= count)
        return self.done

    def one(self, what, *args):
        self.done.clear()
        self.begin(what, *args)
        return self.run(1)[0]

    def close(self):
        if self.channel.ref_count:
            with self.thread:
                self.channel.put()
        eventually(lambda: self.thread.poll() is not None and self.bdev.channels_count == 0)
        if self.thread.is_exited:
            assert self.bdev.unregister().done()
        else:
            end(self.bdev, self.thread)


@pytest.fixture(params=["io_uring", "threads"])
def backend(request):
    """Where the kernel refuses io_uring, what would use one uses OS threads, and says so."""
    return "threads" if request.param == "threads" else "auto"


@pytest.fixture
def make(live_lib, path, backend):
    made = []
    before = descriptors()

    def make(path=path, **options):
        made.append(Rig(live_lib, path, **{"backend": backend, **options}))
        return made[-1]

    yield make
    for rig in made:
        rig.close()
    assert descriptors() == before


@pytest.fixture
def rig(make):
    return make()


def test_it_reads_and_writes_in_the_callers_own_buffers(rig, path):
    buffer = bytearray(16)
    rig.begin("read", buffer, 32)
    rig.begin("write", b"written", 100)
    assert rig.done == []
    assert sorted(rig.run(2)) == [(7, None), (16, None)]
    assert buffer == CONTENT[32:48]
    assert path.read_bytes() == CONTENT[:100] + b"written" + CONTENT[107:]


def test_its_repr_says_what_it_is_and_how_it_reaches_the_kernel(rig, backend):
    assert repr(rig.bdev).startswith("<Bdev 'disk' registered, 1 channel, ")
    assert rig.bdev.backend in repr(rig.bdev)
    if backend == "threads":
        assert rig.bdev.backend == "threads"
    assert "<BdevChannel of 'disk' on 'io', 1 reference, 0 of 128 requests" in repr(rig.channel)


def test_a_read_beyond_the_end_is_short(rig):
    assert rig.one("read", bytearray(100), len(CONTENT) - 10) == (10, None)
    assert rig.one("read", bytearray(100), len(CONTENT)) == (0, None)
    assert rig.one("readv", [bytearray(6), bytearray(6)], len(CONTENT) - 10) == (10, None)
    assert rig.one("read", bytearray(), 0) == (0, None)


def test_a_write_beyond_the_end_makes_a_file_longer(rig, path):
    assert rig.bdev.size == len(CONTENT)
    assert rig.one("write", b"more", len(CONTENT)) == (4, None)
    assert rig.bdev.size == len(CONTENT) + 4
    assert path.read_bytes() == CONTENT + b"more"


def test_several_buffers_at_once(rig, path):
    first, second = bytearray(3), bytearray(5)
    assert rig.one("readv", [first, second], 10) == (8, None)
    assert first + second == CONTENT[10:18]
    assert rig.one("writev", [b"ab", b"", b"cde"], 20) == (5, None)
    assert path.read_bytes()[20:25] == b"abcde"


def test_flush_discard_and_zeros(rig, path):
    assert rig.one("write", b"x" * 100, 0) == (100, None)
    assert rig.one("flush") == (0, None)
    assert rig.one("write_zeroes", 10, 20) == (20, None)
    assert path.read_bytes()[:100] == b"x" * 10 + bytes(20) + b"x" * 70
    assert rig.one("discard", 4096, 4096) == (4096, None)
    assert path.read_bytes()[4096:8192] == bytes(4096)
    assert rig.one("write_zeroes", 0, 0) == rig.one("discard", 0, 0) == (0, None)


def test_zeros_are_written_where_the_file_system_has_no_such_call(make, path):
    path.write_bytes(b"x" * 200_000)
    rig = make()
    device._plan(-errno.EOPNOTSUPP)
    assert rig.one("write_zeroes", 5, 150_000) == (150_000, None)
    assert path.read_bytes() == b"x" * 5 + bytes(150_000) + b"x" * 49_995


@pytest.mark.parametrize("what", ["read", "readv"])
def test_short_reads_are_continued(rig, what):
    buffers = [bytearray(1000), bytearray(50), bytearray(500)]
    device._plan(100, 7, 950, 1)
    if what == "read":
        buffers = [bytearray(1550)]
        assert rig.one("read", buffers[0], 10) == (1550, None)
    else:
        assert rig.one("readv", buffers, 10) == (1550, None)
    assert b"".join(buffers) == CONTENT[10:1560]


@pytest.mark.parametrize("what", ["write", "writev"])
def test_short_writes_are_continued(rig, path, what):
    data = bytes(reversed(CONTENT))[:1550]
    device._plan(100, 7, 950, 1)
    if what == "write":
        assert rig.one("write", data, 10) == (1550, None)
    else:
        assert rig.one("writev", [data[:1000], data[1000:1050], data[1050:]], 10) == (1550, None)
    assert path.read_bytes() == CONTENT[:10] + data + CONTENT[1560:]


@pytest.mark.parametrize("number", [errno.EINTR, errno.EAGAIN, errno.ECANCELED])
def test_what_was_only_interrupted_is_tried_again(rig, number):
    buffer = bytearray(16)
    device._plan(-number, -number)
    assert rig.one("read", buffer, 0) == (16, None)
    assert buffer == CONTENT[:16]


@pytest.mark.parametrize("number", [errno.EIO, errno.ENOSPC])
def test_an_error_of_the_system_reaches_the_callback_with_what_was_moved_before(rig, number, path):
    device._plan(100, -number)
    count, error = rig.one("write", bytes(1000), 0)
    assert count == 100
    assert isinstance(error, OSError)
    assert (error.errno, error.filename) == (number, str(path))


def test_a_full_queue_is_an_error_without_effect(make):
    rig = make(depth=4)
    for _ in range(4):
        rig.begin("read", bytearray(8), 0)
    late = bytearray(8)
    for what, *args in (("read", late, 0), ("readv", [late], 0), ("flush",)):
        with pytest.raises(QueueFullError, match=r"(read|readv|flush): <BdevChannel .*4 of 4 requests"):
            rig.begin(what, *args)
    late.append(1)  # nothing holds it
    assert rig.run(4) == [(8, None)] * 4
    assert rig.one("read", late, 0) == (9, None)


def test_bad_arguments(rig):
    for error, what, *args in (
        (TypeError, "read", b"constant", 0),
        (TypeError, "read", memoryview(bytearray(8))[::2], 0),
        (TypeError, "read", 5, 0),
        (TypeError, "read", bytearray(8), 0.5),
        (TypeError, "read", bytearray(8), True),
        (ValueError, "read", bytearray(8), -1),
        (ValueError, "read", bytearray(8), 2**63),
        (ValueError, "read", bytearray(8), 2**63 - 1),
        (TypeError, "write", "text", 0),
        (ValueError, "readv", [], 0),
        (TypeError, "readv", [bytearray(1), b"constant"], 0),
        (ValueError, "writev", [b"a"] * 1025, 0),
        (ValueError, "discard", -1, 5),
        (ValueError, "write_zeroes", 2**62, 2**63 - 1),
    ):
        with pytest.raises(error):
            rig.begin(what, *args)
    for what, *args in (("read", bytearray(8), 0), ("readv", [bytearray(8)], 0), ("flush",)):
        with pytest.raises(TypeError, match="cb must be callable"):
            rig.begin(what, *args, cb=5)
    assert rig.channel.in_flight == 0


def test_a_channel_is_its_own_threads(rig):
    with pytest.raises(WrongThreadError, match="read"):
        rig.channel.read(bytearray(8), 0, print)
    other = rig.lib.create_thread("other")
    with other, pytest.raises(WrongThreadError, match="flush"):
        rig.channel.flush(print)


def test_what_was_opened_readonly_is_not_written(make):
    rig = make(readonly=True)
    for what, *args in (("write", b"no", 0), ("writev", [b"no"], 0), ("discard", 0, 512), ("write_zeroes", 0, 512)):
        with pytest.raises(DeviceError, match=f"{what}: .*readonly"):
            rig.begin(what, *args)
    assert rig.one("read", bytearray(8), 0) == (8, None)


def test_opened_direct_it_takes_what_is_aligned_and_names_what_is_not(make, path):
    rig = make(direct=True)
    unit = rig.bdev.block_size
    memory = memoryview(mmap.mmap(-1, 16384))
    assert rig.one("write", memory[:4096], 4096) == (4096, None)
    assert rig.one("read", memory[4096:], 4096) == (len(CONTENT) - 4096, None)
    assert memory[8192:] == CONTENT[8192:]
    with pytest.raises(AlignmentError, match=f"read of 'disk'.* offset 1 is no multiple of {unit}"):
        rig.begin("read", memory[:4096], 1)
    with pytest.raises(AlignmentError, match="length 100"):
        rig.begin("write", memory[:100], 0)
    with pytest.raises(AlignmentError, match="memory address"):
        rig.begin("readv", [memory[1 : 1 + unit]], 0)
    assert rig.channel.in_flight == 0


def test_the_end_of_a_file_that_is_no_whole_block_past_the_page_cache(make, path):
    path.write_bytes(CONTENT[:5000])
    rig = make(direct=True)
    memory = memoryview(mmap.mmap(-1, 16384))
    assert rig.one("read", memory, 0) == (5000, None)
    assert memory[:5000] == CONTENT[:5000]


def test_a_buffer_is_kept_until_its_completion_and_no_longer(rig):
    buffer = bytearray(16)
    grown = []

    def cb(count, error):
        buffer.append(0)
        grown.append(count)

    rig.begin("read", buffer, 0, cb=cb)
    with pytest.raises(BufferError):
        buffer.append(0)
    eventually(lambda: rig.thread.poll() is not None and grown)
    assert grown == [16]
    assert buffer == CONTENT[:16] + b"\0"


def test_a_channel_that_was_put_completes_its_requests_first(rig):
    done = []
    rig.begin("read", bytearray(8), 0, cb=lambda *result: done.append(rig.bdev.channels_count))
    with rig.thread:
        rig.channel.put()
    eventually(lambda: rig.thread.poll() is not None and rig.bdev.channels_count == 0)
    assert done == [1]
    with rig.thread, pytest.raises(DeviceError, match="no reference left"):
        rig.channel.read(bytearray(8), 0, print)


def test_a_completion_may_begin_the_next_request(make):
    rig = make(depth=1)
    buffer, seen = bytearray(256), []

    def next_one(count, error):
        seen.append(buffer[5])
        if len(seen) < 20:
            rig.channel.read(buffer, len(seen), next_one)

    rig.begin("read", buffer, 0, cb=next_one)
    eventually(lambda: rig.thread.poll() is not None and len(seen) == 20)
    assert seen == list(range(5, 25))


def test_requests_of_a_turn_are_submitted_by_one_call(rig):
    before = rig.channel.submissions
    for block in range(32):
        rig.begin("read", bytearray(64), 64 * block)
    assert rig.run(32) == [(64, None)] * 32
    assert rig.channel.submissions == before + 1


def test_a_callback_that_fails_is_reported_and_the_others_run(rig, errors):
    rig.begin("read", bytearray(8), 0, cb=lambda count, error: 1 / 0)
    rig.begin("read", bytearray(8), 0)
    rig.run(1)
    eventually(lambda: rig.thread.poll() is not None and rig.channel.in_flight == 0)
    assert errors.types == [ZeroDivisionError]
    assert "of 'disk' failed on thread 'io'" in errors[0]["message"]


def test_an_interrupt_in_a_callback_leaves_and_the_others_run_later(rig):
    def interrupt(count, error):
        raise KeyboardInterrupt

    rig.begin("read", bytearray(8), 0, cb=interrupt)
    rig.begin("read", bytearray(8), 0)
    with pytest.raises(KeyboardInterrupt):
        rig.run(2)
    assert rig.run(1) == [(8, None)]


def test_an_exiting_thread_names_the_requests_for_which_it_stays(rig):
    rig.begin("read", bytearray(8), 0)
    rig.begin("flush")
    with rig.thread:
        rig.thread.exit()
    assert "2 requests of bdev 'disk'" in rig.thread.exit_blockers
    rig.run(2)
    assert not [words for words in rig.thread.exit_blockers if "request" in words]


def begin_all(bdev, thread, buffers):
    with thread:
        channel = bdev.get_io_channel()
        for buffer in buffers:
            channel.read(buffer, 0, lambda count, error: channel)


def test_a_library_that_is_dropped_waits_for_what_the_kernel_has(path, backend, caplog):
    lib = ThreadLib()
    bdev = Bdev.open(path, lib=lib, backend=backend)
    thread = lib.create_thread("io")
    buffers = [bytearray(256) for _ in range(8)]

    begin_all(bdev, thread, buffers)
    thread.poll()
    del lib, bdev, thread
    with caplog.at_level("CRITICAL", logger="spdkthread"):  # what it logs would keep the thread
        gc.collect()
    for buffer in buffers:
        buffer.append(0)  # nothing holds it any more


def test_a_file_that_is_cut_or_replaced_meanwhile(rig, path, tmp_path):
    os.truncate(path, 100)
    assert rig.one("read", bytearray(200), 50) == (50, None)
    (tmp_path / "new").write_bytes(b"new")
    os.replace(tmp_path / "new", path)
    assert rig.one("read", bytearray(200), 0) == (100, None)
    assert rig.bdev.size == 100


def test_threads_share_the_file_and_nothing_else(rig):
    other = rig.lib.create_thread("other")
    done = []
    with other:
        channel = rig.bdev.get_io_channel()
        channel.read(bytearray(8), 0, lambda *result: done.append(result))
    rig.begin("read", bytearray(8), 0)
    rig.run(1)
    assert done == []
    eventually(lambda: other.poll() is not None and done)
    with other:
        channel.put()
    eventually(lambda: other.poll() is not None and rig.bdev.channels_count == 1)


def test_a_native_completion(rig):
    results = []
    fn = COMPLETION(lambda ctx, result: results.append((ctx, result)))
    buffer = bytearray(16)
    with rig.thread:
        rig.channel.read_native(buffer, 16, fn, 1234)
        rig.channel.write_native(b"abc", 0, fn)
        for bad in (print, ctypes.CFUNCTYPE(None, ctypes.c_void_p)(lambda ctx: None)):
            with pytest.raises(TypeError, match=r"void \(void \*, int64_t\)"):
                rig.channel.read_native(buffer, 0, bad)
    eventually(lambda: rig.thread.poll() is not None and len(results) == 2)
    assert sorted(results, key=lambda one: one[1]) == [(None, 3), (1234, 16)]
    eventually(lambda: rig.thread.poll() is not None and rig.channel.in_flight == 0)
    buffer.append(0)
    assert buffer[:16] == CONTENT[16:32]


def test_a_native_completion_hears_of_an_error(rig):
    results = []
    fn = COMPLETION(lambda ctx, result: results.append(result))
    device._plan(-errno.EIO)
    with rig.thread:
        rig.channel.read_native(bytearray(8), 0, fn)
    eventually(lambda: rig.thread.poll() is not None and results)
    assert results == [-errno.EIO]


def test_what_one_os_thread_began_completes_on_another(make):
    """An SpdkThread moves between reactors, and the OS thread of the first one may be gone."""
    rig = make(direct=True)
    memory = memoryview(mmap.mmap(-1, 65536))

    def begin():
        for block in range(16):
            rig.begin("read", memory[4096 * block : 4096 * (block + 1)], 4096 * (block % 4))
        rig.thread.poll()

    for _ in range(5):
        elsewhere(begin)
        assert rig.run(16) == [(4096, None)] * 16
        rig.done.clear()
    for block in range(16):
        assert memory[4096 * block : 4096 * (block + 1)] == CONTENT[4096 * (block % 4) : 4096 * (block % 4 + 1)]


def test_a_reactor_sleeps_with_requests_under_way_and_hears_of_them(live_lib, path, backend, make_reactor):
    reactor = make_reactor(idle="adaptive", spin_us=0).start()
    thread = reactor.create_thread("io")
    bdev = Bdev.open(path, direct=True, lib=live_lib, backend=backend)
    memory = memoryview(mmap.mmap(-1, 4096))

    async def reads():
        async with bdev.channel():
            return [await bdev.read(memory, 4096 * (block % 4)) for block in range(100)]

    assert thread.spawn(reads()).result(60) == [4096] * 100
    assert bdev.unregister().result(60) is None


def test_a_reactor_that_stops_waits_for_what_is_under_way(live_lib, path, backend, make_reactor):
    reactor = make_reactor().start()
    thread = reactor.create_thread("io")
    bdev = Bdev.open(path, lib=live_lib, backend=backend)
    done = []

    def begin():
        channel = bdev.get_io_channel()
        for _ in range(16):
            channel.read(bytearray(512), 0, lambda *result: done.append(result))
        channel.put()

    thread.send_msg(begin)
    assert bdev.channels_count <= 1
    report = reactor.stop(timeout_s=60)
    assert not report.still_running
    assert done == [(512, None)] * 16
    assert bdev.channels_count == 0
    bdev.unregister()


def test_a_thread_moves_to_another_reactor_with_requests_under_way(live_lib, path, backend, make_reactor):
    first, second = make_reactor().start(), make_reactor().start()
    thread = first.create_thread("io")
    bdev = Bdev.open(path, direct=True, lib=live_lib, backend=backend)
    memory = memoryview(mmap.mmap(-1, 65536))
    done, stopping = [], []

    def begin():
        channel = bdev.get_io_channel()

        def again(block, result):
            done.append(result)
            if stopping:
                if not channel.in_flight:
                    channel.put()
                return
            issue(block)

        def issue(block):
            channel.read(
                memory[4096 * block : 4096 * (block + 1)],
                4096 * (block % 4),
                lambda *result: again(block, result),
            )

        for block in range(16):
            issue(block)

    thread.send_msg(begin)
    for _ in range(10):
        more = len(done) + 100
        eventually(lambda more=more: len(done) >= more)
        first.move_thread(thread, second).result(60)
        first, second = second, first
    stopping.append(True)
    eventually(lambda: bdev.channels_count == 0)
    assert set(done) == {(4096, None)}
    bdev.unregister().result(60)


def test_in_the_child_of_a_fork_what_was_under_way_is_cancelled_and_the_channel_works_on(path, backend):
    run = run_python(f"""if True:
        import os, warnings
        warnings.simplefilter("ignore", DeprecationWarning)
        from spdkthread import ThreadLib
        from spdkthread.bdev import Bdev
        lib = ThreadLib()
        thread = lib.create_thread("io")
        bdev = Bdev.open({str(path)!r}, lib=lib, backend={backend!r})
        done = []

        def run(count):
            while len(done) < count:
                thread.poll()
            return done

        def begin(buffer):
            channel.read(buffer, 0, lambda count, error: done.append((count, error and error.errno)))

        first, second = bytearray(16), bytearray(16)
        with thread:
            channel = bdev.get_io_channel()
            begin(first)
        run(1)
        with thread:
            begin(second)
        pid = os.fork()
        if pid == 0:
            print(run(2)[1])
            done.clear()
            third = bytearray(16)
            with thread:
                begin(third)
            print(run(1), third == bytes(range(16)))
            with thread:
                channel.put()
            while bdev.channels_count:
                thread.poll()
            print("child done", flush=True)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        print(run(2), second == bytes(range(16)))
        with thread:
            begin(bytearray(16))
            channel.put()
        run(3)
        while bdev.channels_count:
            thread.poll()
        bdev.unregister()
        with thread:
            thread.exit()
        thread.poll()
    """)
    assert (run.returncode, run.stderr) == (0, "")
    assert run.stdout.splitlines() == [
        f"(0, {errno.ECANCELED})",
        "[(16, None)] True",
        "child done",
        "[(16, None), (16, None)] True",
    ]


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return compiled("bdev_probe", tmp_path_factory.mktemp("bdev_probe"))


def test_native_code_begins_requests_from_completions(make, probe):
    rig = make(depth=1)
    with rig.thread:
        assert probe.start(rig.channel, len(CONTENT)) == 0
        assert probe.start(rig.channel, len(CONTENT)) == -errno.EAGAIN
    eventually(lambda: rig.thread.poll() is not None and probe.finished())
    assert probe.outcome() == (sum(CONTENT[::4096]), 4096, 0, False)
    assert probe.start(rig.channel, 4096) == -errno.EPERM
    with rig.thread:
        assert probe.write_and_flush(rig.channel) == (0, -errno.EAGAIN)
    eventually(lambda: rig.thread.poll() is not None and rig.channel.in_flight == 0)


def test_where_other_code_has_closed_the_ring_requests_end_with_an_error(make):
    rig = make(backend="auto")
    for fd in os.listdir("/proc/self/fd") if rig.bdev.backend == "io_uring" else ():
        with contextlib.suppress(OSError):
            if os.readlink(f"/proc/self/fd/{fd}").endswith("[io_uring]"):
                with open(os.devnull) as null:
                    os.dup2(null.fileno(), int(fd))
    for _ in range(3):
        rig.begin("flush")
    if rig.bdev.backend == "io_uring":
        assert {error.errno for _, error in rig.run(3)} <= {errno.EBADF, errno.EOPNOTSUPP}
    else:
        assert rig.run(3) == [(0, None)] * 3


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_where_io_uring_is_refused_os_threads_do_it_and_the_device_says_so(live_lib, path, number):
    device._refuse_uring(number)
    rig = Rig(live_lib, path)
    assert rig.bdev.backend == "threads"
    assert f"threads (io_uring was refused: {errno.errorcode[number]})" in repr(rig.bdev)
    assert rig.one("read", bytearray(8), 0) == (8, None)
    with pytest.raises(BackendError, match=f"{errno.errorcode[number]}.*backend='threads'"):
        Bdev.open(path, backend="io_uring", lib=live_lib)
    rig.close()


def test_what_is_not_there_or_no_file_gives_no_device(live_lib, tmp_path):
    with pytest.raises(FileNotFoundError):
        Bdev.open(tmp_path / "nowhere", lib=live_lib)
    with pytest.raises((IsADirectoryError, ValueError)):
        Bdev.open(tmp_path, readonly=True, lib=live_lib)
    with pytest.raises(ValueError, match="neither"):
        Bdev.open("/dev/null", lib=live_lib)
    gc.collect()


def test_a_file_can_be_made(live_lib, tmp_path):
    bdev = Bdev.open(tmp_path / "new", create_bytes=8192, lib=live_lib)
    assert (bdev.size, bdev.is_registered) == (8192, True)
    bdev.unregister()
    assert bdev.size == 0
    longer = Bdev.open(tmp_path / "new", create_bytes=10_000, lib=live_lib)
    same = Bdev.open(tmp_path / "new", create_bytes=10, lib=live_lib)
    assert longer.size == same.size == 10_000
    assert same.register() is same
    for one in (longer, same):
        one.unregister()


def test_bad_options(live_lib, path):
    for error, options in (
        (ValueError, {"depth": 0}),
        (TypeError, {"depth": "many"}),
        (ValueError, {"backend": "aio"}),
        (TypeError, {"backend": 5}),
        (ValueError, {"create_bytes": -1}),
        (ValueError, {"create_bytes": 5, "readonly": True}),
    ):
        with pytest.raises(error):
            Bdev.open(path, lib=live_lib, **options)


def test_a_device_that_was_unregistered_can_be_registered_again(rig, path):
    assert rig.one("read", bytearray(8), 0) == (8, None)
    with rig.thread:
        rig.channel.put()
    eventually(lambda: rig.thread.poll() is not None and rig.bdev.channels_count == 0)
    end(rig.bdev, rig.thread)
    assert rig.bdev.state == "unregistered"
    rig.bdev.register()
    with rig.thread:
        rig.channel = rig.bdev.get_io_channel()
    assert rig.one("read", bytearray(8), 0) == (8, None)


def test_polls_until_nothing_is_left_end_with_requests_under_way(rig):
    rig.begin("read", bytearray(8), 0)
    poll_until_idle([rig.thread])
    rig.run(1)


def test_a_channel_is_made_by_its_device_only():
    with pytest.raises(TypeError, match="cannot create"):
        device.BdevChannel()
    with pytest.raises(TypeError, match="cannot create"):
        device.BdevChannel.__new__(device.BdevChannel)


def test_to_await_takes_a_thread(live_lib, path):
    bdev = Bdev.open(path, lib=live_lib)
    with pytest.raises(NoThreadError, match="thread="):
        bdev.read(bytearray(8), 0)
    with pytest.raises(TypeError, match="thread must be"):
        bdev.read(bytearray(8), 0, thread="io")
    bdev.unregister()
