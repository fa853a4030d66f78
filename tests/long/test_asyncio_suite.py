"""CPython's own tests of asyncio, run on `aio.EventLoop`. See ``docs/asyncio.md``."""

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "asyncio_suite"
VERSION = "{}.{}".format(*sys.version_info)

# Those that make loops of their own; the others test asyncio's pieces without one, or another kind of loop.
MODULES = (
    "test_base_events",
    "test_buffered_proto",
    "test_context",
    "test_eager_task_factory",
    "test_events",
    "test_free_threading",
    "test_futures",
    "test_futures2",
    "test_locks",
    "test_pep492",
    "test_queues",
    "test_runners",
    "test_selector_events",
    "test_sendfile",
    "test_server",
    "test_sock_lowlevel",
    "test_ssl",
    "test_sslproto",
    "test_staggered",
    "test_streams",
    "test_subprocess",
    "test_taskgroups",
    "test_tasks",
    "test_threads",
    "test_timeouts",
    "test_unix_events",
    "test_waitfor",
)


def is_shipped(module):
    """Some interpreters come without their tests, and not every version has every module."""
    name = f"test.test_asyncio.{module}"
    return all(importlib.util.find_spec(part) for part in ("test", "test.test_asyncio")) and (
        importlib.util.find_spec(name) is not None
    )


SHIPPED = [module for module in MODULES if is_shipped(module)]


def exceptions():
    """(id, where, reason) of each line."""
    lines = (HERE / "exceptions.txt").read_text().splitlines()
    return [line.split(maxsplit=2) for line in lines if line and not line.startswith("#")]


def expected(module, mode):
    """The ids of the tests of one module that do not hold on this Python in this mode."""
    return {
        name
        for name, where, _ in exceptions()
        if name.startswith(f"test.test_asyncio.{module}.") and {*where.split(",")} <= {"all", VERSION, mode}
    }


def failing(module, debug):
    """The ids of the tests of one module that failed, and the report."""
    finished = subprocess.run(
        [sys.executable, "-W", "ignore", str(HERE / "run.py"), module],
        capture_output=True,
        text=True,
        timeout=550,
        check=False,
        env={**os.environ, "PYTHONASYNCIODEBUG": debug},
    )
    (ran,) = re.findall(r"^RAN (\d+) ", finished.stdout, re.MULTILINE) or ["0"]
    assert int(ran) > 0, finished.stderr
    return set(re.findall(r"^FAILED (\S+)$", finished.stdout, re.MULTILINE)), finished.stderr


if SHIPPED:

    @pytest.mark.timeout(600)
    @pytest.mark.parametrize(("mode", "debug"), [("plain", ""), ("debug", "1")], ids=["plain", "debug"])
    @pytest.mark.parametrize("module", SHIPPED)
    def test_cpythons_own_tests_hold_but_for_the_written_exceptions(module, mode, debug):
        failed, report = failing(module, debug)
        assert failed == expected(module, mode), report


def test_every_exception_names_a_test_and_gives_a_reason():
    for line in exceptions():
        assert len(line) == 3, line
        assert line[0].split(".")[2] in MODULES, line
        assert {*line[1].split(",")} <= {"all", "plain", "debug", "3.11", "3.12", "3.13", "3.14"}, line
