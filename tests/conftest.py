"""Fixtures of the whole suite: a simulated clock, a library of one's own, and no test that leaks."""

import gc
import os
import signal
import time
from pathlib import Path

import pytest
from hypothesis import settings
from support import PATIENCE_S, Errors, finish

from spdkthread import Reactor, ReactorGroup, ThreadLib
from spdkthread.testing import ManualClock, leak_counters, pytest_plugin

settings.register_profile("suite", deadline=None, derandomize=True, database=None)
settings.register_profile("search", deadline=None, max_examples=int(os.environ.get("SPDKTHREAD_EXAMPLES", "2000")))
settings.load_profile("suite")

pytest_plugins = ["pytester"]

FAILED = pytest.StashKey[str]()


def pytest_configure(config):
    """The package's own fixtures; and Ctrl-C: a shell starts what runs in the background with it ignored, and so are the
    signals of these tests then."""
    # Where the package is installed, its entry point has done this.
    if not config.pluginmanager.has_plugin("spdkthread"):
        config.pluginmanager.register(pytest_plugin, "spdkthread")
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config, items):
    """Each test bears the name of its folder as a marker, so that `-m` selects layers and packages."""
    here = Path(__file__).parent
    for item in items:
        folders = item.path.relative_to(here).parts[:-1] if item.path.is_relative_to(here) else ()
        if folders:
            item.add_marker(folders[0])


def pytest_collection_finish(session):
    """What is imported by now stays: the collector need not look at it again after each of a thousand tests."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if report.failed:
        item.session.stash[FAILED] = item.nodeid
    return report


def settled(before, caplog):
    """The counters, at the latest after five seconds: an OS thread that is ending, such as a watchdog that logs what it
    has seen, may hold something in its last frames."""
    give_up = time.monotonic() + 5
    while True:
        caplog.clear()
        gc.collect()
        after = leak_counters()
        if after == before or time.monotonic() > give_up:
            return after
        time.sleep(0.01)


@pytest.fixture(autouse=True)
def no_leaks(request):
    """Every test ends with as many threads, pollers, messages and so on as it began with."""
    caplog = request.getfixturevalue("caplog")
    # The traceback of a failed test keeps its objects until the next one has begun: neither is counted.
    failed_before = request.session.stash.get(FAILED, None)
    gc.collect()
    before = leak_counters()
    yield
    if request.session.stash.get(FAILED, None) == request.node.nodeid:
        return
    # pytest itself keeps the fixtures' values and the log records, and with them our objects, a little longer.
    for phase in ("setup", "call", "teardown"):
        caplog.get_records(phase).clear()
    request.node.funcargs.clear()
    after = settled(before, caplog)
    if failed_before is not None:
        request.session.stash[FAILED] = None
        assert not {name: count for name, count in after.items() if count > before[name]}
    else:
        assert after == before


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def errors():
    """What the exception handler of `lib` was given."""
    return Errors()


@pytest.fixture
def lib(clock, errors):
    """A library on the simulated clock, whose threads are driven by the test."""
    library = ThreadLib(clock=clock, exception_handler=errors)
    yield library
    finish(*library.threads)
    library.close()


@pytest.fixture
def live_lib(errors):
    """A library on the real clock, for reactors that run."""
    library = ThreadLib(exception_handler=errors)
    yield library
    finish(*library.threads)
    library.close()


@pytest.fixture
def thread(lib):
    return lib.create_thread("net")


@pytest.fixture
def make_reactor(live_lib, lib):
    """Makes reactors, and stops them at the end."""
    made = []

    def make(*args, lib=live_lib, **options):
        reactor = Reactor(*args, lib=lib, **options)
        made.append(reactor)
        return reactor

    yield make
    for reactor in made:
        report = reactor.stop(timeout_s=PATIENCE_S)
        assert not report.still_running, report


@pytest.fixture
def reactor(make_reactor):
    """A running reactor."""
    return make_reactor().start()


@pytest.fixture
def make_group(live_lib):
    """Makes groups of reactors, and stops them at the end."""
    made = []

    def make(*args, lib=live_lib, **options):
        options.setdefault("period_us", 0)
        group = ReactorGroup(*args, lib=lib, **options)
        made.append(group)
        return group

    yield make
    for group in made:
        report = group.stop(timeout_s=PATIENCE_S)
        assert not report.still_running, report
