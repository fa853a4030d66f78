"""for_each_channel: each thread that has a channel, one after the other, on that thread; then the completion."""

import gc
import threading
import weakref
from concurrent.futures import Future

import pytest
from channels import end, get
from support import PATIENCE_S, drain, elsewhere, fill, finish, noop

from spdkthread import (
    DeviceError,
    IoChannelIter,
    IoDevice,
    NoThreadError,
    ThreadExitedError,
    ThreadLib,
    WrongThreadError,
    get_thread,
)


@pytest.fixture
def threads(lib):
    return [lib.create_thread(name) for name in "abcd"]


@pytest.fixture
def device(lib):
    """A registered device; at the end its channels are put and it is unregistered, if the test has not done so."""
    device = IoDevice("disk", lib=lib).register()
    yield device
    put(*device.channels)
    if device.is_registered:
        janitor = lib.create_thread("janitor")
        with janitor:
            device.unregister()
    drain(*lib.threads)
    assert device.state == "unregistered"


def put(*channels):
    for channel in channels:
        with channel.thread:
            while channel.ref_count:
                channel.put()


def start(thread, device, *arguments):
    with thread:
        return device.for_each_channel(*arguments)


def visitor(log):
    return lambda it: log.append(it.channel.thread.name)


# The way


def test_it_visits_the_threads_with_a_channel_in_creation_order_each_on_its_own_thread(threads, device):
    log = []
    for thread in (threads[3], threads[0], threads[2]):
        get(thread, device)

    def visit(it):
        log.append((get_thread().name, it.channel.thread.name, it.device is device, it.ctx))

    future = start(threads[1], device, visit, "context", lambda it, status: log.append((get_thread().name, status)))
    assert isinstance(future, Future)
    assert log == []
    drain(*threads)
    assert log == [(name, name, True, "context") for name in "acd"] + [("b", 0)]
    assert future.result(0) == 0


def test_in_the_completion_the_iterator_has_a_device_and_a_context_and_no_channel(threads, device):
    seen = []
    get(threads[1], device)
    start(threads[0], device, noop, "ctx", lambda it, status: seen.append((it.device, it.ctx, it.channel, status)))
    drain(*threads)
    assert seen == [(device, "ctx", None, 0)]


def test_without_any_channel_it_completes_by_a_message(threads, device):
    log = []
    future = start(threads[0], device, visitor(log), None, lambda it, status: log.append(status))
    assert log == []
    threads[0].poll()
    assert log == [0]
    assert future.result(0) == 0


def test_neither_context_nor_completion_is_required(threads, device):
    log = []
    get(threads[1], device)
    future = start(threads[0], device, visitor(log))
    drain(*threads)
    assert log == ["b"]
    assert future.result(0) == 0


def test_nothing_runs_inline_not_even_on_the_only_thread(thread, device):
    log = []
    get(thread, device)
    future = start(thread, device, visitor(log), None, lambda it, status: log.append("done"))
    assert log == []
    thread.poll()
    assert log == ["net"]
    thread.poll()
    assert log == ["net", "done"]
    assert future.done()


def test_the_future_is_not_done_before_the_completion_has_run(thread, device):
    seen = []
    future = start(thread, device, noop, None, lambda it, status: seen.append(future.done()))
    drain(thread)
    assert seen == [False]
    assert future.done()


def test_threads_without_a_channel_get_no_message(threads, device):
    get(threads[2], device)
    start(threads[0], device, noop)
    assert [thread.pending_msgs for thread in threads] == [0, 0, 1, 0]
    threads[2].poll()
    assert [thread.pending_msgs for thread in threads] == [1, 0, 0, 0]


def test_a_channel_that_waits_for_its_destruction_is_visited(threads, device):
    log = []
    channel = get(threads[1], device)
    start(threads[0], device, visitor(log))
    put(channel)
    drain(*threads)
    assert log == ["b"]


def test_a_channel_that_is_gone_when_its_turn_comes_is_skipped(threads, device):
    log = []
    channels = [get(thread, device) for thread in threads]
    future = start(threads[0], device, visitor(log))
    put(channels[2])
    threads[2].poll()
    drain(*threads)
    assert log == ["a", "b", "d"]
    assert future.result(0) == 0


