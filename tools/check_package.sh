#!/usr/bin/env bash
# What a user gets: build an sdist, build the wheel from that sdist, install it into an empty environment, and try it there.

set -euo pipefail
cd "$(dirname "$0")/.."
tree=$PWD
python=$PWD/${VENV:-.venv}/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" setup.py --quiet sdist --dist-dir "$work"
rm -rf spdkthread.egg-info
sdist=$(ls "$work"/*.tar.gz)
tar -tf "$sdist" >"$work/contents"
for wanted in LICENSE README.md CHANGELOG.md Makefile tests/ examples/ docs/index.md tools/stub_docstrings.py spdkthread/__init__.py; do
    grep -q "^[^/]*/$wanted" "$work/contents" || { echo "check_package.sh: the sdist has no $wanted" >&2; exit 1; }
done
# Generated: compiled modules, and the C file that Cython writes beside a .pyx. C of our own belongs there.
generated() {
    grep -E '\.(so|pyc)$' "$work/contents"
    comm -12 <(sed -n 's/\.c$//p' "$work/contents" | sort) <(sed -n 's/\.pyx$//p' "$work/contents" | sort) |
        sed 's/$/.c/'
}
found=$(generated || true)
if [ -n "$found" ]; then
    printf 'check_package.sh: the sdist has generated files:\n%s\n' "$found" >&2
    exit 1
fi

tools/wheel.sh "$sdist" "$work" >/dev/null
wheel=$(ls "$work"/*.whl)
echo "$(basename "$wheel"), $(($(stat -c %s "$wheel") / 1024)) KiB"

"$python" -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check --prefer-binary "$wheel"
site=$("$work/venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("platlib"))')

# Another directory, and an environment that does not know this tree.
cd "$work"
"$work/venv/bin/python" -I - "$site" "$tree" <<'PYTHON'
import ast
import sys
from pathlib import Path

site, tree = Path(sys.argv[1]), Path(sys.argv[2])
package = site / "spdkthread"
missing = [
    str(source.relative_to(tree))
    for pattern in ("*.py", "*.pyi", "*.pxd", "py.typed")
    for source in (tree / "spdkthread").rglob(pattern)
    if not (site / source.relative_to(tree)).exists()
]
compiled = [source.relative_to(tree).with_suffix("") for source in (tree / "spdkthread").rglob("*.pyx")]
missing += [f"the compiled {name}" for name in compiled if not list((site / name).parent.glob(name.name + ".*.so"))]
if missing:
    sys.exit("check_package.sh: the wheel lacks " + ", ".join(missing))
generated = [str(path.relative_to(site)) for path in package.rglob("*.c")]
if generated:
    sys.exit("check_package.sh: the wheel has generated " + ", ".join(generated))
debug = [path.name for path in package.rglob("*.so") if b".debug_info" in path.read_bytes()]
if debug:
    sys.exit("check_package.sh: with debug information: " + ", ".join(debug))
stub = ast.parse((package / "thread.pyi").read_text())
(thread,) = [node for node in stub.body if isinstance(node, ast.ClassDef) and node.name == "SpdkThread"]
without = [node.name for node in thread.body if isinstance(node, ast.FunctionDef) and node.name == "send_msg" and not ast.get_docstring(node)]
if without:
    sys.exit("check_package.sh: the installed stubs have no docstrings")
size = sum(path.stat().st_size for path in package.rglob("*") if "__pycache__" not in path.parts)
print(f"sdist and wheel are complete: {len(list(package.iterdir()))} files in the package, {size / 1e6:.1f} MB")
PYTHON

# Programs in the empty environment: from another directory, and from the root of a tree that has the sources, where Python
# finds those first unless it is told not to (-P).
cat >"$work/try.py" <<'PYTHON'
import asyncio
import os
import sys

import spdkthread
from spdkthread.aio import EventLoop

assert spdkthread.__file__.startswith(sys.argv[1]), spdkthread.__file__
with spdkthread.Reactor() as reactor:
    thread = reactor.create_thread("try")
    seen = []
    for number in range(1000):
        thread.send_msg(seen.append, number)
    assert thread.call(lambda: len(seen)).result(timeout=60) == 1000

    async def main():
        return await asyncio.gather(*(thread.acall(abs, -n) for n in range(100)))

    with asyncio.Runner(loop_factory=EventLoop) as runner:
        assert runner.run(main()) == list(range(100))
    device = spdkthread.IoDevice("counters", ctx_dtype="u8").register()
    channel = thread.call(device.get_io_channel).result(timeout=60)
    thread.call(channel.put).result(timeout=60)
    thread.call(device.unregister).result(timeout=60).result(timeout=60)
print("spdkthread", spdkthread.__version__, "from the wheel runs in", os.getcwd())
PYTHON
"$work/venv/bin/python" -P try.py "$site"
cd "$tree"
"$work/venv/bin/python" -P "$work/try.py" "$site" >/dev/null
