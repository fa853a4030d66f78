"""The examples `file_device.py` and `copy_verify.py`: jobs that keep a queue full and notice what is wrong."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from support import PATIENCE_S, eventually

from spdkthread.bdev import Bdev

EXAMPLES = Path(__file__).parents[2] / "examples"


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("file_device", EXAMPLES / "file_device.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(range(256)) * 64)
    return path


@pytest.fixture
def bdev(path, live_lib):
    bdev = Bdev.open(path, depth=8, lib=live_lib)
    yield bdev
    poll_until(live_lib, lambda: bdev.channels_count == 0)
    assert bdev.unregister().done()


def poll_until(lib, predicate):
    def step():
        for thread in lib.threads:
            thread.poll()
        return predicate()

    eventually(step)


@pytest.fixture
def thread(live_lib):
    return live_lib.create_thread("io")


def test_the_verify_job_finds_what_was_written_and_notices_what_was_not(example, live_lib, thread, path, bdev):
    reader = live_lib.create_thread("reader")
    written = example.WritePattern(bdev, thread, iter(range(16)), 1024)
    poll_until(live_lib, written.result.done)
    assert "16 requests" in written.result.result(0)
    checked = example.CheckPattern(bdev, reader, iter(range(16)), 1024)
    poll_until(live_lib, checked.result.done)
    assert checked.result.exception(0) is None
    with path.open("r+b") as file:
        file.seek(5 * 1024 + 17)
        file.write(b"\0\0\0")
    checked = example.CheckPattern(bdev, reader, iter(range(16)), 1024)
    poll_until(live_lib, lambda: checked.result.done() and bdev.channels_count == 0)
    assert "block 5 is not what was written" in str(checked.result.exception(0))


def run(name, *options):
    result = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *map(str, options)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_file_device_runs_by_itself():
    output = run("file_device.py", "--seconds", "0.1", "--size-mib", "1")
    assert "verify: 256 blocks" in output
    assert output.count("IOPS") == 4


@pytest.mark.parametrize("options", [(), ("--direct",)])
def test_copy_verify_copies(tmp_path, options):
    content = bytes(range(251)) * 5000
    (tmp_path / "from").write_bytes(content)
    output = run("copy_verify.py", tmp_path / "from", tmp_path / "to", "--piece", 65536, "--depth", 4, *options)
    assert output.count(f"{len(content):,} bytes") == 3
    assert (tmp_path / "to").read_bytes() == content
