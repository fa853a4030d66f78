"""Lines and branches of the Cython code that the suite runs, by Cython.Coverage.

    python -m verify.coverage        in a build with SPDKTHREAD_COVERAGE=1

Prints the figures; what is not covered stands in ``uncovered.txt`` of that tree, by file and lines.

Cython traces lines, so coverage.py measures lines and, for branches, from which line to which other one a run went.
What it cannot know for compiled code is which branches are possible; a line that decides (``if``, ``while``, ``for``)
counts as two, and as many of them are covered as different lines were reached from it, at most two.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import coverage

TREE = Path(__file__).parent.parent
CONFIG = """[run]
plugins = Cython.Coverage
source = spdkthread
branch = true
parallel = true
concurrency = thread
data_file = {data}
disable_warnings = no-data-collected,module-not-measured
"""
DECIDES = re.compile(r"\s*(?:if|elif|while|for|async for)\b.*")


def ranges(lines):
    """``[1, 2, 3, 7]`` as ``1-3, 7``."""
    found, start, last = [], None, None
    for line in [*sorted(lines), None]:
        if last is not None and line != last + 1 if line is not None else last is not None:
            found.append(f"{start}-{last}" if last > start else f"{start}")
            start = None
        if start is None:
            start = line
        last = line
    return ", ".join(found)


def measure(tests):
    """Run `tests` under coverage: ``(report, steps, summary)``."""
    data = TREE / ".coverage"
    for old in TREE.glob(data.name + "*"):
        old.unlink()
    config = TREE / "coverage.ini"
    config.write_text(CONFIG.format(data=data))
    environment = dict(os.environ, COVERAGE_CORE="ctrace", PYTHONPATH=str(TREE))
    command = [sys.executable, "-m", "coverage"]
    run = [
        *command,
        "run",
        f"--rcfile={config}",
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        "-o",
        "timeout=180",
        "-o",
        "timeout_method=signal",
    ]
    done = subprocess.run([*run, *tests], cwd=TREE, env=environment, capture_output=True, text=True)
    last = (done.stdout.splitlines() or [""])[-1]
    summary = last.strip("= ") if "passed" in last else f"the tests ended with {done.returncode}"
    for arguments in (["combine", "-q"], ["json", "-q", "-i", "-o", "coverage.json"]):
        result = subprocess.run(
            [*command, arguments[0], f"--rcfile={config}", *arguments[1:]],
            cwd=TREE,
            env=environment,
            capture_output=True,
            text=True,
        )
        if result.returncode:
            sys.exit(f"{summary}\n{done.stdout[-3000:]}\n{result.stdout}{result.stderr}")
    steps = coverage.CoverageData(str(data))
    steps.read()
    return json.loads((TREE / "coverage.json").read_text()), steps, summary


def main():
    whole = ["tests", "-m", "not no_coverage"]
    report, steps, summary = measure(sys.argv[1:] or whole)
    if "passed" not in summary:
        sys.exit(f"no test passed: {summary}")
    lines = covered = branches = taken = 0
    by_file, uncovered = {}, []
    for name, file in sorted(report["files"].items()):
        source = (TREE / name).read_text().splitlines()
        executed, missing = set(file["executed_lines"]), set(file["missing_lines"])
        arcs = set(steps.arcs(str(TREE / name)) or ())
        here = decided = 0
        partly = []
        for number in sorted(executed | missing):
            if not DECIDES.match(source[number - 1]):
                continue
            here += 2
            ways = len({end for start, end in arcs if start == number})
            decided += min(2, ways)
            if number in executed and ways < 2:
                partly.append(number)
        lines += len(executed) + len(missing)
        covered += len(executed)
        branches += here
        taken += decided
        total = len(executed) + len(missing)
        by_file[name] = round(100 * len(executed) / total, 1) if total else 100.0
        if missing:
            uncovered.append(f"{name}: lines {ranges(missing)}")
        if partly:
            uncovered.append(f"{name}: one way only at {ranges(partly)}")
    (TREE / "uncovered.txt").write_text("\n".join(uncovered) + "\n")
    print(summary)
    print("\n".join(uncovered))
    figures = {
        "lines": lines,
        "lines %": round(100 * covered / lines, 1),
        "branches": branches,
        "branches %": round(100 * taken / branches, 1) if branches else 0.0,
        "summary": summary,
        "by file": by_file,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
