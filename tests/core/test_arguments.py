"""Arguments of the wrong kind: a named error, nothing changed, and never a crash."""

import contextlib
import math
import random

import numpy
import pytest
from support import NOT_CALLABLE, finish, lasting_repr, noop, still_works

from spdkthread import (
    Reactor,
    ReactorGroup,
    SpdkThreadError,
    ThreadLib,
    WrongThreadError,
    get_thread,
)
from spdkthread.aio import EventLoop
from spdkthread.testing import ManualClock


@pytest.mark.parametrize("fn", NOT_CALLABLE, ids=lasting_repr)
@pytest.mark.parametrize(
    "take",
    ["send_msg", "try_send_msg", "send_msg_wait", "send_critical_msg", "call", "exec_msg", "register_poller"],
)
def test_what_cannot_be_called_is_refused_when_it_is_handed_over(thread, take, fn):
    with pytest.raises(TypeError):
        getattr(thread, take)(fn)
    with thread, pytest.raises(WrongThreadError if take == "send_msg_wait" else TypeError):
        getattr(thread, take)(fn)
    still_works(thread)


@pytest.mark.parametrize("arguments", [{"max_msgs": "8"}, {"max_msgs": [1]}, {"now": "now"}, {"now": []}], ids=str)
def test_bad_arguments_of_poll_are_refused(thread, arguments):
    thread.send_msg(noop)
    with pytest.raises(TypeError):
        thread.poll(**arguments)
    assert thread.pending_msgs == 1
    assert get_thread() is None
    thread.poll()


@pytest.mark.parametrize("arguments", [{"max_msgs": 2**100}, {"now": 2**100}, {"now": -(2**100)}], ids=str)
def test_arguments_of_poll_beyond_64_bits_do_no_harm(thread, arguments):
    thread.send_msg(noop)
    try:
        thread.poll(**arguments)
    except (OverflowError, ValueError):
        assert thread.pending_msgs == 1
    assert get_thread() is None
    thread.poll()
    still_works(thread)


JUNK = [None, 0, 1, -1, 2**31, 2**64, 0.5, math.nan, math.inf, "", "text", b"bytes", (), [], {}, object(), noop, print]
METHODS = [
    "send_msg",
    "try_send_msg",
    "send_many",
    "send_critical_msg",
    "send_native",
    "call",
    "register_poller",
    "register_native_poller",
    "exec_msg",
    "poll",
    "__enter__",
    "__exit__",
]


@pytest.mark.parametrize("method", METHODS)
def test_junk_in_any_place_is_refused_or_harmless(errors, method):
    """Every method with one to three pieces of junk: an ordinary exception or none, and the thread still ends."""
    choice = random.Random(method)
    for attempt in range(150):
        library = ThreadLib(clock=ManualClock(), exception_handler=errors)
        thread = library.create_thread("net", ring_size=4)
        arguments = [choice.choice(JUNK) for _ in range(choice.randrange(4))]
        arguments = [value for value in arguments if value is not print]
        with contextlib.suppress(TypeError, ValueError, OverflowError, SpdkThreadError, BufferError):
            getattr(thread, method)(*arguments)
        while get_thread() is not None:
            get_thread().__exit__(None, None, None)
        for _ in range(attempt % 3):
            thread.poll()
        finish(thread)
        library.close()


