"""Run other projects' tests on `aio.EventLoop` and on the standard loop, and tell what fails on ours alone.

    python -m verify.foreign                     every suite in full
    python -m verify.foreign --quick             the modules of each that are about the loop
    python -m verify.foreign --only tornado      one; may be given again

Each suite has a virtual environment of its own under ``build/foreign``, and each of its two runs a process of its own.
The two differ in one environment variable, which says what loop is asyncio's default.

What fails on ours and not on the standard loop is run again on both, alone, so that a machine with too much to do is
not taken for a defect: it counts when it fails more often on ours.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

from verify import flavours
from verify.foreign.suites import PYTEST, SUITES, Suite

BUILD = flavours.TREE / "build" / "foreign"
INSIDE = Path(__file__).parent / "inside"
# One test, on a machine that has other things to do as well.
TEST_LIMIT_S = 60
# A run that crashed or hung goes on behind the test that did so; not for ever.
MOST_RESTARTS = 20
REPEATS = 3
STANDARD, OURS = "standard", "ours"


class Place:
    """Where a suite is installed and run."""

    def __init__(self, suite: Suite, source: Path | None):
        self.suite = suite
        self.source = source
        self.folder = BUILD / f"{suite.name}-{suite.version}-{sys.implementation.cache_tag}"
        self.python = self.folder / "venv" / "bin" / "python"
        self.log = self.folder / "log.txt"

    def prepare(self) -> None:
        """Install the suite, unless that has been done."""
        stamp = self.folder / "installed.json"
        wanted = json.dumps([self.suite.version, self.suite.needs, PYTEST])
        if not (stamp.exists() and stamp.read_text() == wanted):
            shutil.rmtree(self.folder, ignore_errors=True)
            self.folder.mkdir(parents=True)
            self.run(sys.executable, "-m", "venv", self.folder / "venv")
            package = f"{self.suite.name}=={self.suite.version}"
            self.pip("install", "--prefer-binary", package, *PYTEST, *self.suite.needs)
            if self.suite.from_sdist:
                self.pip("download", "--no-deps", "--no-binary", self.suite.name, "--dest", self.folder, package)
                self.unpack()
            stamp.write_text(wanted)
        if (
            not any("pytest" in file.read_text() for file in self.work.glob("*.toml"))
            and not (self.work / "pytest.ini").exists()
        ):
            # Without settings of its own it would be run with those of the tree that it lies in.
            (self.work / "pytest.ini").write_text("[pytest]\n")
        # Not the whole tree: a folder of tests is in it, as in most suites.
        site = self.folder / "site"
        site.mkdir(exist_ok=True)
        link = site / "spdkthread"
        link.unlink(missing_ok=True)
        link.symlink_to(flavours.TREE / "spdkthread")

    def run(self, *command) -> None:
        with self.log.open("a") as log:
            subprocess.run([str(part) for part in command], check=True, stdout=log, stderr=log)

    def pip(self, *arguments) -> None:
        self.run(self.python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments)

    def unpack(self) -> None:
        """The tests and the settings of pytest, and not the package, which is installed."""
        (archive,) = self.folder.glob("*.tar.gz")
        work = self.folder / "work"
        with tarfile.open(archive) as sdist:
            for member in sdist.getmembers():
                top, _, rest = member.name.partition("/")
                if rest.split("/")[0] in ("tests", "examples", "pyproject.toml", "pytest.ini", "setup.cfg", "tox.ini"):
                    member.name = rest
                    sdist.extract(member, work, filter="data")

    @property
    def work(self) -> Path:
        if self.source is not None:
            return self.source
        if self.suite.from_sdist:
            return self.folder / "work"
        return next((self.folder / "venv" / "lib").glob("python*/site-packages"))

    def environment(self, loop: str, results: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTEST_", "PYTHON"))}
        return {
            **kept,
            "PYTHONPATH": os.pathsep.join([str(INSIDE), str(self.folder / "site")]),
            "PYTHONFAULTHANDLER": "1",
            "PYTHONDONTWRITEBYTECODE": "1",
            "SPDKTHREAD_FOREIGN_LOOP": loop,
            "SPDKTHREAD_FOREIGN_SHIM": self.suite.shim,
            "SPDKTHREAD_FOREIGN_RESULTS": str(results),
            "SPDKTHREAD_FOREIGN_EXCLUDED": json.dumps([part for part, _ in self.suite.excluded]),
        }

    def outcomes(self, loop: str, tests: tuple[str, ...], name: str, patience: float) -> dict[str, tuple[str, str]]:
        """What each test came to: ``{id: (outcome, report)}``."""
        results = self.folder / f"results-{name}-{loop}.jsonl"
        results.unlink(missing_ok=True)
        end = time.monotonic() + self.suite.limit_s * patience
        command = [
            str(self.python), "-m", "pytest", "-o", "addopts=", "-o", f"timeout={TEST_LIMIT_S}",
            "-o", "timeout_method=signal", "-p", "foreign_results", "-p", "no:cacheprovider", "-q",
            "--continue-on-collection-errors",
            "--tb=short", f"--rootdir={self.work}", *self.suite.options, *tests,
        ]  # fmt: skip
        for _ in range(MOST_RESTARTS):
            code = self.one_run(command, self.environment(loop, results), max(end - time.monotonic(), 1))
            found = read(results)
            # 0 and 1: it came to its end; 5: there was nothing left to run; 2 to 4: it could not begin.
            if code in (0, 1, 5):
                return found
            unfinished = [test for test, outcome in found.items() if outcome[0] == "start"]
            for test in unfinished:
                line = [test, "failed", f"the process ended with {code} in it"]
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
            if not unfinished or time.monotonic() > end:
                break
        found = read(results)
        found["(the run)"] = ("failed", f"the process ended with {code}, see {self.log}")
        return found

    def one_run(self, command: list[str], environment: dict[str, str], limit_s: float) -> int | str:
        with self.log.open("a") as log:
            print(f"\n$ {environment['SPDKTHREAD_FOREIGN_LOOP']}: {' '.join(command)}", file=log, flush=True)
            process = subprocess.Popen(
                command, cwd=self.work, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True, preexec_fn=default_signals,
            )  # fmt: skip
            try:
                return process.wait(limit_s)
            except subprocess.TimeoutExpired:
                return f"its time limit of {limit_s:.0f} s"
            finally:
                try:
                    os.killpg(process.pid, signal.SIGKILL)  # what its tests have left running as well
                except ProcessLookupError:
                    pass
                process.wait()


def default_signals() -> None:
    """What is started in the background of a shell ignores these, and tests send them."""
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, signal.SIG_DFL)


def read(results: Path) -> dict[str, tuple[str, str]]:
    found = {}
    if results.exists():
        for line in results.read_text().splitlines():
            test, outcome, *report = json.loads(line)
            found[test] = (outcome, report[0] if report else "")
    return found


def failures(outcomes: dict[str, tuple[str, str]]) -> set[str]:
    return {test for test, (outcome, _) in outcomes.items() if outcome == "failed"}


def count(outcomes: dict[str, tuple[str, str]], outcome: str) -> int:
    return sum(one == outcome for one, _ in outcomes.values())


def compare(place: Place, quick: bool, patience: float) -> dict:
    """Both runs of a suite, and its row of the table."""
    tests = place.suite.quick if quick else place.suite.tests
    begin = time.monotonic()
    found = {loop: place.outcomes(loop, tests, "all", patience) for loop in (STANDARD, OURS)}
    suspects = failures(found[OURS]) - failures(found[STANDARD])
    # What did not come to run at all on ours is missing there, not passed.
    suspects |= {test for test in found[STANDARD] if test not in found[OURS]}
    row = {
        "suite": f"{place.suite.name} {place.suite.version}",
        "collected": len(found[STANDARD].keys() | found[OURS].keys()),
        **{
            f"{outcome} on {loop}": count(found[loop], outcome)
            for loop in (STANDARD, OURS)
            for outcome in ("passed", "failed")
        },
        "both": len(failures(found[OURS]) & failures(found[STANDARD])),
        "alone": {},
        "unsteady": {},
    }
    again = tuple(sorted(test for test in suspects if "::" in test))
    times = {test: [1, 0] for test in suspects}
    for repeat in range(REPEATS if again else 0):
        for index, loop in enumerate((OURS, STANDARD)):
            for test in failures(place.outcomes(loop, again, f"again-{repeat}", patience)):
                if test in times:
                    times[test][index] += 1
    for test, (ours, standard) in times.items():
        report = found[OURS].get(test, ("", "not run"))[1]
        steady = test not in again or ours - standard > 1
        row["alone" if steady else "unsteady"][test] = {"ours": ours, "standard": standard, "report": report}
    row["seconds"] = round(time.monotonic() - begin)
    return row


HEAD = (
    "suite",
    "collected",
    "standard: passed",
    "failed",
    "ours: passed",
    "failed",
    "on both",
    "unsteady",
    "ours alone",
    "s",
)


def table(rows: list[dict]) -> str:
    lines = [HEAD]
    for row in rows:
        lines.append(
            (
                row["suite"], row["collected"], row["passed on standard"], row["failed on standard"],
                row["passed on ours"], row["failed on ours"], row["both"], len(row["unsteady"]), len(row["alone"]),
                row["seconds"],
            )
        )  # fmt: skip
    widths = [max(len(str(line[column])) for line in lines) for column in range(len(HEAD))]
    return "\n".join(
        "  ".join(
            str(cell).ljust(width) if not column else str(cell).rjust(width)
            for column, (cell, width) in enumerate(zip(line, widths, strict=True))
        )
        for line in lines
    )


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m verify.foreign", description=__doc__.splitlines()[0])
    parser.add_argument("--only", action="append", choices=[suite.name for suite in SUITES], help="one suite")
    parser.add_argument("--quick", action="store_true", help="only the modules about the loop")
    parser.add_argument("--patience", type=float, default=1, help="factor of the time limits, for a busy machine")
    parser.add_argument(
        "--source", action="append", default=[], metavar="SUITE=FOLDER",
        help="take a suite's tests from a checkout of that version instead of its sdist",
    )  # fmt: skip
    options = parser.parse_args()
    sources = dict(source.split("=", 1) for source in options.source)
    rows, broken = [], []
    for suite in SUITES:
        if options.only and suite.name not in options.only:
            continue
        place = Place(suite, Path(sources[suite.name]).resolve() if suite.name in sources else None)
        print(f"{suite.name} {suite.version} ...", flush=True)
        try:
            place.prepare()
        except (OSError, subprocess.CalledProcessError, ValueError, tarfile.TarError) as error:
            broken.append(f"{suite.name} could not be installed: {error}; see {place.log}")
            continue
        rows.append(compare(place, options.quick, options.patience))
    BUILD.mkdir(parents=True, exist_ok=True)
    (BUILD / "report.json").write_text(json.dumps(rows, indent=1))
    for row in rows:
        for kind, meaning in (("unsteady", "now and then on ours"), ("alone", "ON OURS ALONE")):
            for test, one in sorted(row[kind].items()):
                print(
                    f"\n{row['suite']}: {test}\n  fails {meaning}: {one['ours']} of {REPEATS + 1} there, "
                    f"{one['standard']} on the standard loop\n"
                )
                if kind == "alone":
                    print("\n".join("    " + line for line in one["report"].splitlines()[-30:]))
    print("\n" + table(rows))
    for message in broken:
        print(message)
    none = [row["suite"] for row in rows if not row["passed on standard"]]
    for name in none:
        print(f"{name}: nothing passed on the standard loop")
    sys.exit(bool(broken or none or any(row["alone"] for row in rows)))


if __name__ == "__main__":
    main()
