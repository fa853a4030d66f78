"""Callbacks that misbehave, wherever the library calls one: a named error, and everything else goes on."""

import gc
import os
import sys
import threading
import time
from concurrent.futures import Future

import pytest
import support
from support import PATIENCE_S, OtherThread, eventually, noop, run_python

from spdkthread import (
    IoDevice,
    ReactorError,
    RingFullError,
    SpdkThreadError,
    ThreadExitedError,
    WrongThreadError,
    get_thread,
)

pytestmark = pytest.mark.faults

# Where the library calls a function: each entry has the function called once on a running reactor's thread.


def as_message(thread, fn, held):
    thread.send_msg(fn)


def as_message_with_arguments(thread, fn, held):
    thread.send_msg(lambda *args: fn(), 1, 2, 3, 4, 5, 6)


def as_one_of_many(thread, fn, held):
    # One that ends the reactor may do so before the last two are sent.
    assert thread.send_many(lambda number: fn() if number == 3 else None, range(6)) >= 4


def as_critical_message(thread, fn, held):
    thread.send_critical_msg(fn)


def once(fn, poller):
    def run():
        poller[0].unregister()
        return fn()

    return run


def as_poller(thread, fn, held):
    def register():
        held.append(thread.register_poller(once(fn, held)))

    thread.send_msg(register)


def as_timed_poller(thread, fn, held):
    def register():
        held.append(thread.register_poller(once(fn, held), 20))

    thread.send_msg(register)


def as_fd_handler(thread, fn, held):
    reading, writing = os.pipe()

    def run():
        held[0].unregister()
        os.close(reading)
        os.close(writing)
        return fn()

    def register():
        held.append(thread.register_fd(reading, run))
        os.write(writing, b"x")

    thread.send_msg(register)


def as_for_each_thread(thread, fn, held):
    thread.send_msg(lambda: thread.lib.for_each_thread(lambda: fn() if get_thread() is thread else None))


def as_completion(thread, fn, held):
    thread.send_msg(lambda: thread.lib.for_each_thread(noop, fn))


def as_channel_function(thread, fn, held):
    def make():
        held.append(IoDevice(create_channel=lambda channel: fn(), lib=thread.lib).register())
        try:
            held[0].get_io_channel().put()
        finally:
            held[0].unregister()

    thread.send_msg(make)


def as_end_of_a_channel(thread, fn, held):
    def make():
        held.append(IoDevice(destroy_channel=lambda channel: fn(), lib=thread.lib).register())
        held[0].get_io_channel().put()
        held[0].unregister()

    thread.send_msg(make)


def as_iteration_over_channels(thread, fn, held):
    def make():
        held.append(IoDevice(lib=thread.lib).register())
        channel = held[0].get_io_channel()
        held[0].for_each_channel(lambda it: fn(), None, lambda it, status: channel.put())
        held[0].unregister()

    thread.send_msg(make)


def as_end_of_a_device(thread, fn, held):
    thread.send_msg(lambda: IoDevice(lib=thread.lib).register().unregister(lambda device: fn()))


def as_call(thread, fn, held):
    held.append(thread.call(fn))


def as_done_callback(thread, fn, held):
    added = threading.Event()
    future = thread.call(added.wait)
    future.add_done_callback(lambda future: fn())
    added.set()


def as_coroutine(thread, fn, held):
    async def run():
        return fn()

    held.append(thread.spawn(run()))


PLACES = {name[3:].replace("_", " "): place for name, place in globals().copy().items() if name.startswith("as_")}


@pytest.fixture(autouse=True)
def quiet(monkeypatch, caplog):
    """What a destructor raises goes to a hook, and what a future's callback raises to a logger; both are the point."""
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda unraisable: seen.append(type(unraisable.exc_value)))
    yield seen
    seen.clear()


@pytest.fixture
def place(request):
    return PLACES[request.param]


everywhere = pytest.mark.parametrize("place", PLACES, indirect=True)


def still_works(reactor, thread):
    """The thread answers, and so does another one."""
    assert thread.call(abs, -1).result(PATIENCE_S) == 1
    assert reactor.create_thread().call(abs, -2).result(PATIENCE_S) == 2
    assert reactor.state == "running"


class Signal:
    """Says when the misbehaviour has happened."""

    def __init__(self):
        self.happened = threading.Event()

    def wait(self):
        assert self.happened.wait(PATIENCE_S)


@everywhere
def test_one_that_raises(reactor, place, errors):
    thread, signal = reactor.create_thread("net"), Signal()

    def misbehave():
        signal.happened.set()
        raise ZeroDivisionError("on purpose")

    place(thread, misbehave, [])
    signal.wait()
    still_works(reactor, thread)


@everywhere
@pytest.mark.parametrize(
    "nonsense", ["nonsense", 2**80, -5, [], object()], ids=["text", "huge", "negative", "list", "object"]
)
def test_one_that_returns_nonsense(reactor, place, errors, nonsense):
    thread, signal = reactor.create_thread("net"), Signal()

    def misbehave():
        signal.happened.set()
        return nonsense

    place(thread, misbehave, [])
    signal.wait()
    still_works(reactor, thread)
    assert set(errors.types) <= {TypeError, OverflowError, ValueError}


@everywhere
def test_one_that_sleeps(reactor, place):
    """The messages behind it wait; none is lost."""
    thread, signal = reactor.create_thread("net"), Signal()

    def misbehave():
        signal.happened.set()
        time.sleep(0.02)

    place(thread, misbehave, [])
    signal.wait()
    still_works(reactor, thread)


