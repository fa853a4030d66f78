"""for_each_thread: every thread, one after the other, by messages; then the completion, on the caller's thread."""

import gc
import weakref
from concurrent.futures import Future

import pytest
from support import (
    NOT_CALLABLE,
    PATIENCE_S,
    OtherThread,
    drain,
    elsewhere,
    fill,
    finish,
    lasting_repr,
    noop,
    still_works,
)

import spdkthread
from spdkthread import NoThreadError, ThreadLib, get_thread


@pytest.fixture
def threads(lib):
    return [lib.create_thread(name) for name in "abcd"]


def visitor(log, tag="visit"):
    return lambda: log.append((tag, get_thread().name))


def test_it_visits_every_thread_in_creation_order_then_completes(lib, threads):
    log = []
    with threads[1]:
        future = lib.for_each_thread(visitor(log), lambda: log.append(("done", get_thread().name)))
    assert isinstance(future, Future)
    assert log == []
    drain(*threads)
    assert log == [("visit", name) for name in "abcd"] + [("done", "b")]
    assert future.done()
    assert future.exception(0) is None


def test_the_module_function_does_the_same_for_a_given_library(lib, threads):
    log = []
    with threads[0]:
        future = spdkthread.for_each_thread(visitor(log), lib=lib)
    drain(*threads)
    assert [name for _, name in log] == list("abcd")
    assert future.done()


def test_the_module_function_uses_the_default_library():
    thread = spdkthread.SpdkThread("default")
    log = []
    with thread:
        future = spdkthread.for_each_thread(visitor(log))
    drain(thread)
    assert ("visit", "default") in log
    assert future.done()
    finish(thread)


def test_a_completion_is_not_required(lib, threads):
    log = []
    with threads[3]:
        future = lib.for_each_thread(visitor(log), None)
    drain(*threads)
    assert len(log) == 4
    assert future.done()


