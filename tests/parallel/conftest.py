"""Tests that pytest-run-parallel may run in many OS threads at once; by themselves they are tests like any other."""

import gc

import pytest
from support import PATIENCE_S, finish

from spdkthread import Reactor, ThreadLib
from spdkthread.testing import leak_counters


@pytest.fixture(autouse=True)
def no_leaks(request):
    """As in the whole suite, without the fixtures that keep a test from running in parallel."""
    gc.collect()
    before = leak_counters()
    yield
    request.node.funcargs.clear()
    gc.collect()
    after = leak_counters()
    assert not {name: count for name, count in after.items() if count > before[name] and name != "native_blocks"}


class Shared:
    """One library with two reactors and a few threads, used by every OS thread that runs the test."""

    def __init__(self):
        self.lib = ThreadLib()
        self.reactors = [Reactor(lib=self.lib, pin=False).start() for _ in range(2)]
        self.threads = [self.reactors[n % 2].create_thread(ring_size=8) for n in range(4)]

    def end(self):
        for reactor in self.reactors:
            assert reactor.stop(timeout_s=PATIENCE_S).ok
        finish(*self.lib.threads)
        self.lib.close()


@pytest.fixture
def shared():
    one = Shared()
    yield one
    one.end()
