"""Builds of the library with something switched on, each in a copy of the tree below ``build/verify``."""

import fcntl
import os
import shutil
import subprocess
import sys
import sysconfig
import textwrap
from pathlib import Path

TREE = Path(__file__).parent.parent
ROOT = TREE / "build" / "verify"
COPIED = [
    "spdkthread",
    "tests",
    "examples",
    "benchmarks",
    "verify",
    "docs",
    "tools",
    "setup.py",
    "pyproject.toml",
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    "LICENSE",
]

FLAVOURS = {
    "plain": {"VERIFY_NATIVE_ONLY": "1"},  # in the tree itself, whose library `make build` has built
    "thread": {"SPDKTHREAD_SANITIZE": "thread"},
    # Only the senders and receivers of `native.pyx`, which compile the ring into themselves, are broken.
    "broken": {"SPDKTHREAD_SANITIZE": "thread", "SPDKTHREAD_BREAK_ORDERING": "1", "VERIFY_NATIVE_ONLY": "1"},
    "address": {"SPDKTHREAD_SANITIZE": "address,undefined", "SPDKTHREAD_FAULTS": "1"},
    "coverage": {"SPDKTHREAD_COVERAGE": "1", "SPDKTHREAD_CFLAGS": "-O0"},
}

# Compiled like setup.py compiles the library, into the copy's own tree.
SETUP_NATIVE = """
    import os, runpy, sys
    from Cython.Build import cythonize
    from setuptools import Extension
    import setuptools
    real = setuptools.setup
    def setup(ext_modules, **kw):
        one = ext_modules[0]
        for source in ("verify/native.pyx",):
            module = Extension("verify.native", [source], define_macros=one.define_macros,
                               extra_compile_args=one.extra_compile_args, extra_link_args=one.extra_link_args)
            directives = {"freethreading_compatible": True}
            native = cythonize([module], language_level=3, compiler_directives=directives, quiet=True)
        ext_modules = native if os.environ.get("VERIFY_NATIVE_ONLY") else ext_modules + native
        real(ext_modules=ext_modules, **kw)
    setuptools.setup = setup
    sys.argv[0] = "setup.py"
    runpy.run_path("setup.py", run_name="__main__")
"""


def _mirror(source: Path, target: Path) -> None:
    """Copy what is newer, so that a second build compiles only what has changed."""
    if source.is_file():
        if not target.exists() or source.stat().st_mtime > target.stat().st_mtime:
            shutil.copy2(source, target)
        return
    target.mkdir(parents=True, exist_ok=True)
    for entry in source.iterdir():
        if entry.name == "__pycache__" or entry.suffix == ".so" or entry.name == "results":
            continue
        _mirror(entry, target / entry.name)


def label_of(python: str = sys.executable) -> str:
    """What tells builds for different interpreters apart, such as ``cpython-313t``."""
    code = "import sys; print(sys.implementation.cache_tag + getattr(sys, 'abiflags', ''))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def build(name: str, python: str = sys.executable) -> Path:
    """Build the flavour `name` for the interpreter `python`; returns its tree."""
    ROOT.mkdir(parents=True, exist_ok=True)
    with (ROOT / "lock").open("w") as lock:
        # Runs for several interpreters may go on side by side in one tree.
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _build(name, python, label_of(python))


def _build(name: str, python: str, label: str) -> Path:
    target = TREE if name == "plain" else ROOT / f"{name}-{label}"
    target.mkdir(parents=True, exist_ok=True)
    if name == "broken":
        # The library is the one of the flavour "thread".
        built = ROOT / f"thread-{label}"
        for module in (built / "spdkthread").rglob("*.so"):
            copy = target / module.relative_to(built)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(module, copy)
    for entry in COPIED if name != "plain" else ():
        if (TREE / entry).exists():
            _mirror(TREE / entry, target / entry)
    if name == "coverage":
        for generated in (target / "spdkthread").rglob("*.c"):
            generated.unlink()
    script = ROOT / f"setup_{name}-{label}.py"
    script.write_text(textwrap.dedent(SETUP_NATIVE))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SPDKTHREAD_")}
    environment |= FLAVOURS[name]
    done = subprocess.run(
        [
            python,
            str(script),
            "--quiet",
            "build_ext",
            "--inplace",
            "--build-temp",
            f"build/temp-verify-{label}",
            "--parallel",
            str(os.cpu_count() or 1),
        ],
        cwd=target,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise RuntimeError(f"the build {name} failed\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
    return target


def sanitizer_library(name: str) -> str:
    """The run-time library that has to be loaded before the interpreter."""
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()[0]
    found = subprocess.run([compiler, f"-print-file-name=lib{name}.so"], capture_output=True, text=True, check=True)
    path = os.path.realpath(found.stdout.strip())
    return path if os.path.isabs(path) and os.path.exists(path) else ""


def environment(name: str) -> dict[str, str]:
    """What a process with the flavour `name` needs."""
    result = dict(os.environ, PYTHONFAULTHANDLER="1", PYTHONPATH="", PYTHONDONTWRITEBYTECODE="1")
    here = TREE / "verify"
    if name in ("thread", "broken"):
        result["LD_PRELOAD"] = sanitizer_library("tsan")
        # What is broken on purpose need not be slowed down by one report after the other: the first says all.
        result["TSAN_OPTIONS"] = (
            f"suppressions={here / 'thread.supp'} log_path={ROOT / f'races-{name}-{label_of()}'} exitcode=66 "
            f"halt_on_error={int(name == 'broken')} history_size=7 report_signal_unsafe=0 die_after_fork=0 "
            "report_thread_leaks=0"
        )
    elif name == "address":
        result["LD_PRELOAD"] = f"{sanitizer_library('asan')} {sanitizer_library('ubsan')}".strip()
        result["ASAN_OPTIONS"] = "detect_leaks=0 exitcode=66 abort_on_error=0 allocator_may_return_null=1"
        result["UBSAN_OPTIONS"] = "halt_on_error=1 exitcode=66 print_stacktrace=1"
        if not sysconfig.get_config_var("Py_GIL_DISABLED"):  # which has one allocator only
            result["PYTHONMALLOC"] = "malloc"
    return result


def race_reports(environment: dict[str, str]) -> list[Path]:
    """The files into which processes with this environment wrote what ThreadSanitizer found."""
    (log,) = [
        option.partition("=")[2] for option in environment["TSAN_OPTIONS"].split() if option.startswith("log_path")
    ]
    return sorted(ROOT.glob(Path(log).name + ".*"))
