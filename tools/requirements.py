"""Print requirements from pyproject.toml, one a line: ``requirements.py build run test lint``.

``build`` is what the build backend needs, ``run`` what the package needs, anything else an extra. So the list of
dependencies stands in one place, and an in-place build can install them without building the package first.
"""

import sys
import sysconfig
import tomllib
from pathlib import Path

with (Path(__file__).parent.parent / "pyproject.toml").open("rb") as file:
    pyproject = tomllib.load(file)

groups = {
    "build": pyproject["build-system"]["requires"],
    "run": pyproject["project"]["dependencies"],
    **pyproject["project"]["optional-dependencies"],
}
# cffi refuses the free-threaded 3.13, which no environment marker can say; the tests of it are not collected there.
no_cffi = sysconfig.get_config_var("Py_GIL_DISABLED") and sys.version_info < (3, 14)
for name in sys.argv[1:]:
    for line in groups[name]:
        if not (no_cffi and line.startswith("cffi")):
            print(line)
