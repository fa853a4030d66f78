"""``python -m spdkthread``."""

import csv
import errno
import io
import json
import os
import pty
import select
import subprocess
import sys
import time

import pytest
from support import PATIENCE_S, eventually

from spdkthread import IoDevice
from spdkthread.__main__ import COMMANDS, main
from spdkthread.bdev import device
from spdkthread.monitor.sampling import TABLES, Sampler
from spdkthread.monitor.top import lines_of, title
from spdkthread.rpc import Client, Server
from spdkthread.sock import sock


@pytest.fixture
def path(tmp_path, live_lib):
    path = str(tmp_path / "rpc.sock")
    with Server(path, lib=live_lib):
        yield path


def command(*arguments, **kw):
    return subprocess.run(
        [sys.executable, "-m", "spdkthread", *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
        **kw,
    )


def offered():
    done = command()
    assert done.returncode == 2
    return [name for name in COMMANDS if f"  {name} " in done.stdout]


def test_every_command_that_is_offered_explains_itself(capsys):
    names = offered()
    assert names == list(COMMANDS)
    for name in names:
        with pytest.raises(SystemExit) as ended:
            main([name, "--help"])
        assert ended.value.code == 0
        assert f"spdkthread {name}" in capsys.readouterr().out


def test_every_command_does_something(path, tmp_path):
    """A short run of each, by its name."""
    script = tmp_path / "script.py"
    script.write_text("print('the script ran')")
    disk = tmp_path / "disk"
    disk.write_bytes(bytes(1 << 16))
    trace = tmp_path / "trace.json"
    runs = {
        "info": ([], "spdkthread"),
        "run": ([script], "the script ran"),
        "top": (["-s", path, "-i", "0.05"], "poller"),
        "rpc": (["-s", path, "rpc_get_methods"], "thread_get_stats"),
        "trace": (["-o", trace, script], "the script ran"),
        "perf": (["event_perf", "-t", "0.05"], "event"),
        "bdevperf": (["-t", "0.05", disk], "IOPS"),
    }
    assert runs.keys() == COMMANDS.keys()
    for name, (arguments, expected) in runs.items():
        done = command(name, *map(str, arguments))
        assert (done.returncode, name) == (0, name), done.stderr
        assert expected in done.stdout
    assert json.loads(trace.read_text())["traceEvents"]


def test_what_is_no_command_is_named(capsys):
    assert main(["dance"]) == 2
    assert "dance" in capsys.readouterr().err
    assert main(["--version"]) == 0


def test_info_says_what_a_report_needs(capsys):
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert {"spdkthread", "python", "gil", "cores", "io_uring", "backends"} <= facts.keys()
    assert main(["info"]) == 0
    assert "io uring" in capsys.readouterr().out


def test_info_says_how_files_are_reached_and_why(capsys):
    device._refuse_uring(errno.EPERM)
    try:
        assert main(["info", "--json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert facts["io_uring"] == "refused: EPERM"
        assert facts["backends"]["files"] == "threads (io_uring was refused: EPERM)"
    finally:
        device._refuse_uring(0)
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["io_uring"] == "available") == (facts["backends"]["files"] == "io_uring")


def test_info_names_the_backends_of_sockets(capsys):
    sock._refuse_uring(errno.EPERM)
    try:
        assert main(["info", "--json"]) == 0
        refused = json.loads(capsys.readouterr().out)["backends"]
        assert refused["sockets"] == f"{refused['descriptors']} (io_uring was refused: EPERM)"
    finally:
        sock._refuse_uring(0)
    assert main(["info", "--json"]) == 0
    backends = json.loads(capsys.readouterr().out)["backends"]
    assert (backends["sockets"] == f"{backends['descriptors']}, io_uring") == (sock.uring_refusal() is None)


def test_rpc_calls_a_method(path, reactor, capsys):
    thread = reactor.create_thread("net")
    assert main(["rpc", "-s", path, "thread_get_stats"]) == 0
    assert json.loads(capsys.readouterr().out)["threads"][0]["name"] == "net"
    for params in ([json.dumps({"id": thread.id})], [f"id={thread.id}"]):
        assert main(["rpc", "-s", path, "spdkthread_get_exit_blockers", *params]) == 0
        assert json.loads(capsys.readouterr().out)[0]["name"] == "net"
    assert main(["rpc", "-s", path, "dance"]) == 1
    assert "Method not found" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(["rpc", "-s", path, "dance", "what"])


def test_a_server_that_is_not_there_is_named(tmp_path, capsys):
    for name in (["top"], ["rpc", "rpc_get_methods"]):
        assert main([name[0], "-s", str(tmp_path / "nothing"), *name[1:]]) == 1
        assert "nothing" in capsys.readouterr().err


def test_top_prints_tables_that_fit_into_80_columns(path, reactor):
    thread = reactor.create_thread("a thread whose name is longer than any column")
    poller = thread.call(
        lambda: thread.register_poller(lambda: 0, 1000, name="a poller whose name is longer than any column")
    ).result(PATIENCE_S)
    done = command("top", "-s", path, "-i", "0.05", env={**os.environ, "COLUMNS": "80"})
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("a thread") for line in lines)
    assert any(line.startswith("a poller") for line in lines)
    with Client(path) as client:
        sample = Sampler(client).look()
    for width in (20, 60, 80, 200):
        for table in TABLES:
            assert max(map(len, lines_of(table, getattr(sample, table), width))) <= width
        assert len(title(sample, width)) <= width
    thread.call(poller.unregister).result(PATIENCE_S)


def test_top_prints_json_and_csv(path, reactor, capsys):
    reactor.create_thread('a "quoted", name')
    assert main(["top", "-s", path, "-i", "0.05", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert [row["thread"] for row in shown["threads"]] == ['a "quoted", name']
    for table, columns in TABLES.items():
        assert main(["top", "-s", path, "--total", "--csv", table]) == 0
        rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
        assert len(rows) == len(shown[table])
        assert all(tuple(row) == columns for row in rows)


def test_top_works_with_a_server_that_has_spdks_methods_only(tmp_path, live_lib, reactor, capsys):
    reactor.create_thread("net")
    path = str(tmp_path / "spdk.sock")
    allowed = ["framework_get_reactors", "thread_get_stats", "thread_get_pollers", "framework_get_scheduler"]
    with Server(path, lib=live_lib, allowed=allowed):
        assert main(["top", "-s", path, "-i", "0.05", "--once"]) == 0
    assert "net" in capsys.readouterr().out


def test_top_shows_the_channels_and_whose_they_are(path, live_lib, reactor, capsys):
    device = IoDevice("disk", lib=live_lib).register()
    thread = reactor.create_thread("net")
    channel = thread.call(device.get_io_channel).result(PATIENCE_S)
    assert main(["top", "-s", path, "--total", "--json"]) == 0
    (row,) = json.loads(capsys.readouterr().out)["channels"]
    assert row == {"channel": "disk", "thread": "net", "core": reactor.core, "references": 1}
    assert main(["top", "-s", path, "--total", "--once"]) == 0
    assert "Channel of" in capsys.readouterr().out
    thread.call(channel.put).result(PATIENCE_S)
    device.unregister().result(PATIENCE_S)


def test_control_characters_of_a_name_do_not_reach_the_terminal(path, live_lib, capsys):
    live_lib.create_thread("bad\x1b[2Jname")
    assert main(["top", "-s", path, "--total", "--once"]) == 0
    assert "\x1b" not in capsys.readouterr().out


def read_until(fd, wanted):
    seen = ""
    give_up = time.monotonic() + PATIENCE_S
    while wanted not in seen:
        assert time.monotonic() < give_up, seen
        if select.select([fd], [], [], 0.1)[0]:
            seen += os.read(fd, 65536).decode(errors="replace")
    return seen


def test_top_follows_keys_in_a_terminal(path, reactor):
    reactor.create_thread("net")
    ours, theirs = pty.openpty()
    top = subprocess.Popen(
        [sys.executable, "-m", "spdkthread", "top", "-s", path, "-i", "0.2"],
        stdin=theirs,
        stdout=theirs,
        close_fds=True,
    )
    os.close(theirs)
    try:
        read_until(ours, "Thread")
        for key, wanted in (
            (b"2", "Poller"),
            (b"3", "Reactor"),
            (b"1", "Thread"),
            (b"h", "this help"),
            (b"x", "sorted by"),
            (b"\r", "Busy %"),
            (b"x", "sorted by"),
            (b"s", "sorted by Busy %"),
            (b"c", "sorted by Active"),
            (b"C", "Busy %"),
            (b"4", "Channel of"),
            (b"g", "scheduler_period"),
            (b"x", "sorted by Channel of"),
            (b"1", "Thread"),
            (b"t", "since the start"),
            (b"\x1b[B\x1b[A2\r", "nothing there"),
        ):
            os.write(ours, key)
            read_until(ours, wanted)
        os.write(ours, b"q")
        read_until(ours, "\x1b[?1049l")
        assert top.wait(PATIENCE_S) == 0
    finally:
        top.kill()
        top.wait()
        os.close(ours)


SCRIPT = """
import os, sys
from spdkthread import Reactor
from spdkthread.rpc import Client
with Reactor() as reactor:
    print(reactor.core, reactor.idle, sys.argv[1:], __name__)
    if "SPDKTHREAD_RPC_SOCKET" in os.environ:
        print(len(Client(os.environ["SPDKTHREAD_RPC_SOCKET"]).call("framework_get_reactors")["reactors"]))
"""


def test_run_gives_a_script_its_cores_its_idle_mode_and_its_server(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    core = max(os.sched_getaffinity(0))
    done = command(
        "run", "--cores", str(core), "--idle", "yield", "--rpc", str(tmp_path / "run.sock"), str(script), "-x", "y"
    )
    assert done.stdout.splitlines() == [f"{core} yield ['-x', 'y'] __main__", "1"], done.stderr
    assert command("run", str(script)).stdout.splitlines()[0].split()[1] == "adaptive"
    traced = tmp_path / "run.json"
    assert command("run", "--trace", str(traced), "--lock-cores", str(script)).returncode == 0
    assert "traceEvents" in json.loads(traced.read_text())
    assert command("run", "--cores", "4095", str(script)).returncode == 2
    assert command("run", str(tmp_path / "nothing.py")).returncode == 2


@pytest.mark.parametrize("what", ["event_perf", "reactor_perf", "poller_perf"])
def test_perf_counts(what, capsys):
    def counted():
        assert main(["perf", what, "-t", "0.1", "-q", "4", "-b", "3", "--json"]) == 0
        figures = json.loads(capsys.readouterr().out)
        assert figures["what"] == what
        return figures["per_second"] == sum(figures["per_core"].values()) > 0

    # A machine with other work may give the reactor no time for as long as that.
    eventually(counted)
