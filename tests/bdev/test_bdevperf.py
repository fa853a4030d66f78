"""The program `bdevperf`, and what it counts with."""

import errno
import json
import subprocess
import sys

import pytest
from support import PATIENCE_S

from spdkthread.bdev import device, perf
from spdkthread.bdev.histogram import Histogram
from spdkthread.bdev.job import WORKLOADS


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "disk"
    path.write_bytes(bytes(256 * 1024))
    return path


def measured(capsys, *argv):
    status = perf.main([*map(str, argv), "--json", "-t", "0.05"])
    captured = capsys.readouterr()
    assert captured.err == ""
    return status, json.loads(captured.out)


@pytest.mark.parametrize("callbacks", ["native", "python"])
@pytest.mark.parametrize("workload", WORKLOADS)
def test_every_workload(capsys, path, workload, callbacks):
    status, result = measured(capsys, "-w", workload, "-q", 4, "-o", "4k", "--callbacks", callbacks, path)
    assert (status, result["errors"]) == (0, 0)
    assert result["iops"] > 0
    assert result["mib_s"] == pytest.approx(result["iops"] / 256)
    latency = result["lat_us"]
    assert 0 < latency["p50"] <= latency["p99"] <= latency["p999"]
    assert latency["mean"] > 0
    counts = {"read": result["reads"], "write": result["writes"]}
    for what, other in (("read", "write"), ("write", "read")):
        if workload in (what, f"rand{what}"):
            assert counts[other] == 0
    assert workload != "verify" or counts["read"] == counts["write"]
    written = any(path.read_bytes())
    if workload != "randrw":  # which also writes what it has read
        assert written is (workload not in ("read", "randread"))


def test_direct_over_threads_on_several_cores(capsys, path):
    status, result = measured(capsys, "-d", "--backend", "threads", "--cores", "0,0", "-w", "randrw", "-M", 70, path)
    assert (status, result["backend"], result["direct"]) == (0, "threads", True)
    assert result["reads"] > 0


@pytest.mark.parametrize("callbacks", ["native", "python"])
def test_an_error_is_counted_and_the_status_says_so(capsys, path, callbacks):
    device._plan(-5)
    status, result = measured(capsys, "-w", "verify", "-q", 1, "--callbacks", callbacks, path)
    assert status == 1
    assert (result["errors"], result["first_error"]) == (1, "EIO")


@pytest.fixture
def faulty():
    """Have the system calls go wrong, again and again."""
    yield lambda *steps: device._plan(*steps, repeat=True)
    device._plan()


@pytest.mark.parametrize("backend", ["auto", "threads"])
@pytest.mark.parametrize("callbacks", ["native", "python"])
def test_short_transfers_and_interruptions_lose_nothing(capsys, path, faulty, callbacks, backend):
    faulty(0, 8, -errno.EINTR, 512, -errno.EAGAIN, 4095, 0, 1, -errno.ECANCELED, 3000, 0)
    status, result = measured(capsys, "-w", "verify", "-q", 8, "--callbacks", callbacks, "--backend", backend, path)
    assert (status, result["errors"]) == (0, 0)
    assert result["reads"] == result["writes"] > 0


@pytest.mark.parametrize("backend", ["auto", "threads"])
@pytest.mark.parametrize("callbacks", ["native", "python"])
def test_what_fails_is_counted_and_nothing_else_is_wrong(capsys, path, faulty, callbacks, backend):
    faulty(*[0] * 50, 100, -errno.EIO)
    status, result = measured(capsys, "-w", "verify", "-q", 8, "--callbacks", callbacks, "--backend", backend, path)
    assert (status, result["first_error"]) == (1, "EIO")
    # Each error is one of the plan: nothing that was written has been read otherwise.
    assert result["errors"] == device._plan_taken() // 52 > 0


def test_what_cannot_be_measured_is_said(capsys, tmp_path, path):
    assert perf.main(["-t", "0.05", str(tmp_path / "nowhere")]) == 1
    assert "nowhere" in capsys.readouterr().err
    path.write_bytes(b"short")
    assert perf.main(["-t", "0.05", str(path)]) == 1
    assert "less than a request" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        perf.main(["-q", "0", str(path)])


def test_it_runs_as_a_program_and_prints_a_table(path):
    result = subprocess.run(
        [sys.executable, "-m", "spdkthread.bdev.perf", "-t", "0.05", str(path)],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (result.returncode, result.stderr) == (0, "")
    assert "IOPS" in result.stdout
    assert "errors: 0" in result.stdout


def test_percentiles_are_within_a_sixty_fourth():
    histogram = Histogram()
    assert (histogram.percentile(50), histogram.mean, histogram.count) == (0.0, 0.0, 0)
    for value in range(1, 100_001):
        histogram.add(value)
    for percent in (1, 10, 50, 90, 99, 99.9, 100):
        assert histogram.percentile(percent) == pytest.approx(percent * 1000, rel=1 / 64)
    assert histogram.mean == 50_000.5
    other = Histogram()
    other.add(2**60)
    histogram.merge(other)
    assert histogram.count == 100_001
    assert histogram.percentile(50) == pytest.approx(50_000, rel=1 / 64)
