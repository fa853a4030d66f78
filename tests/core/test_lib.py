"""The thread library: who is in it, under which number, and how it is closed."""

import contextlib
import gc
import threading
import weakref

import pytest
from support import Errors, OtherThread, elsewhere, finish, lasting_repr, noop, still_works

import spdkthread
from spdkthread import Reactor, SpdkThread, SpdkThreadError, ThreadLib, default_lib
from spdkthread.testing import ManualClock


def test_there_is_one_default_library_per_process():
    assert isinstance(default_lib(), ThreadLib)
    assert default_lib() is default_lib()
    assert elsewhere(default_lib) is default_lib()


def test_a_thread_made_without_a_library_belongs_to_the_default_one():
    thread = SpdkThread("net")
    assert thread.lib is default_lib()
    assert thread in default_lib().threads
    finish(thread)
    assert thread not in default_lib().threads


def test_making_a_thread_directly_is_the_same_as_asking_the_library(lib):
    thread = SpdkThread("net", ring_size=16, poller_policy="all", cpumask={0}, lib=lib)
    assert thread.lib is lib
    assert lib.threads == (thread,)
    assert (thread.name, thread.ring_size, thread.cpumask) == ("net", 16, frozenset({0}))


def test_threads_are_listed_in_creation_order(lib):
    assert lib.threads == ()
    threads = [lib.create_thread() for _ in range(5)]
    assert isinstance(lib.threads, tuple)
    assert lib.threads == tuple(threads)


def test_exited_threads_are_not_listed(lib):
    first, second, third = (lib.create_thread() for _ in range(3))
    finish(second)
    assert lib.threads == (first, third)


def test_an_exiting_thread_is_still_listed(lib, thread):
    with thread:
        thread.exit()
    assert lib.threads == (thread,)


def test_ids_count_up_from_one_and_are_never_reused(lib):
    threads = [lib.create_thread() for _ in range(3)]
    assert [thread.id for thread in threads] == [1, 2, 3]
    finish(*threads)
    assert lib.create_thread().id == 4


def test_a_thread_is_found_by_its_id(lib):
    threads = [lib.create_thread() for _ in range(3)]
    for thread in threads:
        assert lib.get_thread_by_id(thread.id) is thread


@pytest.mark.parametrize("number", [0, -1, 4, 2**31, 2**62])
def test_an_id_that_was_never_given_finds_nothing(lib, number):
    for _ in range(3):
        lib.create_thread()
    assert lib.get_thread_by_id(number) is None


def test_the_id_of_an_exited_thread_finds_nothing(lib, thread):
    finish(thread)
    assert lib.get_thread_by_id(thread.id) is None


def test_libraries_share_nothing(lib, thread):
    other_lib = ThreadLib()
    other = other_lib.create_thread("other")
    assert other_lib.threads == (other,)
    assert lib.threads == (thread,)
    assert other.id == thread.id == 1
    assert lib.get_thread_by_id(1) is thread
    finish(other)
    other_lib.close()


def test_errors_belong_to_the_library_of_the_thread(lib, errors, thread):
    other_errors = Errors()
    other_lib = ThreadLib(exception_handler=other_errors)
    other = other_lib.create_thread()
    other.send_msg(divmod, 1, 0)
    other.poll()
    assert errors == []
    assert other_errors.types == [ZeroDivisionError]
    assert (lib.error_count, other_lib.error_count) == (0, 1)
    finish(other)


def test_a_thread_without_a_name_gets_one(lib):
    first, second = lib.create_thread(), lib.create_thread()
    assert isinstance(first.name, str)
    assert first.name
    assert first.name != second.name


def test_names_need_not_be_unique(lib):
    first, second = lib.create_thread("twin"), lib.create_thread("twin")
    assert first.name == second.name == "twin"
    assert first is not second


@pytest.mark.parametrize("name", ["", "ü", "名前", "a" * 10_000, "null\0inside", "%s %n {0}"])
def test_any_text_is_a_name(lib, name):
    assert lib.create_thread(name).name == name


@pytest.mark.parametrize(
    ("cpumask", "kept"),
    [(None, None), ({0}, frozenset({0})), ([1, 0, 1], frozenset({0, 1})), (range(2), frozenset({0, 1}))],
)
def test_a_thread_keeps_its_cpumask(lib, cpumask, kept):
    assert lib.create_thread(cpumask=cpumask).cpumask == kept


def test_a_new_thread_is_not_bound(lib):
    assert lib.create_thread().is_bound is False


def test_a_new_threads_statistics_are_zero(thread):
    stats = thread.stats
    for name in ("busy_ticks", "idle_ticks", "msgs_run", "pollers_run", "polls", "errors", "ring_full", "high_water"):
        assert getattr(stats, name) == 0, name


def test_statistics_are_a_snapshot(thread):
    before = thread.stats
    thread.send_msg(noop)
    thread.poll()
    assert before.msgs_run == 0
    assert thread.stats.msgs_run == 1


def test_the_exception_handler_may_be_changed(lib, errors, thread):
    assert lib.exception_handler is errors
    replaced = Errors()
    lib.exception_handler = replaced
    assert lib.exception_handler is replaced
    thread.send_msg(divmod, 1, 0)
    thread.poll()
    assert errors == []
    assert replaced.types == [ZeroDivisionError]
    lib.exception_handler = None
    assert lib.exception_handler is None


