#!/usr/bin/env bash
# Every test of the workspace: cargo-nextest where there is one, else cargo's own runner. With --no-run they are only built.
set -euo pipefail
go_on=(--no-fail-fast)
for argument in "$@"; do
    if [ "$argument" = --no-run ]; then go_on=(); fi
done
# With a C++ compiler, whose library candle's kernels are linked with, it is the binary for GPUs that is tested, with empty kernels: on a
# machine without CUDA it must do all that the other does.
cargo=(cargo)
if command -v "${CXX:-c++}" >/dev/null; then cargo=(env STUB=1 scripts/cuda.sh); fi
if cargo nextest --version >/dev/null 2>&1; then
    exec "${cargo[@]}" nextest run --workspace "${go_on[@]}" "$@"
fi
exec "${cargo[@]}" test --workspace "${go_on[@]}" --lib --bins --tests "$@"
