"""Say in one line what this machine lacks to build spdkthread; silent when it lacks nothing.

Runs before the virtual environment exists, with the interpreter it will be made of. Keep the syntax plain: an
interpreter that is too old must get as far as saying so.
"""

import os
import sys


def complaint():
    if sys.version_info < (3, 11):
        return "Python 3.11 or newer is needed, %s is %d.%d; pass another one with PYTHON=" % (
            (sys.executable,) + tuple(sys.version_info[:2])
        )
    import importlib.util
    import shlex
    import shutil
    import sysconfig

    if not (importlib.util.find_spec("venv") and importlib.util.find_spec("ensurepip")):
        return "%s cannot make virtual environments (on Debian and Ubuntu: install python3-venv)" % sys.executable
    # Asked in the order in which setuptools will.
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")[0]
    if not shutil.which(compiler):
        return "a C compiler is needed: %s is not on PATH (or set CC)" % compiler
    if not os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h")):
        return "the C headers of %s are missing (on Debian and Ubuntu: install python3-dev)" % sys.executable
    return None


problem = complaint()
if problem:
    sys.exit("make: " + problem)
