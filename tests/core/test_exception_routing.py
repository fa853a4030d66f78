"""What happens to an exception that leaves a callback."""

import gc
import logging
import sys
import weakref

import pytest
from support import PATIENCE_S, eventually, finish, noop, run_python

from spdkthread import Reactor, ThreadLib, get_thread


class Mishap(Exception):
    pass


def fail(*args):
    raise Mishap(*args)


@pytest.fixture
def quiet_lib(clock):
    """A library without a handler."""
    library = ThreadLib(clock=clock)
    yield library
    finish(*library.threads)
    library.close()


@pytest.fixture
def unraisable(monkeypatch):
    seen = []
    monkeypatch.setattr(sys, "unraisablehook", lambda hook_args: seen.append(hook_args.exc_type))
    return seen


def test_the_handler_learns_what_happened_in_a_message(thread, errors):
    thread.send_msg(fail, "in a message")
    thread.poll()
    (context,) = errors
    assert isinstance(context["message"], str)
    assert "net" in context["message"]
    assert isinstance(context["exception"], Mishap)
    assert context["exception"].args == ("in a message",)
    assert context["exception"].__traceback__ is not None
    assert context["thread"] is thread
    assert context["fn"] is fail
    assert "poller" not in context


def test_the_handler_learns_what_happened_in_a_poller(thread, errors):
    with thread:
        poller = thread.register_poller(fail, name="beat")
    thread.poll()
    (context,) = errors
    assert isinstance(context["exception"], Mishap)
    assert context["thread"] is thread
    assert context["poller"] is poller
    assert "beat" in context["message"]


def test_the_handler_learns_what_happened_in_a_timed_poller(thread, errors, clock):
    with thread:
        poller = thread.register_poller(fail, 10)
    clock.advance(us=10)
    thread.poll()
    assert errors[0]["poller"] is poller


def test_the_handler_learns_what_happened_in_a_critical_message(thread, errors):
    thread.send_critical_msg(fail)
    assert thread.poll() == 1
    assert errors.types == [Mishap]
    assert errors[0]["fn"] is fail


def test_the_handler_runs_on_the_thread_of_the_callback(lib, thread):
    seen = []
    lib.exception_handler = lambda context: seen.append(get_thread())
    thread.send_msg(fail)
    thread.poll()
    assert seen == [thread]


def test_the_thread_goes_on(thread, errors):
    ran = []
    thread.send_msg(ran.append, 1)
    thread.send_msg(fail)
    thread.send_msg(ran.append, 2)
    thread.send_msg(fail)
    thread.send_msg(ran.append, 3)
    assert thread.poll() == 1
    assert ran == [1, 2, 3]
    assert errors.types == [Mishap, Mishap]
    assert thread.is_running
    assert thread.pending_msgs == 0


def test_an_exception_can_neither_replay_nor_skip_messages(thread, errors):
    ran = []

    def sometimes(number):
        ran.append(number)
        if number % 3 == 0:
            fail(number)

    for number in range(50):
        thread.send_msg(sometimes, number)
    while thread.poll():
        pass
    assert ran == list(range(50))
    assert len(errors) == 17


def test_errors_are_counted_by_library_thread_and_poller(lib, thread, errors):
    with thread:
        poller = thread.register_poller(fail)
    thread.send_msg(fail)
    thread.poll()
    thread.poll()
    assert lib.error_count == 3
    assert thread.stats.errors == 3
    assert poller.error_count == 2


def test_a_callback_that_cannot_be_called_that_way_is_an_error_like_any_other(thread, errors):
    thread.send_msg(lambda: None, "an argument too many")
    thread.poll()
    assert errors.types == [TypeError]


def test_without_a_handler_it_goes_to_the_logger(quiet_lib, caplog):
    thread = quiet_lib.create_thread("net")
    thread.send_msg(fail, "for the log")
    with caplog.at_level(logging.DEBUG):
        thread.poll()
    (record,) = [record for record in caplog.records if record.exc_info]
    assert record.name == "spdkthread"
    assert record.levelno >= logging.ERROR
    assert "net" in record.getMessage()
    assert record.exc_info[0] is Mishap


