"""Methods beyond threads and reactors: states, aliases, traces, notifications, sockets' options; TCP; calls from inside."""

import json
import os
import threading

import pytest
from support import PATIENCE_S

from spdkthread import IoBufPool, ReactorGroup, SpdkThreadError
from spdkthread.governor import Capabilities, Governor
from spdkthread.rpc import Client, RpcError, Server, SocketInUseError, notify

CORE = min(os.sched_getaffinity(0))


@pytest.fixture
def server(live_lib):
    with Server(None, lib=live_lib) as one:
        yield one


@pytest.fixture
def starting(live_lib):
    with Server(None, lib=live_lib, wait_for_rpc=True) as one:
        yield one


def refused(server, method, params=None):
    with pytest.raises(RpcError) as error:
        server.call(method, params)
    return error.value.code


def test_a_server_without_a_socket_is_called_from_its_process(server):
    assert server.path is None
    assert "without a socket, running" in repr(server)
    assert server.call("thread_get_stats")["threads"] == []
    assert refused(server, "no_such_method") == -32601
    server.method("inside")(lambda: server.call("thread_get_stats"))
    with pytest.raises(SpdkThreadError, match="return a Future instead"):
        server.call("inside")
    server.stop()
    with pytest.raises(SpdkThreadError, match="does not run"):
        server.call("thread_get_stats")


def test_tcp_is_there_when_it_is_asked_for(live_lib):
    with Server("127.0.0.1:0", lib=live_lib) as server:
        host, _, port = server.path.rpartition(":")
        assert (host, int(port) > 0) == ("127.0.0.1", True)
        with Client(server.path) as client:
            assert client.call("framework_wait_init") is True
        with pytest.raises(SocketInUseError):
            Server(server.path, lib=live_lib).start()
    with pytest.raises(OSError, match="no JSON-RPC server answers there"):
        Client(server.path)


def test_a_host_that_others_reach_is_said_once(live_lib, caplog):
    with Server("0.0.0.0:0", lib=live_lib):
        pass
    with Server(":0", lib=live_lib) as server:
        assert server.path.startswith("127.0.0.1:")
    assert len([one for one in caplog.records if "every process that reaches" in one.getMessage()]) == 1
    with pytest.raises(ValueError, match="at most 65535"):
        Server("127.0.0.1:65536", lib=live_lib)


def test_methods_of_the_run_time_wait_for_the_start(starting):
    assert "waiting to be initialized" in repr(starting)
    assert refused(starting, "thread_get_stats") == -1
    assert starting.call("log_get_level") in ("ERROR", "WARNING", "NOTICE", "INFO", "DEBUG")
    current = starting.call("rpc_get_methods", {"current": True})
    assert "framework_start_init" in current
    assert "thread_get_stats" not in current
    answers = []
    waiter = threading.Thread(target=lambda: answers.append(starting.call("framework_wait_init")))
    waiter.start()
    assert starting.call("framework_start_init") is True
    waiter.join()
    assert answers == [True]
    assert starting.call("thread_get_stats")["threads"] == []
    for method, params in (
        ("framework_start_init", None),
        ("scheduler_set_options", {}),
        ("iobuf_set_options", {}),
        ("sock_impl_set_options", {"impl_name": "epoll"}),
    ):
        assert refused(starting, method, params) == -1


def test_a_start_that_fails_says_so_and_may_be_tried_again(starting):
    def fail():
        raise LookupError("no such core")

    startup = starting.startup
    startup.initialize = fail
    with pytest.raises(RpcError, match="framework_initialization failed: no such core"):
        starting.call("framework_start_init")
    startup.initialize = lambda: None
    assert starting.call("framework_start_init") is True


def test_older_names_answer_and_are_logged_once(server, caplog):
    for _ in range(2):
        assert "spdkthread" in server.call("get_spdk_version")["version"]
    assert len([one for one in caplog.records if "get_spdk_version is deprecated" in one.getMessage()]) == 1
    assert "get_spdk_version" not in server.call("rpc_get_methods")
    assert "get_spdk_version" in server.call("rpc_get_methods", {"include_aliases": True})


def test_a_trace_by_rpc_is_written_for_perfetto(server, make_reactor, tmp_path):
    thread = make_reactor(lib=server.lib).create_thread("traced")
    thread.lib  # noqa: B018
    assert server.call("trace_get_tpoint_group_mask")["spdkthread"]["enabled"] is False
    assert server.call("spdkthread_trace_start", {"entries": 64}) is True
    with pytest.raises(RpcError, match="running already"):
        server.call("spdkthread_trace_start")
    assert server.call("trace_get_info")["tpoint_group_mask"] == "0x1"
    path = str(tmp_path / "x.json")
    assert refused(server, "spdkthread_trace_save", {"path": "x.json"}) == -32602
    answer = server.call("spdkthread_trace_save", {"path": path})
    assert answer["path"] == path
    assert "traceEvents" in json.loads((tmp_path / "x.json").read_text())
    with pytest.raises(RpcError, match="no trace is running"):
        server.call("spdkthread_trace_save", {"path": path})


