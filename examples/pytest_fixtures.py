"""pytest: fixtures for a thread in simulated time, and for a running reactor. Needs pytest (pip install pytest).

    pytest examples/pytest_fixtures.py

Copy the fixtures into your conftest.py. Run as a program, it runs its own tests.
"""

import sys
from collections.abc import Iterator
from typing import Any

from spdkthread import Reactor, SpdkThread, ThreadLib
from spdkthread.testing import ManualClock, poll_until_idle

try:
    import pytest
except ImportError:
    print("pytest_fixtures.py shows fixtures for pytest, and pytest is not here: pip install pytest")
    sys.exit()


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def thread(clock: ManualClock) -> Iterator[SpdkThread]:
    """A thread that the test polls. It fails the test for exceptions in callbacks, and for what is left behind."""
    errors: list[dict[str, Any]] = []
    lib = ThreadLib(clock=clock, exception_handler=errors.append)
    thread = lib.create_thread("test")
    yield thread
    with thread:
        thread.exit()
    poll_until_idle([thread])
    assert not thread.exit_blockers, "the test left these behind"
    lib.close()
    assert not errors


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    """A reactor on an OS thread of its own. What was sent has run when it has stopped."""
    reactor = Reactor(lib=ThreadLib()).start()
    yield reactor
    report = reactor.stop(timeout_s=10)
    assert report.ok, report


def test_a_poller_runs_once_per_period(clock: ManualClock, thread: SpdkThread) -> None:
    runs: list[int] = []
    with thread:
        poller = thread.register_poller(lambda: runs.append(clock.now), period_us=10_000_000)
    for _ in range(3):
        clock.advance(us=10_000_000)
        poll_until_idle([thread])
    assert runs == [10_000_000_000, 20_000_000_000, 30_000_000_000]
    poller.unregister()


def test_messages_of_one_sender_keep_their_order(reactor: Reactor) -> None:
    thread = reactor.create_thread("receiver")
    seen: list[int] = []
    for number in range(1000):
        thread.send_msg(seen.append, number)
    assert thread.call(lambda: seen).result() == list(range(1000))


if __name__ == "__main__":
    raise SystemExit(pytest.main([__file__, "-q", "-p", "no:cacheprovider"]))
