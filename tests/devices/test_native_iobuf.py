"""Buffers and spin locks from native code, without the GIL."""

import pytest
from compiled import compiled
from support import PATIENCE_S, drain, eventually

from spdkthread import IoBufPool, SpinLockError
from spdkthread.iobuf import live_buffers

OK, WAITING, EMPTY, BAD_SIZE, NOT_HELD, POOL_CLOSED, BUSY = range(7)


@pytest.fixture(scope="module")
def probe(tmp_path_factory):
    return compiled("iobuf_probe", tmp_path_factory.mktemp("iobuf_probe"))


def test_native_gets_and_puts_say_what_is_wrong(lib, thread, probe):
    pool = IoBufPool(small_count=1, small_size=4096, large_count=1, large_size=8192, lib=lib)
    with thread, pool.channel("native", small_cache=1, large_cache=0) as channel:
        first, second = (probe.Worker(channel, 0, stamp) for stamp in (1, 2))
        assert [first.get(nbytes) for nbytes in (0, 8193, 1 << 60)] == [BAD_SIZE] * 3
        assert first.get(1) == OK
        assert first.holds
        assert second.get_now() == EMPTY
        assert second.get(1) == WAITING
        assert second.get(1) == BUSY
        assert second.abort()
        assert not second.abort()
        assert second.get(1) == WAITING
        assert first.put(8, forget=False) == NOT_HELD
        assert first.put(4096 * 64, forget=False) == NOT_HELD
        assert first.put() == OK
        drain(thread)
        assert second.holds
        assert (channel.held, live_buffers()) == (1, 1)
        assert second.put(forget=False) == OK
        assert second.put() == NOT_HELD
        assert first.get_now() == OK
    pool.close()
    drain(thread)


def test_native_pollers_on_two_reactors_share_one_buffer(live_lib, make_reactor, probe):
    threads = [make_reactor().start().create_thread(f"t{number}") for number in range(2)]
    pool = IoBufPool(small_count=1, large_count=1, lib=live_lib)
    each = 1000
    workers, pollers = [], []
    for number, thread in enumerate(threads):
        channel = thread.call(lambda number=number: pool.channel(f"m{number}", small_cache=number)).result(PATIENCE_S)
        worker = probe.Worker(channel, each, number + 1)
        workers.append(worker)
        pollers.append(thread.register_native_poller(probe.__pyx_capi__["work"], worker.address))
    eventually(lambda: all(worker.had[0] == each for worker in workers))
    assert [worker.had for worker in workers] == [(each, 0), (each, 0)]
    for poller in pollers:
        poller.unregister()
    stats = pool.stats().result(PATIENCE_S)
    assert sum(stats[module]["cache"] + stats[module]["main"] + stats[module]["retry"] for module in stats) == 2 * each
    pool.close().result(PATIENCE_S)


def test_each_misuse_of_a_native_lock_has_its_number(thread, probe):
    assert probe.begin(0) == 0
    with thread:
        assert probe.verdicts() == [0, 2, 2, 5, 0, 3, 0, 8]


def test_native_pollers_on_two_reactors_count_under_one_lock(make_reactor, probe):
    threads = [make_reactor().start().create_thread(f"t{number}") for number in range(2)]
    limit = 100_000
    probe.begin(limit)
    pollers = [thread.register_native_poller(probe.__pyx_capi__["count_up"]) for thread in threads]
    eventually(lambda: probe.state()[0] == limit)
    for thread, poller in zip(threads, pollers, strict=True):
        poller.unregister()
        thread.call(int).result(PATIENCE_S)
    assert probe.state() == (limit, 0, False)


@pytest.mark.parametrize("policy", ["one", "all"])
def test_native_callbacks_that_leave_a_lock_held_are_reported(lib, errors, probe, policy):
    thread = lib.create_thread("net", poller_policy=policy)
    probe.begin(0)
    for _ in range(3):
        thread.send_native(probe.__pyx_capi__["leave_locked"])
    thread.send_msg(errors.append, {"exception": "the next message"})
    thread.poll()
    assert errors.pop()["exception"] == "the next message"
    assert [error.number for error in errors.exceptions] == [7, 7, 7]
    assert "a native message" in str(errors.exceptions[0])
    errors.clear()
    with thread:
        poller = thread.register_native_poller(probe.__pyx_capi__["leave_locked_poll"], name="look")
        thread.register_native_poller(probe.__pyx_capi__["count_up"], name="fine")
    for _ in range(4):
        thread.poll()
    assert len(errors) == poller.run_count > 0
    assert all(type(error) is SpinLockError and "poller 'look'" in str(error) for error in errors.exceptions)
    errors.clear()
    with thread:
        assert not probe.state()[2]
