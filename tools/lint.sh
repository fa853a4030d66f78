#!/usr/bin/env bash
# Every linter over the tree, with the tools of $VENV; all of them run, and any complaint fails.
#
#   tools/lint.sh          complain
#   tools/lint.sh --fix    first let ruff repair and format what it can

set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export PATH="$PWD/${VENV:-.venv}/bin:$PATH" # cython-lint runs pycodestyle from there
failed=0

check() {
    echo "== $*"
    "$@" || failed=1
}

if [ "${1:-}" = --fix ]; then
    check ruff check --quiet --fix .
    check ruff format --quiet .
fi
check ruff check .
check ruff format --check .

shopt -s globstar nullglob
cython=(spdkthread/**/*.p[yx][xd] tests/**/*.p[yx][xd] examples/**/*.p[yx][xd] benchmarks/**/*.p[yx][xd] verify/*.p[yx][xd])
if ((${#cython[@]})); then
    check cython-lint "${cython[@]}"
    check double-quote-cython-strings "${cython[@]}"
fi

# Directories that exist; codespell complains of none.
texts=()
for text in *.md *.toml *.py Makefile spdkthread tests examples benchmarks verify docs tools .ci; do
    [ -e "$text" ] && texts+=("$text")
done
check codespell "${texts[@]}"

for script in tools/*.sh .ci/run; do
    bash -n "$script" || failed=1
done
exit $failed
