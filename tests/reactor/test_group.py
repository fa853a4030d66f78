"""Groups: one reactor on each of several cores."""

import os
import threading

import pytest
from support import PATIENCE_S, OtherThread, elsewhere, eventually, noop

from spdkthread import Reactor, ReactorError, ReactorGroup, ThreadLib, get_reactor, get_thread

CORES = sorted(os.sched_getaffinity(0))
FIRST = CORES[0]
BOTH = CORES[:2]


@pytest.fixture
def group(make_group):
    """A running group on two cores."""
    return make_group(BOTH).start()


def cores_of(group):
    return [reactor.core for reactor in group]


@pytest.mark.parametrize(
    ("cores", "expected"),
    [
        (None, CORES),
        (1, CORES[:1]),
        (len(CORES), CORES),
        (str(FIRST), [FIRST]),
        (hex(1 << FIRST), [FIRST]),
        (",".join(map(str, CORES)), CORES),
        (CORES[::-1], CORES),
        ({FIRST}, [FIRST]),
        (iter(CORES), CORES),
    ],
    ids=["None", "1", "all", "text", "mask", "list", "iterable", "set", "iterator"],
)
def test_the_notations_of_cores(live_lib, cores, expected):
    assert cores_of(ReactorGroup(cores, lib=live_lib)) == expected


@pytest.mark.parametrize("cores", ["", "x", "1-", "3-1", "0x", "0x0", "-1", [], [-1], 0, -1])
def test_cores_that_cannot_be_read(live_lib, cores):
    with pytest.raises(ValueError):
        ReactorGroup(cores, lib=live_lib)


@pytest.mark.parametrize("cores", [True, 1.5, [1.5], ["0"], object()])
def test_cores_of_a_wrong_type(live_lib, cores):
    with pytest.raises(TypeError):
        ReactorGroup(cores, lib=live_lib)


@pytest.mark.parametrize("cores", ["60000", [FIRST, 60_000], 60_000, "0x" + "1" + "0" * 1000])
def test_cores_that_this_process_may_not_use(live_lib, cores):
    with pytest.raises(ReactorError, match="not available"):
        ReactorGroup(cores, lib=live_lib)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"scheduler": "clever"}, ValueError),
        ({"scheduler": object()}, TypeError),
        ({"period_us": -1}, ValueError),
        ({"period_us": float("nan")}, ValueError),
        ({"lib": object()}, TypeError),
        ({"idle": "sleepy"}, ValueError),
        ({"isolated": [60_000]}, ReactorError),
        ({"stall_ms": 0}, ValueError),
        ({"period_us": "long"}, TypeError),
        ({"spin_us": "long"}, TypeError),
        ({"stall_ms": "long"}, TypeError),
    ],
)
def test_bad_options(options, kind):
    with pytest.raises(kind, match="isolated" if "isolated" in options else next(iter(options))):
        ReactorGroup([FIRST], **options)


def test_a_group_is_a_collection_of_its_reactors(group):
    assert len(group) == len(BOTH)
    assert list(group) == list(group.reactors)
    assert [group[core] for core in BOTH] == list(group.reactors)
    assert all(isinstance(reactor, Reactor) and reactor.state == "running" for reactor in group)
    with pytest.raises(KeyError, match="60000"):
        group[60_000]


def test_the_context_manager_starts_and_stops(live_lib):
    with ReactorGroup(BOTH, lib=live_lib, period_us=0) as group:
        assert {reactor.state for reactor in group} == {"running"}
        thread = group.create_thread()
        assert thread.call(abs, -1).result(PATIENCE_S) == 1
    assert {reactor.state for reactor in group} == {"stopped"}
    assert thread.is_exited


def test_a_group_may_be_started_again(group):
    for _ in range(2):
        assert group.stop().ok
        assert group.start() is group
        assert group.create_thread().call(abs, -1).result(PATIENCE_S) == 1


def test_a_second_start_is_refused(group):
    with pytest.raises(ReactorError, match="running"):
        group.start()
    assert group.create_thread().call(abs, -1).result(PATIENCE_S) == 1


def test_when_one_reactor_cannot_start_none_does(make_group):
    group = make_group(BOTH)
    group.reactors[-1].start()
    with pytest.raises(ReactorError):
        group.start()
    assert [reactor.state for reactor in group][:-1] == ["stopped"] * (len(BOTH) - 1)


def test_threads_go_round_robin(group):
    threads = [group.create_thread() for _ in range(2 * len(BOTH))]
    assert [thread.call(get_reactor).result(PATIENCE_S).core for thread in threads] == BOTH * 2


def test_threads_go_inside_their_cpumask(group):
    threads = [group.create_thread(cpumask=[BOTH[-1]]) for _ in range(3)]
    assert {thread.call(get_reactor).result(PATIENCE_S).core for thread in threads} == {BOTH[-1]}
    assert threads[0].cpumask == {BOTH[-1]}


def test_an_empty_cpumask_intersection_is_a_named_error(group, live_lib):
    with pytest.raises(ReactorError, match=r"lonely.*60000"):
        group.create_thread("lonely", cpumask=[60_000])
    with pytest.raises(ReactorError, match="60000"):
        group[FIRST].create_thread(cpumask=[60_000])
    assert live_lib.threads == ()


