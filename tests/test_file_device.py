"""The example `file_device.py`: a file as a device, requests on buffers of the caller's, and a job that notices."""

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE_S, eventually

EXAMPLE = Path(__file__).parent.parent / "examples" / "file_device.py"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("file_device", EXAMPLE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(256)) * 64)
    return path


@pytest.fixture
def open_device(example, live_lib):
    """Makes devices; at the end nothing of them may be left."""
    made = []

    def make(path, **options):
        device = example.FileDevice(os.fspath(path), period_us=0, lib=live_lib, **options).register()
        made.append(device)
        return device

    descriptors = set(os.listdir("/proc/self/fd")) if os.path.exists("/proc/self/fd") else None
    yield make
    janitor = live_lib.create_thread("janitor")
    for device in made:
        for channel in device.channels:
            with channel.thread:
                channel.put()
        with janitor:
            future = device.unregister()
        poll_until(live_lib, future.done)
    if descriptors is not None:
        assert len(os.listdir("/proc/self/fd")) == len(descriptors)


def poll_until(lib, predicate):
    def step():
        for thread in lib.threads:
            thread.poll()
        return predicate()

    eventually(step)


@pytest.fixture
def thread(live_lib):
    return live_lib.create_thread("io")


def test_it_reads_and_writes_in_the_callers_own_buffers(example, live_lib, thread, path, open_device):
    device = open_device(path)
    buffer, done = bytearray(16), []
    with thread:
        channel = device.get_io_channel()
        example.read(channel, 32, buffer, lambda *result: done.append(result))
        example.write(channel, 100, b"written", lambda *result: done.append(result))
    assert done == []
    poll_until(live_lib, lambda: len(done) == 2)
    assert sorted(done) == [(7, None), (16, None)]
    assert buffer == bytes(range(32, 48))
    assert path.read_bytes()[100:107] == b"written"


def test_a_read_past_the_end_is_short(example, live_lib, thread, path, open_device):
    device = open_device(path)
    buffer, done = bytearray(100), []
    with thread:
        example.read(device.get_io_channel(), device.size - 10, buffer, lambda *result: done.append(result))
    poll_until(live_lib, lambda: done)
    assert done == [(10, None)]


def test_an_error_of_the_system_reaches_the_callback(example, live_lib, thread, path, open_device):
    device = open_device(path, flags=os.O_RDONLY)
    done = []
    with thread:
        example.write(device.get_io_channel(), 0, b"no", lambda *result: done.append(result))
    poll_until(live_lib, lambda: done)
    assert done[0][0] == 0
    assert isinstance(done[0][1], OSError)


def test_the_queue_is_bounded_and_its_poller_rests_when_it_is_empty(example, live_lib, thread, path, open_device):
    device = open_device(path, depth=4)
    done = []
    with thread:
        channel = device.get_io_channel()
        assert channel.ctx.poller.state == "paused"
        for _ in range(4):
            example.read(channel, 0, bytearray(8), lambda *result: done.append(result))
        with pytest.raises(example.QueueFullError):
            example.read(channel, 0, bytearray(8), print)
        with pytest.raises(ValueError):
            example.read(channel, -1, bytearray(8), print)
    poll_until(live_lib, lambda: len(done) == 4)
    assert channel.ctx.poller.state == "paused"


def test_a_channel_that_was_put_completes_its_requests_first(example, live_lib, thread, path, open_device):
    device = open_device(path)
    done = []
    with thread:
        channel = device.get_io_channel()
        example.read(channel, 0, bytearray(8), lambda *result: done.append(device.channels_count))
        channel.put()
    poll_until(live_lib, lambda: device.channels_count == 0)
    assert done == [1]


def test_each_thread_has_a_descriptor_of_its_own(live_lib, thread, path, open_device):
    device = open_device(path)
    other = live_lib.create_thread("other")
    for one in (thread, other):
        with one:
            device.get_io_channel()
    first, second = device.channels
    assert first.ctx.fd != second.ctx.fd


def test_a_file_that_is_not_there_gives_no_device(example, live_lib, tmp_path):
    with pytest.raises(FileNotFoundError):
        example.FileDevice(str(tmp_path / "nowhere"), lib=live_lib)


def test_the_verify_job_finds_what_was_written_and_notices_what_was_not(example, live_lib, thread, path, open_device):
    device = open_device(path)
    reader = live_lib.create_thread("reader")
    written = example.WritePattern(device, thread, iter(range(16)), 1024)
    poll_until(live_lib, written.result.done)
    assert "16 requests" in str(written.result.result(0))
    checked = example.CheckPattern(device, reader, iter(range(16)), 1024)
    poll_until(live_lib, checked.result.done)
    assert checked.result.exception(0) is None
    with path.open("r+b") as file:
        file.seek(5 * 1024 + 17)
        file.write(b"\0\0\0")
    checked = example.CheckPattern(device, reader, iter(range(16)), 1024)
    poll_until(live_lib, lambda: checked.result.done() and device.channels_count == 0)
    assert "block 5 is not what was written" in str(checked.result.exception(0))


def test_the_example_runs_by_itself():
    result = subprocess.run(
        [sys.executable, str(EXAMPLE), "--seconds", "0.1", "--size-mib", "1"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "verify: 256 blocks" in result.stdout
    assert result.stdout.count("IOPS") == 4
