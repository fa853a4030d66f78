"""Locks of the library: whatever runs while one is held may call the library, and no fork leaves one shut."""

import textwrap
import threading

import pytest
from support import PATIENCE_S, elsewhere, finish, run_python

from spdkthread import SpdkThread, ThreadLib
from spdkthread.error_log import ErrorLog
from spdkthread.forks import ReentrantLock

PRELUDE = f"""
import faulthandler, gc, itertools, logging, os, signal, sys, threading, time, warnings
faulthandler.dump_traceback_later({PATIENCE_S * 0.8}, exit=True)
logging.disable(logging.CRITICAL)
warnings.simplefilter("ignore", DeprecationWarning)     # fork in a process with threads: that is the point here
import spdkthread

class Litter:
    '''Garbage that calls the library when it is collected.'''

    collected = 0
    inside = False

    def __init__(self, use):
        self.me, self.use = self, use

    def __del__(self):
        Litter.collected += 1
        if Litter.inside:
            return
        Litter.inside = True
        try:
            self.use()
        finally:
            Litter.inside = False

def at_every_allocation(act, use, rounds=200):
    '''Collections at every allocation of the collector's; each finds garbage whose destructor calls `use`.'''
    for number in range(rounds):
        gc.set_threshold(1)
        Litter(use)
        act()
    gc.set_threshold(700)
    assert Litter.collected > rounds // 4, Litter.collected

def under_signals(act, handler, seconds=1.0):
    '''A signal every 50 us, whose handler calls the library, while `act` is called again and again.'''
    heard = []
    signal.signal(signal.SIGALRM, lambda *args: (heard.append(1), handler()))
    signal.setitimer(signal.ITIMER_REAL, 50e-6, 50e-6)
    give_up = time.monotonic() + seconds
    try:
        while time.monotonic() < give_up:
            act()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    assert heard

def in_child(act):
    pid = os.fork()
    if pid == 0:
        signal.alarm(30)        # ends it by its default action
        try:
            act()
            os._exit(0)
        except BaseException:
            import traceback
            traceback.print_exc()
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0

def locks_of(one):
    from spdkthread.forks import ReentrantLock
    return [what for what in gc.get_referents(one) if isinstance(what, ReentrantLock)]

def held_elsewhere(lock):
    '''Another OS thread takes `lock` and keeps it.'''
    held, over = threading.Event(), threading.Event()
    def hold():
        with lock:
            held.set()
            over.wait()
    threading.Thread(target=hold, daemon=True).start()
    held.wait()
    return over

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
    done = run_python(PRELUDE + "\nimport spdkthread.reactor_registry\n" + textwrap.dedent(source))
    assert (done.returncode, done.stderr) == (0, "")


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
        from spdkthread import thread as thread_module
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