def test_isolated_cores_get_no_thread_that_does_not_ask_for_them(make_group):
    group = make_group(BOTH, isolated=[BOTH[-1]]).start()
    threads = [group.create_thread() for _ in range(3)]
    assert {thread.call(get_reactor).result(PATIENCE_S).core for thread in threads} == {FIRST}
    asked = group.create_thread(cpumask=[BOTH[-1]])
    assert asked.call(get_reactor).result(PATIENCE_S).core == BOTH[-1]


def test_options_of_a_thread_are_passed_on(group):
    thread = group.create_thread("wide", ring_size=32, poller_policy="all")
    assert (thread.name, thread.ring_size) == ("wide", 32)


def test_for_each_reactor_visits_all_in_the_order_of_the_cores(group):
    seen = []
    future = group.for_each_reactor(lambda: seen.append((get_reactor().core, get_thread(), threading.get_native_id())))
    assert future.result(PATIENCE_S) is None
    assert seen == [(reactor.core, None, reactor.tid) for reactor in group]


def test_for_each_reactor_completes_where_it_was_called(group):
    done = []
    thread = group.create_thread(cpumask=[BOTH[-1]])
    future = thread.call(group.for_each_reactor, noop, lambda: done.append(get_reactor().core)).result(PATIENCE_S)
    future.result(PATIENCE_S)
    group.for_each_reactor(noop, lambda: done.append(get_reactor().core)).result(PATIENCE_S)
    assert done == [BOTH[-1], FIRST]


def test_for_each_reactor_goes_on_after_an_exception(group, errors):
    seen = []

    def fail():
        seen.append(1)
        raise ZeroDivisionError

    assert group.for_each_reactor(fail, fail).result(PATIENCE_S) is None
    assert len(seen) == len(BOTH) + 1
    eventually(lambda: errors.types == [ZeroDivisionError] * (len(BOTH) + 1))


def test_for_each_reactor_of_a_group_that_does_not_run(make_group):
    group = make_group(BOTH)
    with pytest.raises(ReactorError, match="does not run"):
        group.for_each_reactor(noop)
    group.start()
    for bad in (None, 1):
        with pytest.raises(TypeError):
            group.for_each_reactor(bad)
    with pytest.raises(TypeError):
        group.for_each_reactor(noop, 1)
    group.stop()
    with pytest.raises(ReactorError, match="does not run"):
        group.for_each_reactor(noop)


def test_for_each_reactor_races_with_a_stop_and_always_resolves(make_group):
    for _ in range(20):
        group = make_group(BOTH).start()
        futures = []
        stopper = OtherThread(group.stop)
        try:
            for _ in range(50):
                futures.append(group.for_each_reactor(noop))
        except ReactorError:
            pass
        assert stopper.outcome().ok
        for future in futures:
            assert isinstance(future.exception(PATIENCE_S), (ReactorError, type(None)))


def test_join_waits_for_all(group):
    assert group.join(timeout_s=0.01) is False
    joiner = OtherThread(group.join)
    group.stop()
    assert joiner.outcome() is True


def test_a_group_stop_lets_a_chain_over_two_reactors_finish(group):
    """No thread exits before all have run what they accepted."""
    left, right = (group.create_thread(name) for name in ("left", "right"))
    ran = []
    entered, go_on = threading.Event(), threading.Event()

    def hop(here, there, number):
        if number == 1000:
            entered.set()
            assert go_on.wait(PATIENCE_S)
        ran.append(number)
        if number:
            there.send_msg(hop, there, here, number - 1)

    left.send_msg(hop, left, right, 1000)
    assert entered.wait(PATIENCE_S)
    stopper = OtherThread(group.stop)
    eventually(lambda: "stopping" in {reactor.state for reactor in group})
    go_on.set()
    assert stopper.outcome().ok
    assert ran == list(range(1000, -1, -1))


def test_a_group_may_be_stopped_by_a_callback(group):
    thread = group.create_thread()
    report = thread.call(group.stop).result(PATIENCE_S)
    assert set(report.still_running) == {reactor.name for reactor in group}
    assert group.join(timeout_s=PATIENCE_S)
    assert group.stop().ok


def test_a_reactor_made_on_a_bound_os_thread_may_have_any_core(group, live_lib):
    """A callback sees one core only, but the process has more."""
    thread = group.create_thread()
    other = thread.call(lambda: Reactor(CORES[-1], lib=live_lib)).result(PATIENCE_S)
    assert other.core == CORES[-1]
    made = thread.call(lambda: elsewhere(lambda: ReactorGroup(lib=live_lib))).result(PATIENCE_S)
    assert cores_of(made) == CORES


def test_a_group_has_the_default_library_by_default():
    library = ReactorGroup([FIRST]).lib
    assert isinstance(library, ThreadLib)
    assert ReactorGroup([FIRST]).lib is library


@pytest.mark.filterwarnings("default")
def test_polling_reactors_that_share_a_core_are_warned_of(live_lib):
    with Reactor(FIRST, name="calm", lib=live_lib), pytest.warns(RuntimeWarning, match="calm"):
        Reactor(FIRST, name="eager", idle="poll", lib=live_lib).start().stop()
    with Reactor(FIRST, name="eager", idle="poll", lib=live_lib), pytest.warns(RuntimeWarning, match="eager"):
        Reactor(FIRST, name="calm", lib=live_lib).start().stop()


def test_reactors_that_give_up_the_core_are_not_warned_of(live_lib):
    with Reactor(FIRST, lib=live_lib), Reactor(FIRST, idle="yield", lib=live_lib):
        pass
