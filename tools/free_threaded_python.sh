#!/usr/bin/env bash
# Build a free-threaded CPython for the tests, where the machine has none.
#
#   tools/free_threaded_python.sh        the last line it prints is the interpreter's path
#
# The source is Debian's python3.13, taken with apt from the mirror this machine already uses and checked against
# Debian's archive keys. Nothing of the machine's own apt configuration or package state changes: the sources list,
# the indexes and the cache are private to the build. It takes about five minutes, once; later calls only print the
# path.
#
#   SPDKTHREAD_CACHE   where built interpreters are kept (default: spdkthread in the user's cache directory)
#   JOBS               parallel compilations (default: the number of processors)

set -euo pipefail

SUITE=trixie
PACKAGE=python3.13
KEYRING=/usr/share/keyrings/debian-archive-keyring.gpg

CACHE=${SPDKTHREAD_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/spdkthread}
JOBS=${JOBS:-$(nproc)}

fail() {
    echo "free_threaded_python.sh: $*" >&2
    exit 1
}

# A step's output matters only when the step fails.
quietly() {
    local what=$1
    shift
    echo "$what ..."
    # In the background, because bash ignores `set -e` inside a function that stands left of `||`.
    "$@" >"$work/log" 2>&1 &
    wait $! || { tail -n 30 "$work/log" >&2; fail "$what failed"; }
}

# The Debian mirror in the machine's own sources, in the deb822 or the one-line form.
debian_mirror() {
    local etc=/etc/apt
    { grep -hs '^URIs:' "$etc"/sources.list.d/*.sources
      grep -hsE '^deb(-src)? ' "$etc/sources.list" "$etc"/sources.list.d/*.list
    } | grep -oE 'https?://[^] ]+/debian/?( |$)' | head -n 1 | tr -d ' '
}

private_apt() {
    local command=$1
    shift
    # As root apt would hand the download to its own user, who may not write here.
    "$command" -q -y \
        -o Dir::Etc::SourceList="$work/sources.list" -o Dir::Etc::SourceParts=- -o Dir::Etc::PreferencesParts=- \
        -o Dir::State="$work/state" -o Dir::State::status="$work/state/status" -o Dir::Cache="$work/cache" \
        -o APT::Sandbox::User="$(id -un)" -o APT::Get::AllowUnauthenticated=false "$@"
}

fetch_source() {
    mkdir -p "$work/state/lists/partial" "$work/cache/archives/partial" "$work/download"
    : >"$work/state/status"
    echo "deb-src [signed-by=$KEYRING] $mirror $SUITE main" >"$work/sources.list"
    # Without this, an index that could not be had is a warning, and the next step fails with a misleading reason.
    private_apt apt-get -o APT::Update::Error-Mode=any update
    # Only downloaded, so that dpkg-dev need not be there; apt checks every file against the signed index.
    (cd "$work/download" && private_apt apt-get source --download-only "$PACKAGE")
}

build() {
    # The upstream archive as Debian carries it, without Debian's patches: those fit the distribution's own layout.
    mkdir "$work/source"
    tar -xf "$work"/download/"${PACKAGE}"_*.orig.tar.?z -C "$work/source" --strip-components=1
    (
        cd "$work/source"
        ./configure --quiet --prefix="$prefix" --disable-gil --disable-test-modules --with-ensurepip=install
        make -s -j"$JOBS"
        # Into place with one rename, so that a half-made interpreter is never found by a later call.
        make -s install DESTDIR="$work/root"
    )
    rm -rf "$prefix"
    mv "$work/root$prefix" "$prefix"
}

prefix=$CACHE/${PACKAGE}t
python=$prefix/bin/${PACKAGE}t

is_free_threaded() {
    [ -x "$python" ] && "$python" -c 'import ssl, sys, zlib; sys.exit(sys._is_gil_enabled())' 2>/dev/null
}

mkdir -p "$CACHE"
exec 9>"$CACHE/lock"
flock 9 # two callers at once: the second waits for what the first builds

if ! is_free_threaded; then
    command -v apt-get >/dev/null || fail "no apt-get here: build CPython with --disable-gil by hand and pass it as PYTHON"
    command -v make >/dev/null || fail "make is needed"
    command -v "${CC:-cc}" >/dev/null || fail "a C compiler is needed"
    [ -r "$KEYRING" ] || fail "$KEYRING is missing (package debian-archive-keyring), so the source cannot be verified"
    mirror=$(debian_mirror) || true
    [ -n "$mirror" ] || fail "this machine's apt sources name no Debian mirror to take $PACKAGE from"
    work=$(mktemp -d "$CACHE/build.XXXXXX")
    trap 'rm -rf "$work"' EXIT
    quietly "Fetching the source of $PACKAGE from Debian $SUITE" fetch_source
    quietly "Building it without the GIL (about five minutes)" build
    is_free_threaded || fail "the built interpreter $python does not run, has the GIL, or lacks ssl or zlib"
fi
echo "$python"
