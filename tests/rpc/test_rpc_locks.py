"""The RPC server and its client beside signals, collections and forks: nothing waits for itself, no child hangs."""

import os
import signal
import threading
from concurrent.futures import Future

import interruptions
import pytest

from spdkthread.errors import SpdkThreadError
from spdkthread.rpc import Client, Server
from spdkthread.rpc.gather import Gatherer

SETTING = """
from spdkthread.rpc import Client, Server
from spdkthread.rpc.gather import Gatherer

lib = spdkthread.ThreadLib()
"""


def program(source, tmp_path):
    interruptions.program(source, SETTING + f"\npath = {str(tmp_path / 'rpc.sock')!r}\n")


@pytest.fixture
def served(tmp_path, live_lib):
    path = str(tmp_path / "rpc.sock")
    with Server(path, lib=live_lib) as server:
        yield server


@pytest.fixture
def alarmed(served):
    """A client whose call hears a signal while it waits for its answer; `alarmed(handler)` makes the call."""
    answers, heard = [], Future()

    @served.method("interrupt")
    def interrupt():
        os.kill(os.getpid(), signal.SIGUSR1)
        return heard  # its answer comes behind the signal

    with Client(served.path, timeout_s=30) as client:

        def call(handler):
            def hear(*args):
                answers.append(handler(client))
                heard.set_result("answered")

            before = signal.signal(signal.SIGUSR1, hear)
            try:
                return client.call("interrupt"), answers
            finally:
                signal.signal(signal.SIGUSR1, before)

        yield call


def raised(fn, *args):
    try:
        fn(*args)
    except Exception as error:
        return error


def test_a_call_in_a_signal_handler_during_a_call_of_the_same_client_is_refused_by_name(alarmed):
    result, (refused,) = alarmed(lambda client: raised(client.call, "spdk_get_version"))
    assert result == "answered"
    assert type(refused) is SpdkThreadError
    assert "another Client" in str(refused)


def test_a_client_closed_in_a_signal_handler_ends_its_call(alarmed):
    with pytest.raises(ConnectionError, match="closed"):
        alarmed(lambda client: client.close())


def test_a_child_is_refused_the_connection_of_its_parent_whose_calls_go_on(tmp_path):
    program(
        """
        server = Server(path, lib=lib).start()
        client = Client(path, timeout_s=30)
        over = threading.Event()
        def ask():
            while not over.is_set():
                assert isinstance(client.call("thread_get_stats"), dict)
        failed = []
        threading.excepthook = lambda args: failed.append(args.exc_value)
        asker = threading.Thread(target=ask)
        asker.start()
        def child():
            try:
                client.call("thread_get_stats")
            except ConnectionError as error:
                assert "fork" in str(error), error
            else:
                raise AssertionError
            client.close()
        for _ in range(20):
            in_child(child)
        over.set()
        asker.join()
        assert not failed, failed
        client.close()
        server.stop()
        """,
        tmp_path,
    )


def test_no_lock_of_a_server_or_of_its_readings_is_shut_in_a_child(tmp_path):
    program(
        """
        import spdkthread.rpc.environment as environment
        import spdkthread.rpc.gather as gather
        os.environ["SPDKTHREAD_RPC_SOCKET"] = path + ".environment"
        server = Server(path, lib=lib)
        client_less = Server(path + ".other", lib=lib)
        mine = lambda one: [what for what in vars(one).values() if hasattr(type(what), "acquire")]
        over = [held_elsewhere(lock) for lock in (*mine(server), *mine(client_less), *mine(environment))]
        assert len(over) == 3
        def child():
            with server, client_less:
                with Client(path, timeout_s=20) as client:
                    assert client.call("thread_get_stats")["threads"] == []
            environment.open_once(lib)
            with Client(path + ".environment", timeout_s=20) as client:
                assert client.call("rpc_get_methods")
        in_child(child)
        for one in over:
            one.set()
        """,
        tmp_path,
    )


def test_destructors_may_make_reactors_while_the_server_of_the_environment_is_opened(tmp_path):
    program(
        """
        os.environ["SPDKTHREAD_RPC_SOCKET"] = path
        made = []
        gc.set_threshold(1)
        for _ in range(50):
            Litter(lambda: made.append(spdkthread.Reactor(lib=lib, pin=False)))
        made.append(spdkthread.Reactor(lib=lib, pin=False))
        gc.set_threshold(700)
        assert len(made) > 1
        with Client(path, timeout_s=20) as client:
            assert client.call("rpc_get_methods")
        """,
        tmp_path,
    )


def test_signal_handlers_may_start_and_stop_servers_and_read_threads_at_any_moment(tmp_path):
    program(
        """
        threads = [lib.create_thread(f"net{number}") for number in range(3)]
        for thread in threads:
            thread.poll()
        posted = collections.deque()
        gatherer = Gatherer(lib, posted.append)
        server = Server(path, lib=lib)
        asked, answered, busy = [], [], []
        def read():
            asked.append(gatherer.threads(answered.append))
        def poll():
            for thread in threads:
                if not thread._os_thread():
                    thread.poll()
            while posted:
                posted.popleft()()
        def cycle():
            try:
                server.start()
            except (spdkthread.SpdkThreadError, OSError):
                pass        # it runs, or is being started below
            server.stop()
        after = itertools.cycle((poll, cycle))
        def handler():
            if not busy:
                busy.append(1)
                try:
                    next(after)()
                finally:
                    busy.clear()
        def look():
            read()
            poll()
        for act in (look, cycle):
            under_signals(act, handler)
        server.stop()
        for _ in range(10):
            poll()
        assert len(answered) == len(asked) > 0
        assert all(len(views) == 3 for views in answered)
        """,
        tmp_path,
    )


def test_a_reading_is_complete_once_when_threads_of_many_os_threads_answer(live_lib):
    threads = [live_lib.create_thread(f"net{number}") for number in range(4)]
    for thread in threads:
        thread.poll()
    over = threading.Event()

    def drive(thread):
        while not over.is_set():
            thread.poll()

    drivers = [threading.Thread(target=drive, args=(thread,)) for thread in threads]
    for driver in drivers:
        driver.start()
    asked = 0
    answers, done = [], threading.Semaphore(0)

    def finish(fn):
        fn()
        done.release()

    gatherer = Gatherer(live_lib, finish)
    try:
        for _ in range(300):
            gatherer.threads(answers.append)
            asked += 1
            if asked % 3 == 0:
                for _ in range(3):
                    assert done.acquire(timeout=interruptions.PATIENCE_S)
    finally:
        over.set()
        for driver in drivers:
            driver.join()
    assert [len(views) for views in answers] == [4] * asked
