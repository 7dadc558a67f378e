#!/usr/bin/env bash
# Every test of the workspace: cargo-nextest where there is one, else cargo's own runner. With --no-run they are only built.
set -euo pipefail
go_on=(--no-fail-fast)
for argument in "$@"; do
    if [ "$argument" = --no-run ]; then go_on=(); fi
done
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --workspace "${go_on[@]}" "$@"
fi
exec cargo test --workspace "${go_on[@]}" --lib --bins --tests "$@"
