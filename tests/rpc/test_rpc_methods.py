"""What the methods answer, decoded as strictly as spdk_top decodes it."""

import concurrent.futures
import threading

import pytest
from support import PATIENCE_S

from spdkthread import IoDevice
from spdkthread.rpc import Client, RpcError, Server

UINT32, UINT64 = 1 << 32, 1 << 64


def unsigned(below):
    def check(value):
        assert type(value) is int
        assert 0 <= value < below

    return check


def text(value):
    assert type(value) is str


def boolean(value):
    assert type(value) is bool


def integer(value):
    assert type(value) is int


def array(element):
    def check(value):
        assert type(value) is list
        for one in value:
            element(one)

    return check


def strict(required, **optional):
    """An object with exactly these members, as SPDK's strict decoder takes it."""

    def check(value):
        assert required.keys() <= value.keys() <= required.keys() | optional.keys()
        for name, one in value.items():
            (required.get(name) or optional[name])(one)

    return check


def relaxed(**required):
    """An object with at least these members."""

    def check(value):
        for name, one in required.items():
            one(value[name])

    return check


U64 = unsigned(UINT64)
POLLER = strict({"name": text, "state": text, "id": U64, "run_count": U64, "busy_count": U64}, period_ticks=U64)
THREAD_STATS = strict(
    {
        "name": text,
        "id": U64,
        "cpumask": text,
        "busy": U64,
        "idle": U64,
        "active_pollers_count": U64,
        "timed_pollers_count": U64,
        "paused_pollers_count": U64,
    }
)
THREAD_POLLERS = relaxed(
    name=text, id=U64, active_pollers=array(POLLER), timed_pollers=array(POLLER), paused_pollers=array(POLLER)
)
LW_THREAD = strict({"name": text, "id": U64, "cpumask": text, "elapsed": U64})
REACTOR = strict(
    {
        "lcore": unsigned(UINT32),
        "numa_id": integer,
        "tid": U64,
        "busy": U64,
        "idle": U64,
        "in_interrupt": boolean,
        "irq": U64,
        "sys": U64,
        "usr": U64,
        "lw_threads": array(LW_THREAD),
    },
    core_freq=unsigned(UINT32),
)
# What spdk_top asks, in its order, and what it takes for an answer.
SPDK_TOP = [
    ("framework_wait_init", lambda value: None),
    ("framework_get_reactors", relaxed(tick_rate=lambda value: U64(value) or value / value, reactors=array(REACTOR))),
    ("thread_get_stats", relaxed(threads=array(THREAD_STATS))),
    ("thread_get_pollers", relaxed(threads=array(THREAD_POLLERS))),
    ("framework_get_scheduler", relaxed(scheduler_name=text, scheduler_period=U64)),
]


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "rpc.sock")


@pytest.fixture
def server(path, live_lib):
    with Server(path, lib=live_lib) as running:
        yield running


@pytest.fixture
def client(server, path):
    with Client(path) as connected:
        yield connected


def refused(client, method, params=None):
    with pytest.raises(RpcError) as caught:
        client.call(method, params)
    return caught.value.code


def with_pollers(reactor, name="net"):
    thread = reactor.create_thread(name)
    made = [
        thread.call(lambda: thread.register_poller(lambda: 0, 0, name="active")).result(PATIENCE_S),
        thread.call(lambda: thread.register_poller(lambda: 1, 1000, name="timed")).result(PATIENCE_S),
        thread.call(lambda: thread.register_poller(lambda: 0, 500, name="paused")).result(PATIENCE_S),
    ]
    thread.call(made[2].pause).result(PATIENCE_S)
    return thread, made


def without_pollers(thread, made):
    for poller in made:
        thread.call(poller.unregister).result(PATIENCE_S)


def test_every_answer_that_spdk_top_asks_for_passes_its_decoder(client, make_group):
    with make_group(1) as group:
        group.create_thread("plain")
        thread, made = with_pollers(group[next(iter(group)).core])
        for _ in range(2):
            for method, check in SPDK_TOP:
                check(client.call(method))
        without_pollers(thread, made)


def test_threads_and_their_pollers_are_shown_by_kind(client, reactor):
    thread, made = with_pollers(reactor)
    (stats,) = client.call("thread_get_stats")["threads"]
    assert (stats["name"], stats["id"]) == ("net", thread.id)
    assert [stats[f"{kind}_pollers_count"] for kind in ("active", "timed", "paused")] == [1, 1, 1]
    (pollers,) = client.call("thread_get_pollers")["threads"]
    active, timed, paused = (pollers[f"{kind}_pollers"][0] for kind in ("active", "timed", "paused"))
    assert "period_ticks" not in active
    assert (timed["name"], timed["period_ticks"]) == ("timed", 1_000_000)
    assert (paused["name"], paused["state"]) == ("paused", "paused")
    assert active["run_count"] > 0
    without_pollers(thread, made)


def test_counters_do_not_go_back(client, reactor):
    thread, made = with_pollers(reactor)
    before = client.call("framework_get_reactors")["reactors"][0]
    for _ in range(20):
        now = client.call("framework_get_reactors")["reactors"][0]
        for name in ("busy", "idle", "usr", "sys", "irq"):
            assert now[name] >= before[name]
        assert now["lw_threads"][0]["elapsed"] >= before["lw_threads"][0]["elapsed"]
        before = now
    without_pollers(thread, made)