def test_a_channel_that_goes_while_the_hop_is_under_way_is_skipped(threads, device):
    log = []
    channels = [get(thread, device) for thread in threads[:2]]
    put(channels[0])
    future = start(threads[2], device, visitor(log))
    drain(*threads)
    assert log == ["b"]
    assert future.result(0) == 0


def test_channels_made_meanwhile_are_visited_on_later_threads_and_not_on_earlier_ones(threads, device):
    log = []
    get(threads[1], device)

    def visit(it):
        log.append(get_thread().name)
        for thread in (threads[0], threads[3]):
            get(thread, device)

    start(threads[0], device, visit)
    drain(*threads)
    assert log == ["b", "d"]


def test_the_function_may_put_the_channel_that_it_visits(threads, device):
    for thread in threads:
        get(thread, device)
    future = start(threads[0], device, lambda it: it.channel.put())
    drain(*threads)
    assert future.result(0) == 0
    assert device.channels_count == 0


def test_hops_and_completion_have_room_when_every_ring_is_full(lib, device):
    narrow = [lib.create_thread(name, ring_size=2) for name in "xyz"]
    log = []
    for thread in narrow:
        get(thread, device)
        fill(thread)
    start(narrow[0], device, visitor(log), None, lambda it, status: log.append("done"))
    for thread in narrow:
        fill(thread)
    drain(*narrow)
    assert log == ["x", "y", "z", "done"]


def test_an_exiting_thread_that_still_has_its_channel_is_visited(threads, device):
    log = []
    channel = get(threads[1], device)
    with threads[1]:
        threads[1].exit()
    start(threads[0], device, visitor(log))
    drain(*threads)
    assert log == ["b"]
    put(channel)
    drain(*threads)
    threads[1].poll()
    assert threads[1].is_exited


def test_many_iterations_at_once_do_not_disturb_each_other(threads, device):
    for thread in threads:
        get(thread, device)
    logs = [[] for _ in range(10)]
    futures = [start(threads[n % 4], device, visitor(log)) for n, log in enumerate(logs)]
    drain(*threads)
    assert logs == [list("abcd")] * 10
    assert all(future.result(0) == 0 for future in futures)


def test_an_iteration_may_be_started_inside_another_and_in_its_completion(threads, device):
    log = []
    get(threads[2], device)

    def again(it, status):
        device.for_each_channel(visitor(log), None, lambda it, status: log.append("done"))

    start(threads[0], device, lambda it: device.for_each_channel(visitor(log)) and None, None, again)
    drain(*threads)
    assert log == ["c", "c", "done"]


# Status


@pytest.mark.parametrize("status", [1, -5, 2**40])
def test_a_status_other_than_zero_ends_it_there(threads, device, status):
    log = []
    for thread in threads:
        get(thread, device)

    def visit(it):
        log.append(get_thread().name)
        return status if get_thread() is threads[1] else 0

    future = start(threads[3], device, visit, None, lambda it, result: log.append((get_thread().name, result)))
    drain(*threads)
    assert log == ["a", "b", ("d", status)]
    assert future.result(0) == status


def test_a_function_that_raises_ends_it_with_minus_one_and_the_future_has_the_exception(threads, device, errors):
    log = []
    for thread in threads:
        get(thread, device)

    def visit(it):
        log.append(get_thread().name)
        raise ValueError("b is tired")

    future = start(threads[3], device, visit, None, lambda it, status: log.append(status))
    drain(*threads)
    assert log == ["a", -1]
    with pytest.raises(ValueError, match="tired"):
        future.result(0)
    assert errors == []


@pytest.mark.parametrize("nonsense", ["0", 1.0, object()])
def test_a_function_that_returns_no_int_ends_it_like_one_that_raises(threads, device, nonsense):
    get(threads[1], device)
    future = start(threads[0], device, lambda it: nonsense)
    drain(*threads)
    with pytest.raises(TypeError, match="must return an int or None"):
        future.result(0)


