"""Instructions per message and per poll, counted by callgrind: the same on a busy machine as on a quiet one.

    python -m benchmarks.instructions            count and compare with ``instructions.json``
    python -m benchmarks.instructions --update   count and write the file

A time on a shared machine moves by half; an instruction count moves when the code does. Each count is the difference
of a long and a short stretch, so what surrounds the loop cancels.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

KNOWN = Path(__file__).parent / "instructions.json"
MARGIN = 0.10
SHORT, LONG = 4_000, 12_000


def nothing(arg) -> None:
    pass


def stretches() -> None:
    """Run each stretch; in the child, under callgrind."""
    from . import ours
    from .build import native_side

    native = native_side()
    native_thread = ours.one_driven_thread(64)
    python_thread = ours.one_driven_thread(64)
    poller_thread = ours.one_driven_thread(64)
    native.register_active_pollers(poller_thread, 1)
    work = {
        "native message, send + run": lambda count: native.messages_on_one_core(native_thread, count),
        "Python message, send + run": lambda count: native.python_messages(python_thread, nothing, count),
        "bare vectorcall": lambda count: native.bare_vectorcalls(nothing, count),
        "empty poll": lambda count: native.polls(native_thread, count),
        "active native poller": lambda count: native.polls(poller_thread, count),
    }
    for name, run in work.items():
        run(SHORT)
        for count in (SHORT, LONG):
            native.counted(f"{name}/{count}", run, count)


def key() -> str:
    """What a count depends on besides the code: the interpreter, the compiler, the processor's kind."""
    from .build import compiler

    gil = "t" if sysconfig.get_config_var("Py_GIL_DISABLED") else ""
    version = subprocess.run([*compiler(), "--version"], capture_output=True, text=True, check=True).stdout
    name = "clang" if "clang" in version else "gcc"
    major = re.search(r" (\d+)\.\d+", version)[1]
    return f"cpython-{sys.version_info.major}.{sys.version_info.minor}{gil}-{name}-{major}-{platform.machine()}"


def count() -> dict[str, float]:
    """Run the child and read its dumps."""
    from .build import native_side

    if not native_side().COUNTS:
        raise SystemExit("instructions: no valgrind/callgrind.h when the native side was compiled (Debian: valgrind)")
    totals: dict[str, dict[int, int]] = {}
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(
            ["valgrind", "--tool=callgrind", f"--callgrind-out-file={folder}/out", "--quiet"]
            + [sys.executable, "-m", "benchmarks.instructions", "--child"],
            check=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
        )
        for dump in Path(folder).iterdir():
            text = dump.read_text(errors="replace")
            stretch = re.search(r"^desc: Trigger: Client Request: (.*)/(\d+)$", text, re.M)
            total = re.search(r"^(?:summary|totals): (\d+)", text, re.M)
            if stretch and total:
                totals.setdefault(stretch[1], {})[int(stretch[2])] = int(total[1])
    return {name: round((sizes[LONG] - sizes[SHORT]) / (LONG - SHORT), 2) for name, sizes in sorted(totals.items())}


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.instructions", description=__doc__.splitlines()[0])
    parser.add_argument("--update", action="store_true", help="write the counts as the known ones")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        stretches()
        return 0
    if shutil.which("valgrind") is None:
        print("instructions: valgrind is not installed (Debian: apt install valgrind)", file=sys.stderr)
        return 1
    counted = count()
    known = json.loads(KNOWN.read_text()) if KNOWN.exists() else {}
    if options.update:
        known[key()] = counted
        KNOWN.write_text(json.dumps(known, indent=2, sort_keys=True) + "\n")
    before = known.get(key(), {})
    if not before:
        print(f"instructions: {KNOWN.name} knows nothing of {key()}: nothing is checked", file=sys.stderr)
    failed = False
    for name, instructions in counted.items():
        if name not in before:
            print(f"{name:30} {instructions:8.1f}   (not known for {key()})")
            continue
        change = instructions / before[name] - 1
        over = change > MARGIN
        failed |= over
        print(
            f"{name:30} {instructions:8.1f}   known {before[name]:8.1f}   {change:+.1%}{'   TOO MANY' if over else ''}"
        )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
