"""Compiles the native programs and the native side of spdkthread when a benchmark first needs them."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import importlib.util
import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path
from types import ModuleType

from .environment import cores
from .harness import Unavailable

NATIVE = Path(__file__).parent / "native"
CFLAGS = ["-O2", "-std=gnu11", "-Wall", "-pthread"]


def cache_dir() -> Path:
    """Return a writable directory for compiled programs, the same one on every run."""
    wished = Path(os.environ.get("SPDKTHREAD_BENCH_CACHE") or Path(__file__).parent.parent / ".cache" / "benchmarks")
    try:
        wished.mkdir(parents=True, exist_ok=True)
    except OSError:
        return Path(tempfile.gettempdir())
    return wished


def compiler() -> list[str]:
    command = shlex.split(os.environ.get("CC") or "cc")
    if shutil.which(command[0]) is None:
        command = shlex.split(sysconfig.get_config_var("CC") or "cc")
    if shutil.which(command[0]) is None:
        raise Unavailable("no C compiler")
    return command


def pkg_config(package: str, what: str) -> list[str]:
    try:
        result = subprocess.run(["pkg-config", what, package], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        raise Unavailable(f"{package} is not installed (Debian: apt install {package}-dev)") from None
    return shlex.split(result.stdout)


def fingerprint(sources: list[Path], *words: str) -> str:
    digest = hashlib.sha256("\0".join(words).encode())
    for source in sources:
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


def run(command: list[str], **kwargs) -> None:
    result = subprocess.run(command, capture_output=True, text=True, **kwargs)
    if result.returncode != 0:
        raise Unavailable(f"{command[0]} failed: {(result.stderr or result.stdout).strip()[-2000:]}")


def program(name: str, package: str | None = None) -> Path:
    """Compile ``native/<name>.c``, with the flags of a pkg-config package if one is needed, and return its path."""
    source = NATIVE / f"{name}.c"
    cflags = pkg_config(package, "--cflags") if package else []
    libs = pkg_config(package, "--libs") if package else []
    command = [*compiler(), *CFLAGS, *cflags, str(source)]
    target = cache_dir() / f"{name}-{fingerprint([source, NATIVE / 'common.h'], *command, *libs)}"
    if not target.exists():
        part = target.with_name(f"{target.name}.{os.getpid()}")
        run([*command, "-o", str(part), *libs])
        part.rename(target)
    return target


def shared_library(name: str) -> ctypes.CDLL:
    """Compile ``native/<name>.c`` into a library, whose functions ctypes calls without the GIL."""
    source = NATIVE / f"{name}.c"
    command = [*compiler(), *CFLAGS, "-shared", "-fPIC", str(source)]
    target = cache_dir() / f"{name}-{fingerprint([source, NATIVE / 'common.h'], *command)}.so"
    if not target.exists():
        part = target.with_name(f"{target.name}.{os.getpid()}")
        run([*command, "-o", str(part)])
        part.rename(target)
    return ctypes.CDLL(str(target))


PROGRAMS: list[Program] = []


def close_programs() -> None:
    while PROGRAMS:
        PROGRAMS[-1].close()


class Program:
    """A native program of ours that answers one number to each command line."""

    def __init__(self, name: str, *args: object, package: str | None = None):
        path = program(name, package)
        self.name = name
        self._process = subprocess.Popen(
            [str(path), *map(str, args)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            bufsize=1,
        )
        PROGRAMS.append(self)

    def ask(self, *words: object) -> float:
        try:
            self._process.stdin.write(" ".join(map(str, words)) + "\n")
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            self._process.stdin = None
            _, complaint = self._process.communicate()
            raise Unavailable(f"{self.name} ended with {self._process.returncode}: {complaint.strip()[-500:]}")
        return float(line)

    def samples(self, command: str, count: int):
        """Have it take `count` single samples, and return them as a NumPy array of nanoseconds."""
        import numpy

        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory, "samples")
            self.ask(command, count, path)
            return numpy.fromfile(path, dtype=numpy.uint64)

    def close(self) -> None:
        PROGRAMS.remove(self)
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._process.wait(timeout=10)

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        self.close()


def raw_line() -> Program:
    first, second = two_cores()
    return Program("raw_line", first, second)


def dpdk_ring() -> Program:
    first, *others = cores()
    return Program("dpdk_ring", first, *(others or [first]), package="libdpdk")


def two_cores() -> tuple[int, int]:
    allowed = cores()
    if len(allowed) < 2:
        raise Unavailable("needs two cores")
    return allowed[0], allowed[1]


@functools.cache
def native_side() -> ModuleType:
    """Compile ``native/native_side.pyx`` against the installed spdkthread and import it."""
    import spdkthread

    try:
        import Cython
    except ImportError:
        raise Unavailable("Cython is not installed (the bench extra has it)") from None
    package = Path(spdkthread.__file__).parent
    sources = [NATIVE / "native_side.pyx", NATIVE / "setup.py"]
    mark = fingerprint([*sources, *sorted(package.rglob("*.pxd"))], sys.version, Cython.__version__, *compiler())
    where = cache_dir() / f"native_side-{mark}"
    target = where / f"native_side{sysconfig.get_config_var('EXT_SUFFIX')}"
    if not target.exists():
        part = where.with_name(f"{where.name}.{os.getpid()}")
        part.mkdir()
        for source in sources:
            shutil.copy(source, part)
        environ = os.environ | {"SPDKTHREAD_TREE": str(package.parent)}
        run([sys.executable, "setup.py", "--quiet", "build_ext", "--inplace"], cwd=part, env=environ)
        try:
            part.rename(where)
        except OSError:  # another run was faster
            shutil.rmtree(part)
    spec = importlib.util.spec_from_file_location("native_side", target)
    module = importlib.util.module_from_spec(spec)
    sys.modules["native_side"] = module
    spec.loader.exec_module(module)
    return module