def test_a_function_that_interrupts_leaves_the_poll_and_ends_the_iteration(threads, device):
    get(threads[1], device)
    log = []

    def visit(it):
        raise KeyboardInterrupt

    future = start(threads[0], device, visit, None, lambda it, status: log.append(status))
    with pytest.raises(KeyboardInterrupt):
        threads[1].poll()
    drain(*threads)
    assert log == [-1]
    assert isinstance(future.exception(0), KeyboardInterrupt)


def test_a_completion_that_raises_is_reported_and_the_future_resolves(threads, device, errors):
    def cpl(it, status):
        raise ValueError("at the very end")

    get(threads[1], device)
    future = start(threads[0], device, noop, None, cpl)
    drain(*threads)
    assert future.result(0) == 0
    assert errors.types == [ValueError]
    assert errors[0]["thread"] is threads[0]
    assert errors[0]["device"] is device
    with threads[0]:
        assert device.unregister()


# defer and continue_


def test_a_deferred_iteration_waits_for_continue(threads, device):
    log, waiting = [], []
    for thread in threads[:2]:
        get(thread, device)

    def visit(it):
        log.append(get_thread().name)
        it.defer()
        waiting.append(it)
        return 77  # does not count

    future = start(threads[3], device, visit, None, lambda it, status: log.append(status))
    for name in "ab":
        drain(*threads)
        assert log[-1] == name
        assert not future.done()
        it = waiting.pop()
        with it.channel.thread:
            it.continue_()
    drain(*threads)
    assert log == ["a", "b", 0]


def test_continue_with_a_status_ends_it(threads, device):
    waiting = []
    for thread in threads:
        get(thread, device)

    def visit(it):
        it.defer()
        waiting.append(it)

    future = start(threads[3], device, visit)
    drain(*threads)
    with threads[0]:
        waiting[0].continue_(3)
    drain(*threads)
    assert len(waiting) == 1
    assert future.result(0) == 3


def test_continue_may_come_from_a_poller_or_a_message(threads, device, clock):
    log = []
    for thread in threads[:2]:
        get(thread, device)

    def visit(it):
        it.defer()
        if get_thread() is threads[0]:
            get_thread().send_msg(it.continue_)
        else:
            poller = get_thread().register_poller(lambda: (it.continue_(5), poller.unregister()) and 1, period_us=10)

    future = start(threads[3], device, visit, None, lambda it, status: log.append(status))
    drain(*threads)
    assert log == []
    clock.advance(us=10)
    threads[1].poll()
    drain(*threads)
    assert future.result(0) == 5


def test_defer_and_continue_inside_the_function_take_effect_when_it_returns(threads, device):
    log = []
    for thread in threads[:2]:
        get(thread, device)

    def visit(it):
        it.defer()
        it.defer()
        it.continue_(0 if get_thread() is threads[0] else 9)
        log.append((get_thread().name, [thread.pending_msgs for thread in threads]))
        with pytest.raises(DeviceError):
            it.continue_()
        with pytest.raises(DeviceError):
            it.defer()

    future = start(threads[3], device, visit)
    drain(*threads)
    assert log == [("a", [0, 0, 0, 0]), ("b", [0, 0, 0, 0])]
    assert future.result(0) == 9


def test_a_function_that_defers_and_raises_has_ended_the_iteration(threads, device):
    waiting = []
    get(threads[0], device)

    def visit(it):
        it.defer()
        waiting.append(it)
        raise ValueError("changed its mind")

    future = start(threads[1], device, visit)
    drain(*threads)
    with pytest.raises(ValueError, match="mind"):
        future.result(0)
    with threads[0], pytest.raises(DeviceError):
        waiting[0].continue_()


def test_continue_twice_is_refused(threads, device):
    waiting = []
    for thread in threads[:2]:
        get(thread, device)

    def visit(it):
        if get_thread() is threads[0]:
            it.defer()
            waiting.append(it)

    future = start(threads[3], device, visit)
    drain(*threads)
    with threads[0]:
        waiting[0].continue_()
        with pytest.raises(DeviceError, match="'disk'"):
            waiting[0].continue_()
    drain(*threads)
    assert future.result(0) == 0
    with threads[0], pytest.raises(DeviceError):
        waiting[0].continue_()


