#!/usr/bin/env bash
# Runs one step of `make test`: a title line, the command, a line with the outcome and the seconds it took.
#
#   scripts/step.sh TITLE COMMAND [ARGUMENT...]
#
# With STEP_LOG=<name> the output is kept in .cache/logs/<name>.log as well, for scripts/summary.sh.
set -uo pipefail
title=$1
shift
printf '\n== %s\n' "$title"
started=$(date +%s.%N)
if [ -n "${STEP_LOG:-}" ]; then
    mkdir -p .cache/logs
    "$@" 2>&1 | tee ".cache/logs/$STEP_LOG.log"
else
    "$@"
fi
status=$?
seconds=$(awk -v a="$started" -v b="$(date +%s.%N)" 'BEGIN { printf "%.1f", b - a }')
if [ "$status" -eq 0 ]; then
    printf -- '-- %s: ok, %s s\n' "$title" "$seconds"
else
    printf -- '-- %s: FAILED with exit status %s, %s s\n' "$title" "$status" "$seconds"
fi
exit "$status"
