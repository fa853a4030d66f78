#!/usr/bin/env bash
# What a user gets: build an sdist, build a wheel from that sdist, install the wheel into an empty place, and look.

set -euo pipefail
cd "$(dirname "$0")/.."
python=$PWD/${VENV:-.venv}/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

"$python" setup.py --quiet sdist --dist-dir "$work"
sdist=$(ls "$work"/*.tar.gz)
tar -tf "$sdist" >"$work/contents"
for wanted in LICENSE README.md Makefile tests/ examples/ spdkthread/__init__.py; do
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

"$python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$work" "$sdist"
"$python" -m pip install --quiet --disable-pip-version-check --no-deps --target "$work/site" "$work"/*.whl

# Isolated from this tree: another directory, and no site-packages that would name it.
cd "$work"
"$python" -I -S - "$work/site" "$OLDPWD" <<'PYTHON'
import sys
from pathlib import Path

site, tree = Path(sys.argv[1]), Path(sys.argv[2])
package = site / "spdkthread"
missing = [
    str(source.relative_to(tree))
    for pattern in ("*.py", "*.pyi", "*.pxd", "py.typed")
    for source in (tree / "spdkthread").glob(pattern)
    if not (package / source.name).exists()
]
missing += [
    f"the compiled {source.stem}"
    for source in (tree / "spdkthread").glob("*.pyx")
    if not list(package.glob(source.stem + ".*.so"))
]
if missing:
    sys.exit("check_package.sh: the wheel lacks " + ", ".join(missing))
generated = [str(path.relative_to(site)) for path in package.glob("*.c")]
if generated:
    sys.exit("check_package.sh: the wheel has generated " + ", ".join(generated))
print(f"sdist and wheel are complete ({len(list(package.iterdir()))} files in the package)")
PYTHON
PYTHONPATH=$work/site "$python" -P -c '
import sys
sys.path = [p for p in sys.path if p != sys.argv[1]]
import spdkthread
assert spdkthread.__file__.startswith(sys.argv[2]), spdkthread.__file__
print("import spdkthread", spdkthread.__version__, "from the wheel")
' "$OLDPWD" "$work"