def test_io_channels_are_shown_with_their_references(client, reactor, live_lib):
    device = IoDevice("disk", lib=live_lib).register()
    thread = reactor.create_thread("net")
    channel = thread.call(device.get_io_channel).result(PATIENCE_S)
    thread.call(channel.ref).result(PATIENCE_S)
    assert client.call("thread_get_io_channels")["threads"] == [
        {"name": "net", "io_channels": [{"name": "disk", "ref": 2}]}
    ]
    for _ in range(2):
        thread.call(channel.put).result(PATIENCE_S)
    device.unregister().result(PATIENCE_S)


def test_two_reactors_of_one_core_have_two_numbers(client, make_reactor):
    core = make_reactor().start().core
    make_reactor(core).start()
    numbers = [one["lcore"] for one in client.call("framework_get_reactors")["reactors"]]
    assert len(set(numbers)) == 2
    assert numbers == [one["lcore"] for one in client.call("framework_get_reactors")["reactors"]]


def test_a_thread_that_is_held_up_does_not_hold_up_the_answer(client, reactor):
    thread = reactor.create_thread("stuck")
    entered, release = threading.Event(), threading.Event()

    def hold_up():
        entered.set()
        release.wait(PATIENCE_S)

    thread.send_msg(hold_up)
    assert entered.wait(PATIENCE_S)
    try:
        for _ in range(3):
            assert client.call("thread_get_stats")["threads"][0]["name"] == "stuck"
        (ring,) = client.call("spdkthread_get_rings")["threads"]
        assert not ring["answered"]
        # One question waits, however many were asked.
        assert ring["pending"] <= 1
        (held_up,) = client.call("spdkthread_get_reactors")["reactors"]
        assert not held_up["answered"]
        assert "hold_up" in held_up["running"]
    finally:
        release.set()
    thread.call(lambda: None).result(PATIENCE_S)
    assert client.call("spdkthread_get_rings")["threads"][0]["answered"]


def test_a_thread_that_nothing_polls_is_shown_and_gets_no_message(client, live_lib):
    thread = live_lib.create_thread("alone")
    assert client.call("thread_get_stats")["threads"][0]["name"] == "alone"
    assert thread.pending_msgs == 0


def test_a_question_does_not_keep_an_idle_reactor_awake(client, reactor):
    reactor.create_thread("net")
    client.call("thread_get_stats")
    parks = client.call("spdkthread_get_reactors")["reactors"][0]["parks"]
    for _ in range(1000):
        if client.call("spdkthread_get_reactors")["reactors"][0]["parks"] > parks:
            break
    else:
        pytest.fail("the reactor never slept again")


def test_rings_show_what_was_refused(client, live_lib):
    thread = live_lib.create_thread("small", ring_size=4)
    while thread.try_send_msg(int):
        pass
    (ring,) = client.call("spdkthread_get_rings")["threads"]
    assert (ring["ring_size"], ring["pending"], ring["refused"], ring["high_water"]) == (4, 4, 1, 4)


def test_exit_blockers_are_named(client, live_lib):
    thread = live_lib.create_thread("kept")
    with thread:
        poller = thread.register_poller(lambda: 0, name="the poller")
    (kept,) = client.call("spdkthread_get_exit_blockers", {"id": thread.id})
    assert any("the poller" in one for one in kept["blockers"])
    assert refused(client, "spdkthread_get_exit_blockers", {"id": 99}) == -32602
    with thread:
        poller.unregister()


def test_errors_are_counted(client, reactor, errors):
    thread = reactor.create_thread("net")
    thread.send_msg(lambda: 1 / 0)
    thread.call(lambda: None).result(PATIENCE_S)
    assert client.call("spdkthread_get_errors")["error_count"] == 1
    assert errors.types == [ZeroDivisionError]


# Scheduler and cpumask


def test_the_scheduler_is_shown_and_set(client, make_group):
    with make_group(1, period_us=5000) as group:
        assert client.call("framework_get_scheduler")["scheduler_name"] == "static"
        assert client.call("framework_set_scheduler", {"name": "dynamic", "load_limit": 30}) is True
        now = client.call("framework_get_scheduler")
        assert (now["scheduler_name"], now["load_limit"], now["core_limit"]) == ("dynamic", 30, 80)
        assert client.call("framework_set_scheduler", {"name": "dynamic", "period": 7000.0}) is True
        assert client.call("framework_get_scheduler")["scheduler_period"] == 7000 == group.period_us
        (config,) = client.call("framework_get_config", {"name": "scheduler"})
        assert client.call(config["method"], config["params"]) is True
        assert refused(client, "framework_set_scheduler", {"name": "gscheduler"}) == -32603
        assert refused(client, "framework_set_scheduler", {"name": "static", "load_limit": 1}) == -32603
        assert refused(client, "framework_set_scheduler", {"name": "dynamic", "load_limit": 256}) == -32602
        assert refused(client, "framework_set_scheduler", {"name": "static", "mappings": "a"}) == -32602


