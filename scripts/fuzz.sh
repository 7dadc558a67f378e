#!/usr/bin/env bash
# The property tests named fuzz_*, again and again with new seeds, until the time is over or one fails.
#   FUZZ_SECONDS   how long (300)
#   FUZZ_CASES     cases per property and round (20000)
#   SEED           repeat this round only
set -euo pipefail

seconds=${FUZZ_SECONDS:-300}
export PROPTEST_CASES=${FUZZ_CASES:-20000}
# A failing case is printed with its seed; a file beside the source would only be in the way of the next round.
export PROPTEST_DISABLE_FAILURE_PERSISTENCE=true

runner=(cargo test --workspace --lib --tests --quiet --locked -- fuzz_)
if cargo nextest --version >/dev/null 2>&1; then
    runner=(cargo nextest run --workspace --locked --no-fail-fast --status-level fail --final-status-level fail -E 'test(/fuzz_/)')
fi

round() {
    echo "fuzz   round $1: seed $2, $PROPTEST_CASES cases per property (again: make fuzz SEED=$2 FUZZ_CASES=$PROPTEST_CASES)"
    PROPTEST_RNG_SEED=$2 "${runner[@]}" || {
        echo "fuzz   FAILED in round $1; again: make fuzz SEED=$2 FUZZ_CASES=$PROPTEST_CASES" >&2
        exit 1
    }
}

if [[ -n ${SEED:-} ]]; then
    round 1 "$SEED"
    exit
fi
number=0
while ((SECONDS < seconds)); do
    number=$((number + 1))
    round "$number" "$((RANDOM << 30 | RANDOM << 15 | RANDOM))"
done
echo "fuzz   no fault in $number rounds of $PROPTEST_CASES cases per property, $SECONDS s"