def test_trace_points_are_enabled_by_mask_and_chosen_when_it_is_written(server, make_reactor, tmp_path):
    thread = make_reactor(lib=server.lib).start().create_thread("traced")
    assert server.call("trace_set_tpoint_mask", {"name": "spdkthread", "tpoint_mask": 1}) is True
    shown = server.call("trace_get_tpoint_group_mask")["spdkthread"]
    assert (shown["enabled"], shown["tpoints"][0]["name"], shown["tpoints"][0]["enabled"]) == (True, "MESSAGE", True)
    assert server.call("trace_clear_tpoint_mask", {"name": "spdkthread", "tpoint_mask": (1 << 64) - 2}) is True
    assert server.call("trace_get_info")["spdkthread"]["tpoint_mask"] == "0x1"
    assert thread.call(abs, -3).result() == 3
    server.call("spdkthread_trace_save", {"path": str(tmp_path / "x.json")})
    kinds = {one.get("cat") for one in json.loads((tmp_path / "x.json").read_text())["traceEvents"]}
    assert kinds <= {None, "message", "flow"}
    assert "message" in kinds
    assert refused(server, "trace_enable_tpoint_group", {"name": "nvmf"}) == -32602
    assert server.call("trace_enable_tpoint_group", {"name": "all"}) is True
    assert server.call("trace_clear") is True
    assert server.call("trace_disable_tpoint_group", {"name": "all"}) is True
    assert server.call("trace_get_info")["tpoint_group_mask"] == "0x0"


def test_notifications_are_kept_for_clients_that_ask(server):
    with pytest.raises(ValueError, match="register_type"):
        notify.send("bdev_added", "a")
    notify.register_type("bdev_added")
    notify.register_type("bdev_added")
    assert "bdev_added" in server.call("notify_get_types")
    first = notify.send("bdev_added", "a")
    for number in range(1100):
        notify.send("bdev_added", str(number))
    kept = server.call("notify_get_notifications")
    assert (len(kept), kept[-1]["id"] - first) == (1024, 1100)
    assert server.call("notify_get_notifications", {"id": kept[-1]["id"]}) == [kept[-1]]
    assert server.call("notify_get_notifications", {"id": 0, "max": 2}) == kept[:2]
    for wrong in ("", "x" * 128):
        with pytest.raises(ValueError, match="type"):
            notify.register_type(wrong)


def test_options_of_sockets_are_set_before_the_start(starting):
    options = starting.call("sock_impl_get_options", {"impl_name": "epoll"})
    assert set(options) == {
        "recv_buf_size",
        "send_buf_size",
        "enable_recv_pipe",
        "enable_quickack",
        "enable_placement_id",
        "enable_zerocopy_send_server",
        "enable_zerocopy_send_client",
        "zerocopy_threshold",
        "tls_version",
        "enable_ktls",
    }
    assert starting.call("sock_impl_set_options", {"impl_name": "epoll", "recv_buf_size": 8192}) is True
    assert starting.call("sock_impl_get_options", {"impl_name": "epoll"})["recv_buf_size"] == 8192
    assert refused(starting, "sock_impl_set_options", {"impl_name": "epoll", "enable_ktls": True}) == -32603
    assert refused(starting, "sock_impl_get_options", {"impl_name": "uring"}) == -32602
    assert starting.call("sock_set_default_impl", {"impl_name": "epoll"}) is True
    assert starting.call("sock_get_default_impl") == {"impl_name": "epoll"}


def test_options_of_buffers_are_checked(starting):
    assert starting.call("iobuf_set_options", {"small_pool_count": 128, "large_bufsize": 65536}) is True
    assert starting.startup.options["iobuf_set_options"] == {"small_count": 128, "large_size": 65536}
    assert refused(starting, "iobuf_set_options", {"enable_numa": True}) < 0
    assert refused(starting, "iobuf_set_options", {"small_pool_count": 0}) < 0


class FixedGovernor(Governor):
    """Two rates, one of them."""

    name = "fixed"

    def available_khz(self, core):
        return (3_000_000, 1_000_000)

    def current_khz(self, core):
        return 1_000_000

    def set_khz(self, core, khz):
        return False

    def capabilities(self, core):
        return Capabilities(1_000_000, 3_000_000, False)

    def close(self):
        pass


def test_a_governor_is_shown(server):
    assert server.call("framework_get_governor") == {}
    with ReactorGroup([CORE], lib=server.lib):
        (before,) = server.call("framework_get_reactors")["reactors"]
        server.governor = FixedGovernor()
        answer = server.call("framework_get_governor")
        (reactor,) = server.call("framework_get_reactors")["reactors"]
        scheduler = server.call("framework_get_scheduler")
    assert "core_freq" not in before
    assert reactor["core_freq"] == 1000
    assert list(reactor)[-2:] == ["core_freq", "lw_threads"]
    assert scheduler["governor_name"] == "fixed"
    assert answer["governor_name"] == "fixed"
    assert answer["cores"] == [
        {"lcore_id": CORE, "available_frequencies": [3_000_000, 1_000_000], "current_frequency": 1_000_000}
    ]


def test_a_pool_of_buffers_is_shown_and_recreated_by_its_configuration(server, make_reactor):
    thread = make_reactor(lib=server.lib).start().create_thread("net")
    pool = IoBufPool(small_count=64, large_count=8, lib=server.lib)
    channel = thread.call(pool.channel, "nvmf").result(PATIENCE_S)
    (shown,) = server.call("iobuf_get_stats")
    assert (shown["module"], set(shown["small_pool"])) == ("nvmf", {"cache", "main", "retry", "cache_size"})
    assert {"subsystem": "iobuf", "depends_on": ["thread"]} in server.call("framework_get_subsystems")
    (request,) = server.call("framework_get_config", {"name": "iobuf"})
    assert request["method"] == "iobuf_set_options"
    assert request["params"] == {
        "small_pool_count": 64,
        "large_pool_count": 8,
        "small_bufsize": pool.small_size,
        "large_bufsize": pool.large_size,
    }
    thread.call(channel.close).result(PATIENCE_S)
    pool.close()