@pytest.mark.parametrize("seed", range(8))
def test_a_random_program_loses_nothing_and_crashes_never(seed, errors):
    """Threads that send, poll, register, pause, unregister, interrupt, iterate and exit, at random.

    Every message that was accepted runs exactly once, and every thread exits in the end.
    """
    choice = random.Random(seed)
    clock = ManualClock()
    library = ThreadLib(clock=clock, exception_handler=errors)
    threads, pollers = [], []
    accepted, ran = set(), []
    number = 0

    def deliver(this, *more):
        ran.append(this)
        if choice.random() < 0.3:
            act(nested=True)
        if choice.random() < 0.02:
            raise ValueError("now and then")
        if choice.random() < 0.01:
            raise KeyboardInterrupt

    def poll_something():
        if choice.random() < 0.1:
            act(nested=True)
        if choice.random() < 0.02:
            raise ValueError("now and then")
        return choice.choice([0, 1, None, True, 3, -2])

    def drive(thread):
        with contextlib.suppress(KeyboardInterrupt, WrongThreadError):
            thread.poll(choice.randrange(9))

    def act(nested=False):
        nonlocal number
        step = choice.randrange(14)
        alive = [thread for thread in threads if not thread.is_exited]
        if (step == 0 and len(threads) < 30) or not alive:
            policy = choice.choice(["one", "all"])
            threads.append(library.create_thread(ring_size=choice.choice([1, 2, 8, 64]), poller_policy=policy))
            return
        thread = choice.choice(alive)
        if step in (1, 2, 3, 4):
            number += 1
            this = number
            if thread.try_send_msg(deliver, this, *range(choice.randrange(7))):
                accepted.add(this)
        elif step in (5, 6, 7):
            if not nested or choice.random() < 0.3:
                drive(thread)
        elif step == 8:
            period_us = choice.choice([0, 0, 1, 7, 20.5])
            if len(pollers) < 200:
                pollers.append(thread.register_poller(poll_something, period_us))
        elif step in (9, 10) and pollers:
            getattr(choice.choice(pollers), choice.choice(["pause", "resume", "unregister", "unregister"]))()
        elif step == 11 and get_thread() is not None and not get_thread().is_exited:
            library.for_each_thread(noop)
        elif step == 12:
            clock.advance(us=choice.randrange(10))
        elif step == 13 and choice.random() < 0.2:
            thread.exit()

    for _ in range(3_000):
        act()
        assert get_thread() is None
    choice.random = lambda: 1.0
    while alive := [thread for thread in threads if not thread.is_exited]:
        for thread in alive:
            for poller in thread.pollers:
                poller.unregister()
            thread.exit()
        for thread in alive:
            clock.advance(us=1)
            drive(thread)
    assert len(ran) == len(set(ran))
    assert set(ran) == accepted
    assert library.threads == ()
    library.close()


# A bool is no number


BOOLS = [True, False, numpy.bool_(True)]


@pytest.mark.parametrize("flag", BOOLS, ids=lasting_repr)
def test_a_bool_is_no_number_anywhere(lib, thread, flag):
    calls = {
        "period_us": lambda: thread.register_poller(noop, period_us=flag),
        "period_us of a native poller": lambda: thread.register_native_poller(noop, period_us=flag),
        "ring_size": lambda: lib.create_thread(ring_size=flag),
        "max_msgs": lambda: thread.poll(flag),
        "now": lambda: thread.poll(now=flag),
        "timeout_s of send_msg_wait": lambda: thread.send_msg_wait(noop, timeout_s=flag),
        "core": lambda: Reactor(flag, lib=lib),
        "spin_us": lambda: Reactor(spin_us=flag, lib=lib),
        "stall_ms": lambda: Reactor(stall_ms=flag, lib=lib),
        "spin_us of a loop": lambda: EventLoop(spin_us=flag),
        "timeout_s of stop": lambda: Reactor(lib=lib).stop(timeout_s=flag),
        "timeout_s of join": lambda: Reactor(lib=lib).join(timeout_s=flag),
        "cores": lambda: ReactorGroup(flag, lib=lib),
        "period_us of a group": lambda: ReactorGroup(1, period_us=flag, lib=lib),
        "timeout_s of a group": lambda: ReactorGroup(1, lib=lib).stop(timeout_s=flag),
        "cpumask": lambda: lib.create_thread(cpumask=[flag]),
        "isolated": lambda: ReactorGroup(1, isolated=[flag], lib=lib),
        "start": lambda: ManualClock(flag),
        "advance": lambda: ManualClock().advance(flag),
        "ticks": lambda: ManualClock().advance(ticks=flag),
        "fd": lambda: thread.register_fd(flag, noop),
    }
    wrong = []
    for name, call in calls.items():
        try:
            call()
        except TypeError:
            continue
        except Exception as error:
            wrong.append((name, error))
        else:
            wrong.append((name, "accepted"))
    assert wrong == []


def test_numbers_of_numpy_are_numbers(lib, thread, clock):
    with thread:
        poller = thread.register_poller(noop, period_us=numpy.float32(2.0))
        other = thread.register_poller(noop, period_us=numpy.int64(3))
        assert (poller.period_us, other.period_us) == (2, 3)
        poller.unregister()
        other.unregister()
    assert thread.poll(numpy.int8(3)) == 0
    assert lib.create_thread(ring_size=numpy.int64(5)).ring_size == 8
    assert Reactor(spin_us=numpy.float64(5), lib=lib).spin_us == 5.0
    clock.advance(numpy.int64(3))
    assert clock.now == 3000
