"""The stages of ``python -m verify``, in their order. Each returns figures, or raises `Failed` or `NotRun`."""

import os
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from verify import flavours
from verify.running import Failed, NotRun, Run, add, figures_of, pytest_counts, python

FREE_THREADED = bool(sysconfig.get_config_var("Py_GIL_DISABLED"))

PYTEST = ["-m", "pytest", "-q", "-p", "no:cacheprovider"]
MODELS = ["tests/long", "-m", "state_machine"]
# Under a sanitizer everything is slow: in the short form only what races, or frees, most. The folders spare it the import
# of everything else.
RACES = ["tests/core", "tests/devices", "tests/reactor", "tests/bdev", "tests/sock"]
# What claims thread safety in its docstring, run by several OS threads at once.
PARALLEL = ["tests/parallel"]


@dataclass(frozen=True)
class Stage:
    name: str
    check: Callable[[Run], dict]


def repeat(run: Run, share: float, once: Callable[[int, float], dict], at_least: int = 1) -> dict:
    """Call ``once(seed, seconds left)`` until the share of the time is used up; the sum of the figures."""
    end = time.monotonic() + run.seconds(share)
    total: dict = {"runs": 0}
    while total["runs"] < at_least or time.monotonic() < end:
        add(total, once(run.seed + total["runs"], max(1.0, end - time.monotonic())))
        total["runs"] += 1
    return total | {"first seed": run.seed}


def module(run: Run, name: str, *arguments, **options) -> dict:
    """The figures of ``python -m verify.name arguments``."""
    return figures_of(python(["-m", f"verify.{name}", *map(str, arguments)], run.log, **options))


def limit(seconds: float) -> float:
    """A process that ought to take so long is ended after this: the machine may be busy with other things."""
    return 300 + 10 * seconds


