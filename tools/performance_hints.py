"""Fail when Cython has a performance hint for a hot file.

A hint there means a hidden price on the hot path: mostly a function without the GIL that must take it to check for an
exception. The modules are translated into a temporary directory, with the directives of setup.py.
"""

import ast
import os
import re
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parent.parent
HOT = {"atomics", "clock", "idle", "io_device", "native", "pointer_map", "poller", "reactor", "ring", "thread"}
HOT |= {"thread_poll", "thread_base", "poller_lists", "send", "timers", "wakeup", "reactor_attached", "reactor_loop"}
HOT |= {"device_table", "gil_handoff", "iobuf", "iobuf_lists"}
HINT = re.compile(r"^performance hint: (?P<file>[^:]+):(?P<place>\d+:\d+): ", re.MULTILINE)


def directives() -> list[str]:
    # Read, not imported: importing setup.py would build.
    for node in ast.parse((ROOT / "setup.py").read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "DIRECTIVES":
            return [f"-X{name}={value}" for name, value in ast.literal_eval(node.value).items()]
    raise SystemExit("performance_hints.py: setup.py no longer has a literal DIRECTIVES")


def translate(source: Path, flags: list[str], into: str) -> tuple[Path, subprocess.CompletedProcess]:
    output = Path(into, source.stem + ".c")
    command = [sys.executable, "-m", "cython", *flags, str(source.relative_to(ROOT)), "-o", str(output)]
    return source, subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def main() -> int:
    sources = sorted((ROOT / "spdkthread").rglob("*.pyx"))
    # A hint in an inline function of a .pxd is reported by each module that cimports it: one is enough.
    hot, cold, failed = {}, {}, False
    with tempfile.TemporaryDirectory() as into, ThreadPoolExecutor(os.cpu_count()) as pool:
        flags = directives()
        for source, result in pool.map(lambda source: translate(source, flags, into), sources):
            text = result.stdout + result.stderr
            if result.returncode:
                failed = True
                print(f"{source.relative_to(ROOT)} does not translate:\n{text}", file=sys.stderr)
            for match in HINT.finditer(text):
                line = text[match.start() :].split("\n", 1)[0]
                (hot if Path(match["file"]).stem in HOT else cold)[match["file"], match["place"]] = line
    for line in (*cold.values(), *hot.values()):
        print(line)
    print(f"{len(sources)} modules translated, {len(hot)} performance hints in hot files, {len(cold)} elsewhere")
    return int(failed or bool(hot) or not sources)


if __name__ == "__main__":
    sys.exit(main())
