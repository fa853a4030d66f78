"""os.fork() in a program with reactors: the child's objects are dead and say so, the parent is untouched."""

import textwrap

import pytest
from support import run_python

pytestmark = pytest.mark.no_tsan(reason="OS threads started in forked children are not supported there")

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


@pytest.mark.parametrize("how", ["run", "poll"])
def test_a_callback_that_forks_and_raises_in_the_child_has_it_raised_there(how):
    program(f"""
        reactor = spdkthread.Reactor()
        thread = reactor.create_thread()
        children = []

        def fork():
            children.append(os.fork())
            if not children[0]:
                raise SystemExit("the child leaves")
            reactor.stop()

        thread.send_msg(fork)
        try:
            reactor.{how}()
        except SystemExit as error:
            os._exit(7 if error.code == "the child leaves" and reactor.state == "dead" else 8)
        assert children[0], "the exception was lost in the child"
        assert os.waitstatus_to_exitcode(os.waitpid(children[0], 0)[1]) == 7
        reactor.stop()
    """)


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


def test_wake_up_states_of_before_a_fork_are_not_used_again_in_the_child():
    """A child that reads such a descriptor takes the wake-ups of the parent."""
    program("""
        reactor = spdkthread.Reactor(spin_us=0)
        ready, over = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.close(over[1])
            reactor = None
            gc.collect()
            mine = spdkthread.Reactor(spin_us=0).start()
            mine.create_thread().register_poller(int, 30)
            os.write(ready[1], b"x")
            os.read(over[0], 1)
            os._exit(0)
        os.read(ready[0], 1)
        reactor.start()
        thread = reactor.create_thread()
        for _ in range(200):
            assert thread.call(abs, -1).result(60) == 1
        os.close(over[1])
        assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
        assert reactor.stop().ok
    """)


def test_a_child_keeps_no_descriptor_of_the_librarys_and_closes_none_of_its_own():
    """It closes what it inherited at once: later the numbers may be those of files of its own."""
    program("""
        import asyncio
        from spdkthread.aio import EventLoop
        running, new = spdkthread.Reactor().start(), spdkthread.Reactor()
        thread = running.create_thread()
        ear, mouth = os.pipe()
        handler = thread.register_fd(ear, lambda: os.read(ear, 1))
        thread.call(int).result(60)
        inherited = [number for number in os.listdir("/proc/self/fd")]

        def child():
            global running, new, thread, handler
            links = [os.readlink(f"/proc/self/fd/{number}") for number in inherited if os.path.exists(f"/proc/self/fd/{number}")]
            assert not [link for link in links if "event" in link], links
            os.closerange(3, 256)
            mine = [os.open("/dev/null", os.O_RDONLY) for _ in range(64)]
            handler.unregister()
            running = new = thread = handler = None
            gc.collect()
            for number in mine:
                os.fstat(number)

        assert in_child(child) == 0
        os.write(mouth, b"x")
        handler.unregister()
        assert running.stop().ok
    """)


def test_what_the_child_does_with_descriptors_does_not_reach_the_parent():
    """An epoll set is one for both, whatever number it has in each."""
    program("""
        thread = spdkthread.SpdkThread("mine")
        ends = [os.pipe() for _ in range(3)]
        heard = []
        with thread:
            handlers = [
                thread.register_fd(ear, lambda number=number, ear=ear: heard.append((number, os.read(ear, 1))))
                for number, (ear, _) in enumerate(ends)
            ]

        def child():
            os.write(ends[1][1], b"c")
            thread.poll()
            assert heard == [(1, b"c")]
            with thread:
                handlers[0].unregister()
                os.close(ends[1][0])
                handlers[1].unregister()        # makes a new set
                handlers[2].modify("w")
                handlers[2].unregister()
                ear, mouth = os.pipe()
                thread.register_fd(ear, lambda: heard.append("strange"))
                os.write(mouth, b"x")

        assert in_child(child) == 0
        for _, mouth in ends:
            os.write(mouth, b"p")
        while thread.poll() > 0:
            pass
        assert sorted(heard) == [(0, b"p"), (1, b"p"), (2, b"p")], heard
        with thread:
            for handler in handlers:
                handler.unregister()
    """)


