"""Everything a user can get wrong raises a named error, names the objects, changes nothing, and crashes never."""

import contextlib
import math
import random
import threading

import numpy
import pytest
from support import PATIENCE_S, elsewhere, fill, finish, noop, run_python

import spdkthread
from spdkthread import (
    NoThreadError,
    Poller,
    Reactor,
    ReactorError,
    ReactorGroup,
    RingFullError,
    SpdkThread,
    SpdkThreadError,
    ThreadExitedError,
    ThreadLib,
    WrongThreadError,
    get_thread,
)
from spdkthread.aio import EventLoop
from spdkthread.ring import MessageRing
from spdkthread.testing import ManualClock
from spdkthread.timers import TimerQueue

NOT_CALLABLE = [None, 1, "fn", b"fn", [], object()]


def still_works(thread):
    """The thread is as if nothing had happened."""
    ran = []
    assert thread.pending_msgs == 0
    assert thread.pollers == ()
    thread.send_msg(ran.append, get_thread)
    thread.poll()
    assert ran == [get_thread]


@pytest.mark.parametrize("fn", NOT_CALLABLE, ids=repr)
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


@pytest.mark.parametrize("fn", NOT_CALLABLE, ids=repr)
def test_send_many_of_what_cannot_be_called_is_refused(thread, fn):
    with pytest.raises(TypeError):
        thread.send_many(fn, [1, 2])
    still_works(thread)


@pytest.mark.parametrize("fn", NOT_CALLABLE, ids=repr)
def test_for_each_thread_of_what_cannot_be_called_is_refused(lib, thread, fn):
    with thread, pytest.raises(TypeError):
        lib.for_each_thread(fn)
    still_works(thread)


@pytest.mark.parametrize("cpl", NOT_CALLABLE[1:], ids=repr)
def test_a_completion_that_cannot_be_called_is_refused(lib, thread, cpl):
    with thread, pytest.raises(TypeError):
        lib.for_each_thread(noop, cpl)
    still_works(thread)


@pytest.mark.parametrize("items", [None, 1, object()])
def test_send_many_of_what_cannot_be_iterated_is_refused(thread, items):
    with pytest.raises(TypeError):
        thread.send_many(noop, items)
    still_works(thread)


@pytest.mark.parametrize("method", ["send_msg", "try_send_msg", "send_many", "send_critical_msg", "call", "exec_msg"])
def test_a_send_without_a_function_is_refused(thread, method):
    with pytest.raises(TypeError):
        getattr(thread, method)()
    still_works(thread)


def test_a_critical_message_takes_no_arguments(thread):
    with pytest.raises(TypeError):
        thread.send_critical_msg(noop, 1)
    still_works(thread)


@pytest.mark.parametrize("timeout_s", [math.nan, -1, "soon"])
def test_a_bad_timeout_is_refused(lib, timeout_s):
    thread = lib.create_thread(ring_size=2)
    fill(thread)
    with pytest.raises((TypeError, ValueError, RingFullError)):
        thread.send_msg_wait(noop, timeout_s=timeout_s)
    assert thread.pending_msgs == 2


@pytest.mark.parametrize("ring_size", [0, -1, -(2**63)])
def test_a_ring_size_that_is_not_positive_is_refused(lib, ring_size):
    with pytest.raises(ValueError, match="ring_size"):
        lib.create_thread("bad", ring_size=ring_size)
    assert lib.threads == ()


@pytest.mark.parametrize("ring_size", [2**40, 2**48, 2**58, 2**62, 2**63 - 1, 2**63, 2**64, 2**100])
def test_an_absurdly_large_ring_is_a_memory_error(lib, ring_size):
    with pytest.raises(MemoryError):
        lib.create_thread("huge", ring_size=ring_size)
    assert lib.threads == ()
    with pytest.raises(MemoryError):
        MessageRing(ring_size)


@pytest.mark.parametrize("ring_size", ["8", 8.0, None, [8]])
def test_a_ring_size_that_is_not_an_integer_is_refused(lib, ring_size):
    with pytest.raises(TypeError):
        lib.create_thread("bad", ring_size=ring_size)
    assert lib.threads == ()


