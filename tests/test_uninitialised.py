"""Objects made past their constructors: a named error, and never the end of the process."""

import inspect
import subprocess
import sys
from pathlib import Path

import pytest
import uninitialised
from support import drain, finish

from spdkthread import IoDevice, Poller, Reactor, SpdkThread, SpdkThreadError, ThreadLib, aio
from spdkthread.aio.loop_future import LoopFuture

CLASSES = uninitialised.classes()
PATIENCE_S = 600.0


@pytest.fixture(scope="module")
def endings():
    """What came of each class: the exit status of its process and the last that it did."""
    done = subprocess.run(
        [sys.executable, str(Path(uninitialised.__file__))],
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
