"""The current thread: who it is, how it nests, and what is refused on the wrong one."""

import threading

import pytest
from support import PATIENCE_S, OtherThread, elsewhere, noop, run_python

from spdkthread import WrongThreadError, get_thread


def test_outside_of_every_callback_there_is_none(thread):
    assert get_thread() is None
    thread.send_msg(noop)
    thread.poll()
    assert get_thread() is None


def test_inside_a_callback_it_is_the_thread_that_runs_it(thread, clock):
    seen = []

    def look(*args):
        seen.append(get_thread())

    with thread:
        thread.register_poller(look)
        thread.register_poller(look, 10)
    clock.advance(us=10)
    thread.send_msg(look)
    thread.send_critical_msg(look)
    thread.poll()
    assert seen == [thread] * 4


def test_with_makes_a_thread_current_and_restores_what_was_before(lib):
    first, second = lib.create_thread("first"), lib.create_thread("second")
    with first as entered:
        assert entered is first
        assert get_thread() is first
        with second:
            assert get_thread() is second
            with first:
                assert get_thread() is first
            assert get_thread() is second
        assert get_thread() is first
    assert get_thread() is None


def test_with_restores_when_the_block_raises(thread):
    with pytest.raises(ZeroDivisionError), thread:
        divmod(1, 0)
    assert get_thread() is None


def test_with_may_be_entered_twice(thread):
    with thread:
        with thread:
            assert get_thread() is thread
        assert get_thread() is thread
        with thread:
            pass
    assert get_thread() is None


def test_with_inside_a_callback_of_another_thread(lib, thread):
    other = lib.create_thread("other")
    seen = []

    def look():
        with other:
            seen.append(get_thread())
            other.register_poller(noop, name="made inside")
        seen.append(get_thread())

    thread.send_msg(look)
    thread.poll()
    assert seen == [other, thread]
    assert [poller.name for poller in other.pollers] == ["made inside"]


def test_a_thread_may_be_polled_while_it_is_current(thread):
    seen = []
    with thread:
        thread.send_msg(lambda: seen.append(get_thread()))
        assert thread.poll() == 1
        assert get_thread() is thread
    assert seen == [thread]


def test_the_current_thread_belongs_to_one_os_thread(thread):
    with thread:
        assert elsewhere(get_thread) is None
        assert get_thread() is thread


def test_two_os_threads_may_drive_two_threads_at_once(lib):
    first, second = lib.create_thread("first"), lib.create_thread("second")
    meet = threading.Barrier(2)
    seen = {}

    def look(thread):
        meet.wait(PATIENCE_S)
        seen[thread] = get_thread()
        meet.wait(PATIENCE_S)

    for thread in (first, second):
        thread.send_msg(look, thread)
    other = OtherThread(second.poll)
    first.poll()
    other.outcome()
    assert seen == {first: first, second: second}


def test_a_thread_may_be_driven_by_one_os_thread_after_another(thread):
    ran = []
    for number in range(5):
        thread.send_msg(ran.append, number)
        elsewhere(thread.poll)
    thread.send_msg(ran.append, 5)
    thread.poll()
    assert ran == list(range(6))


def test_a_callback_may_poll_another_thread(lib, thread):
    other = lib.create_thread("other")
    seen = []
    other.send_msg(lambda: seen.append(get_thread()))

    def nest():
        seen.append(get_thread())
        assert other.poll() == 1
        seen.append(get_thread())

    thread.send_msg(nest)
    thread.poll()
    assert seen == [thread, other, thread]
    assert get_thread() is None


def test_polls_nest_as_deep_as_there_are_threads(lib):
    threads = [lib.create_thread(f"t{number}") for number in range(20)]
    seen = []

    def descend(depth):
        seen.append(get_thread())
        if depth < len(threads):
            threads[depth].send_msg(descend, depth + 1)
            threads[depth].poll()
        seen.append(get_thread())

    threads[0].send_msg(descend, 1)
    threads[0].poll()
    assert seen == threads + threads[::-1]


def test_a_nested_poll_that_fails_restores_the_current_thread(lib, thread, errors):
    other = lib.create_thread("other")
    seen = []
    other.send_msg(divmod, 1, 0)

    def nest():
        other.poll()
        seen.append(get_thread())

    thread.send_msg(nest)
    thread.poll()
    assert seen == [thread]
    assert errors[0]["thread"] is other


