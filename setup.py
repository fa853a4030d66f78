"""Build of the Cython modules.

Everything declarative stands in ``pyproject.toml``; this file only says how the extensions are compiled. Compiler
directives are set here, once, for every module.

Environment
-----------
SPDKTHREAD_SANITIZE
    ``thread`` or ``address,undefined``: build with that sanitizer, without optimisations that hide frames.
SPDKTHREAD_COVERAGE
    ``1``: line tracing for Cython.Coverage. Slow; for the coverage report only.
SPDKTHREAD_FAULTS
    ``1``: compile in the hook that makes the n-th native allocation fail.
SPDKTHREAD_BREAK_ORDERING
    ``1``: weaken the publishing store on purpose, to show that the sanitizer stage catches it. Never for use.
SPDKTHREAD_ANNOTATE
    ``1``: write the annotated HTML beside each module.
SPDKTHREAD_CFLAGS
    Further compiler flags, split like a shell would.
"""

import os
import shlex
import sys
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).parent

DIRECTIVES = {
    "language_level": 3,
    "binding": True,
    "embedsignature": True,
    "embedsignature.format": "python",
    "boundscheck": False,
    "wraparound": False,
    "initializedcheck": False,
    "cdivision": True,
    "auto_pickle": False,
    "freethreading_compatible": True,
    "show_performance_hints": True,
}


def enabled(name: str) -> bool:
    return os.environ.get(name, "") not in ("", "0")


def headers(source: Path) -> list[Path]:
    """The headers beside a module, and those of the core that it or they include."""
    beside = sorted(source.parent.glob("*.h"))
    text = "".join(path.read_text(encoding="utf-8") for path in (source, *beside))
    return beside + [header for header in sorted((HERE / "spdkthread").glob("*.h")) if f'"../{header.name}"' in text]


def extensions() -> list[Extension]:
    compile_args = ["-std=gnu11", "-O3", "-g", "-fno-math-errno", "-Wall", "-Wno-unused-function", "-pthread"]
    link_args = ["-pthread"]
    macros: list[tuple[str, str | None]] = []
    if sanitizers := os.environ.get("SPDKTHREAD_SANITIZE"):
        compile_args += [f"-fsanitize={sanitizers}", "-fno-omit-frame-pointer", "-O1"]
        link_args += [f"-fsanitize={sanitizers}"]
    if enabled("SPDKTHREAD_COVERAGE"):
        macros += [("CYTHON_TRACE_NOGIL", "1"), ("CYTHON_USE_SYS_MONITORING", "0")]
    if enabled("SPDKTHREAD_FAULTS"):
        macros += [("SPDKTHREAD_FAULTS", "1")]
    if enabled("SPDKTHREAD_BREAK_ORDERING"):
        macros += [("SPDKTHREAD_BREAK_ORDERING", "1")]
    compile_args += shlex.split(os.environ.get("SPDKTHREAD_CFLAGS", ""))
    return [
        Extension(
            ".".join(source.relative_to(HERE).with_suffix("").parts),
            [str(source.relative_to(HERE))],
            depends=[str(header.relative_to(HERE)) for header in headers(source)],
            define_macros=macros,
            extra_compile_args=compile_args,
            extra_link_args=link_args,
        )
        for source in sorted((HERE / "spdkthread").rglob("*.pyx"))
    ]


class BuildPy(build_py):
    """Editors show the docstrings of stubs, so the installed ones have them."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            sys.path.insert(0, str(HERE / "tools"))
            from stub_docstrings import rewrite

            rewrite(Path(self.build_lib), HERE)


directives = dict(DIRECTIVES)
if enabled("SPDKTHREAD_COVERAGE"):
    directives["linetrace"] = True

setup(
    cmdclass={"build_py": BuildPy},
    ext_modules=cythonize(
        extensions(),
        compiler_directives=directives,
        annotate=enabled("SPDKTHREAD_ANNOTATE"),
        nthreads=os.cpu_count() or 1,
    ),
)
