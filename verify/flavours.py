"""Builds of the library with something switched on, each in a copy of the tree below ``build/verify``."""

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
    "setup.py",
    "pyproject.toml",
    "README.md",
    "LICENSE",
]

FLAVOURS = {
    "plain": {},
    "thread": {"SPDKTHREAD_SANITIZE": "thread"},
    "broken": {"SPDKTHREAD_SANITIZE": "thread", "SPDKTHREAD_BREAK_ORDERING": "1"},
    "address": {"SPDKTHREAD_SANITIZE": "address,undefined", "SPDKTHREAD_FAULTS": "1"},
    "coverage": {"SPDKTHREAD_COVERAGE": "1", "SPDKTHREAD_CFLAGS": "-O0"},
}

# Compiled like setup.py compiles the library, into the copy's own tree.
SETUP_NATIVE = """
    import runpy, sys
    from Cython.Build import cythonize
    from setuptools import Extension
    import setuptools
    real = setuptools.setup
    def setup(ext_modules, **kw):
        one = ext_modules[0]
        for source in ("verify/native.pyx",):
            module = Extension("verify.native", [source], define_macros=one.define_macros,
                               extra_compile_args=one.extra_compile_args, extra_link_args=one.extra_link_args)
            ext_modules += cythonize([module], language_level=3, compiler_directives={"freethreading_compatible": True})
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


def build(name: str, python: str = sys.executable, label: str = "") -> Path:
    """Build the flavour `name`; returns its tree."""
    target = ROOT / (name + (f"-{label}" if label else ""))
    target.mkdir(parents=True, exist_ok=True)
    for entry in COPIED:
        if (TREE / entry).exists():
            _mirror(TREE / entry, target / entry)
    if name == "coverage":
        for generated in (target / "spdkthread").glob("*.c"):
            generated.unlink()
    script = target / "setup_native.py"
    script.write_text(textwrap.dedent(SETUP_NATIVE))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("SPDKTHREAD_")}
    environment |= FLAVOURS[name]
    done = subprocess.run(
        [
            python,
            script.name,
            "--quiet",
            "build_ext",
            "--inplace",
            "--build-temp",
            f"build/temp-{label or 'default'}",
            "--parallel",
            str(os.cpu_count() or 1),
        ],
        cwd=target,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(f"verify: the build {name} failed\n{done.stdout[-2000:]}{done.stderr[-4000:]}")
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
        result["TSAN_OPTIONS"] = (
            f"suppressions={here / 'thread.supp'} halt_on_error=0 exitcode=66 history_size=4 report_signal_unsafe=0"
        )
    elif name == "address":
        result["LD_PRELOAD"] = f"{sanitizer_library('asan')} {sanitizer_library('ubsan')}".strip()
        result["ASAN_OPTIONS"] = "detect_leaks=0 exitcode=66 abort_on_error=0 allocator_may_return_null=1"
        result["UBSAN_OPTIONS"] = "halt_on_error=1 exitcode=66 print_stacktrace=1"
        result["PYTHONMALLOC"] = "malloc"
    return result
