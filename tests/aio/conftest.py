"""Fixtures of the tests of asyncio: fresh event loops, and connected sockets."""

import pytest
from recorders import runner, stream_pair

from spdkthread import aio


@pytest.fixture(params=[False, True], ids=["plain", "debug"])
def run(request):
    """Run a coroutine on a fresh loop."""
    return runner(request.param)


@pytest.fixture
def loop():
    loop = aio.EventLoop()
    yield loop
    loop.close()


@pytest.fixture(params=["tcp", "unix"])
def family(request):
    return request.param


@pytest.fixture
def pair(family):
    """A socket for the loop and its peer."""
    ours, peer = stream_pair(family)
    yield ours, peer
    ours.close()
    peer.close()