def test_continue_without_defer_is_refused(threads, device):
    get(threads[0], device)
    future = start(threads[1], device, lambda it: it.continue_())
    drain(*threads)
    with pytest.raises(DeviceError, match="has not deferred"):
        future.result(0)


def test_continue_belongs_on_the_thread_that_deferred(threads, device):
    waiting = []
    get(threads[0], device)

    def visit(it):
        it.defer()
        waiting.append(it)

    future = start(threads[1], device, visit)
    drain(*threads)
    for elsewhere_current in (None, threads[1]):
        with pytest.raises(WrongThreadError, match=r"continue_ of .*'disk'.*'a'"):
            if elsewhere_current is None:
                waiting[0].continue_()
            else:
                with elsewhere_current:
                    waiting[0].continue_()
    with threads[0], pytest.raises(WrongThreadError):
        elsewhere(waiting[0].continue_)
    assert not future.done()
    with threads[0]:
        with pytest.raises(TypeError):
            waiting[0].continue_("0")
        waiting[0].continue_()
    drain(*threads)
    assert future.result(0) == 0


def test_defer_outside_the_function_is_refused(threads, device):
    seen, refused = [], []
    get(threads[0], device)

    def cpl(it, status):
        with pytest.raises(DeviceError):
            it.defer()
        with pytest.raises(DeviceError):
            it.continue_()
        refused.append(it)

    start(threads[1], device, seen.append, None, cpl)
    drain(*threads)
    assert refused == seen
    with threads[0], pytest.raises(DeviceError):
        seen[0].defer()


def test_a_deferred_iteration_keeps_both_threads_from_exiting_and_is_named(threads, device):
    waiting = []
    channel = get(threads[0], device)

    def visit(it):
        it.defer()
        waiting.append(it)

    future = start(threads[1], device, visit)
    drain(*threads)
    put(channel)
    drain(*threads)
    for thread in threads[:2]:
        with thread:
            thread.exit()
        thread.poll()
        assert thread.exit_blockers == ("for_each_channel of device 'disk', deferred on thread 'a'",)
    with threads[0]:
        waiting[0].continue_()
    drain(*threads)
    for thread in threads[:2]:
        thread.poll()
        assert thread.is_exited
    assert future.result(0) == 0


# Unregistration


def test_an_unregistration_waits_for_the_iterations_under_way(threads, device):
    log, waiting = [], []
    channels = [get(thread, device) for thread in threads[:2]]

    def visit(it):
        log.append(get_thread().name)
        it.defer()
        waiting.append(it)

    start(threads[2], device, visit, None, lambda it, status: log.append(("iterated", get_thread().name, status)))
    with threads[3]:
        future = device.unregister(lambda gone: log.append(("unregistered", get_thread().name)))
        with pytest.raises(DeviceError, match="being unregistered"):
            device.for_each_channel(noop)
    drain(*threads)
    with threads[0]:
        waiting.pop().continue_()
    drain(*threads)
    put(*channels)
    drain(*threads)
    assert device.channels_count == 0
    assert not future.done()
    with threads[1]:
        waiting.pop().continue_()
    drain(threads[0], threads[1], threads[3])
    assert not future.done()
    drain(*threads)
    assert log == ["a", "b", ("iterated", "c", 0), ("unregistered", "d")]
    assert future.done()


def test_a_device_may_be_unregistered_inside_the_function(threads, device):
    log = []
    for thread in threads[:2]:
        get(thread, device)

    def visit(it):
        log.append(get_thread().name)
        if device.is_registered:
            device.unregister(lambda gone: log.append("gone"))
        it.channel.put()

    future = start(threads[3], device, visit, None, lambda it, status: log.append(status))
    drain(*threads)
    assert log == ["a", "b", 0, "gone"]
    assert future.done()


def test_a_device_may_be_unregistered_in_the_completion(threads, device):
    log = []
    start(threads[0], device, noop, None, lambda it, status: device.unregister(log.append))
    drain(*threads)
    assert log == [device]


