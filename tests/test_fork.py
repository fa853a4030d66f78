"""os.fork() in a program with reactors: the child's objects are dead and say so, the parent is untouched."""

import textwrap

import pytest
from support import run_python

PRELUDE = """
import gc, os, sys, threading, traceback, warnings
warnings.simplefilter("ignore", DeprecationWarning)     # fork in a process with threads: that is the point here
import spdkthread
from spdkthread import ReactorError, ThreadExitedError, WrongThreadError

def raises(kind, fn, *args):
    try:
        fn(*args)
    except kind as error:
        return str(error)
    raise AssertionError(f"{fn} did not raise {kind}")

def in_child(fn):
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            fn()
            gc.collect()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    _, status = os.waitpid(pid, 0)
    return os.waitstatus_to_exitcode(status)
"""


def program(source):
    done = run_python(PRELUDE + textwrap.dedent(source))
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("idle", ["adaptive", "poll", "yield"])
def test_the_childs_objects_are_dead_and_the_parents_work_on(idle):
    program(f"""
        reactor = spdkthread.Reactor(name="engine", idle={idle!r}).start()
        thread = reactor.create_thread("net")
        poller = thread.register_poller(lambda: 0, 100)
        assert thread.call(abs, -1).result(60) == 1

        def child():
            assert reactor.state == "dead"
            assert reactor.tid is None
            for act in (reactor.start, reactor.stop, reactor.run, reactor.poll, reactor.join, reactor.create_thread):
                assert "fork" in raises(ReactorError, act)
            assert thread.state == "exited"
            for send in (thread.send_msg, thread.try_send_msg, thread.send_critical_msg, thread.call):
                assert "net" in raises(ThreadExitedError, send, print)
            raises(ThreadExitedError, thread.register_poller, print)
            thread.exit()
            poller.unregister()
            assert thread.poll() == 0
            assert spdkthread.default_lib().threads == ()

        assert in_child(child) == 0
        assert reactor.state == "running"
        assert thread.call(abs, -2).result(60) == 2
        poller.unregister()
        assert reactor.stop().ok
    """)


def test_the_child_may_have_reactors_of_its_own():
    program("""
        reactor = spdkthread.Reactor().start()
        thread = reactor.create_thread()

        def child():
            with spdkthread.ReactorGroup(1) as group:
                assert group.create_thread().call(abs, -1).result(60) == 1
            with spdkthread.Reactor() as mine:
                assert mine.create_thread().call(abs, -1).result(60) == 1

        assert in_child(child) == 0
        assert thread.call(abs, -2).result(60) == 2
    """)


def test_reactors_that_did_not_run_are_dead_too():
    """They share descriptors with those of the parent."""
    program("""
        new, stopped = spdkthread.Reactor(), spdkthread.Reactor()
        stopped.start().stop()

        def child():
            assert new.state == stopped.state == "dead"
            raises(ReactorError, new.start)
            raises(ReactorError, stopped.start)

        assert in_child(child) == 0
        assert new.start().stop().ok
        assert stopped.start().stop().ok
    """)


def test_groups_in_the_child_are_dead():
    program("""
        group = spdkthread.ReactorGroup(1, period_us=1000).start()
        thread = group.create_thread()

        def child():
            raises(ReactorError, group.stop)
            raises(ReactorError, group.start)
            raises(ReactorError, group.create_thread)
            raises(ReactorError, group.for_each_reactor, print)

        assert in_child(child) == 0
        assert thread.call(abs, -1).result(60) == 1
        assert group.stop().ok
    """)


def test_messages_under_way_run_once_in_the_parent():
    """Forks under load: what waits at that moment is the parent's business, and no lock is left shut in the child."""
    program("""
        group = spdkthread.ReactorGroup(1).start()
        thread = group.create_thread(ring_size=64)
        ran, over = [], threading.Event()

        def send():
            number = 0
            while not over.is_set():
                number += thread.try_send_msg(ran.append, number)
            sent.append(number)

        sent = []
        sender = threading.Thread(target=send)
        sender.start()

        def child():
            assert "taken" not in raises(ThreadExitedError, thread.send_msg, print)
            thread.exit()

        for _ in range(20):
            assert in_child(child) == 0
        over.set()
        sender.join()
        assert group.stop().ok
        assert ran == list(range(sent[0]))
    """)


