"""Fixtures for pytest: simulated time, a library of one's own, reactors.

The package's entry point ``spdkthread`` of group ``pytest11`` loads this module into every run of pytest beside which
the package is installed; ``-p no:spdkthread`` leaves it out.
"""

from collections.abc import Iterator

import pytest

from spdkthread.cores import allowed_cores
from spdkthread.group import ReactorGroup
from spdkthread.lib import ThreadLib
from spdkthread.reactor import Reactor
from spdkthread.report import what_is_left
from spdkthread.testing import ManualClock, poll_until_idle

__all__ = ["manual_clock", "reactor", "reactor_group", "thread_lib"]

STOP_TIMEOUT_S = 30.0
"""How long the end of a test waits for its reactors."""


@pytest.fixture
def manual_clock() -> ManualClock:
    """A clock that moves only when it is told to, at tick 0."""
    return ManualClock()


@pytest.fixture
def thread_lib(manual_clock: ManualClock) -> Iterator[ThreadLib]:
    """A ThreadLib on `manual_clock`, whose threads the test drives; closed at the end.

    At the end of the test its messages are run and its threads are told to exit. What keeps one of them from that is
    left behind, by name, and fails the test: a poller, a pending timer, an I/O channel, a coroutine, a file descriptor,
    and a device that is still registered too.
    """
    lib = ThreadLib(clock=manual_clock)
    yield lib
    left = _end(lib)
    if left:
        pytest.fail(f"the test left behind: {'; '.join(left)}", pytrace=False)


@pytest.fixture
def reactor() -> Iterator[Reactor]:
    """A running Reactor with a ThreadLib of its own (`reactor.lib`), on the real clock; stopped at the end.

    What its threads still have then fails the test, as with `thread_lib`.
    """
    lib = ThreadLib()
    one = Reactor(lib=lib)
    try:
        yield one.start()
    finally:
        report = one.stop(timeout_s=STOP_TIMEOUT_S)
    _judge(lib, report)


@pytest.fixture
def reactor_group() -> Iterator[ReactorGroup]:
    """A running ReactorGroup, one Reactor on each of up to two free cores, with a ThreadLib of its own; stopped at the
    end, as `reactor`.
    """
    lib = ThreadLib()
    group = ReactorGroup(min(2, len(allowed_cores())), lib=lib)
    try:
        yield group.start()
    finally:
        report = group.stop(timeout_s=STOP_TIMEOUT_S)
    _judge(lib, report)


def _end(lib: ThreadLib) -> list[str]:
    """End all threads and close the library; what was left behind, in words."""
    left = []
    threads = lib.threads
    placed = [one for one in threads if one._placed_on() is not None]
    driven = [one for one in threads if one._placed_on() is None]
    left += [f"{one!r} on {one._placed_on()!r}" for one in placed]
    for one in driven:
        with one:
            one.exit()
    try:
        poll_until_idle(driven)
    except RuntimeError as error:
        left.append(str(error))
    for one in driven:
        if not one.is_exited:
            blockers = one.exit_blockers or (str(what_is_left([one], by_name=True)),)
            left += [f"{what} on thread {one.name!r}" for what in blockers]
    left += [f"device {device.name!r}, still registered" for device in lib.devices]
    # Whatever was found is let go of as far as it can be, so that it is no part of the next test.
    for one in driven:
        if not one.is_exited:
            with one:
                for poller in one.pollers:
                    poller.unregister()
                for timer in one.timers:
                    timer.cancel()
                if one._coroutines is not None:
                    one._coroutines.abandon()
            one.poll()
    if not left:
        lib.close()
    return left


def _judge(lib: ThreadLib, report) -> None:
    """Fail a test by what its reactors had left."""
    left = [] if report.ok else [str(report)]
    if not left:
        left = _end(lib)
    if left:
        pytest.fail(f"the test left behind: {'; '.join(left)}", pytrace=False)
