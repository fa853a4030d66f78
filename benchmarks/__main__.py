"""``python -m benchmarks``: run all questions, or those named, each in a process of its own.

A question that fails or hangs takes no other with it, and no thread or memory of one is there when the next is
measured. They run one after the other, never side by side.
"""

from __future__ import annotations

import argparse
import faulthandler
import importlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

from . import build, environment, report
from .harness import Budget, Unavailable

HERE = Path(__file__).parent
# fmt: off
ORDER = (
    "native_message", "native_across", "native_senders", "native_pingpong",
    "python_message", "python_across", "python_senders", "python_stream", "send_many", "many_threads",
    "python_pingpong", "adaptive_pingpong", "shared_core", "message_latency",
    "poll_empty", "poller_run", "timers", "call_later", "timer_jitter", "fixed_rate",
    "channel", "for_each_thread", "for_each_channel", "reactor_turn", "wakeup", "idle_cost", "gil_sharing", "gil_hold",
    "future", "acall", "coroutine_switch",
    "loop_callbacks", "loop_pingpong", "loop_timers", "loop_echo", "loop_idle", "udp_feed", "resp",
    "bdev", "event_perf", "reactor_perf", "poller_perf", "memory", "import_time",
)
# fmt: on
TIMEOUT_S = {"smoke": 60, "quick": 120, "full": 900}


def questions() -> list[str]:
    """Return the names of the question files, in the order of reading."""
    found = {path.stem for path in HERE.glob("*.py") if "\nQUESTION = " in path.read_text(encoding="utf-8")}
    return [name for name in ORDER if name in found] + sorted(found.difference(ORDER))


def measure(name: str, mode: str) -> dict:
    """Run one question in this process."""
    module = importlib.import_module(f"benchmarks.{name}")
    environment.cores()  # before any thread is pinned
    facts = environment.describe()
    result = {"name": name, "question": module.QUESTION, "mode": mode, "rows": [], "facts": facts}
    facts["raw_line_ns"] = raw_line(mode)
    before, begin = environment.cpu_times(), time.monotonic()
    try:
        result["rows"] = [row.as_dict() for row in module.run(Budget.of(mode))]
    except (Unavailable, ImportError) as reason:
        result["error"] = str(reason)
    except Exception:
        result["error"] = traceback.format_exc()
        result["failed"] = True
    build.close_programs()  # whose time counts as ours only when they have ended
    facts.update(environment.cpu_shares(before, environment.cpu_times()))
    result["seconds"] = round(time.monotonic() - begin, 2)
    return result


def raw_line(mode: str) -> tuple[float, float] | None:
    trips = 2_000 if mode == "smoke" else 100_000
    try:
        with build.raw_line() as program:
            return program.ask("line", trips), program.ask("lines", trips)
    except Unavailable:
        return None


def measure_apart(name: str, mode: str) -> dict:
    """Run one question in a child process and return its result, or what became of it."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory, "result.json")
        command = [sys.executable, "-m", "benchmarks", "--mode", mode, "--one", name, str(path)]
        failure = ""
        try:
            # What a question starts finds the same spdkthread, wherever it is started.
            path_of_tree = os.pathsep.join(filter(None, [str(HERE.parent), os.environ.get("PYTHONPATH")]))
            environ = os.environ | {"PYTHONPATH": path_of_tree}
            child = subprocess.run(command, cwd=HERE.parent, env=environ, timeout=TIMEOUT_S[mode])
            if child.returncode:
                failure = f"ended with {child.returncode}"
        except subprocess.TimeoutExpired:
            failure = f"not done after {TIMEOUT_S[mode]} s"
        if not failure:
            return json.loads(path.read_text())
    return {
        "name": name,
        "question": "",
        "mode": mode,
        "rows": [],
        "facts": environment.describe(),
        "error": failure,
        "failed": True,
        "seconds": 0.0,
    }


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__.splitlines()[0])
    parser.add_argument("names", nargs="*", metavar="name", help="questions to run (default: all; see --list)")
    modes = parser.add_mutually_exclusive_group()
    modes.add_argument("--mode", choices=("full", "quick", "smoke"), default="full", help=argparse.SUPPRESS)
    modes.add_argument("--quick", dest="mode", action="store_const", const="quick", help="less time for each")
    modes.add_argument("--smoke", dest="mode", action="store_const", const="smoke", help="only check that they run")
    parser.add_argument("--list", action="store_true", help="list the questions and stop")
    parser.add_argument("--no-plots", action="store_true", help="write no PNG files")
    parser.add_argument("--output", type=Path, default=None, help="directory to write to (default: benchmarks/results)")
    parser.add_argument("--one", nargs=2, metavar=("NAME", "FILE"), help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.one:
        faulthandler.enable()
        # Before the parent gives up: says where the child hangs.
        faulthandler.dump_traceback_later(TIMEOUT_S[args.mode] - 5)
        name, path = args.one
        Path(path).write_text(json.dumps(measure(name, args.mode)))
        sys.stdout.flush()
        # Threads of a peer that does not end must not keep the result from being read.
        os._exit(0)
    names = questions()
    if args.list:
        for name in names:
            print(f"{name:18} {importlib.import_module(f'benchmarks.{name}').QUESTION}")
        return 0
    if unknown := set(args.names) - set(names):
        parser.error(f"no such question: {', '.join(sorted(unknown))} (see --list)")
    results = []
    wanted = args.names or names
    for number, name in enumerate(wanted, 1):
        if args.mode != "smoke":
            print(
                f"[{number} of {len(wanted)}] {name}: {importlib.import_module(f'benchmarks.{name}').QUESTION}",
                flush=True,
            )
        result = measure_apart(name, args.mode)
        results.append(result)
        if args.mode == "smoke":
            print(f"{name:18} {result['seconds']:6.1f} s  {result.get('error', 'ok').strip().splitlines()[-1]}")
        else:
            print(report.terminal(result, shutil.get_terminal_size((100, 24)).columns))
        sys.stdout.flush()
    # A smoke run has no figures worth keeping.
    if args.mode != "smoke" or args.output:
        paths = report.write(results, args.mode, args.output or HERE / "results", plots=not args.no_plots)
        print("written:", *(os.path.relpath(path) for path in paths))
    return 1 if any(result.get("failed") for result in results) else 0


if __name__ == "__main__":
    sys.exit(main())
