"""The fixtures that come with the package, in a run of pytest of their own."""

import pytest

HEAD = """
import pytest
from spdkthread import IoDevice, SpdkThreadError, TICKS_HZ
from spdkthread.testing import ManualClock, run_for

def noop():
    pass
"""


@pytest.fixture
def run(pytester):
    def run(source):
        pytester.makepyfile(HEAD + source)
        # Without what happens to be installed beside us, and without this suite's own conftest.
        pytester.makeini("[pytest]\naddopts = -p no:cacheprovider\n")
        plugin = [] if pytester.plugins else ["-p", "spdkthread.testing.pytest_plugin"]
        return pytester.runpytest_subprocess(*plugin)

    return run


def test_simulated_time_and_a_library_on_it(run):
    result = run("""
def test_one(manual_clock, thread_lib):
    assert isinstance(manual_clock, ManualClock)
    assert manual_clock.now == 0
    assert thread_lib.manual_clock is manual_clock
    thread = thread_lib.create_thread("a")
    ran = []
    with thread:
        poller = thread.register_poller(lambda: ran.append(manual_clock.now), 10)
    run_for(manual_clock, thread_lib, us=35)
    assert ran == [10_000, 20_000, 30_000]
    with thread:
        poller.unregister()

def test_each_test_has_its_own(manual_clock, thread_lib):
    assert manual_clock.now == 0
    assert thread_lib.threads == ()

def test_the_library_is_closed_at_the_end(thread_lib, request):
    request.config.kept = thread_lib
    thread_lib.create_thread().send_msg(noop)

def test_it_was_closed(request):
    with pytest.raises(SpdkThreadError):
        request.config.kept.create_thread()
""")
    result.assert_outcomes(passed=4)


@pytest.mark.parametrize(
    ("leave", "named"),
    [
        ("thread.register_poller(noop, 10, name='heartbeat')", "poller 'heartbeat' on thread 'net'"),
        ("thread.register_poller(noop, name='spin').pause()", "poller 'spin' on thread 'net'"),
        ("thread.call_later(10, noop)", "timer 'noop' at tick 10000 on thread 'net'"),
        ("IoDevice('disk', lib=thread_lib).register()", "device 'disk', still registered"),
        ("IoDevice('disk', lib=thread_lib).register().get_io_channel()", "channel of device 'disk'"),
        ("thread.register_poller(lambda: 1, name='busy')", "poller 'busy' on thread 'net'"),
        ("thread.spawn(wait_for_ever())", "wait_for_ever"),
    ],
)
def test_what_a_test_leaves_behind_fails_it_by_name(run, leave, named):
    result = run(f"""
from spdkthread import aio

async def wait_for_ever():
    await aio.sleep_us(1e12)

def test_one(thread_lib):
    thread = thread_lib.create_thread("net")
    with thread:
        {leave}

def test_the_next_is_none_the_worse(thread_lib):
    thread_lib.create_thread("net").send_msg(noop)
""")
    result.assert_outcomes(passed=2, errors=1)
    assert result.ret != 0
    result.stdout.fnmatch_lines([f"*the test left behind: *{named.replace('[', '[[]')}*"])


def test_a_running_reactor(run):
    result = run("""
def test_one(reactor):
    assert reactor.state == "running"
    thread = reactor.create_thread()
    assert thread.call(lambda: 6 * 7).result(60) == 42

def test_both(reactor, reactor_group):
    assert reactor.create_thread().call(lambda: 1).result(60) == 1
    assert reactor_group.create_thread().call(lambda: 2).result(60) == 2

def test_group(reactor_group):
    assert len(reactor_group) >= 1
    assert all(one.state == "running" for one in reactor_group)
    threads = [reactor_group.create_thread() for _ in range(3)]
    assert [one.call(lambda: 1).result(60) for one in threads] == [1, 1, 1]
""")
    result.assert_outcomes(passed=3)


@pytest.mark.parametrize("fixture", ["reactor", "reactor_group"])
def test_what_a_reactors_thread_has_at_the_end_fails_the_test(run, fixture):
    result = run(f"""
def test_one({fixture}):
    {fixture}.create_thread("net").call_later(3.6e9, noop)

def test_the_next_is_none_the_worse({fixture}):
    {fixture}.create_thread("net").call(noop).result(60)
""")
    result.assert_outcomes(passed=2, errors=1)
    result.stdout.fnmatch_lines(["*the test left behind: *noop* on thread net*"])


def test_the_package_names_the_plugin_for_pytest():
    tomllib = pytest.importorskip("tomllib")
    from pathlib import Path

    import spdkthread

    project = tomllib.loads((Path(spdkthread.__file__).parent.parent / "pyproject.toml").read_text())
    assert project["project"]["entry-points"]["pytest11"] == {"spdkthread": "spdkthread.testing.pytest_plugin"}
    assert "spdkthread.testing" in project["tool"]["setuptools"]["packages"]
