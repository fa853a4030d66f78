"""Cython modules, commonly of `tests/cython`, compiled for the running Python into a directory of their own."""

import importlib.util
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent

DIRECTIVES = ("language_level=3", "freethreading_compatible=True")


def compiled(name, into, directory=HERE / "cython"):
    """Translate, compile and import `<directory>/<name>.pyx`."""
    source = shutil.copy(directory / f"{name}.pyx", into)
    flags = [part for directive in DIRECTIVES for part in ("-X", directive)]
    result = subprocess.run(
        [sys.executable, "-m", "Cython.Build.Cythonize", "--inplace", *flags, str(source)],
        cwd=into,
        env=None,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    (library,) = Path(into).glob(f"{name}.*.so")
    spec = importlib.util.spec_from_file_location(name, library)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
