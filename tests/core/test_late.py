"""Hooks that upper modules fill: a program that imports only the lower module finds them filled."""

import importlib

import pytest
from support import run_python

from spdkthread import late

HOOKS = late.modules()


@pytest.mark.parametrize("name", HOOKS)
def test_the_module_of_a_hook_fills_it(name):
    importlib.import_module(HOOKS[name])
    assert callable(late.found(name))
    assert late.find(name) is late.found(name)


@pytest.mark.parametrize("name", HOOKS)
def test_a_hook_is_filled_when_it_is_first_needed(name):
    done = run_python(
        f"from spdkthread import late\nassert late.found({name!r}) is None\nprint(callable(late.find({name!r})))"
    )
    assert done.stdout == "True\n", done.stderr


def test_what_fills_a_hook_second_changes_nothing():
    importlib.import_module(HOOKS["acall"])
    before = late.find("acall")
    late.fill("acall", print)
    assert late.find("acall") is before


def test_an_unknown_hook_is_an_error():
    with pytest.raises(KeyError):
        late.find("nothing")


def test_a_program_that_imports_only_the_thread_has_calls_coroutines_and_executors():
    done = run_python(
        """
import asyncio
from spdkthread.thread import SpdkThread
thread = SpdkThread("only")
async def inside():
    return await thread.call(abs, -2)
future = thread.spawn(inside())
async def main():
    call = thread.acall(abs, -1)
    with thread:
        for _ in range(5):
            thread.poll()
    return await call
print(asyncio.run(main()), future.result(0))
with thread.executor() as executor:
    submitted = executor.submit(abs, -3)
    thread.poll()
print(submitted.result(0))
"""
    )
    assert done.stdout == "1 2\n3\n", done.stderr


def test_a_library_makes_threads_where_no_thread_was_imported():
    done = run_python(
        """
import sys
from spdkthread.lib import ThreadLib
assert "spdkthread.thread" not in sys.modules
print(ThreadLib().create_thread("made").name)
"""
    )
    assert done.stdout == "made\n", done.stderr


def test_a_channel_of_what_is_no_device_is_refused_before_devices_are_imported():
    done = run_python(
        """
import sys
from spdkthread.thread import SpdkThread
with SpdkThread() as thread:
    try:
        thread.get_io_channel(1)
    except TypeError as error:
        print(error, "spdkthread.io_device" in sys.modules)
"""
    )
    assert done.stdout == "device must be an IoDevice, got int False\n", done.stderr


def test_the_child_of_a_fork_imports_nothing_for_what_its_parent_has_used():
    done = run_python(
        """
import os, sys
from spdkthread.thread import SpdkThread
async def nothing():
    return 1
parent = SpdkThread()
parent.spawn(nothing())
parent.poll()
class NoMore:
    def find_spec(self, name, path=None, target=None):
        raise ImportError(f"{name} is imported")
sys.meta_path.insert(0, NoMore())
pid = os.fork()
if pid == 0:
    thread = SpdkThread()
    future = thread.spawn(nothing())
    thread.poll()
    os._exit(0 if future.result(0) == 1 else 1)
print(os.waitpid(pid, 0)[1])
parent.poll()
"""
    )
    assert done.stdout == "0\n", done.stderr