# Bad input


@pytest.mark.parametrize("arguments", [(None,), (3,), (noop, None, 3)])
def test_functions_must_be_callable(threads, device, arguments):
    with threads[0], pytest.raises(TypeError):
        device.for_each_channel(*arguments)


def test_a_completion_without_a_current_thread_is_refused_before_anything_is_sent(threads, device):
    get(threads[0], device)
    with pytest.raises(NoThreadError, match=r"'disk'.*cpl"):
        device.for_each_channel(noop, None, noop)
    assert threads[0].pending_msgs == 0


def test_without_a_current_thread_and_completion_the_future_resolves_where_the_last_visit_was(threads, device):
    seen, where = [], []
    for thread in threads[:2]:
        get(thread, device)
    future = device.for_each_channel(lambda it: seen.append(it.channel.thread.name))
    future.add_done_callback(lambda _: where.append(get_thread()))
    assert not future.done()
    drain(*threads)
    assert (seen, future.result(), where) == (["a", "b"], 0, [threads[1]])


def test_without_a_current_thread_a_status_and_an_exception_end_it_too(threads, device):
    get(threads[0], device)
    get(threads[1], device)
    status = device.for_each_channel(lambda it: 7)
    drain(*threads)
    assert status.result() == 7

    def fail(it):
        raise ValueError("no")

    failed = device.for_each_channel(fail)
    drain(*threads)
    assert isinstance(failed.exception(), ValueError)


def test_without_a_current_thread_a_deferred_visit_is_waited_for(threads, device):
    get(threads[0], device)
    iterators = []

    def defer(iterator):
        iterator.defer()
        iterators.append(iterator)

    future = device.for_each_channel(defer)
    drain(*threads)
    assert not future.done()
    with threads[0]:
        iterators.pop().continue_(3)
    assert future.result() == 3


def test_without_a_current_thread_and_channels_it_is_done_at_once(device):
    assert device.for_each_channel(noop).result() == 0


def test_on_an_exited_thread_it_is_refused(threads, device):
    finish(threads[0])
    with threads[0], pytest.raises(ThreadExitedError):
        device.for_each_channel(noop)


def test_a_device_that_is_not_registered_has_no_iterations(lib, thread):
    device = IoDevice("new", lib=lib)
    with thread, pytest.raises(DeviceError, match="'new'"):
        device.for_each_channel(noop)
    assert thread.exit_blockers == ()


def test_a_thread_of_another_library_cannot_iterate(device):
    other = ThreadLib()
    stranger = other.create_thread("stranger")
    with stranger, pytest.raises(DeviceError, match="different libraries"):
        device.for_each_channel(noop)
    finish(stranger)
    other.close()


def test_an_iterator_is_not_made_by_hand():
    with pytest.raises(TypeError):
        IoChannelIter()


# Endings


def test_the_functions_are_let_go_afterwards(threads, device):
    def fn(it):
        return 0

    def cpl(it, status):
        kept.append(it)

    kept = []
    watches = [weakref.ref(fn), weakref.ref(cpl)]
    get(threads[0], device)
    start(threads[1], device, fn, None, cpl)
    del fn, cpl
    drain(*threads)
    assert repr(kept[0]) == "<IoChannelIter: for_each_channel of device 'disk'>"
    gc.collect()
    assert [watch() for watch in watches] == [None, None]


def test_its_cost_grows_with_the_channels_and_not_with_the_threads(lib, device):
    """Counted in messages: 3 channels on 1,000 threads are 3 hops and a completion."""
    threads = [lib.create_thread(f"t{number}", ring_size=2) for number in range(1000)]
    for number in (100, 500, 900):
        get(threads[number], device)
    start(threads[0], device, noop)
    drain(threads[0], *threads[100:1000:400])
    assert sum(thread.stats.msgs_run for thread in threads) == 4