def test_it_visits_one_thread_after_the_other(lib, threads):
    """A thread gets its message only when the one before it has run its own."""
    with threads[0]:
        lib.for_each_thread(noop)
    waiting = []
    for thread in threads:
        waiting.append([other.pending_msgs for other in threads])
        thread.poll()
    assert waiting == [[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]


def test_the_future_is_not_done_before_the_completion_has_run(lib, threads):
    seen = []
    with threads[0]:
        future = lib.for_each_thread(noop, lambda: seen.append(future.done()))
    for thread in threads:
        thread.poll()
    assert not future.done()
    threads[0].poll()
    assert seen == [False]
    assert future.done()


def test_nothing_runs_inline(lib, threads):
    log = []

    def ask():
        lib.for_each_thread(visitor(log), lambda: log.append("done"))
        assert log == []

    threads[0].send_msg(ask)
    threads[0].poll()
    assert log == []
    drain(*threads)
    assert len(log) == 5


def test_the_only_thread_visits_itself(lib, thread):
    log = []
    with thread:
        lib.for_each_thread(visitor(log), lambda: log.append("done"))
    thread.poll()
    assert log == [("visit", "net")]
    thread.poll()
    assert log == [("visit", "net"), "done"]


def test_a_thread_added_meanwhile_is_visited(lib, threads):
    log = []
    with threads[0]:
        lib.for_each_thread(visitor(log))
    threads[0].poll()
    late = lib.create_thread("late")
    drain(*threads, late)
    assert [name for _, name in log] == [*"abcd", "late"]


def test_a_thread_added_by_the_visit_itself_is_visited(lib, threads):
    log, added = [], []

    def visit():
        log.append(get_thread().name)
        if len(added) < 3:
            added.append(lib.create_thread(f"new{len(added)}"))

    with threads[0]:
        future = lib.for_each_thread(visit)
    for _ in range(100):
        for thread in lib.threads:
            thread.poll()
    assert log == [*"abcd", "new0", "new1", "new2"]
    assert future.done()


def test_a_thread_that_is_exiting_when_its_turn_comes_is_skipped(lib, threads):
    log = []
    with threads[2]:
        threads[2].register_poller(noop)
        threads[2].exit()
    with threads[0]:
        future = lib.for_each_thread(visitor(log))
    drain(*threads)
    assert [name for _, name in log] == ["a", "b", "d"]
    assert future.done()


def test_a_hop_already_sent_still_runs_on_a_thread_that_has_begun_to_exit(lib, threads):
    log = []
    with threads[3]:
        future = lib.for_each_thread(visitor(log))
    with threads[0]:
        threads[0].exit()
    drain(*threads)
    assert [name for _, name in log] == list("abcd")
    assert future.done()


def test_a_thread_that_exits_meanwhile_does_not_stop_the_iteration(lib, threads):
    log = []
    with threads[0]:
        future = lib.for_each_thread(visitor(log))
    threads[0].poll()
    finish(threads[2], threads[3])
    drain(threads[0], threads[1])
    assert [name for _, name in log] == ["a", "b"]
    assert future.done()


def test_a_thread_that_exits_in_its_own_visit_does_not_stop_the_iteration(lib, threads):
    log = []

    def visit():
        log.append(get_thread().name)
        if get_thread() is not threads[0]:
            get_thread().exit()

    with threads[0]:
        future = lib.for_each_thread(visit)
    drain(*threads)
    assert log == list("abcd")
    assert future.done()
    assert lib.threads == (threads[0],)


def test_an_exited_thread_is_not_visited(lib, threads):
    log = []
    finish(threads[0])
    with threads[1]:
        future = lib.for_each_thread(visitor(log))
    drain(*threads[1:])
    assert [name for _, name in log] == ["b", "c", "d"]
    assert future.done()


def test_the_caller_may_be_exiting(lib, threads):
    log = []
    with threads[0]:
        threads[0].exit()
        future = lib.for_each_thread(visitor(log), lambda: log.append("done"))
    for _ in range(3):
        threads[0].poll()
    assert not threads[0].is_exited, "its own iteration is in flight"
    drain(*threads)
    threads[0].poll()
    assert log[-1] == "done"
    assert [name for _, name in log[:-1]] == ["b", "c", "d"]
    assert future.done()
    assert threads[0].is_exited


def test_a_completion_without_a_current_thread_is_refused_before_anything_is_sent(lib, threads):
    with pytest.raises(NoThreadError, match="cpl"):
        lib.for_each_thread(noop, noop)
    with pytest.raises(NoThreadError):
        spdkthread.for_each_thread(noop, noop, lib=lib)
    with threads[0], pytest.raises(NoThreadError):
        elsewhere(lib.for_each_thread, noop, noop)
    assert all(thread.pending_msgs == 0 for thread in threads)


def test_without_a_current_thread_and_completion_it_goes_by_messages_in_creation_order(lib, threads):
    log = []
    future = lib.for_each_thread(visitor(log))
    assert log == []
    for thread in reversed(threads):
        thread.poll()
    assert [name for _, name in log] == ["a"]
    assert not future.done()
    drain(*threads)
    assert [name for _, name in log] == ["a", "b", "c", "d"]
    assert future.result() is None


def test_without_a_current_thread_and_threads_it_is_done_at_once(lib):
    assert lib.for_each_thread(noop).result() is None


def test_without_a_current_thread_a_thread_that_exits_meanwhile_is_skipped(lib, threads):
    log = []
    finish(threads[1])
    future = lib.for_each_thread(visitor(log))
    drain(*(thread for thread in threads if not thread.is_exited))
    assert [name for _, name in log] == ["a", "c", "d"]
    assert future.done()


def test_a_visit_that_raises_is_reported_and_the_iteration_goes_on(lib, threads, errors):
    log = []

    def visit():
        log.append(get_thread().name)
        if get_thread() is threads[1]:
            raise ValueError("b is tired")

    with threads[0]:
        future = lib.for_each_thread(visit, lambda: log.append("done"))
    drain(*threads)
    assert log == [*"abcd", "done"]
    assert errors.types == [ValueError]
    assert errors[0]["thread"] is threads[1]
    assert future.done()


def test_a_completion_that_raises_is_reported(lib, threads, errors):
    def cpl():
        raise ValueError("at the very end")

    with threads[0]:
        future = lib.for_each_thread(noop, cpl)
    drain(*threads)
    assert errors.types == [ValueError]
    assert errors[0]["thread"] is threads[0]
    assert future.done()


def test_many_iterations_at_once_do_not_disturb_each_other(lib, threads):
    logs = [[] for _ in range(8)]
    futures = []
    for number, log in enumerate(logs):
        with threads[number % 4]:
            futures.append(lib.for_each_thread(visitor(log), lambda log=log: log.append("done")))
    drain(*threads)
    assert logs == [[("visit", name) for name in "abcd"] + ["done"]] * 8
    assert all(future.done() for future in futures)


def test_an_iteration_may_be_started_inside_another(lib, threads):
    inner, outer = [], []

    def visit():
        outer.append(get_thread().name)
        lib.for_each_thread(visitor(inner))

    with threads[0]:
        lib.for_each_thread(visit)
    drain(*threads)
    assert outer == list("abcd")
    assert sorted(name for _, name in inner) == sorted("abcd" * 4)


def test_hops_and_completion_have_room_when_every_ring_is_full(lib):
    threads = [lib.create_thread(name, ring_size=4) for name in "abc"]
    log = []
    for thread in threads:
        fill(thread, log.append, "message")
    with threads[0]:
        future = lib.for_each_thread(visitor(log), lambda: log.append("done"))
    for thread in threads:
        fill(thread, log.append, "message")
    drain(*threads)
    assert [entry for entry in log if entry != "message"] == [("visit", name) for name in "abc"] + ["done"]
    assert future.done()


def test_a_hop_to_a_full_ring_keeps_its_place(lib):
    """FIFO per sender: after what was sent before it, before what was sent after it."""
    thread = lib.create_thread("narrow", ring_size=4)
    log = []
    for number in range(4):
        thread.send_msg(log.append, number)
    with thread:
        lib.for_each_thread(lambda: log.append("hop"))
    sent = 4
    for _ in range(20):
        if thread.try_send_msg(log.append, sent):
            sent += 1
        thread.poll(max_msgs=1)
    drain(thread)
    assert log == [0, 1, 2, 3, "hop", *range(4, sent)]
    assert sent > 4


def test_many_hops_to_a_full_ring_all_arrive_in_order(lib):
    thread = lib.create_thread("narrow", ring_size=2)
    log = []
    fill(thread, log.append, "message")
    with thread:
        for number in range(100):
            lib.for_each_thread(lambda number=number: log.append(number))
    assert thread.pending_msgs == 102
    drain(thread)
    assert log == ["message", "message", *range(100)]


def test_a_refused_send_does_not_overtake_a_waiting_hop(lib):
    """As long as a hop waits outside the ring, a message either is refused or comes after it."""
    thread = lib.create_thread("narrow", ring_size=2)
    log = []
    fill(thread, log.append, "old")
    with thread:
        for _ in range(3):
            lib.for_each_thread(lambda: log.append("hop"))
    accepted = 0
    while thread.pending_msgs:
        accepted += thread.try_send_msg(log.append, "new") if accepted < 10 else 0
        thread.poll(max_msgs=1)
    first_new = log.index("new") if "new" in log else len(log)
    assert log[:first_new] == ["old", "old", "hop", "hop", "hop"]
    assert log.count("new") == accepted


def test_the_functions_are_let_go_afterwards(lib, threads):
    def fn():
        pass

    def cpl():
        pass

    watches = weakref.ref(fn), weakref.ref(cpl)
    with threads[0]:
        lib.for_each_thread(fn, cpl)
    del fn, cpl
    drain(*threads)
    gc.collect()
    assert [watch() for watch in watches] == [None, None]


def test_libraries_do_not_see_each_others_threads(lib, threads):
    other_lib = ThreadLib()
    stranger = other_lib.create_thread("stranger")
    log = []
    with threads[0]:
        lib.for_each_thread(visitor(log))
    drain(*threads, stranger)
    assert [name for _, name in log] == list("abcd")
    finish(stranger)
    other_lib.close()


def test_it_visits_a_hundred_threads(lib):
    threads = [lib.create_thread(f"t{number}", ring_size=2) for number in range(100)]
    log = []
    with threads[50]:
        future = lib.for_each_thread(visitor(log), lambda: log.append(("done", get_thread().name)))
    drain(*threads)
    assert [name for _, name in log] == [*(f"t{number}" for number in range(100)), "t50"]
    assert future.done()


def test_it_visits_threads_on_running_reactors(make_reactor, live_lib):
    reactors = [make_reactor().start() for _ in range(2)]
    threads = [reactors[number % 2].create_thread(f"t{number}") for number in range(6)]
    log = []

    def start():
        return live_lib.for_each_thread(visitor(log), lambda: log.append(("done", get_thread().name)))

    future = threads[3].call(start).result(PATIENCE_S)
    future.result(PATIENCE_S)
    assert log == [("visit", thread.name) for thread in threads] + [("done", "t3")]


@pytest.mark.seed
def test_for_each_thread_without_a_current_thread_raises_and_holds_no_lock(lib, thread):
    """Seed: returns with the mutex held; the whole process deadlocks."""
    for _ in range(3):
        with pytest.raises(NoThreadError):
            lib.for_each_thread(noop, noop)
    other = elsewhere(lib.create_thread, "after")
    assert elsewhere(lambda: lib.threads) == (thread, other)
    assert elsewhere(lib.get_thread_by_id, 1) is thread


@pytest.mark.seed
def test_an_iteration_completes_when_its_next_target_exits_in_between():
    """Seed: the lock is released before the hop is sent; the target may exit in between, and it never completes."""
    for victims in ([1], [2, 3], [5], [1, 2, 3, 4, 5]):
        library = ThreadLib()
        threads = [library.create_thread(f"t{number}") for number in range(6)]
        visited, done = [], []
        with threads[0]:
            library.for_each_thread(lambda: visited.append(get_thread().name), lambda: done.append(1))  # noqa: B023
        threads[0].poll(max_msgs=1)
        for victim in victims:
            with threads[victim]:
                threads[victim].exit()
        drain(*threads)
        assert done == [1]
        for victim in victims[1:]:
            assert f"t{victim}" not in visited
        finish(*threads)
        library.close()


@pytest.mark.seed
def test_an_iteration_completes_while_threads_on_reactors_come_and_go(make_reactor, live_lib):
    reactors = [make_reactor().start() for _ in range(2)]
    home = reactors[0].create_thread("home")

    def come_and_go():
        # So many and no more: an iteration visits whatever is added meanwhile, so it ends when this ends.
        for _ in range(200):
            reactors[1].create_thread(ring_size=2).exit()

    restless = OtherThread(come_and_go)
    completed = 0
    while restless.is_alive() or completed < 20:
        home.call(live_lib.for_each_thread, noop).result(PATIENCE_S).result(PATIENCE_S)
        completed += 1
    restless.outcome()


@pytest.mark.seed
def test_an_iteration_that_cannot_start_raises_and_nothing_of_it_stays_behind(lib, thread):
    """Seed: without a current thread the completion goes to NULL, dropped, and the iterator is leaked."""
    with pytest.raises(NoThreadError):
        lib.for_each_thread(noop, noop)
    assert thread.pending_msgs == 0
    assert thread.is_idle


@pytest.mark.seed
def test_an_iteration_never_completes_to_a_dead_thread(lib):
    """Seed: a completion can arrive at a thread that is gone. A pending count keeps the asker from exiting."""
    asker, slow = lib.create_thread("asker"), lib.create_thread("slow")
    done = []
    asker.send_msg(lambda: lib.for_each_thread(noop, lambda: done.append(get_thread())))
    asker.poll()
    asker.exit()
    for _ in range(10):
        asker.poll()
    assert asker.state == "exiting"
    slow.poll()
    asker.poll()
    assert done == [asker]
    assert asker.is_exited


@pytest.mark.seed
def test_an_exited_thread_at_the_front_does_not_stop_an_iteration(lib):
    """HEAD: for_each_thread sends to the first listed thread without checking its state."""
    first, second = lib.create_thread("first"), lib.create_thread("second")
    names = []
    with first:
        first.register_poller(noop)
        first.exit()
    with second:
        future = lib.for_each_thread(lambda: names.append(get_thread().name))
    drain(first, second)
    assert names == ["second"]
    assert future.done()
    finish(first)
    with second:
        future = lib.for_each_thread(lambda: names.append(get_thread().name))
    drain(second)
    assert names == ["second", "second"]
    assert future.done()


@pytest.mark.seed
def test_for_each_thread_starts_with_the_first_listed_thread(lib):
    """First message goes to the first listed thread."""
    threads = [lib.create_thread() for _ in range(3)]
    with threads[2]:
        lib.for_each_thread(noop)
    assert [thread.pending_msgs for thread in threads] == [1, 0, 0]
    drain(*threads)


@pytest.mark.seed
def test_each_hop_runs_fn_then_looks_up_the_next(lib):
    """Each hop runs fn, then looks up the next."""
    threads = [lib.create_thread(name) for name in "ab"]
    names = []

    def visit():
        names.append(get_thread().name)
        if len(names) == 2:
            threads.append(lib.create_thread("c"))

    with threads[0]:
        lib.for_each_thread(visit)
    drain(*threads)
    drain(*threads)
    assert names == list("abc")


@pytest.mark.seed
def test_threads_added_meanwhile_are_visited_at_the_tail(lib):
    """Threads added meanwhile are visited (tail)."""
    threads = [lib.create_thread(name) for name in "ab"]
    names = []
    with threads[0]:
        lib.for_each_thread(lambda: names.append(get_thread().name))
    threads.append(lib.create_thread("late"))
    drain(*threads)
    assert names == ["a", "b", "late"]


@pytest.mark.seed
def test_fn_runs_on_each_thread_and_never_inline(lib):
    """fn runs on each thread, never inline."""
    threads = [lib.create_thread() for _ in range(3)]
    seen = []
    with threads[0]:
        lib.for_each_thread(lambda: seen.append(get_thread()))
        assert seen == []
    drain(*threads)
    assert seen == threads


@pytest.mark.seed
def test_fn_count_is_threads_and_then_one_cpl_at_the_origin(lib):
    """Then cpl is sent to the origin: fn count = threads, then one cpl."""
    threads = [lib.create_thread() for _ in range(5)]
    log = []
    with threads[3]:
        lib.for_each_thread(lambda: log.append("fn"), lambda: log.append(get_thread()))
    drain(*threads)
    assert log == ["fn"] * 5 + [threads[3]]


@pytest.mark.parametrize("fn", NOT_CALLABLE, ids=lasting_repr)
def test_for_each_thread_of_what_cannot_be_called_is_refused(lib, thread, fn):
    with thread, pytest.raises(TypeError):
        lib.for_each_thread(fn)
    still_works(thread)


@pytest.mark.parametrize("cpl", NOT_CALLABLE[1:], ids=lasting_repr)
def test_a_completion_that_cannot_be_called_is_refused(lib, thread, cpl):
    with thread, pytest.raises(TypeError):
        lib.for_each_thread(noop, cpl)
    still_works(thread)