def test_a_library_has_no_exception_handler_unless_given_one():
    assert ThreadLib().exception_handler is None


@pytest.mark.parametrize("handler", [1, "handler", []])
def test_an_exception_handler_that_cannot_be_called_is_refused(lib, errors, handler):
    with pytest.raises(TypeError):
        ThreadLib(exception_handler=handler)
    with pytest.raises(TypeError):
        lib.exception_handler = handler
    assert lib.exception_handler is errors


def test_errors_are_counted(lib, thread):
    assert lib.error_count == 0
    for _ in range(3):
        thread.send_msg(divmod, 1, 0)
    thread.poll()
    assert lib.error_count == 3
    assert thread.stats.errors == 3


def test_closing_an_empty_library_is_quiet_and_idempotent():
    library = ThreadLib()
    assert library.close() is None
    assert library.close() is None


def test_closing_a_library_with_threads_names_them(lib):
    first, second, third = lib.create_thread("ann"), lib.create_thread("bob"), lib.create_thread("cid")
    finish(second)
    with pytest.raises(SpdkThreadError) as info:
        lib.close()
    assert "ann" in str(info.value)
    assert "cid" in str(info.value)
    assert "bob" not in str(info.value)
    finish(first, third)
    lib.close()


def test_a_closed_library_makes_no_more_threads():
    library = ThreadLib(clock=ManualClock())
    finish(library.create_thread())
    library.close()
    with pytest.raises(SpdkThreadError):
        library.create_thread()
    with pytest.raises(SpdkThreadError):
        SpdkThread(lib=library)
    assert library.threads == ()


def test_a_library_goes_away_with_its_last_reference():
    library = ThreadLib()
    finish(library.create_thread())
    watch = weakref.ref(library)
    del library
    gc.collect()
    assert watch() is None


def test_a_thread_keeps_its_library_alive():
    thread = ThreadLib(clock=ManualClock()).create_thread()
    gc.collect()
    assert thread.lib.threads == (thread,)
    finish(thread)


def test_threads_may_be_made_from_many_os_threads_at_once(lib):
    makers = [OtherThread(lambda: [lib.create_thread(ring_size=2) for _ in range(50)]) for _ in range(4)]
    made = [thread for maker in makers for thread in maker.outcome()]
    assert sorted(thread.id for thread in made) == list(range(1, 201))
    assert [thread.id for thread in lib.threads] == list(range(1, 201))


def test_the_library_shows_itself_in_the_module():
    assert spdkthread.ThreadLib is ThreadLib


def test_the_app_thread_is_the_first_one_for_as_long_as_it_has_not_exited(lib):
    assert lib.app_thread is None
    first, second = lib.create_thread(), lib.create_thread()
    assert lib.app_thread is first
    with first:
        first.exit()
    first.poll()
    assert lib.app_thread is None
    assert lib.threads == (second,)


@pytest.mark.seed
def test_closing_twice_is_harmless():
    """Seed: frees the pool twice; re-init possible with stale state."""
    library = ThreadLib()
    finish(library.create_thread())
    library.close()
    library.close()
    with pytest.raises(SpdkThreadError):
        library.create_thread()


@pytest.mark.seed
def test_another_library_starts_from_nothing():
    library = ThreadLib()
    finish(library.create_thread())
    library.close()
    fresh = ThreadLib()
    assert fresh.threads == ()
    thread = fresh.create_thread()
    assert thread.id == 1
    finish(thread)
    fresh.close()


def os_name():
    with open(f"/proc/self/task/{threading.get_native_id()}/comm") as file:
        return file.read()


@pytest.mark.seed
def test_naming_a_thread_does_not_rename_the_os_thread(lib):
    """Seed: naming an SPDK thread renames the OS thread."""
    before = os_name(), threading.current_thread().name
    thread = lib.create_thread("renamer")
    seen = []
    thread.send_msg(lambda: seen.append((os_name(), threading.current_thread().name)))
    with thread:
        thread.poll()
    assert seen == [before]
    assert (os_name(), threading.current_thread().name) == before


@pytest.mark.seed
def test_a_thread_found_by_id_outlives_its_exit(lib):
    """HEAD: get_by_id returns a pointer with no protection after unlocking."""
    found = lib.get_thread_by_id(lib.create_thread("found").id)
    finish(found)
    gc.collect()
    assert found.name == "found"
    assert found.poll() == 0


@pytest.mark.seed
def test_the_thread_list_is_in_creation_order(lib):
    """The thread list is in creation order."""
    threads = [lib.create_thread() for _ in range(4)]
    assert list(lib.threads) == threads


@pytest.mark.races
def test_a_thread_whose_library_refused_it_takes_no_messages():
    lib = ThreadLib()
    lib.close()
    thread = SpdkThread.__new__(SpdkThread)
    with pytest.raises(SpdkThreadError):
        thread.__init__("late", lib=lib)
    with pytest.raises(SpdkThreadError):
        thread.send_msg(noop)
    assert thread.ring_size == 0


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


@pytest.mark.parametrize("cpumask", [1, [-1], ["a"], [0.5], set()], ids=lasting_repr)
def test_a_bad_cpumask_is_refused(lib, cpumask):
    with pytest.raises((TypeError, ValueError)):
        lib.create_thread(cpumask=cpumask)
    assert lib.threads == ()


@pytest.mark.parametrize("library", [1, "lib", object()], ids=lasting_repr)
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
