"""The named errors: their tree, and that each message names the objects concerned."""

import pytest
from support import elsewhere, fill, finish, noop, run_python

import spdkthread
from spdkthread import (
    DeviceError,
    NoThreadError,
    Reactor,
    ReactorError,
    RingFullError,
    RingFullTimeoutError,
    SpdkThreadError,
    ThreadExitedError,
    WrongThreadError,
)


@pytest.mark.parametrize(
    "error",
    [RingFullError, ThreadExitedError, WrongThreadError, NoThreadError, DeviceError, ReactorError],
    ids=lambda error: error.__name__,
)
def test_every_named_error_is_an_spdk_thread_error(error):
    assert error.__bases__ == (SpdkThreadError,)
    assert getattr(spdkthread, error.__name__) is error


def test_the_base_is_an_ordinary_exception():
    assert SpdkThreadError.__bases__ == (Exception,)


def test_a_send_that_times_out_is_both_a_full_ring_and_a_timeout():
    assert issubclass(RingFullTimeoutError, RingFullError)
    assert issubclass(RingFullTimeoutError, TimeoutError)


def test_a_full_ring_names_the_thread(lib):
    thread = lib.create_thread("narrow", ring_size=4)
    fill(thread)
    with pytest.raises(RingFullError, match="narrow"):
        thread.send_msg(noop)
    with pytest.raises(RingFullTimeoutError, match="narrow"):
        thread.send_msg_wait(noop, timeout_s=0)


def test_a_taken_critical_slot_names_the_thread(lib):
    thread = lib.create_thread("urgent")
    thread.send_critical_msg(noop)
    with pytest.raises(RingFullError, match="urgent"):
        thread.send_critical_msg(noop)


def test_an_exited_thread_is_named(lib):
    thread = lib.create_thread("gone")
    finish(thread)
    with pytest.raises(ThreadExitedError, match="gone"):
        thread.send_msg(noop)


def test_a_reentrant_poll_names_the_thread(lib):
    thread = lib.create_thread("inner")
    caught = []

    def poll_again():
        with pytest.raises(WrongThreadError, match="inner") as info:
            thread.poll()
        caught.append(info.type)

    thread.send_msg(poll_again)
    thread.poll()
    assert caught == [WrongThreadError]


def test_polling_a_thread_of_a_reactor_names_both(make_reactor):
    reactor = make_reactor(name="engine").start()
    thread = reactor.create_thread("cylinder")
    with pytest.raises(WrongThreadError, match="cylinder") as info:
        thread.poll()
    assert "engine" in str(info.value)


def test_a_missing_current_thread_says_what_needed_it(lib):
    with pytest.raises(NoThreadError, match="for_each_thread"):
        lib.for_each_thread(noop, noop)


def test_a_library_closed_too_early_names_the_threads_still_there(lib):
    first, second = lib.create_thread("left"), lib.create_thread("behind")
    with pytest.raises(SpdkThreadError, match="left") as info:
        lib.close()
    assert "behind" in str(info.value)
    finish(first, second)


def test_an_unavailable_core_is_named(live_lib):
    with pytest.raises(ReactorError, match="99999"):
        spdkthread.Reactor(99_999, lib=live_lib)


def test_errors_are_raised_in_the_thread_of_the_mistake(lib):
    thread = lib.create_thread("narrow", ring_size=2)
    fill(thread)
    with pytest.raises(RingFullError):
        elsewhere(thread.send_msg, noop)


@pytest.mark.seed
def test_checks_are_exceptions_in_optimised_runs_too():
    """Seed: checks are mostly assert, absent in release builds."""
    done = run_python(
        """
import spdkthread
lib = spdkthread.ThreadLib()
thread = lib.create_thread("net", ring_size=2)
mistakes = [
    lambda: lib.for_each_thread(print, print),
    lambda: [thread.send_msg(print) for _ in range(3)],
    lambda: thread.send_msg(None),
    lambda: thread.register_poller(print, -1),
    lambda: lib.create_thread(ring_size=0),
    lambda: lib.close(),
]
for mistake in mistakes:
    try:
        mistake()
    except Exception as error:
        print(type(error).__name__)
    else:
        print("nothing")
assert False, "this interpreter does not check assertions"
""",
        "-OO",
    )
    assert done.stdout.split() == [
        "NoThreadError",
        "RingFullError",
        "TypeError",
        "ValueError",
        "ValueError",
        "SpdkThreadError",
    ]
    assert done.returncode == 0, done.stderr


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
