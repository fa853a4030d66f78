"""The application framework: from the options to the exit status."""

import json
import os
import signal
import subprocess
import sys
import threading
import time

import pytest
from support import PATIENCE_S, eventually

from spdkthread import IoBufPool, ReactorError, SpdkThreadError, get_thread
from spdkthread.app import (
    AppOptions,
    ConfigError,
    CoreClaims,
    CoreInUseError,
    current_app,
    load_config,
    parse_args,
    run,
)
from spdkthread.rpc import Client, RpcError

CORE = min(os.sched_getaffinity(0))


@pytest.fixture
def options(tmp_path):
    return AppOptions(cores=[CORE], lock_directory=str(tmp_path))


def test_main_runs_on_the_app_thread_and_stop_ends_it(options):
    seen = []

    def main(app):
        seen.append((get_thread() is app.app_thread, app.app_thread.name, current_app() is app, len(app.group)))
        app.stop()

    assert run(main, options) == 0
    assert seen == [(True, "app_thread", True, 1)]
    assert current_app() is None


def test_the_first_status_that_is_not_zero_is_the_result(options, caplog):
    def main(app):
        for status in (0, 3, 5):
            app.stop(status)

    assert run(main, options) == 3
    assert len([one for one in caplog.records if "is being stopped already" in one.getMessage()]) == 2


def test_it_can_be_run_again(options):
    for status in (1, 2):
        assert run(lambda app, status=status: app.stop(status), options) == status


def test_an_exception_that_leaves_main_stops_it_with_status_1(options, caplog):
    def main(app):
        raise LookupError("no such disk")

    assert run(main, options) == 1
    assert any(one.exc_info and "no such disk" in str(one.exc_info[1]) for one in caplog.records)


def test_main_may_be_a_coroutine_function(options):
    ran = []

    async def main(app):
        ran.append(get_thread() is app.app_thread)
        app.stop(4)

    assert run(main, options) == 4
    assert ran == [True]

    async def failing(app):
        raise LookupError("no such disk")

    assert run(failing, options) == 1


def test_two_at_once_are_refused(options):
    refused = []

    def main(app):
        def again():
            try:
                run(lambda app: None, options)
            except SpdkThreadError as error:
                refused.append(str(error))
            app.stop()

        threading.Thread(target=again).start()

    assert run(main, options) == 0
    assert "one application at a time" in refused[0]


def test_its_cores_are_claimed_while_it_runs(options, tmp_path):
    files = []

    def main(app):
        files.append(sorted(os.listdir(tmp_path)))
        with pytest.raises(CoreInUseError, match=f"core {CORE} is claimed by this process"):
            CoreClaims([CORE], directory=str(tmp_path))
        app.stop()

    assert run(main, options) == 0
    assert files == [[f"spdk_cpu_lock_{CORE:03d}"]]
    assert os.listdir(tmp_path) == []