def test_repeats_of_one_failure_are_counted_and_not_printed(quiet_lib, caplog):
    thread = quiet_lib.create_thread("net")
    with thread:
        poller = thread.register_poller(fail, name="beat")
    for _ in range(1_000):
        thread.poll()
    assert 1 <= len(caplog.records) <= 50
    assert quiet_lib.error_count == poller.error_count == 1_000


def test_another_failure_is_printed_even_after_many_repeats(quiet_lib, caplog):
    thread = quiet_lib.create_thread("net")
    for _ in range(100):
        thread.send_msg(fail)
        thread.poll()
    caplog.clear()
    thread.send_msg(divmod, 1, 0)
    thread.poll()
    assert [record.exc_info[0] for record in caplog.records if record.exc_info] == [ZeroDivisionError]


def test_a_handler_is_told_of_every_repeat(thread, errors):
    with thread:
        thread.register_poller(fail)
    for _ in range(100):
        thread.poll()
    assert len(errors) == 100


def test_nothing_is_logged_when_there_is_a_handler(thread, errors, caplog):
    thread.send_msg(fail)
    thread.poll()
    assert len(errors) == 1
    assert caplog.records == []


def test_a_failing_handler_goes_to_the_unraisable_hook(lib, thread, unraisable):
    def bad_handler(context):
        raise RuntimeError("handler")

    lib.exception_handler = bad_handler
    ran = []
    thread.send_msg(fail)
    thread.send_msg(ran.append, 1)
    thread.poll()
    assert unraisable == [RuntimeError]
    assert ran == [1]
    assert lib.error_count == 1


def test_a_failing_handler_does_not_stop_a_poller(lib, thread, unraisable):
    lib.exception_handler = lambda: "takes no argument"
    with thread:
        poller = thread.register_poller(fail)
    for _ in range(3):
        thread.poll()
    assert unraisable == [TypeError] * 3
    assert poller.error_count == 3


def test_a_handler_may_use_the_thread(lib, thread):
    ran = []

    def handler(context):
        context["thread"].send_msg(ran.append, type(context["exception"]))
        context["poller"].unregister()

    lib.exception_handler = handler
    with thread:
        poller = thread.register_poller(fail)
    thread.poll()
    assert poller.state == "unregistered"
    thread.poll()
    assert ran == [Mishap]


def test_a_handler_may_replace_itself(lib, thread, errors):
    def handler(context):
        lib.exception_handler = errors

    lib.exception_handler = handler
    thread.send_msg(fail)
    thread.send_msg(fail)
    thread.poll()
    assert errors.types == [Mishap]


@pytest.mark.parametrize("kind", [KeyboardInterrupt, SystemExit])
def test_keyboard_interrupt_and_system_exit_leave_the_poll(thread, errors, kind):
    ran = []

    def interrupt():
        raise kind

    thread.send_msg(ran.append, 1)
    thread.send_msg(interrupt)
    thread.send_msg(ran.append, 2)
    thread.send_msg(ran.append, 3)
    with pytest.raises(kind):
        thread.poll()
    assert ran == [1]
    assert errors == []
    assert get_thread() is None
    thread.send_msg(ran.append, 4)
    assert thread.poll() == 1
    assert ran[:3] == [1, 2, 3]
    thread.poll()
    assert ran == [1, 2, 3, 4]


def test_the_rest_of_an_interrupted_batch_counts_as_waiting(thread):
    def interrupt():
        raise KeyboardInterrupt

    thread.send_msg(interrupt)
    for _ in range(3):
        thread.send_msg(noop)
    with pytest.raises(KeyboardInterrupt):
        thread.poll()
    assert thread.pending_msgs == 3
    assert not thread.is_idle
    thread.poll()
    assert thread.pending_msgs == 0


def test_the_rest_of_an_interrupted_batch_keeps_the_thread_from_exiting(thread):
    ran = []

    def interrupt():
        raise KeyboardInterrupt

    thread.send_msg(interrupt)
    thread.send_msg(ran.append, 1)
    with thread:
        thread.exit()
    with pytest.raises(KeyboardInterrupt):
        thread.poll()
    assert thread.state == "exiting"
    thread.poll()
    assert ran == [1]
    assert thread.is_exited


