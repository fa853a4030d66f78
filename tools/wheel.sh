#!/usr/bin/env bash
# A wheel for the Python of $VENV that other machines can install.
#
#   tools/wheel.sh SOURCE DIRECTORY      SOURCE is a tree or an sdist
#
# On Linux a wheel may ask for no newer glibc than its name says, and what the compiler of this machine makes asks for
# this machine's. So it is compiled by the C compiler of the ziglang package, which can target an older one, and auditwheel
# checks the result. The modules are linked without debug information.

set -euo pipefail
source=$(realpath "$1")
mkdir -p "$2"
target=$(realpath "$2")
python=$(realpath "$(dirname "$0")/..")/${VENV:-.venv}/bin/python
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -d "$source" ]; then # the tree keeps its own builds
    (cd "$source" && "$python" setup.py --quiet sdist --dist-dir "$work/sdist" && rm -rf spdkthread.egg-info)
    source=$(ls "$work"/sdist/*.tar.gz)
fi

if [ "$(uname -s)" != Linux ]; then
    "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$target" "$source"
    exit
fi

GLIBC=2.28 # that of NumPy's wheels
machine=$(uname -m)
# pip builds in an environment without the packages of this one, so the compiler is called by its path.
zig=$("$python" -c 'import os, ziglang; print(os.path.join(os.path.dirname(ziglang.__file__), "zig"))')

cat >"$work/cc" <<EOF
#!/bin/sh
exec "$zig" cc -target $machine-linux-gnu.$GLIBC "\$@"
EOF
chmod +x "$work/cc"
# Its cache: the modules are compiled for this wheel only.
export ZIG_LOCAL_CACHE_DIR=$work/zig ZIG_GLOBAL_CACHE_DIR=${ZIG_GLOBAL_CACHE_DIR:-$work/zig}
# -g0 comes after the -g of setup.py. A compiler without a frame pointer by default is what the other builds have.
CC=$work/cc LDSHARED="$work/cc -shared -s" SPDKTHREAD_CFLAGS="${SPDKTHREAD_CFLAGS:-} -g0 -fomit-frame-pointer" \
    "$python" -m pip wheel --quiet --disable-pip-version-check --no-deps -w "$work" "$source"
wheel=$(ls "$work"/*.whl)

platform=manylinux_${GLIBC/./_}_$machine
"$python" -m auditwheel show "$wheel" >"$work/shown" 2>&1 || { cat "$work/shown" >&2; exit 1; }
# The oldest glibc that would do, by the symbols that are asked for.
oldest=$(grep -oE 'manylinux_[0-9]+_[0-9]+' "$work/shown" | sort -t_ -k2,2n -k3,3n | head -n 1)
newest=$(printf '%s\n' "$oldest" "manylinux_${GLIBC/./_}" | sort -t_ -k2,2n -k3,3n | tail -n 1)
if [ -z "$oldest" ] || [ "$newest" != "manylinux_${GLIBC/./_}" ]; then
    echo "wheel.sh: the wheel asks for more than glibc $GLIBC" >&2
    cat "$work/shown" >&2
    exit 1
fi
name=$("$python" -m wheel tags --remove --platform-tag "$platform" "$wheel" | tail -n 1)
mv "$work/$(basename "$name")" "$target/"
echo "$target/$(basename "$name")"