def test_the_rounding_of_the_ring_size_is_said_in_the_docstring():
    assert "power of two" in (SpdkThread.__doc__ or "") + (SpdkThread.__init__.__doc__ or "")


@pytest.mark.parametrize("name", [1, b"net", ["net"], object(), True])
def test_a_name_that_is_not_text_is_refused(lib, thread, name):
    with pytest.raises(TypeError, match="name"):
        lib.create_thread(name)
    with pytest.raises(TypeError, match="name"):
        SpdkThread(name, lib=lib)
    with thread, pytest.raises(TypeError, match="name"):
        thread.register_poller(noop, name=name)
    with pytest.raises(TypeError, match="name"):
        Reactor(name=name, lib=lib)
    assert lib.threads == (thread,)
    still_works(thread)


@pytest.mark.parametrize("policy", ["", "ONE", "some", None, 1])
def test_an_unknown_poller_policy_is_refused(lib, policy):
    with pytest.raises((TypeError, ValueError), match="poller_policy"):
        lib.create_thread(poller_policy=policy)
    assert lib.threads == ()


@pytest.mark.parametrize("cpumask", [1, [-1], ["a"], [0.5], set()], ids=repr)
def test_a_bad_cpumask_is_refused(lib, cpumask):
    with pytest.raises((TypeError, ValueError)):
        lib.create_thread(cpumask=cpumask)
    assert lib.threads == ()


@pytest.mark.parametrize("period_us", ["10", None, [], 1j])
def test_a_period_that_is_not_a_number_is_refused(thread, period_us):
    with thread, pytest.raises(TypeError):
        thread.register_poller(noop, period_us)
    still_works(thread)


@pytest.mark.parametrize("library", [1, "lib", object()], ids=repr)
def test_a_library_that_is_not_one_is_refused(thread, library):
    with pytest.raises(TypeError):
        SpdkThread(lib=library)
    with pytest.raises(TypeError):
        Reactor(lib=library)
    with thread, pytest.raises(TypeError):
        spdkthread.for_each_thread(noop, lib=library)
    still_works(thread)


@pytest.mark.parametrize("number", ["1", None, []])
def test_an_id_that_is_not_a_number_is_refused(lib, number):
    with pytest.raises(TypeError):
        lib.get_thread_by_id(number)


@pytest.mark.parametrize("number", [2**64, -(2**64), 2**100])
def test_an_id_beyond_64_bits_finds_nothing(lib, thread, number):
    with contextlib.suppress(OverflowError):
        assert lib.get_thread_by_id(number) is None


@pytest.mark.parametrize("arguments", [{"max_msgs": "8"}, {"max_msgs": [1]}, {"now": "now"}, {"now": []}], ids=str)
def test_bad_arguments_of_poll_are_refused(thread, arguments):
    thread.send_msg(noop)
    with pytest.raises(TypeError):
        thread.poll(**arguments)
    assert thread.pending_msgs == 1
    assert get_thread() is None
    thread.poll()


@pytest.mark.parametrize("arguments", [{"max_msgs": 2**100}, {"now": 2**100}, {"now": -(2**100)}], ids=str)
def test_arguments_of_poll_beyond_64_bits_harm_nobody(thread, arguments):
    thread.send_msg(noop)
    try:
        thread.poll(**arguments)
    except (OverflowError, ValueError):
        assert thread.pending_msgs == 1
    assert get_thread() is None
    thread.poll()
    still_works(thread)


def test_wrong_thread_no_thread_full_ring_and_exited_thread_each_have_their_error(lib):
    thread, gone = lib.create_thread("net", ring_size=2), lib.create_thread("gone")
    with pytest.raises(NoThreadError):
        lib.for_each_thread(noop, noop)
    fill(thread)
    with pytest.raises(RingFullError, match="net"):
        thread.send_msg(noop)
    thread.poll()
    caught = []

    def poll_again():
        with pytest.raises(WrongThreadError, match="net"):
            thread.poll()
        caught.append(True)

    thread.send_msg(poll_again)
    thread.poll()
    assert caught == [True]
    finish(gone)
    with pytest.raises(ThreadExitedError, match="gone"):
        gone.send_msg(noop)