def test_several_interrupts_in_one_batch_lose_nothing(thread):
    ran = []

    def interrupt():
        raise KeyboardInterrupt

    for number in range(8):
        thread.send_msg(interrupt)
        thread.send_msg(ran.append, number)
    interrupts = 0
    while thread.pending_msgs:
        try:
            thread.poll()
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts == 8
    assert ran == list(range(8))


@pytest.mark.parametrize("period_us", [0, 10])
@pytest.mark.parametrize("policy", ["one", "all"])
def test_an_interrupt_in_a_poller_leaves_it_registered(lib, clock, period_us, policy):
    thread = lib.create_thread(poller_policy=policy)
    fine = []

    def interrupt():
        raise KeyboardInterrupt

    with thread:
        thread.register_poller(lambda: fine.append(1), period_us)
        poller = thread.register_poller(interrupt, period_us)
        thread.register_poller(lambda: fine.append(2), period_us)
    clock.advance(us=10)
    interrupts = 0
    for _ in range(12):
        clock.advance(us=10)
        try:
            thread.poll()
        except KeyboardInterrupt:
            interrupts += 1
    assert interrupts >= 2
    assert poller.state == "waiting"
    assert poller in thread.pollers
    assert len(thread.pollers) == 3
    assert set(fine) == {1, 2} if policy == "one" else 1 in fine


def test_an_interrupt_in_a_nested_poll_leaves_both_polls(lib, thread):
    other = lib.create_thread("other")
    ran = []

    def interrupt():
        raise KeyboardInterrupt

    other.send_msg(interrupt)
    other.send_msg(ran.append, "inner")
    thread.send_msg(other.poll)
    thread.send_msg(ran.append, "outer")
    with pytest.raises(KeyboardInterrupt):
        thread.poll()
    assert get_thread() is None
    assert ran == []
    thread.poll()
    other.poll()
    assert ran == ["outer", "inner"]


def test_an_interrupt_in_a_handler_leaves_the_poll(lib, thread):
    def handler(context):
        raise KeyboardInterrupt

    ran = []
    lib.exception_handler = handler
    thread.send_msg(fail)
    thread.send_msg(ran.append, 1)
    with pytest.raises(KeyboardInterrupt):
        thread.poll()
    lib.exception_handler = None
    thread.poll()
    assert ran == [1]


class Unprintable(Exception):
    def __str__(self):
        raise RuntimeError("no text")

    __repr__ = __str__


class Nameless:
    """A callback that refuses every question about itself."""

    def __call__(self, *args):
        raise Unprintable

    def __repr__(self):
        raise RuntimeError("no repr")

    def __getattr__(self, name):
        raise RuntimeError(f"no {name}")

    def __hash__(self):
        raise RuntimeError("no hash")

    def __eq__(self, other):
        raise RuntimeError("no equality")


def test_a_callback_that_cannot_be_described_is_still_reported(thread, errors):
    fn = Nameless()
    thread.send_msg(fn)
    with thread:
        thread.register_poller(fn)
    thread.poll()
    assert errors.types == [Unprintable, Unprintable]
    assert errors[0]["fn"] is fn


def test_a_failure_that_cannot_be_described_does_not_stop_the_default_route(quiet_lib, unraisable, monkeypatch):
    monkeypatch.setattr(logging, "raiseExceptions", False)
    thread = quiet_lib.create_thread("net")
    ran = []
    thread.send_msg(Nameless())
    thread.send_msg(ran.append, 1)
    thread.poll()
    assert ran == [1]
    assert quiet_lib.error_count == 1


def test_a_class_of_exceptions_of_ones_own_is_routed_like_any_other(thread, errors):
    class Own(BaseException):
        pass

    def own():
        raise Own

    ran = []
    thread.send_msg(own)
    thread.send_msg(ran.append, 1)
    thread.poll()
    assert [error.__name__ for error in errors.types] == ["Own"]
    assert ran == [1]


def test_stop_iteration_is_nothing_special(thread, errors):
    thread.send_msg(next, iter(()))
    with thread:
        thread.register_poller(lambda: next(iter(())))
    thread.poll()
    assert errors.types == [StopIteration, StopIteration]