def protocol_model(run: Run) -> dict:
    """The sleep and wake protocol, exhaustively, where it is modelled."""
    script = flavours.TREE / "verify" / "model.sh"
    if not script.exists():
        raise NotRun("verify/model.sh is not there")
    command = ["bash", str(script), *([] if run.long else ["--quick"])]
    done = subprocess.run(command, cwd=flavours.TREE, capture_output=True, text=True, timeout=1800)
    with run.log.open("a") as file:
        file.write(f"\n$ {' '.join(command)}\n{done.stdout}{done.stderr}")
    if done.returncode == 77:
        raise NotRun(done.stderr.strip()[-500:] or "the model checker is not here")
    if done.returncode:
        raise Failed(f"{script} ended with {done.returncode}\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    try:
        return figures_of(done.stdout)
    except Failed:
        return {"checked": "wakeup.pml"}


def state_machines(run: Run) -> dict:
    """Hypothesis state machines against plain models, each round with another seed."""

    def once(seed, seconds):
        examples = 300 if run.long else 30
        environment = dict(os.environ, SPDKTHREAD_EXAMPLES=str(examples))
        options = ["--hypothesis-profile=search", f"--hypothesis-seed={seed}", "-o", "timeout=1200"]
        counts = pytest_counts(python([*PYTEST, *options, *MODELS], run.log, environment=environment, timeout_s=3600))
        return counts | {"programs at most": 5 * examples}

    return repeat(run, 0.08, once)


def nothing_lost(run: Run) -> dict:
    """Order and count of native and Python messages, with sleeps, moves and full rings on the way."""
    flavours.build("plain")

    def once(seed, seconds):
        parts = [part for name in ("ring", "native", "python") for part in ("--part", name)]
        seconds = min(seconds, 60)
        each = 500_000 if run.long else 50_000
        return module(
            run, "nothing_lost", "--seconds", seconds, "--seed", seed, "--each", each, *parts, timeout_s=limit(seconds)
        )

    return repeat(run, 0.16, once)


def stop_under_load(run: Run) -> dict:
    """Stops while senders send: accepted = run + reported."""
    flavours.build("plain")

    def once(seed, seconds):
        seconds = min(seconds, 30)
        count = ["--stops", 250] if run.long else []
        return module(
            run, "nothing_lost", "--seconds", seconds, "--seed", seed, "--part", "stop", *count, timeout_s=1800
        )

    return repeat(run, 0.04, once, at_least=4 if run.long else 1)


def soak(run: Run) -> dict:
    """Memory, references, descriptors and native blocks flat; cycles collected."""
    seconds = max(5.0, run.seconds(0.08))
    return module(run, "soak", "--seconds", seconds, "--seed", run.seed, timeout_s=limit(seconds))


def interpreter_exit(run: Run) -> dict:
    """Programs that end with reactors at work: no crash, no hang, nothing printed."""
    count = 1000 if run.long else 24
    return module(run, "exits", "--count", count, "--seed", run.seed, timeout_s=3600)


def faults(run: Run) -> dict:
    """Every allocation fails in turn; then limits, signals and misbehaving callbacks, all under AddressSanitizer."""
    tree, environment = address(run)
    figures = module(run, "faults", "--seed", run.seed, cwd=tree, environment=environment, timeout_s=3600)
    tests = ["tests/core", "tests/reactor", "tests/bdev", "-m", "faults"]
    output = python([*PYTEST, "-o", "timeout=600", *tests], run.log, cwd=tree, environment=environment, timeout_s=3600)
    return figures | pytest_counts(output)


def fuzz(run: Run) -> dict:
    """Random programs of valid and invalid calls."""
    seconds = run.seconds(0.10)
    return module(run, "fuzz", "--seconds", max(8, seconds), "--seed", 1000 * run.seed, timeout_s=limit(seconds) + 200)


def sanitized_suite(run: Run, tree: Path, environment: dict, without: str = "no_sanitizer") -> dict:
    """The suite without the tests that have one of the markers `without`; in the short form those of `races`."""
    chosen = ["tests", "-m", f"not ({without})"] if run.long else [*RACES, "-m", f"races and not ({without})"]
    options = ["-o", "timeout=900", "-W", "ignore::pytest.PytestUnraisableExceptionWarning"]
    if not run.long:
        # The tests' own count took most of the stage's time, and more than its limit on a slow machine.
        environment = environment | {"SPDKTHREAD_SLEEPS": "5000"}
    output = python([*PYTEST, *options, *chosen], run.log, cwd=tree, environment=environment, timeout_s=7200)
    return pytest_counts(output)


def thread_sanitizer(run: Run) -> dict:
    """The suite, and native senders without the GIL, with every race that is seen a failure."""
    tree = flavours.build("thread")
    environment = flavours.environment("thread")
    if not environment["LD_PRELOAD"]:
        raise NotRun("the compiler has no ThreadSanitizer")
    seconds = max(6, run.seconds(0.06))
    for old in flavours.race_reports(environment):
        old.unlink()
    failure = None
    try:
        figures = under_thread_sanitizer(run, seconds, tree, environment)
    except Failed as other:
        figures, failure = other.figures, other
    # Also what a test swallowed, and what a process found that a test started.
    reports = [path.read_text() for path in flavours.race_reports(environment)]
    races = [text for text in reports if "WARNING: ThreadSanitizer" in text]
    if races:
        raise Failed(f"{len(races)} processes reported races, the first:\n{races[0][:6000]}", figures) from failure
    if failure:
        raise failure
    return figures | {"races": 0}


def under_thread_sanitizer(run: Run, seconds: float, tree: Path, environment: dict) -> dict:
    arguments = ["--seconds", seconds, "--seed", run.seed, "--each", 20_000]
    options = {"cwd": tree, "environment": environment, "timeout_s": limit(seconds) + 900}
    if FREE_THREADED:
        # The interpreter orders its objects by atomics that ThreadSanitizer cannot see in it, and complains of them.
        return module(run, "nothing_lost", *arguments, "--part", "ring", **options) | {"suite": "not with the GIL off"}
    return module(run, "nothing_lost", *arguments, **options) | sanitized_suite(
        run, tree, environment, without="no_sanitizer or no_tsan"
    )


def broken_ordering(run: Run) -> dict:
    """A ring whose publishing store is relaxed: ThreadSanitizer has to complain."""
    flavours.build("thread")
    tree, environment = flavours.build("broken"), flavours.environment("broken")
    if not environment["LD_PRELOAD"]:
        raise NotRun("the compiler has no ThreadSanitizer")
    arguments = ["-m", "verify.nothing_lost", "--seconds", "4", "--part", "ring", "--each", "20000"]
    try:
        python(arguments, run.log, cwd=tree, environment=environment, timeout_s=900)
    except Failed as failure:
        reports = "".join(path.read_text() for path in flavours.race_reports(environment))
        if "WARNING: ThreadSanitizer: data race" not in reports or "ended with 66" not in str(failure):
            raise
        return {"races reported": reports.count("WARNING: ThreadSanitizer: data race")}
    finally:
        for path in flavours.race_reports(environment):
            path.unlink()
    raise Failed("ThreadSanitizer did not notice that the publishing store orders nothing")


def address(run: Run) -> tuple[Path, dict]:
    tree, environment = flavours.build("address"), flavours.environment("address")
    if not environment["LD_PRELOAD"]:
        raise NotRun("the compiler has no AddressSanitizer")
    return tree, environment


def address_sanitizer(run: Run) -> dict:
    """The suite, fuzzed programs, conversations and senders under AddressSanitizer and UndefinedBehaviorSanitizer."""
    tree, environment = address(run)
    seconds = max(5, run.seconds(0.04))
    figures = module(
        run, "nothing_lost", "--seconds", seconds, "--seed", run.seed, "--each", 20_000,
        cwd=tree, environment=environment, timeout_s=limit(seconds) + 900,
    )  # fmt: skip
    fuzzed = module(
        run, "fuzz", "--seconds", seconds, "--seed", 1000 * run.seed + 500,
        cwd=tree, environment=environment, timeout_s=limit(seconds) + 900,
    )  # fmt: skip
    storage = module(
        run, "storage", "--seconds", seconds, "--seed", run.seed,
        cwd=tree, environment=environment, timeout_s=limit(seconds) + 900,
    )  # fmt: skip
    network = module(
        run, "network", "--seconds", seconds, "--seed", run.seed, *([] if run.long else ["--without-native"]),
        cwd=tree, environment=environment, timeout_s=limit(seconds) + 900,
    )  # fmt: skip
    return figures | fuzzed | storage | network | sanitized_suite(run, tree, environment)


def free_threaded(run: Run) -> dict:
    """Everything in a free-threaded CPython, with the GIL off before and after the import."""
    interpreter, pythonpath = free_threaded_python(run)
    environment = dict(os.environ, PYTHONPATH=pythonpath)
    environment.pop("PYTHON_GIL", None)
    check = "import sys, spdkthread, spdkthread.aio, verify.native; assert not sys._is_gil_enabled(), 'the GIL is on'"
    options = {"interpreter": interpreter, "environment": environment}
    python(["-W", "error", "-c", check], run.log, **options)
    suite = ["tests"] if run.long else [*RACES, "-m", "races or gil_off"]
    figures = pytest_counts(python([*PYTEST, *suite, "-o", "timeout=600"], run.log, timeout_s=3600, **options))
    parallel = [
        *PYTEST,
        "-o",
        "timeout=900",
        "--parallel-threads=8",
        f"--iterations={20 if run.long else 3}",
        *PARALLEL,
    ]
    counts = pytest_counts(python(parallel, run.log, timeout_s=3600, **options))
    figures["passed in parallel"] = counts.get("passed", 0)
    seconds = max(6, run.seconds(0.05))
    stress = ["-m", "verify.nothing_lost", "--seconds", str(seconds), "--seed", str(run.seed)]
    figures |= figures_of(python(stress, run.log, timeout_s=limit(seconds), **options))
    fuzzed = ["-m", "verify.fuzz", "--seconds", str(seconds), "--seed", str(1000 * run.seed + 700)]
    return figures | figures_of(python(fuzzed, run.log, timeout_s=limit(seconds) + 200, **options))


def free_threaded_python(run: Run) -> tuple[str, str]:
    """A free-threaded interpreter with the library built for it, and the path for it."""
    if FREE_THREADED:
        flavours.build("plain")
        return sys.executable, ""
    script = flavours.TREE / "tools" / "free_threaded_python.sh"
    cache = os.environ.get("SPDKTHREAD_CACHE") or os.path.join(
        os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache"), "spdkthread"
    )
    if not run.long and not os.path.exists(os.path.join(cache, "python3.13t", "bin", "python3.13t")):
        raise NotRun("no free-threaded interpreter is here yet; the long form, or make test-free-threaded, builds one")
    found = subprocess.run(["bash", str(script)], capture_output=True, text=True, timeout=3600)
    if found.returncode:
        raise NotRun(f"no free-threaded interpreter can be had here:\n{found.stdout[-500:]}{found.stderr[-1500:]}")
    interpreter = found.stdout.splitlines()[-1]
    venv = flavours.TREE / ".venv-3.13t"
    make = ["make", "verify-deps", f"PYTHON={interpreter}", f"VENV={venv.name}"]
    done = subprocess.run(make, cwd=flavours.TREE, capture_output=True, text=True, timeout=3600)
    if done.returncode:
        raise Failed(f"{' '.join(make)} failed\n{done.stdout[-1500:]}{done.stderr[-1500:]}")
    inside = str(venv / "bin" / "python")
    flavours.build("plain", inside)
    return inside, ""


def coverage(run: Run) -> dict:
    """Lines and branches of the Cython code that the suite and the models run."""
    if not run.long:
        raise NotRun("takes minutes: in the long form only")
    if FREE_THREADED:
        raise NotRun("Cython's line tracing needs the GIL; see the report of another Python")
    tree = flavours.build("coverage")
    return module(run, "coverage", cwd=tree, environment=flavours.environment("coverage"), timeout_s=7200)


STAGES = [
    Stage("model", protocol_model),
    Stage("state machines", state_machines),
    Stage("nothing lost", nothing_lost),
    Stage("stop under load", stop_under_load),
    Stage("soak", soak),
    Stage("interpreter exit", interpreter_exit),
    Stage("fuzz", fuzz),
    Stage("thread sanitizer", thread_sanitizer),
    Stage("broken ordering", broken_ordering),
    Stage("address sanitizer", address_sanitizer),
    Stage("faults", faults),
    Stage("free-threaded", free_threaded),
    Stage("coverage", coverage),
]
