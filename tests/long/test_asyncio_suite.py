"""CPython's own tests of asyncio's event loops, run on `aio.EventLoop`. See ``docs/asyncio.md``."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "asyncio_suite"

# Those that make loops of their own; the others test asyncio's pieces without one.
MODULES = (
    "test_base_events",
    "test_buffered_proto",
    "test_context",
    "test_events",
    "test_runners",
    "test_sendfile",
    "test_server",
    "test_sock_lowlevel",
    "test_ssl",
    "test_streams",
    "test_subprocess",
    "test_taskgroups",
    "test_threads",
    "test_timeouts",
    "test_unix_events",
)
SHIPPED = importlib.util.find_spec("test") is not None and importlib.util.find_spec("test.test_asyncio") is not None


def exceptions():
    lines = (HERE / "exceptions.txt").read_text().splitlines()
    return dict(line.split(maxsplit=1) for line in lines if line and not line.startswith("#"))


def run(module):
    """The ids of the tests of one module that failed."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "run.py"), module],
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
        env={**os.environ, "PYTHONASYNCIODEBUG": ""},
    )
    (ran,) = re.findall(r"^RAN (\d+) ", finished.stdout, re.MULTILINE) or ["0"]
    assert int(ran) > 0, finished.stderr
    return set(re.findall(r"^FAILED (\S+)$", finished.stdout, re.MULTILINE)), finished.stderr


if SHIPPED:  # some interpreters come without

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize("module", MODULES)
    def test_cpythons_own_tests_hold_but_for_the_written_exceptions(module):
        failed, output = run(module)
        assert not failed - set(exceptions()), output


def test_every_exception_gives_a_reason():
    assert all(reason.strip() for reason in exceptions().values())