@pytest.mark.parametrize("where", ["message", "critical message", "active poller", "timed poller"])
def test_a_reentrant_poll_is_refused(thread, clock, where):
    seen = []

    def again():
        with pytest.raises(WrongThreadError):
            thread.poll()
        seen.append(get_thread())

    if where == "message":
        thread.send_msg(again)
    elif where == "critical message":
        thread.send_critical_msg(again)
    else:
        with thread:
            thread.register_poller(again, 0 if where == "active poller" else 10)
    clock.advance(us=10)
    thread.poll()
    assert seen == [thread]
    clock.advance(us=10)
    thread.poll()


def test_a_reentrant_poll_through_another_thread_is_refused(lib, thread):
    other = lib.create_thread("other")
    caught = []

    def back():
        with pytest.raises(WrongThreadError):
            thread.poll()
        caught.append(get_thread())

    other.send_msg(back)
    thread.send_msg(other.poll)
    thread.poll()
    assert caught == [other]


def test_a_refused_reentrant_poll_loses_no_message(thread, errors):
    ran = []
    for number in range(10):
        thread.send_msg(thread.poll)
        thread.send_msg(ran.append, number)
    while thread.poll():
        pass
    assert ran == list(range(10))
    assert errors.types == [WrongThreadError] * 10


def test_a_thread_being_polled_by_one_os_thread_is_refused_to_another(thread):
    inside, leave = threading.Event(), threading.Event()

    def stay():
        inside.set()
        assert leave.wait(PATIENCE_S)

    thread.send_msg(stay)
    other = OtherThread(thread.poll)
    assert inside.wait(PATIENCE_S)
    try:
        with pytest.raises(WrongThreadError):
            thread.poll()
        with pytest.raises(WrongThreadError), thread:
            pass
    finally:
        leave.set()
        other.outcome()
    assert get_thread() is None
    assert thread.poll() == 0


def test_a_thread_that_is_current_on_one_os_thread_is_refused_to_another(thread):
    def enter():
        with thread:
            pass

    with thread:
        with pytest.raises(WrongThreadError):
            elsewhere(thread.poll)
        with pytest.raises(WrongThreadError):
            elsewhere(enter)
    elsewhere(enter)
    elsewhere(thread.poll)


def test_a_thread_of_a_running_reactor_is_refused(reactor):
    thread = reactor.create_thread("taken")
    with pytest.raises(WrongThreadError, match="taken"):
        thread.poll()
    with pytest.raises(WrongThreadError, match="taken"), thread:
        pass
    assert get_thread() is None


def test_a_thread_of_a_running_reactor_is_refused_to_its_own_callbacks_too(reactor):
    thread, sibling = reactor.create_thread("taken"), reactor.create_thread("sibling")
    with pytest.raises(WrongThreadError):
        thread.call(thread.poll).result(PATIENCE_S)
    with pytest.raises(WrongThreadError):
        thread.call(sibling.poll).result(PATIENCE_S)


def test_a_thread_on_no_reactor_may_be_polled_from_a_reactors_callback(reactor, live_lib):
    thread, free = reactor.create_thread("taken"), live_lib.create_thread("free")
    seen = []
    free.send_msg(lambda: seen.append(get_thread()))

    def drive():
        free.poll()
        seen.append(get_thread())

    thread.call(drive).result(PATIENCE_S)
    assert seen == [free, thread]


def test_acts_at_once_on_its_own_thread_and_by_message_elsewhere(thread):
    with thread:
        at_once = thread.register_poller(noop)
        assert thread.pollers == (at_once,)
        assert thread.pending_msgs == 0
    by_message = thread.register_poller(noop)
    assert thread.pending_msgs == 1
    thread.poll()
    assert set(thread.pollers) == {at_once, by_message}


def test_leaving_two_threads_in_the_wrong_order_leaves_none_current():
    """`with` cannot do that, but a caller of __enter__ and __exit__ can: refused or harmless, and no stale pointer."""
    done = run_python(
        """
import contextlib, spdkthread
lib = spdkthread.ThreadLib()
first, second = lib.create_thread("first"), lib.create_thread("second")
first.__enter__()
second.__enter__()
for thread in (first, second, first):
    with contextlib.suppress(spdkthread.SpdkThreadError):
        thread.__exit__(None, None, None)
print(spdkthread.get_thread())
"""
    )
    assert done.stdout == "None\n", done.stderr


def test_the_current_thread_is_kept_alive():
    """The OS thread's pointer to it is a reference, too."""
    done = run_python(
        """
import gc, spdkthread
thread = spdkthread.ThreadLib().create_thread("current")
thread.__enter__()
del thread
gc.collect()
others = [spdkthread.ThreadLib().create_thread("other") for _ in range(50)]
print(spdkthread.get_thread().name)
"""
    )
    assert done.stdout == "current\n", done.stderr