def test_a_handler_that_fails_is_told_by_the_interpreters_own_hook():
    """That one takes nothing but what the interpreter itself makes."""
    done = run_python("""
import spdkthread
def handler(context):
    raise LookupError("no such place")
lib = spdkthread.ThreadLib(exception_handler=handler)
thread = lib.create_thread()
thread.send_msg(lambda: 1 / 0)
thread.poll()
""")
    assert done.returncode == 0
    assert "Exception handler of <ThreadLib open" in done.stderr
    assert "LookupError: no such place" in done.stderr
    assert "reporting an exception failed" not in done.stderr


def test_repeats_of_one_failure_are_told_at_doubling_counts(quiet_lib, caplog):
    thread = quiet_lib.create_thread("net")
    with thread:
        thread.register_poller(fail, name="beat")
    for _ in range(290):
        thread.poll()
    texts = [record.getMessage() for record in caplog.records]
    assert texts[0].endswith("thread 'net'")
    assert [int(text.split(", ")[-1].split()[0]) for text in texts[1:]] == [10, 20, 40, 80, 160]
    assert quiet_lib.error_log.records()[0].count == 290


def test_repeats_that_were_only_counted_are_told_when_the_thread_exits(quiet_lib, caplog):
    thread, other = quiet_lib.create_thread("net"), quiet_lib.create_thread("other")
    for one in (thread, other):
        for _ in range(3):
            one.send_msg(fail)
        one.poll()
    caplog.clear()
    finish(thread)
    (text,) = [record.getMessage() for record in caplog.records]
    assert "'net'" in text
    assert "3 times so far" in text
    caplog.clear()
    finish(other)
    quiet_lib.close()
    (text,) = [record.getMessage() for record in caplog.records]
    assert "'other'" in text


def test_repeats_that_were_only_counted_are_told_when_the_reactor_stops(caplog):
    library = ThreadLib()
    with Reactor(lib=library) as reactor:
        thread = reactor.create_thread("net")
        poller = thread.register_poller(fail, name="beat")
        eventually(lambda: poller.error_count > 2)
        poller.pause()
        thread.call(noop).result(PATIENCE_S)
        count = poller.error_count
    told = [record.getMessage() for record in caplog.records if f"{count} times so far" in record.getMessage()]
    assert len(told) == 1
    with thread:
        poller.unregister()
    finish(thread)
    library.close()


class NoRepr:
    def __call__(self):
        raise ValueError("no repr")

    def __repr__(self):
        raise RuntimeError("has no repr")


class StrangeName:
    def __init__(self):
        self.__qualname__ = 5

    def __call__(self):
        raise ValueError("strange name")


class NoAttributes:
    def __getattr__(self, name):
        raise RuntimeError("has no attributes")

    def __call__(self):
        raise ValueError("no attributes")


NAMELESS = [NoRepr, StrangeName, NoAttributes]


@pytest.mark.parametrize("kind", NAMELESS)
def test_a_function_that_cannot_say_its_name_still_has_its_exception_reported(lib, thread, errors, kind):
    thread.send_msg(kind())
    thread.send_critical_msg(kind())
    with thread:
        thread.register_poller(kind())
        lib.for_each_thread(kind())
    for _ in range(3):
        thread.poll()
    assert set(errors.types) == {ValueError}
    assert len(errors) == 6


@pytest.mark.parametrize("kind", NAMELESS)
@pytest.mark.races
def test_messages_that_cannot_say_their_names_are_counted_and_let_go_when_their_thread_ends(kind):
    lib = ThreadLib()
    thread = lib.create_thread("net")
    functions = [kind() for _ in range(3)]
    watches = [weakref.ref(function) for function in functions]
    for function in functions:
        thread.send_msg(function)
    future = thread.call(kind())
    thread._abandon()
    assert lib.lost_msgs == 4
    assert future.done()
    del functions, function, future
    gc.collect()
    assert [watch() for watch in watches] == [None] * 3
    thread.exit()
    with thread:
        thread.exit()
    while not thread.is_exited:
        thread.poll()
