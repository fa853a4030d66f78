"""The named errors: their tree, and that each message names the objects concerned."""

import pytest
from support import elsewhere, fill, finish, noop

import spdkthread
from spdkthread import (
    DeviceError,
    NoThreadError,
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
