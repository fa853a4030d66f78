"""What a callback starts has the process's affinity and timer slack, not those of its reactor's OS thread."""

import asyncio
import ctypes
import os
import subprocess
import sys
import threading

import pytest
from support import PATIENCE_S, elsewhere, noop

from spdkthread import Reactor, call_unaffinitized
from spdkthread.aio import EventLoop

CORES = frozenset(os.sched_getaffinity(0))
LAST = max(CORES)
PR_GET_TIMERSLACK = 30
LIBC = ctypes.CDLL(None)


def surroundings():
    """The calling OS thread's cores and timer slack in ns."""
    return frozenset(os.sched_getaffinity(0)), LIBC.prctl(PR_GET_TIMERSLACK, 0, 0, 0, 0)


USUAL = elsewhere(surroundings)
ASK = "import ctypes, os; print(sorted(os.sched_getaffinity(0)), ctypes.CDLL(None).prctl(30, 0, 0, 0, 0), flush=True)"
ANSWER = f"{sorted(USUAL[0])} {USUAL[1]}"
COMMAND = [sys.executable, "-S", "-c", ASK]


@pytest.fixture
def bound(make_reactor):
    """A reactor that is bound to a core and sleeps to the nanosecond."""
    return make_reactor(LAST).start()


def in_an_os_thread():
    answer = []
    thread = threading.Thread(target=lambda: answer.append(surroundings()))
    thread.start()
    thread.join()
    return answer[0]


def in_a_fork():
    ear, mouth = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(mouth, repr(surroundings()).encode())
        os._exit(0)
    os.close(mouth)
    os.waitpid(pid, 0)
    with os.fdopen(ear) as answer:
        return eval(answer.read())


def by_subprocess():
    return subprocess.run(COMMAND, capture_output=True, text=True, check=True).stdout.strip()


def by_posix_spawn():
    ear, mouth = os.pipe()
    pid = os.posix_spawn(sys.executable, COMMAND, os.environ, file_actions=[(os.POSIX_SPAWN_DUP2, mouth, 1)])
    os.close(mouth)
    with os.fdopen(ear) as answer:
        said = answer.read().strip()
    os.waitpid(pid, 0)
    return said


def by_popen_of_os():
    with os.popen(f"{sys.executable} -S -c '{ASK}'") as answer:
        return answer.read().strip()


@pytest.mark.parametrize("start", [in_an_os_thread, in_a_fork])
@pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")
def test_what_a_callback_starts_in_this_program_is_as_if_started_elsewhere(bound, start):
    thread = bound.create_thread()
    assert thread.call(start).result(PATIENCE_S) == USUAL
    assert thread.call(surroundings).result(PATIENCE_S) == (frozenset([LAST]), 1)


@pytest.mark.no_tsan(reason="programs that are started with it loaded into them crash now and then")
@pytest.mark.parametrize("start", [by_subprocess, by_posix_spawn, by_popen_of_os])
def test_what_a_callback_runs_is_as_if_run_elsewhere(bound, start):
    thread = bound.create_thread()
    for _ in range(2):
        assert thread.call(start).result(PATIENCE_S) == ANSWER
        assert thread.call(surroundings).result(PATIENCE_S) == (frozenset([LAST]), 1)


def test_a_poller_that_starts_os_threads_is_bound_again_before_its_next_run(bound):
    thread = bound.create_thread()
    seen, over = [], threading.Event()

    def start():
        seen.append((surroundings(), in_an_os_thread()))
        if len(seen) == 3:
            poller.unregister()
            over.set()

    poller = thread.register_poller(start)
    assert over.wait(PATIENCE_S)
    assert seen == [((frozenset([LAST]), 1), USUAL)] * 3


def test_call_unaffinitized_in_a_callback(bound):
    thread = bound.create_thread()
    assert thread.call(call_unaffinitized, surroundings).result(PATIENCE_S) == USUAL

    def before_and_after():
        inside = call_unaffinitized(lambda: (surroundings(), in_an_os_thread(), call_unaffinitized(surroundings)))
        return inside, surroundings()

    inside, after = thread.call(before_and_after).result(PATIENCE_S)
    assert inside == (USUAL, USUAL, USUAL)
    assert after == (frozenset([LAST]), 1)


def test_call_unaffinitized_passes_arguments_results_and_exceptions(bound):
    thread = bound.create_thread()
    assert thread.call(call_unaffinitized, max, 1, 2).result(PATIENCE_S) == 2
    assert thread.call(lambda: call_unaffinitized(int, "11", base=2)).result(PATIENCE_S) == 3
    with pytest.raises(ZeroDivisionError):
        thread.call(call_unaffinitized, divmod, 1, 0).result(PATIENCE_S)
    assert thread.call(surroundings).result(PATIENCE_S) == (frozenset([LAST]), 1)


def test_call_unaffinitized_elsewhere_is_a_plain_call():
    assert call_unaffinitized(surroundings) == surroundings()
    with pytest.raises(TypeError, match="callable"):
        call_unaffinitized(1)


def test_a_reactor_that_is_not_bound_only_hands_on_its_slack(make_reactor):
    thread = make_reactor(LAST, pin=False).start().create_thread()
    assert thread.call(surroundings).result(PATIENCE_S) == (USUAL[0], 1)
    assert thread.call(in_an_os_thread).result(PATIENCE_S) == USUAL


def test_the_calling_os_thread_is_as_before_after_run(live_lib):
    def run():
        reactor = Reactor(LAST, lib=live_lib)
        thread = reactor.create_thread()
        during = []
        thread.send_msg(lambda: during.append(surroundings()))
        thread.send_msg(in_an_os_thread)
        thread.send_msg(lambda: reactor.stop())
        assert reactor.run().ok
        return during, surroundings()

    assert elsewhere(run) == ([(frozenset([LAST]), 1)], USUAL)


def test_the_calling_os_thread_is_as_before_after_a_loop():
    async def main():
        during = surroundings()
        started = in_an_os_thread()
        await asyncio.sleep(0.001)  # a sleep sharpens the timers again
        return during, started, surroundings()

    def run():
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            return runner.run(main()), surroundings()

    (during, started, later), after = elsewhere(run)
    assert during == later == (USUAL[0], 1)
    assert started == after == USUAL


def test_a_reactor_inside_a_loop_leaves_the_loop_as_it_was(live_lib):
    async def main():
        reactor = Reactor(LAST, lib=live_lib)
        reactor.create_thread().send_msg(lambda: reactor.stop())
        assert reactor.run().ok
        return surroundings()

    def run():
        with asyncio.Runner(loop_factory=EventLoop) as runner:
            return runner.run(main()), surroundings()

    assert elsewhere(run) == ((USUAL[0], 1), USUAL)


def test_messages_after_a_start_cost_no_further_change(bound):
    thread = bound.create_thread()
    thread.call(in_an_os_thread).result(PATIENCE_S)
    for _ in range(10):
        thread.call(noop).result(PATIENCE_S)
    assert thread.call(surroundings).result(PATIENCE_S) == (frozenset([LAST]), 1)
