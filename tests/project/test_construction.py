"""Construction: objects past their constructors, with one that failed, or with one that ran twice: errors, never crashes."""

import contextlib
import inspect
import subprocess
import sys
from pathlib import Path

import past_constructors
import pytest
from support import drain, finish, run_python

from spdkthread import IoDevice, Poller, Reactor, SpdkThread, SpdkThreadError, ThreadLib, aio, get_thread
from spdkthread.aio.loop_future import LoopFuture
from spdkthread.ring import MessageRing
from spdkthread.testing import ManualClock
from spdkthread.timers import TimerQueue

CLASSES = past_constructors.classes()
PATIENCE_S = 600.0


@pytest.fixture(scope="module")
def endings():
    """What came of each class: the exit status of its process and the last that it did."""
    done = subprocess.run(
        [sys.executable, str(Path(past_constructors.__file__))],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    lines = [line.split("\t", 2) for line in done.stdout.splitlines()]
    return {name: (int(status), words) for name, status, words in lines}


@pytest.mark.parametrize("name", list(CLASSES))
def test_using_an_object_past_its_constructor_does_not_end_the_process(endings, name):
    assert endings[name] == (0, "")


def made_by_the_library_only():
    for name, cls in CLASSES.items():
        if name.startswith("spdkthread.") and not inspect.isfunction(cls.__new__) and cls.__new__ is not object.__new__:
            try:
                cls.__new__(cls)
            except TypeError as refused:
                if "only spdkthread itself" in str(refused):
                    yield cls
            except Exception:
                pass


@pytest.mark.parametrize("cls", list(made_by_the_library_only()), ids=lambda cls: cls.__qualname__)
def test_what_only_the_library_makes_is_refused_in_every_way(cls):
    with pytest.raises(TypeError, match="only spdkthread itself"):
        cls()
    with pytest.raises(TypeError, match="only spdkthread itself"):
        cls.__new__(cls)
    with pytest.raises(TypeError, match=r"is not safe"):
        object.__new__(cls)


def test_the_refused_ones_are_those_that_have_no_constructor():
    names = {cls.__qualname__ for cls in made_by_the_library_only()}
    assert names >= {
        "Poller",
        "FdHandler",
        "IoChannel",
        "IoChannelIter",
        "Call",
        "Sleep",
        "Switch",
        "FdWait",
        "FutureWait",
    }
    assert not names & {"SpdkThread", "ThreadLib", "Reactor", "IoDevice", "EventLoop"}


@pytest.fixture
def bare():
    return SpdkThread.__new__(SpdkThread)


@pytest.mark.parametrize(
    "act",
    [
        lambda thread: thread.send_msg(print),
        lambda thread: thread.call(int),
        lambda thread: thread.spawn(nothing()),
        lambda thread: thread.poll(),
        lambda thread: thread.exit(),
        lambda thread: thread.__enter__(),
        lambda thread: thread.register_poller(int),
        lambda thread: thread.register_fd(0, int),
        lambda thread: thread.executor().submit(int),
        lambda thread: aio.switch_to(thread),
        lambda thread: aio.EventLoop(thread),
    ],
)
@pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")
def test_a_thread_past_its_constructor_says_so(bare, act):
    with pytest.raises(SpdkThreadError, match="never initialised"):
        act(bare)


async def nothing():
    pass


def test_a_reactor_and_a_device_past_their_constructors_say_so(bare, lib):
    with pytest.raises(SpdkThreadError, match="never initialised"):
        Reactor.__new__(Reactor).run()
    with pytest.raises(SpdkThreadError, match="never initialised"):
        IoDevice.__new__(IoDevice).register()
    with pytest.raises(SpdkThreadError, match="never initialised"):
        LoopFuture.__new__(LoopFuture).cancel()


def test_a_thread_cannot_be_taught_to_poll_what_is_not_a_poller(thread):
    with pytest.raises(TypeError, match="only spdkthread itself"):
        type("Mine", (Poller,), {})()


def test_an_event_loop_is_set_up_once(lib):
    thread = lib.create_thread("net")
    loop = aio.EventLoop(thread)
    with pytest.raises(SpdkThreadError, match="initialised already"):
        loop.__init__(thread)
    loop.close()


def test_a_library_past_its_constructor_takes_no_thread(errors):
    library = ThreadLib.__new__(ThreadLib)
    with pytest.raises(SpdkThreadError, match="never initialised"):
        library.create_thread()
    with pytest.raises(SpdkThreadError, match="never initialised"):
        SpdkThread(lib=library)
    library.__init__(exception_handler=errors)
    thread = library.create_thread()
    drain(thread)
    finish(thread)
    library.close()


@pytest.mark.parametrize(
    "kind", [SpdkThread, Poller, Reactor, ThreadLib, TimerQueue, ManualClock], ids=lambda kind: kind.__name__
)
def test_an_object_whose_init_never_ran_does_no_harm(kind):
    """`__new__` alone, then every attribute and method without arguments: errors, but no crash."""
    try:
        raw = kind.__new__(kind)
    except TypeError:
        return
    for name in [name for name in dir(kind) if not name.startswith("_")] + ["__enter__", "__repr__", "__exit__"]:
        with contextlib.suppress(Exception):
            member = getattr(raw, name)
            if callable(member):
                member(None, None, None) if name == "__exit__" else member()
    assert get_thread() is None


@pytest.mark.parametrize("kind", [SpdkThread, Reactor, ThreadLib, MessageRing], ids=lambda kind: kind.__name__)
def test_an_init_that_failed_leaves_nothing_behind(kind):
    with pytest.raises((TypeError, ValueError)):
        kind(object(), object(), object(), object())
    with pytest.raises((TypeError, ValueError)):
        kind(nonsense=1)


def test_initialising_a_library_again_is_refused():
    """Its threads point to its clock, so it must keep the one that it has."""
    done = run_python(
        """
import gc, spdkthread
from spdkthread.testing import ManualClock
lib = spdkthread.ThreadLib(clock=ManualClock(7))
thread = lib.create_thread("net")
try:
    lib.__init__()
except Exception as error:
    print(type(error).__name__)
gc.collect()
others = [ManualClock(99) for _ in range(100)]
with thread:
    thread.register_poller(print, 10)
print(thread.next_poller_expiration)
"""
    )
    assert done.stdout == "SpdkThreadError\n10007\n", done.stderr


def test_initialising_a_running_reactor_again_is_refused():
    """Its loop sleeps with the wake-up state that it was made with, so it must keep that one, too."""
    done = run_python(
        """
import spdkthread
reactor = spdkthread.Reactor(name="engine").start()
thread = reactor.create_thread()
try:
    reactor.__init__(name="another")
except spdkthread.SpdkThreadError as error:
    print("engine" in str(error))
print(reactor.name, thread.call(abs, -1).result(10), reactor.stop(timeout_s=10).ok)
"""
    )
    assert done.stdout == "True\nengine 1 True\n", done.stderr


def test_init_called_again_does_no_harm(lib):
    thread = lib.create_thread("net")
    ran = []
    thread.send_msg(ran.append, 1)
    with pytest.raises(SpdkThreadError, match="net"):
        thread.__init__("again", ring_size=2, lib=lib)
    thread.poll()
    assert ran == [1]
    finish(*lib.threads)