def test_it_visits_threads_on_running_reactors(make_reactor, live_lib):
    reactors = [make_reactor().start() for _ in range(2)]
    threads = [reactors[number % 2].create_thread(f"t{number}") for number in range(6)]
    device = IoDevice("disk", lib=live_lib).register()
    channels = [thread.call(device.get_io_channel).result(PATIENCE_S) for thread in threads[1:]]
    log = []

    def visit(it):
        log.append((get_thread().name, threading.get_ident()))
        it.defer()
        get_thread().send_msg(it.continue_)

    for _ in range(100):
        log.clear()
        future = threads[0].call(device.for_each_channel, visit).result(PATIENCE_S)
        assert future.result(PATIENCE_S) == 0
        assert [name for name, _ in log] == [f"t{number}" for number in range(1, 6)]
        assert len({ident for _, ident in log}) == 2
    for channel in channels:
        channel.thread.call(channel.put).result(PATIENCE_S)
    threads[3].call(device.unregister).result(PATIENCE_S).result(PATIENCE_S)


@pytest.mark.seed
def test_a_channel_replaced_while_the_hop_is_under_way_is_looked_up_on_arrival(threads, device):
    """Seed: the iterator carries a pointer to the channel that existed when the hop was sent."""
    old = get(threads[1], device)
    put(old)  # its destruction stands in the ring before the hop
    seen = []
    with threads[0]:
        future = device.for_each_channel(lambda it: seen.append(it.channel))
    threads[1].poll(max_msgs=1)
    assert "destroyed" in repr(old)
    new = get(threads[1], device)
    drain(*threads)
    assert seen == [new]
    assert new is not old
    assert future.result(0) == 0
    put(new)
    drain(*threads)
    end(device, *threads)


@pytest.mark.seed
def test_an_iteration_never_visits_the_channels_of_another_device_of_that_name(lib, threads, device):
    """Seed: after unregister and register of a key, it finds the old device's channels."""
    old = [get(thread, device) for thread in threads]
    with threads[0]:
        ended = device.unregister()
    successor = IoDevice("disk", lib=lib).register()
    new = get(threads[1], successor)
    seen = []
    with threads[0]:
        successor.for_each_channel(lambda it: seen.append(it.channel))
    drain(*threads)
    assert seen == [new]
    assert get(threads[1], successor) is new
    put(new, new, *old)
    drain(*threads)
    assert ended.done()
    end(successor, *threads)


@pytest.mark.seed
def test_the_device_outlives_an_iteration_whose_last_channel_goes(lib, threads):
    """Seed: the iteration touches freed memory."""
    device = IoDevice("disk", lib=lib).register()
    watch = weakref.ref(device)
    channels = [get(thread, device) for thread in threads]
    waiting = []
    with threads[0]:
        future = device.for_each_channel(lambda it: (it.defer(), waiting.append(it)))
        ended = device.unregister()
    drain(*threads)
    put(*channels)
    drain(*threads)
    del device, channels
    gc.collect()
    assert watch() is not None
    assert threads[0].exit_blockers == (
        "for_each_channel of device 'disk', deferred on thread 'a'",
        "the unregistration of device 'disk', which waits for 1 for_each_channel",
    )
    with threads[0]:
        waiting.pop().continue_()
    drain(*threads)
    assert future.result(0) == 0
    assert ended.result(0) is None
    del future, ended
    gc.collect()
    assert watch() is None


@pytest.mark.seed
def test_an_iteration_completes_when_its_next_target_exits_in_between(threads, device):
    """Seed: the lock is released before the hop is sent; the target may exit in between."""
    channels = [get(thread, device) for thread in threads[:3]]
    seen = []

    def visit(it):
        seen.append(get_thread().name)
        if get_thread() is threads[0]:
            put(channels[1])
            with threads[1]:
                threads[1].exit()
            while not threads[1].is_exited:
                threads[1].poll()

    with threads[0]:
        future = device.for_each_channel(visit)
    drain(*threads)
    assert seen == ["a", "c"]
    assert future.result(0) == 0
    put(channels[0], channels[2])
    drain(*threads)
    end(device, threads[0])


