"""SPDK's own Python client, as its package installs it, against our server."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from spdk.rpc.client import JSONRPCClient, JSONRPCException
from support import PATIENCE_S

from spdkthread.rpc import Server

SPDK_RPC = Path(sys.executable).parent / "spdk-rpc"


@pytest.fixture
def path(tmp_path, live_lib):
    path = str(tmp_path / "rpc.sock")
    with Server(path, lib=live_lib):
        yield path


def spdk_rpc(path, *arguments, stdin=None):
    return subprocess.run(
        [SPDK_RPC, "-s", path, *arguments],
        input=stdin,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )


def test_spdks_client_calls_our_methods(path, reactor):
    thread = reactor.create_thread("net")
    with JSONRPCClient(path) as client:
        assert client.call("thread_get_stats")["threads"][0]["name"] == "net"
        assert client.call("framework_get_reactors")["reactors"][0]["lw_threads"][0]["id"] == thread.id
        with pytest.raises(JSONRPCException, match="Method not found"):
            client.call("bdev_get_bdevs")


def test_spdks_tool_prints_our_answers(path, reactor):
    thread = reactor.create_thread("net")
    done = spdk_rpc(path, "thread_get_stats")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["threads"][0]["name"] == "net"
    assert "thread_get_pollers" in json.loads(spdk_rpc(path, "rpc_get_methods").stdout)
    done = spdk_rpc(path, "thread_set_cpumask", "-i", str(thread.id), "-m", f"{1 << reactor.core:x}")
    assert done.returncode == 0, done.stderr
    done = spdk_rpc(path, "thread_set_cpumask", "-i", "999", "-m", "1")
    assert done.returncode == 1
    assert "Thread 999 does not exist" in done.stdout + done.stderr


def test_spdks_tool_runs_a_script_of_commands(path):
    done = spdk_rpc(path, stdin="spdk_get_version\nframework_get_subsystems\n")
    assert done.returncode == 0, done.stderr
    assert "spdkthread v" in done.stdout
    assert "scheduler" in done.stdout
