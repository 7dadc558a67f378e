#!/usr/bin/env bash
# The last lines of `make test`: what the test runners counted, in their own words.
set -euo pipefail
printf '\n== summary\n'
for log in rust clients monitoring cuda; do
    [ -f ".cache/logs/$log.log" ] || continue
    # The last totals of the runner; colours removed.
    sed 's/\x1b\[[0-9;]*m//g' ".cache/logs/$log.log" |
        grep -E '^ *Summary \[|^test result: |^=+ .*(passed|failed).* =+$|^[0-9]+ passed' |
        if [ "$log" = rust ]; then cat; else tail -n 1; fi
done