def test_a_core_that_another_process_has_is_refused_with_its_number(options, tmp_path):
    other = subprocess.Popen(
        [
            sys.executable,
            "-c",
            f"from spdkthread.app import CoreClaims; held = CoreClaims([{CORE}], directory={str(tmp_path)!r}); "
            "print('held', flush=True); input()",
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(CoreInUseError, match=rf"core {CORE} is claimed by process {other.pid}\b"):
            run(lambda app: app.stop(), options)
    finally:
        other.communicate("\n", timeout=PATIENCE_S)
    # What a process has left behind claims nothing.
    (tmp_path / f"spdk_cpu_lock_{CORE:03d}").write_bytes(b"\1\0\0\0")
    assert run(lambda app: app.stop(), options) == 0


def test_none_is_claimed_when_one_is_taken(tmp_path):
    where = str(tmp_path)
    with CoreClaims("7", directory=where), pytest.raises(CoreInUseError):
        CoreClaims("5-8", directory=where)
    with CoreClaims("5-8", directory=where) as claims:
        assert claims.is_claimed
        claims.release()
        assert not claims.is_claimed
        claims.claim()
    assert os.listdir(where) == []


def test_the_child_of_a_fork_claims_nothing(tmp_path):
    where = str(tmp_path)
    with CoreClaims("3", directory=where) as claims:
        child = os.fork()
        if not child:
            status = 1
            try:
                claims.release()
                status = 2 * claims.is_claimed + 4 * (os.listdir(where) == [])
            finally:
                os._exit(status)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert claims.is_claimed
        assert os.listdir(where) == ["spdk_cpu_lock_003"]


def in_a_process(body, tmp_path, ready=True):
    """A process whose main thread runs an application."""
    script = tmp_path / "program.py"
    script.write_text(body)
    process = subprocess.Popen(
        [sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=tmp_path
    )
    if ready:
        assert process.stdout.readline() == "ready\n"
    return process


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_it(number, tmp_path):
    process = in_a_process(
        f"""
import sys
from spdkthread.app import run
sys.exit(run(lambda app: print("ready", flush=True), cores=[{CORE}], lock_directory={str(tmp_path)!r}))
""",
        tmp_path,
    )
    process.send_signal(number)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (0, "", "")


def test_a_shutdown_function_decides_what_a_signal_does(tmp_path):
    process = in_a_process(
        f"""
import sys
from spdkthread import get_thread
from spdkthread.app import run
def shutdown(app):
    print("on", get_thread().name, flush=True)
    app.app_thread.call_later(1000, app.stop, 7)
sys.exit(run(lambda app: print("ready", flush=True), cores=[{CORE}], shutdown=shutdown,
             lock_directory={str(tmp_path)!r}))
""",
        tmp_path,
    )
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (7, "on app_thread\n", "")


def test_a_core_that_the_process_may_not_use_is_an_error(options):
    with pytest.raises(ReactorError):
        run(lambda app: app.stop(), options, cores=[4095])


def test_a_configuration_is_replayed_before_and_after_the_start(options):
    config = {
        "subsystems": [
            {"subsystem": "iobuf", "config": [{"method": "iobuf_set_options", "params": {"small_pool_count": 96}}]},
            {"subsystem": "sock", "config": None},
            {
                "subsystem": "scheduler",
                "config": [
                    {"method": "framework_set_scheduler", "params": {"name": "dynamic", "period": 5000000}},
                    {"method": "framework_monitor_context_switch", "params": {"enabled": True}},
                ],
            },
        ]
    }
    seen = {}

    def main(app):
        def ask():
            seen.update(app.server.call("framework_get_scheduler"))
            seen.update(app.server.call("framework_monitor_context_switch"))
            seen["small"] = app.iobuf_pool.small_count
            seen["config"] = app.server.call("framework_get_config", {"name": "iobuf"})
            app.stop()

        threading.Thread(target=ask).start()

    assert run(main, options, config=config) == 0
    assert (seen["scheduler_name"], seen["scheduler_period"], seen["enabled"], seen["small"]) == (
        "dynamic",
        5000000,
        True,
        96,
    )
    assert seen["config"][0]["params"]["small_pool_count"] == 96


def test_a_configuration_in_a_file(options, tmp_path):
    path = tmp_path / "app.json"
    path.write_text(json.dumps({"subsystems": [{"subsystem": "x", "config": [{"method": "no_such_method"}]}]}))
    with pytest.raises(ConfigError, match=r"no_such_method of subsystem 'x'.*Method not found"):
        run(lambda app: app.stop(), options, config=str(path), lock_cores=False)
    path.write_text("{")
    with pytest.raises(ConfigError, match="is no JSON"):
        load_config(path)
    for wrong in ({}, {"subsystems": [{"config": []}, 7]}, {"subsystems": [{"subsystem": "x", "config": [{}]}]}):
        with pytest.raises(ConfigError, match="must be"):
            load_config(wrong)


def test_it_waits_for_rpc_when_asked(options, tmp_path):
    path = str(tmp_path / "app.sock")
    ended = []

    def program():
        ended.append(run(lambda app: app.stop(6), options, rpc=path, wait_for_rpc=True))

    runner = threading.Thread(target=program)
    runner.start()
    eventually(lambda: os.path.exists(path))
    with Client(path) as client, Client(path) as waiting:
        with pytest.raises(RpcError, match="after framework is initialized"):
            client.call("thread_get_stats")
        assert "thread_get_stats" not in client.call("rpc_get_methods", {"current": True})
        assert client.call("scheduler_set_options", {"scheduling_core": CORE}) is True
        with pytest.raises(RpcError, match="cannot be isolated"):
            client.call("scheduler_set_options", {"isolated_core_mask": hex(1 << CORE)})
        answers = []
        waiter = threading.Thread(target=lambda: answers.append(waiting.call("framework_wait_init")))
        waiter.start()
        assert client.call("framework_start_init") is True
        waiter.join(PATIENCE_S)
        assert answers == [True]
    runner.join(PATIENCE_S)
    assert ended == [6]


def test_a_wait_for_rpc_ends_with_a_signal(tmp_path):
    path = str(tmp_path / "app.sock")
    process = in_a_process(
        f"""
import sys
from spdkthread.app import run
sys.exit(run(print, cores=[{CORE}], rpc={path!r}, wait_for_rpc=True, lock_directory={str(tmp_path)!r}))
""",
        tmp_path,
        ready=False,
    )
    give_up = time.monotonic() + PATIENCE_S
    while not os.path.exists(path) and time.monotonic() < give_up:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (0, "", "")
    assert not os.path.exists(path)


def test_a_trace_is_written_at_the_end(options, tmp_path):
    path = tmp_path / "x.json"
    assert run(lambda app: app.stop(), options, trace=str(path)) == 0
    assert any(one["name"] == "park" or one["ph"] == "X" for one in json.loads(path.read_text())["traceEvents"])


def test_the_iobuf_pool_is_the_application_s(options):
    pools = []

    def main(app):
        pools.append(app.iobuf_pool)
        assert app.iobuf_pool is pools[0]
        app.stop()

    assert run(main, options) == 0
    assert isinstance(pools[0], IoBufPool)


def test_the_command_line_makes_the_options(capsys):
    options, found = parse_args(
        ["-m", "0-1", "-r", "/tmp/a.sock", "--rpcs-allowed", "thread_get_stats,spdk_kill_instance", "--idle", "poll"]
    )
    assert (options.cores, options.rpc, options.idle, options.lock_cores) == ("0-1", "/tmp/a.sock", "poll", True)
    assert options.rpcs_allowed == ["thread_get_stats", "spdk_kill_instance"]
    assert found.wait_for_rpc is False
    for wrong in (["-m", "zero"], ["--wait-for-rpc"], ["--no-such-option"]):
        with pytest.raises(SystemExit) as ended:
            parse_args(wrong)
        assert ended.value.code == 2
    assert "nothing could end the wait" in capsys.readouterr().err
