"""Locks of the library: whatever runs while one is held may call the library, and no fork leaves one shut."""

import threading

import interruptions
import pytest
from support import PATIENCE_S, elsewhere, finish

from spdkthread import SpdkThread, ThreadLib
from spdkthread.error_log import ErrorLog
from spdkthread.forks import ReentrantLock

SETTING = """
import spdkthread.reactor_registry

lib = spdkthread.ThreadLib()
thread = lib.create_thread("net", ring_size=64)

class Odd(Exception):
    def __repr__(self):
        gc.collect()
        return "Odd"

def boom():
    raise Odd

def fail():
    thread.send_msg(boom)
    try:
        thread.poll()
    except spdkthread.WrongThreadError:
        pass        # inside its poll, which runs it

def make_thread():
    one = lib.create_thread(ring_size=1)
    with one:
        one.exit()
    one.poll()

def look():
    lib.threads, lib.devices, lib.error_log.records(), repr(lib)

device = spdkthread.IoDevice("disk", lib=lib)

def use_device():
    if not device.is_registered:
        device.register()
    device.channels_count, device.channels

full = lib.create_thread("full", ring_size=1)
poller = full.register_poller(int, 1000)
full.poll()
full.send_msg(int)

def ask_beside():
    '''The ring is full: what is asked of a poller waits beside it.'''
    poller.pause()
    poller.resume()

def make_reactor():
    spdkthread.Reactor(lib=lib)
    spdkthread.reactor_registry.all_reactors()
"""

USES = ["fail", "make_thread", "look", "use_device", "ask_beside", "make_reactor", "spdkthread.default_lib"]


def program(source):
    interruptions.program(source, SETTING)


@pytest.mark.parametrize("use", USES)
def test_destructors_may_call_the_library_at_any_allocation(use):
    program(f"""
        for act in ({", ".join(USES)}):
            at_every_allocation(act, {use}, rounds=40)
    """)


def test_a_destructor_may_ask_for_the_default_library_while_that_is_being_made():
    program("""
        found = []
        gc.set_threshold(1)
        Litter(lambda: found.append(spdkthread.default_lib()))
        mine = spdkthread.default_lib()
        gc.set_threshold(700)
        gc.collect()
        assert found == [mine]
        assert spdkthread.default_lib() is mine
    """)


def test_signal_handlers_may_call_the_library_at_any_moment():
    program(f"""
        uses = ({", ".join(USES)})
        after = itertools.cycle(uses)
        busy = []
        def handler():
            if not busy:
                busy.append(1)
                try:
                    next(after)()
                finally:
                    busy.clear()
        for act in uses:
            under_signals(act, handler, seconds=0.5)
    """)


def test_every_lock_that_another_os_thread_holds_is_free_in_the_child():
    program("""
        group = spdkthread.ReactorGroup(1, lib=lib)
        reactor = spdkthread.Reactor(lib=lib)
        from spdkthread import thread_base as thread_module
        locks = [lib.error_log._lock, group._lock, thread_module.requests_lock, *locks_of(lib), *locks_of(reactor)]
        assert len(locks) == 5
        over = [held_elsewhere(lock) for lock in locks]
        def child():
            fail()
            make_thread()
            look()
            use_device()
            ask_beside()
            make_reactor()
            assert reactor.state == "dead"
            assert reactor.threads == ()
            mine = spdkthread.ReactorGroup(1, lib=lib).start()
            assert mine.create_thread().call(abs, -1).result(20) == 1
            mine.stop()
        in_child(child)
        for one in over:
            one.set()
    """)


def test_forks_from_many_threads_leave_no_lock_shut():
    """Locks that are held for moments, by what an OS thread does all the time."""
    program("""
        over = threading.Event()
        def work():
            while not over.is_set():
                look()
                make_thread()
                use_device()
        workers = [threading.Thread(target=work) for _ in range(2)]
        for worker in workers:
            worker.start()
        def child():
            fail()
            make_thread()
            look()
            use_device()
            ask_beside()
        for _ in range(30):
            in_child(child)
        over.set()
        for worker in workers:
            worker.join()
    """)