@pytest.mark.seed
def test_iterations_complete_while_threads_on_reactors_come_and_go(make_reactor, live_lib):
    reactors = [make_reactor().start() for _ in range(2)]
    home = reactors[0].create_thread("home")
    device = IoDevice("disk", lib=live_lib).register()

    def come(left):
        thread = get_thread()
        channel = device.get_io_channel()
        thread.exit()

        def go():
            channel.put()
            if left:
                reactors[left % 2].create_thread().send_msg(come, left - 1)

        thread.send_msg(go)

    for number in range(6):
        reactors[number % 2].create_thread().send_msg(come, 60)
    for _ in range(300):
        future = home.call(device.for_each_channel, noop).result(PATIENCE_S)
        assert future.result(PATIENCE_S) == 0
    while live_lib.threads != (home,):
        home.call(noop).result(PATIENCE_S)
    assert device.channels_count == 0
    home.call(device.unregister).result(PATIENCE_S).result(PATIENCE_S)


@pytest.mark.seed
def test_unregister_during_an_iteration_is_deferred_and_its_callback_comes(threads, device):
    """Seed: refused by a line in the log; the callback never comes."""
    channel = get(threads[1], device)
    log = []
    with threads[0]:
        iteration = device.for_each_channel(noop, None, lambda it, status: log.append("iterated"))
        ended = device.unregister(lambda gone: log.append("unregistered"))
        with pytest.raises(DeviceError):
            device.for_each_channel(noop)
    put(channel)
    drain(*threads)
    assert log == ["iterated", "unregistered"]
    assert iteration.done()
    assert ended.done()


@pytest.mark.seed
def test_an_iteration_does_not_see_a_half_built_channel(lib, thread):
    """The thread is entered, not polled, so create_channel may poll it: nothing that runs there finds the channel."""
    seen = []

    def create(channel):
        device.for_each_channel(seen.append)
        while thread.pending_msgs:
            thread.poll()

    device = IoDevice("disk", create_channel=create, lib=lib).register()
    channel = get(thread, device)
    assert seen == []
    put(channel)
    drain(thread)
    end(device, thread)


@pytest.mark.seed
def test_an_iteration_asks_only_the_threads_that_have_a_channel(lib, device):
    """Seed: it looks at every channel of every thread, under the lock."""
    threads = [lib.create_thread(f"t{number}", ring_size=2) for number in range(300)]
    channel = get(threads[150], device)
    with threads[0]:
        future = device.for_each_channel(noop)
    assert [thread.id for thread in threads if thread.pending_msgs] == [threads[150].id]
    drain(*threads)
    assert future.done()
    put(channel)
    drain(*threads)
    end(device, *threads)


@pytest.mark.seed
def test_a_completion_without_a_current_thread_raises(threads, device):
    """Seed and HEAD: the completion goes to no thread and is lost, or a NULL pointer is followed."""
    channel = get(threads[1], device)
    with pytest.raises(NoThreadError):
        device.for_each_channel(noop, None, noop)
    put(channel)
    drain(*threads)
    end(device, *threads)


@pytest.mark.seed
def test_the_completion_of_an_iteration_does_not_race_with_the_end_of_the_device(make_reactor, live_lib):
    """HEAD: continue sends the completion and then reads the device, which the completion path may have freed."""
    reactors = [make_reactor().start() for _ in range(2)]
    home, away = (reactor.create_thread() for reactor in reactors)
    for _ in range(200):
        device = IoDevice("disk", lib=live_lib).register()
        watch = weakref.ref(device)
        channel = away.call(device.get_io_channel).result(PATIENCE_S)
        order = []

        def visit(it):
            it.defer()
            it.channel.put()
            get_thread().send_msg(it.continue_)

        def begin(device=device, order=order, visit=visit):
            iteration = device.for_each_channel(visit, None, lambda it, status: order.append((it.device, status)))
            return iteration, device.unregister(lambda gone: order.append(gone))

        iteration, ended = home.call(begin).result(PATIENCE_S)
        assert ended.result(PATIENCE_S) is None
        assert iteration.result(0) == 0
        assert order == [(device, 0), device]
        del device, channel, order, begin, iteration, ended
        home.call(noop).result(PATIENCE_S)
        away.call(noop).result(PATIENCE_S)
    gc.collect()
    assert watch() is None
