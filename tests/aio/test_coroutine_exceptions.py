"""Exceptions of coroutines and calls that control flow could swallow."""

import gc

import pytest
from spawned import raising
from support import drain

from spdkthread import (
    aio,
)
from spdkthread.testing import poll_until_idle

# Exceptions that would pass for something else


def test_a_stopiteration_arrives_as_the_cause_of_a_runtimeerror(lib):
    here, there = lib.create_thread("here"), lib.create_thread("there")

    def stop():
        raise StopIteration("no result")

    def end_of_an_iterator():
        return next(iter(()))

    async def main():
        for make in (there.acall, there.call, here.call):
            for fn in (stop, end_of_an_iterator):
                with pytest.raises(RuntimeError, match="StopIteration") as caught:
                    await make(fn)
                assert isinstance(caught.value.__cause__, StopIteration)
        return "heard them"

    future = here.spawn(main())
    poll_until_idle([here, there])
    assert future.result() == "heard them"


def test_a_stopiteration_of_a_coroutine_is_pythons_own_runtimeerror(lib):
    here = lib.create_thread("here")

    async def main():
        with pytest.raises(RuntimeError, match="StopIteration"):
            await here.spawn(raising(StopIteration(1)))
        return "heard it"

    future = here.spawn(main())
    drain(here)
    assert future.result() == "heard it"


def test_result_outside_a_coroutine_raises_the_stopiteration_itself(thread):
    future = thread.call(next, iter(()))
    drain(thread)
    with pytest.raises(StopIteration):
        future.result()


def test_a_descriptor_whose_fileno_raises_stopiteration_is_an_error_too(thread):
    class Odd:
        def fileno(self):
            raise StopIteration("passed for the outcome")

    async def main():
        await aio.fd_ready(Odd())

    future = thread.spawn(main())
    drain(thread)
    assert isinstance(future.exception(), RuntimeError)


# Failures of which nothing is heard


@pytest.mark.parametrize("kind", ["call", "acall"])
def test_a_failed_call_that_is_dropped_unheard_is_reported(lib, errors, kind):
    here, there = lib.create_thread("here"), lib.create_thread("there")

    async def main():
        getattr(there, kind)(lambda: 1 / 0)

    here.spawn(main())
    poll_until_idle([here, there])
    gc.collect()
    assert errors.types == [ZeroDivisionError]
    assert errors[0]["thread"] is there
    assert "there" in errors[0]["message"]


def test_a_failed_call_that_was_heard_is_not_reported(thread, errors):
    asked, told = thread.call(lambda: 1 / 0), thread.call(lambda: 1 / 0)
    told.add_done_callback(lambda future: future.exception())
    drain(thread)
    with pytest.raises(ZeroDivisionError):
        asked.result()
    del asked, told
    gc.collect()
    assert not errors