@pytest.mark.parametrize(
    "module", ["asyncio.events", "concurrent.futures._base", "spdkthread.aio.acall", "spdkthread.group"]
)
def test_a_child_forked_in_the_middle_of_an_import_may_import_the_same(module):
    """What the library imports when it needs it, another OS thread may be importing at that moment."""
    interruptions.program(f"""
        import importlib, importlib.machinery
        under_way, over = threading.Event(), []
        class Slow(importlib.machinery.PathFinder):
            # Takes half a second for one module.
            @classmethod
            def find_spec(cls, name, path=None, target=None):
                if name == {module!r}:
                    under_way.set()
                    time.sleep(0.5)
                return None
        sys.meta_path.insert(0, Slow)
        thread = spdkthread.ThreadLib().create_thread("net")
        importer = threading.Thread(target=lambda: over.append(importlib.import_module({module!r})))
        importer.start()
        under_way.wait()
        async def forever():
            await spdkthread.aio.sleep_us(1e9)
        def child():
            group = spdkthread.ReactorGroup(1)
            with group:
                group.create_thread()
                assert group.executor().submit(abs, -1).result(20) == 1
            future = thread.spawn(forever())
            thread.poll()
            future.cancel()
            while not future.done():
                thread.poll()
            import asyncio
            async def main():
                return await thread.acall(abs, -1)
            with asyncio.Runner(loop_factory=lambda: spdkthread.aio.EventLoop(thread)) as runner:
                assert runner.run(main()) == 1
        in_child(child)
        importer.join()
        assert over == [sys.modules[{module!r}]]
    """)


def test_a_fork_does_not_wait_for_what_users_import(tmp_path):
    (tmp_path / "server.py").write_text("import __main__; __main__.under_way.set(); __main__.over.wait()")
    interruptions.program(f"""
        sys.path.insert(0, {str(tmp_path)!r})
        under_way, over = threading.Event(), threading.Event()
        importer = threading.Thread(target=lambda: __import__("server"))
        importer.start()
        under_way.wait()
        in_child(lambda: None)
        over.set()
        importer.join()
    """)


def test_what_the_forking_os_thread_holds_it_goes_on_holding():
    program("""
        from spdkthread.forks import ReentrantLock
        lock = ReentrantLock()
        def child():
            assert lock._is_owned()
            with lock:
                pass
            lock.release()
            assert not lock._is_owned()
            got = []
            other = threading.Thread(target=lambda: got.append(lock.acquire(timeout=10)))
            other.start()
            other.join()
            assert got == [True]
        with lock:
            in_child(child)
            assert lock._is_owned()
        over = held_elsewhere(lock)
        def later():
            assert lock.acquire(timeout=10)
            lock.release()
            in_child(later_still)
        def later_still():
            with lock:
                pass
        in_child(later)
        assert not lock.acquire(blocking=False)
        over.set()
    """)


def test_a_reentrant_lock_keeps_other_os_threads_out():
    lock = ReentrantLock()
    with lock:
        with lock:
            assert not elsewhere(lock.acquire, False)
        assert not elsewhere(lock.acquire, True, 0.01)
    assert elsewhere(lambda: lock.acquire() and lock.release() is None)
    with pytest.raises(RuntimeError):
        lock.release()


def test_a_condition_may_stand_on_a_reentrant_lock():
    condition = threading.Condition(ReentrantLock())
    ready = []

    def tell():
        with condition:
            ready.append(1)
            condition.notify_all()

    with condition:
        teller = threading.Thread(target=tell)
        teller.start()
        assert condition.wait_for(lambda: ready, PATIENCE_S)
    teller.join()


def test_the_default_log_asks_nothing_of_the_users_under_its_lock():
    """A `repr`, and the `__eq__` and `__hash__` of a class, run on another OS thread's time too."""
    log = ErrorLog()
    answers = []

    class Meta(type):
        def __hash__(cls):
            answers.append(elsewhere(log.records))
            return 1

        def __eq__(cls, other):
            answers.append(elsewhere(log.records))
            return cls is other

    class Odd(Exception, metaclass=Meta):
        def __repr__(self):
            answers.append(elsewhere(log.records))
            return "Odd"

    for _ in range(3):
        log.record({"message": "a message failed", "exception": Odd()})
    assert [record.count for record in log.records()] == [3]
    assert answers


def test_names_of_waiting_messages_are_asked_for_without_a_lock(lib):
    """The name of one may be the user's `repr`, and that may send."""
    thread = lib.create_thread("net", ring_size=1)
    said = []

    class Odd:
        def __call__(self):
            said.append("ran")

        def __repr__(self):
            thread._send_library_msg(said.append, "sent")
            return "Odd"

    for _ in range(3):
        thread._send_library_msg(Odd())
    left = [message.name for message in thread._waiting()]
    assert left[:3] == ["Odd"] * 3
    finish(thread)
    assert said.count("ran") == 3
    assert said.count("sent") >= 3


def test_a_request_beside_a_full_ring_is_not_undone_by_one_that_came_in_between():
    library = ThreadLib()
    thread = SpdkThread("net", ring_size=1, lib=library)
    poller = thread.register_poller(int, 1000)
    thread.poll()
    thread.send_msg(int)
    poller.pause()
    poller.unregister()
    poller.resume()
    for _ in range(10):
        thread.poll()
    assert thread.pollers == ()
    finish(thread)
    library.close()