def test_a_second_start_and_an_unavailable_core_are_reactor_errors(make_reactor, live_lib):
    reactor = make_reactor(name="engine").start()
    with pytest.raises(ReactorError, match="engine"):
        reactor.start()
    with pytest.raises(ReactorError, match="99999"):
        Reactor(99_999, lib=live_lib)


@pytest.mark.parametrize("attribute", ["name", "id", "state", "ring_size", "pending_msgs", "stats", "pollers", "lib"])
def test_what_a_thread_tells_about_itself_cannot_be_set(thread, attribute):
    with pytest.raises(AttributeError):
        setattr(thread, attribute, getattr(thread, attribute))


@pytest.mark.parametrize("attribute", ["name", "id", "state", "period_us", "run_count", "thread"])
def test_what_a_poller_tells_about_itself_cannot_be_set(thread, attribute):
    with thread:
        poller = thread.register_poller(noop)
    with pytest.raises(AttributeError):
        setattr(poller, attribute, getattr(poller, attribute))


def test_a_poller_cannot_be_made_by_hand():
    with pytest.raises(TypeError):
        Poller()


@pytest.mark.parametrize(
    "kind", [SpdkThread, Poller, Reactor, ThreadLib, TimerQueue, ManualClock], ids=lambda kind: kind.__name__
)
def test_an_object_whose_init_never_ran_harms_nobody(kind):
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
    """Its loop sleeps at the gate that it was made with, so it must keep that one, too."""
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


@pytest.mark.parametrize("policy", ["one", "all"])
@pytest.mark.parametrize("now", [2**63, 2**64 - 10_001, 2**64 - 2, 2**64 - 1])
def test_a_tick_so_late_that_the_next_deadline_would_wrap_is_refused(policy, now):
    """A clock ends at tick 2**63. Beyond it a deadline could not be told from one that is long past."""
    done = run_python(
        f"""
import spdkthread
from spdkthread.testing import ManualClock
thread = spdkthread.ThreadLib(clock=ManualClock()).create_thread("net", poller_policy={policy!r})
with thread:
    poller = thread.register_poller(lambda: 0, 10)
try:
    thread.poll(now={now})
except (ValueError, OverflowError):
    print("refused")
print(poller.run_count, thread.next_poller_expiration)
"""
    )
    assert done.stdout == "refused\n0 10000\n", done.stderr


def test_init_called_again_harms_nobody(lib):
    thread = lib.create_thread("net")
    ran = []
    thread.send_msg(ran.append, 1)
    with pytest.raises(SpdkThreadError, match="net"):
        thread.__init__("again", ring_size=2, lib=lib)
    thread.poll()
    assert ran == [1]
    finish(*lib.threads)


def test_a_poller_fn_that_drops_everything_harms_nobody(clock):
    library = ThreadLib(clock=clock)
    holder = {"lib": library, "thread": library.create_thread("last")}
    del library

    def drop():
        thread = holder.pop("thread")
        for poller in thread.pollers:
            poller.unregister()
        thread.exit()
        holder.clear()
        return 1

    poll = holder["thread"].poll
    with holder["thread"]:
        holder["thread"].register_poller(drop)
    assert poll() == 1
    assert poll() == 0


def test_many_os_threads_polling_one_thread_harm_nobody(thread):
    """Only one of them gets in at a time; the others are told; every message runs once."""
    ran, refused = [], []
    start = threading.Barrier(4)
    total = 2_000

    def drive():
        start.wait(PATIENCE_S)
        while len(ran) < total:
            try:
                thread.poll()
            except WrongThreadError:
                refused.append(1)

    thread.send_many(ran.append, range(total))
    others = [threading.Thread(target=drive, daemon=True) for _ in range(4)]
    for other in others:
        other.start()
    for other in others:
        other.join(PATIENCE_S)
    assert ran == list(range(total))


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

    Every message that was accepted runs exactly once, and everybody exits in the end.
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


def test_an_object_used_from_the_wrong_os_thread_says_so(thread):
    with thread, pytest.raises(WrongThreadError, match="net"):
        elsewhere(thread.poll)


# A bool is no number


BOOLS = [True, False, numpy.bool_(True)]


@pytest.mark.parametrize("flag", BOOLS, ids=repr)
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