def test_a_thread_that_another_os_thread_is_driving_is_dead_in_the_child():
    program("""
        thread = spdkthread.SpdkThread("theirs")
        entered, over = threading.Event(), threading.Event()

        def drive():
            with thread:
                entered.set()
                over.wait(60)

        driver = threading.Thread(target=drive)
        driver.start()
        entered.wait(60)

        def child():
            assert thread.is_exited
            assert "theirs" in raises(ThreadExitedError, thread.send_msg, print)

        assert in_child(child) == 0
        over.set()
        driver.join()
        assert not thread.is_exited
    """)


def test_an_event_loop_of_before_a_fork_says_so_in_the_child():
    program("""
        import asyncio, socket
        from spdkthread.aio import EventLoop
        loop = EventLoop()
        left, right = socket.socketpair()
        left.setblocking(False)
        loop.add_reader(left, lambda: got.set_result(left.recv(1)))
        got = loop.create_future()

        def child():
            assert "fork" in raises(ReactorError, loop.run_until_complete, got)
            loop.remove_reader(left)
            loop.close()
            fresh = EventLoop()
            assert fresh.run_until_complete(asyncio.sleep(0, 7)) == 7
            fresh.close()

        assert in_child(child) == 0
        right.send(b"x")
        assert loop.run_until_complete(asyncio.wait_for(got, 60)) == b"x"
        loop.close()
    """)


def test_a_callback_of_an_event_loop_that_forks_and_returns_leaves_the_loop_in_the_child():
    program("""
        import asyncio, signal, socket
        from spdkthread.aio import EventLoop
        loop = EventLoop()
        loop.add_signal_handler(signal.SIGUSR1, lambda: heard.append(1))
        left, right = socket.socketpair()
        left.setblocking(False)
        heard = []
        parent = os.getpid()

        async def main():
            got = loop.create_future()
            loop.add_reader(left, lambda: got.set_result(left.recv(1)))
            pid = os.fork()
            if pid == 0:
                loop.remove_reader(left)
                os.kill(os.getpid(), signal.SIGUSR1)
                await asyncio.sleep(3600)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 7
            right.send(b"x")
            return await asyncio.wait_for(got, 60)

        try:
            assert loop.run_until_complete(main()) == b"x"
        except RuntimeError:
            assert os.getpid() != parent
            os._exit(7)
        assert heard == [], "that was the child's signal"
        loop.close()
    """)


def test_signals_of_the_child_are_not_heard_by_the_parents_run():
    program("""
        import signal
        reactor = spdkthread.Reactor()
        thread = reactor.create_thread()
        signal.signal(signal.SIGUSR1, lambda *args: None)
        parent = os.getpid()

        def fork():
            before = signal.set_wakeup_fd(-1)
            signal.set_wakeup_fd(before)
            pid = os.fork()
            if pid == 0:
                os._exit(0 if signal.set_wakeup_fd(-1) == -1 and before >= 0 else 1)
            assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0
            reactor.stop()

        thread.send_msg(fork)
        reactor.run()
    """)


def test_servers_that_fork_workers_after_they_made_their_objects():
    """What a server that loads the application before it forks does: each worker makes its reactors itself."""
    program("""
        early = spdkthread.Reactor(name="early")
        thread = spdkthread.SpdkThread("early thread")

        def worker():
            assert "early" in raises(ReactorError, early.start)
            with spdkthread.Reactor() as mine:
                mine.add_thread(thread)
                assert thread.call(os.getpid).result(60) == os.getpid()

        for _ in range(3):
            assert in_child(worker) == 0
        early.start()
        early.add_thread(thread)
        assert thread.call(os.getpid).result(60) == os.getpid()
        assert early.stop().ok
    """)