def test_a_callback_that_forks_and_leaves_with_exec_or_exit():
    program("""
        reactor = spdkthread.Reactor().start()
        thread = reactor.create_thread()

        def child():
            assert reactor.state == "dead"
            raises(ThreadExitedError, thread.send_msg, print)

        assert thread.call(in_child, child).result(60) == 0
        assert thread.call(abs, -1).result(60) == 1
        assert reactor.stop().ok
    """)


@pytest.mark.parametrize("idle", ["adaptive", "poll"])
def test_a_callback_that_forks_and_returns_ends_the_child(idle):
    """Its OS thread is the only one there, its reactor is dead: nothing is left to do."""
    program(f"""
        reactor = spdkthread.Reactor(idle={idle!r}).start()
        thread = reactor.create_thread()
        ran = []
        for _ in range(10):
            pid = thread.call(os.fork).result(60)
            thread.send_msg(ran.append, pid)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert thread.call(abs, -1).result(60) == 1
        assert len(ran) == 10
        assert reactor.stop().ok
    """)


def test_a_callback_that_forks_while_its_future_is_waited_for_ends_the_child():
    """Who waits holds the future's condition for moments. One who does so in the parent is not there in the child."""
    program("""
        reactor = spdkthread.Reactor().start()
        thread = reactor.create_thread()
        held, forked, pids = threading.Event(), threading.Event(), []

        def fork():
            assert held.wait(60)
            pid = os.fork()
            if pid:
                pids.append(pid)
                forked.set()
            return pid

        future = thread.call(fork)
        with future._condition:
            held.set()
            assert forked.wait(60)
        assert os.waitstatus_to_exitcode(os.waitpid(pids[0], 0)[1]) == 0
        assert future.result(60) == pids[0]
        assert reactor.stop().ok
    """)


def test_a_callback_under_run_that_forks_and_returns_leaves_run_in_the_child():
    out = program("""
        reactor = spdkthread.Reactor()
        thread = reactor.create_thread()
        parent = os.getpid()

        def fork():
            pid = os.fork()
            if pid:
                assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
                reactor.stop()

        thread.send_msg(fork)
        reactor.run()
        if os.getpid() != parent:
            assert reactor.state == "dead"
            os._exit(7)
        print("parent")
    """)
    assert out == "parent\n"


def test_a_child_that_ends_as_python_programs_do_stops_nothing_of_the_parent():
    program("""
        reactor = spdkthread.Reactor().start()
        thread = reactor.create_thread()
        poller = thread.register_poller(lambda: 1)
        pid = os.fork()
        if pid == 0:
            sys.exit(3)
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 3
        assert thread.call(abs, -1).result(60) == 1
        poller.unregister()
        assert reactor.stop().ok
    """)


def test_threads_on_no_reactor_are_still_their_users_to_drive():
    program("""
        spdkthread.Reactor().start().create_thread()
        thread = spdkthread.SpdkThread("mine")
        ran = []
        thread.send_msg(ran.append, 1)

        def child():
            thread.poll()
            assert ran == [1]

        assert in_child(child) == 0
        thread.poll()
        assert ran == [1]
    """)


def test_a_watchdog_and_file_descriptors_survive_a_fork():
    program("""
        reactor = spdkthread.Reactor(stall_ms=10_000).start()
        thread = reactor.create_thread()
        ear, mouth = os.pipe()
        heard = threading.Event()
        handler = thread.register_fd(ear, lambda: os.read(ear, 1) and heard.set())

        def child():
            assert reactor.state == "dead"
            handler.unregister()

        assert in_child(child) == 0
        os.write(mouth, b"x")
        assert heard.wait(60)
        handler.unregister()
        assert reactor.stop().ok
    """)


def test_a_pool_of_forked_processes_beside_a_reactor():
    program("""
        import multiprocessing
        reactor = spdkthread.Reactor().start()
        thread = reactor.create_thread()
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(abs, range(-10, 0)) == list(range(10, 0, -1))
            assert thread.call(abs, -1).result(60) == 1
        assert reactor.stop().ok
    """)