@everywhere
def test_one_that_polls_its_own_thread_again(reactor, place):
    thread, signal, raised = reactor.create_thread("net"), Signal(), []

    def misbehave():
        for poll in (thread.poll, reactor.poll):
            try:
                poll()
            except SpdkThreadError as error:
                raised.append(type(error))
        signal.happened.set()

    place(thread, misbehave, [])
    signal.wait()
    assert len(raised) == 2
    assert set(raised) <= {WrongThreadError, ReactorError, SpdkThreadError}
    still_works(reactor, thread)


@everywhere
def test_one_that_lets_its_own_thread_go(make_reactor, place):
    """The thread exits, and only the library refers to it."""
    reactor, signal = make_reactor().start(), Signal()
    thread = reactor.create_thread("net", ring_size=16)

    def misbehave():
        here = get_thread()
        if here is not None:
            here.exit()
        gc.collect()
        signal.happened.set()

    place(thread, misbehave, held := [])
    del thread
    signal.wait()
    held.clear()
    gc.collect()
    eventually(lambda: reactor.threads == ())
    assert reactor.create_thread().call(abs, -2).result(PATIENCE_S) == 2


class Bomb:
    def __init__(self, called, signal):
        self.called, self.signal = called, signal

    def __call__(self, *args):
        self.called.happened.set()

    def __del__(self):
        self.signal.happened.set()
        raise RuntimeError("in a destructor")


@everywhere
def test_one_whose_destructor_raises(reactor, place, quiet):
    thread, called, signal = reactor.create_thread("net"), Signal(), Signal()
    held = []
    place(thread, Bomb(called, signal), held)
    called.wait()

    def gone():
        held.clear()
        gc.collect()
        return signal.happened.is_set()

    eventually(gone)
    still_works(reactor, thread)
    assert set(quiet) == {RuntimeError}


@everywhere
@pytest.mark.parametrize("kind", [SystemExit, KeyboardInterrupt])
def test_one_that_calls_sys_exit_stops_the_reactor_and_no_more(make_reactor, place, kind):
    """The stop is a clean one: what was accepted runs, the threads exit, and the process goes on."""
    reactor, signal = make_reactor().start(), Signal()
    thread = reactor.create_thread("net", ring_size=64)
    other = reactor.create_thread("other")
    ran = []

    def misbehave():
        signal.happened.set()
        raise kind("on purpose")

    place(thread, misbehave, held := [])
    signal.wait()
    sent = 0
    try:
        while sent < 5:
            other.send_msg(ran.append, sent)
            sent += 1
    except ThreadExitedError:
        pass
    report = reactor.stop(timeout_s=PATIENCE_S)
    assert report.ok, report
    assert ran == list(range(sent))
    assert thread.is_exited
    assert other.is_exited
    futures = [one for one in held if isinstance(one, Future)]
    assert all(future.done() for future in futures)
    assert reactor.state == "stopped"


def test_two_that_poll_each_others_threads(lib):
    """Legal by hand, in any depth that ends: the current thread is the right one after each."""
    first, second = lib.create_thread("first"), lib.create_thread("second")
    seen = []

    def outer():
        second.poll()
        seen.append(get_thread())

    second.send_msg(lambda: seen.append(get_thread()))
    first.send_msg(outer)
    first.poll()
    assert seen == [second, first]


FORKING = """
import os, sys, threading
from spdkthread import Reactor, SpdkThreadError
sys.path[:0] = {paths!r}
from test_misbehaving_callbacks import PLACES
reactor = Reactor(spin_us=0).start()
thread = reactor.create_thread("net")
for name, place in PLACES.items():
    over, children, held = threading.Event(), [], []
    def misbehave():
        child = os.fork()
        if child == 0:
            try:
                thread.send_msg(print)
            except SpdkThreadError:
                os._exit(7)
            os._exit(8)
        children.append(child)
        over.set()
    place(thread, misbehave, held)
    assert over.wait(60), name
    (child,) = children
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7, name
    assert thread.call(abs, -1).result(60) == 1, name
assert reactor.stop(60).ok
print("all")
"""


def test_one_that_forks():
    """In the child the thread is dead and says so; in the parent nothing has happened."""
    options = ("-W", "ignore::DeprecationWarning")
    done = run_python(FORKING.format(paths=[os.path.dirname(file) for file in (__file__, support.__file__)]), *options)
    assert (done.returncode, done.stdout) == (0, "all\n"), done.stderr


def test_many_misbehave_at_once(make_reactor, errors):
    """Every kind in every place, on two reactors, from two OS threads, while messages flow: none is lost."""
    reactors = [make_reactor(spin_us=0).start() for _ in range(2)]
    threads = [reactors[number % 2].create_thread(ring_size=1024) for number in range(4)]
    steady = reactors[0].create_thread("steady")
    seen, kept = [], []

    def fail():
        raise ZeroDivisionError

    def work(fns):
        for fn in fns:
            for place in PLACES.values():
                for thread in threads:
                    kept.append(held := [])
                    while True:
                        try:
                            place(thread, fn, held)
                            break
                        except RingFullError:
                            time.sleep(0)  # the critical slot is taken
                    steady.send_msg_wait(seen.append, 1, timeout_s=PATIENCE_S)

    others = [OtherThread(work, [fail, lambda: "nonsense"]), OtherThread(work, [lambda: time.sleep(0), gc.collect])]
    for other in others:
        other.outcome()
    for thread in threads:
        while True:
            try:
                assert thread.call(abs, -1).result(PATIENCE_S) == 1
                break
            except SpdkThreadError:
                pass
    steady.call(noop).result(PATIENCE_S)
    assert len(seen) == 2 * 2 * len(PLACES) * len(threads)
    eventually(lambda: not any(thread.pollers for thread in threads))