def test_a_scheduler_needs_a_group(client):
    assert refused(client, "framework_set_scheduler", {"name": "static"}) == -32603


def test_a_cpumask_is_set_in_every_notation(client, make_group):
    with make_group(1) as group:
        thread = group.create_thread("net")
        core = next(iter(group)).core
        for mask in (f"{1 << core:x}", f"0x{1 << core:x}", f"[{core}]"):
            assert client.call("thread_set_cpumask", {"id": thread.id, "cpumask": mask}) is True
            assert thread.cpumask == {core}
        assert refused(client, "thread_set_cpumask", {"id": 999, "cpumask": "1"}) == -32602
        for mask in ("zz", "0", "-1", "[a]", "", "8" + "0" * 200):
            assert refused(client, "thread_set_cpumask", {"id": thread.id, "cpumask": mask}) == -32603


# Parameters


@pytest.mark.parametrize(
    ("method", "params"),
    [
        ("thread_get_stats", {}),
        ("thread_get_stats", []),
        ("spdk_get_version", {"a": 1}),
        ("thread_set_cpumask", {"id": 1}),
        ("thread_set_cpumask", {"id": -1, "cpumask": "1"}),
        ("thread_set_cpumask", {"id": 1.5, "cpumask": "1"}),
        ("thread_set_cpumask", {"id": 1, "cpumask": "1\0"}),
        ("thread_set_cpumask", {"id": 1, "cpumask": "1", "more": 1}),
        ("rpc_get_methods", {"current": 1}),
        ("log_set_flag", {"flag": "nothing"}),
        ("spdk_kill_instance", {"sig_name": "SIGWINCH"}),
        ("framework_get_config", {"name": "nothing"}),
    ],
)
def test_parameters_are_read_strictly(client, method, params):
    assert refused(client, method, params) == -32602


def test_methods_that_ignore_their_parameters_take_any(client):
    assert client.call("framework_wait_init", {"a": 1}) is True
    assert client.call("iobuf_get_stats", {"a": 1}) == []


def test_methods_are_listed_the_latest_first(client, server):
    server.method("mine")(lambda: None)
    names = client.call("rpc_get_methods")
    assert names[0] == "mine"
    assert names[-1] == "rpc_get_methods"
    assert "framework_start_init" in names
    assert "framework_start_init" not in client.call("rpc_get_methods", {"current": True})
    assert refused(client, "framework_start_init") == -1


def test_the_version_is_in_parts(client):
    answer = client.call("spdk_get_version")
    assert answer["version"].startswith("spdkthread v")
    assert {"major", "minor", "patch", "suffix"} <= answer["fields"].keys()


def test_levels_of_the_log_are_set(client, caplog):
    caplog.set_level("INFO", logger="spdkthread")
    assert client.call("log_get_level") == "INFO"
    assert client.call("log_set_level", {"level": "debug"}) is True
    assert client.call("log_get_level") == "DEBUG"
    assert refused(client, "log_set_level", {"level": "LOUD"}) == -32603
    assert client.call("log_get_flags")["rpc"] is False
    assert client.call("log_set_flag", {"flag": "rpc"}) is True
    assert client.call("log_get_flags")["rpc"] is True
    assert client.call("log_clear_flag", {"flag": "all"}) is True
    assert client.call("log_get_flags")["rpc"] is False


def test_context_switches_are_watched_when_asked(client, reactor):
    assert client.call("framework_monitor_context_switch") == {"enabled": False}
    assert client.call("framework_monitor_context_switch", {"enabled": True}) == {"enabled": True}
    assert client.call("framework_monitor_context_switch") == {"enabled": True}
    assert client.call("framework_monitor_context_switch", {"enabled": False}) == {"enabled": False}
    (one,) = client.call("spdkthread_get_reactors")["reactors"]
    assert one["voluntary_switches"] >= 0


def test_subsystems_come_in_an_order_in_which_they_can_start(client):
    known = set()
    for one in client.call("framework_get_subsystems"):
        assert set(one["depends_on"]) <= known
        known.add(one["subsystem"])


IOBUF_POOL = strict({"cache": U64, "main": U64, "retry": U64, "cache_size": unsigned(UINT32)})
IOBUF = array(strict({"module": text, "small_pool": IOBUF_POOL, "large_pool": IOBUF_POOL}))


def test_buffers_are_counted_by_module(client, live_lib):
    counts = {"cache": 3, "main": 2, "retry": 1, "cache_size": 8, "high_water": 5, "waiting": 0}

    class IoBufPool(IoDevice):
        """As much of a pool as the method asks for."""

        def stats(self):
            future = concurrent.futures.Future()
            future.set_result({"accel": {**counts, "small": counts, "large": counts}})
            return future

    pool = IoBufPool("iobuf", lib=live_lib).register()
    answer = client.call("iobuf_get_stats")
    IOBUF(answer)
    assert [one["module"] for one in answer] == ["accel"]
    assert "iobuf" in [one["subsystem"] for one in client.call("framework_get_subsystems")]
    pool.unregister().result(PATIENCE_S)