def test_leaving_a_thread_inside_its_own_callback_leaves_no_stale_pointer():
    """It is refused or harmless; afterwards the thread is current only as long as it exists."""
    done = run_python(
        """
import contextlib, gc, spdkthread
thread = spdkthread.ThreadLib().create_thread("entered")
thread.__enter__()
thread.send_msg(lambda: thread.__exit__(None, None, None))
thread.poll()
with contextlib.suppress(spdkthread.SpdkThreadError):
    thread.__exit__(None, None, None)
del thread
gc.collect()
others = [spdkthread.ThreadLib().create_thread("other") for _ in range(50)]
print(spdkthread.get_thread())
"""
    )
    assert done.stdout == "None\n", done.stderr


@pytest.mark.seed
def test_a_nested_poll_restores_the_current_thread(lib):
    """Seed: clears it; only a debug assert."""
    outer, inner = lib.create_thread("outer"), lib.create_thread("inner")
    seen = []

    def nest():
        inner.poll()
        seen.append(get_thread())
        get_thread().register_poller(noop, name="registered after the nested poll")

    inner.send_msg(noop)
    outer.send_msg(nest)
    outer.poll()
    assert seen == [outer]
    assert [poller.name for poller in outer.pollers] == ["registered after the nested poll"]


@pytest.mark.seed
def test_a_thread_may_be_made_inside_a_thread(lib, thread):
    """Seed: refused."""
    made = []
    thread.send_msg(lambda: made.append(lib.create_thread("child")))
    with thread:
        made.append(lib.create_thread("sibling"))
    thread.poll()
    assert [child.name for child in made] == ["sibling", "child"]
    assert get_thread() is None


@pytest.mark.seed
def test_a_refused_poll_raises_instead_of_going_on(thread):
    caught = []

    def again():
        try:
            thread.poll()
        except WrongThreadError as error:
            caught.append(type(error))

    thread.send_msg(again)
    thread.poll()
    assert caught == [WrongThreadError]


@pytest.mark.seed
def test_allocating_a_thread_does_not_make_it_current(lib):
    """allocate_thread does not make the thread current."""
    lib.create_thread()
    assert get_thread() is None


@pytest.mark.seed
def test_the_current_thread_is_thread_local(thread):
    """The current thread is thread-local."""
    with thread:
        assert elsewhere(get_thread) is None


@pytest.mark.seed
def test_a_poll_sets_the_current_thread_and_clears_it_at_its_end(thread):
    """thread_poll sets the current thread, and clears it at the end."""
    seen = []
    thread.send_msg(lambda: seen.append(get_thread()))
    thread.poll()
    assert seen == [thread]
    assert get_thread() is None


@pytest.mark.races
def test_threads_are_left_in_the_reverse_order_of_entering(lib):
    first, second = lib.create_thread("first"), lib.create_thread("second")
    first.__enter__()
    second.__enter__()
    with pytest.raises(WrongThreadError, match="second"):
        first.__exit__(None, None, None)
    assert get_thread() is second
    second.__exit__(None, None, None)
    assert get_thread() is first
    first.__exit__(None, None, None)
    assert get_thread() is None


@pytest.mark.races
def test_a_thread_that_is_entered_stays_alive_after_its_exit():
    done = run_python(
        """
import gc, spdkthread
thread = spdkthread.ThreadLib().create_thread("current")
thread.__enter__()
thread.exit()
thread.poll()
del thread
gc.collect()
others = [spdkthread.ThreadLib().create_thread("other") for _ in range(50)]
print(spdkthread.get_thread())
"""
    )
    assert done.stdout == "<SpdkThread 'current' id=1 exited>\n", done.stderr


@pytest.mark.races
def test_a_thread_entered_in_a_callback_does_not_outlive_it_as_the_current_one(lib):
    outer, inner = lib.create_thread("outer"), lib.create_thread("inner")
    outer.send_msg(inner.__enter__)
    outer.poll()
    assert get_thread() is None
    with inner:
        assert get_thread() is inner
    assert get_thread() is None
    inner.__exit__(None, None, None)
    assert get_thread() is None
    elsewhere(inner.poll)


def test_an_object_used_from_the_wrong_os_thread_says_so(thread):
    with thread, pytest.raises(WrongThreadError, match="net"):
        elsewhere(thread.poll)
