"""Forgotten reactors at interpreter exit: stopped and joined, with status 0 and nothing to say."""

import os

import pytest
from exit_programs import PRELUDE, PROGRAMS
from support import run_python

ROUNDS = int(os.environ.get("SPDKTHREAD_EXITS", "2"))
"""How often each program runs: 2 is for every day, hundreds for a search."""


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_program_that_forgets_its_reactors_ends_cleanly(name):
    for _ in range(ROUNDS):
        done = run_python(PRELUDE + PROGRAMS[name])
        assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_what_was_accepted_runs_before_a_program_ends():
    done = run_python(
        PRELUDE
        + """
thread = Reactor().start().create_thread()
for number in range(1000):
    thread.send_msg(lambda number=number: number == 999 and os.write(1, b"all"))
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "all", "")


def test_a_callback_that_does_not_return_is_not_waited_for_for_ever():
    done = run_python(
        PRELUDE
        + """
entered = threading.Event()
thread = Reactor().start().create_thread()
thread.send_msg(lambda: (entered.set(), time.sleep(1000)))
entered.wait()
"""
    )
    assert done.returncode == 0
    assert "Fatal" not in done.stderr


def test_reactors_may_be_made_and_stopped_in_a_hook_at_exit():
    done = run_python(
        PRELUDE
        + """
@atexit.register
def late():
    reactor = Reactor()
    thread = reactor.create_thread()
    thread.send_msg(os.write, 1, b"late")
    reactor.poll()
    reactor.stop()
"""
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "late", "")
