#!/usr/bin/env bash
# Every test of the workspace: cargo-nextest where there is one, else cargo's own runner.
set -euo pipefail
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --workspace --no-fail-fast "$@"
fi
exec cargo test --workspace --no-fail-fast --lib --bins --tests "$@"
