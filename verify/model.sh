#!/usr/bin/env bash
# The protocols of sleep and wake, and of the ring's flags, checked in every interleaving; then each of them broken on
# purpose, to show that the check can fail.
#
#   verify/model.sh            some two minutes; needs spin and a C compiler
#   verify/model.sh --quick    the smaller configurations only

set -uo pipefail
cd "$(dirname "$0")" || exit 1

command -v spin >/dev/null || {
    echo "model.sh: spin is not installed; Debian and Ubuntu have it as the package 'spin' (apt-get install spin)" >&2
    exit 1
}
CC=${CC:-cc}
command -v "$CC" >/dev/null || {
    echo "model.sh: no C compiler '$CC' here; Debian and Ubuntu have one as the package 'gcc'" >&2
    exit 1
}
quick=0
[ "${1:-}" = --quick ] && quick=1

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
failed=0

# One search of all states: name, model, definitions. Leaves what spin printed in $work/log; 0: it was complete.
search() {
    local model=$1
    shift
    (
        cd "$work" || exit 1
        rm -f -- *.trail pan*
        spin -a "$@" "$OLDPWD/$model" && "$CC" -O2 -w -DSAFETY -DCOLLAPSE -DVECTORSZ=2048 -o pan pan.c && ./pan -m1000000
    ) >"$work/log" 2>&1
}

states() { sed -n 's/^ *\([0-9.e+]*\) states, stored.*/\1/p' "$work/log"; }

holds() {
    local model=$1 begin=$SECONDS
    search "$@"
    if grep -q 'errors: 0' "$work/log" && ! grep -qE 'max search depth too small|out of memory|Search not completed' "$work/log"; then
        printf 'holds    %-10s %-46s %10s states, %d s\n' "$model" "${*:2}" "$(states)" $((SECONDS - begin))
    else
        printf 'FAILED   %-10s %s\n' "$model" "${*:2}"
        tail -n 30 "$work/log"
        failed=1
    fi
}

broken() {
    local model=$1
    search "$@"
    if grep -qE 'errors: [1-9]' "$work/log"; then
        printf 'fails    %-10s %-46s %10s states; as it must: %s\n' "$model" "${*:2}" "$(states)" \
            "$(sed -n 's/^pan:[0-9]*: \(.*\) (at depth.*/\1/p' "$work/log" | head -n 1)"
    else
        printf 'NOT SEEN %-10s %s: broken on purpose, and the check does not fail\n' "$model" "${*:2}"
        tail -n 30 "$work/log"
        failed=1
    fi
}

holds wakeup.pml -DMOVES=0 -DMSGS=2
holds wakeup.pml -DMOVES=1 -DSENDERS=1
holds ready.pml
holds ring.pml
holds ring.pml -DCAPACITY=1 -DOUTSIDE_MSGS=1 -DLIBRARY_MSGS=4
holds ring.pml -DREWINDS=1 -DLIBRARY_MSGS=1
if ((!quick)); then
    holds wakeup.pml -DMOVES=0 -DMSGS=3
    holds wakeup.pml -DMOVES=1 -DSENDERS=1 -DMSGS=2
    holds wakeup.pml -DMOVES=2 -DSENDERS=1
    holds ready.pml -DMSGS=2
fi

for what in NO_SENDER_FENCE NO_SLEEPER_FENCE NO_TAKE LATE_CLEAR; do
    broken wakeup.pml -DMOVES=0 -DMSGS=2 "-D$what"
done
for what in NO_REQUESTS NO_WINDOW LATE_WINDOW; do
    broken wakeup.pml -DMOVES=1 -DSENDERS=1 "-D$what"
done
for what in NO_SENDER_FENCE NO_SLEEPER_FENCE NO_WINDOW LATE_WINDOW NO_SWEEP LATE_TAKE NO_AGAIN NO_LOOK; do
    broken ready.pml "-D$what"
done
for what in CLOSE_BLINDLY OVERFLOW_UNFROZEN OVERFLOW_UNLOOKED LATE_ATTENTION TRIM_UNFLAGGED; do
    broken ring.pml -DCAPACITY=1 -DOUTSIDE_MSGS=1 -DLIBRARY_MSGS=4 "-D$what"
done
broken ring.pml -DREWINDS=1 -DLIBRARY_MSGS=1 -DREWIND_BLINDLY
((failed)) && echo "model.sh: FAILED"
exit $failed
