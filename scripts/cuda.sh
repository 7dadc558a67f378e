#!/usr/bin/env bash
# cargo with the feature `cuda`: scripts/cuda.sh build --release --locked. The compiler is the one of $CUDA_HOME, else the one from
# PyPI in .cache/cuda, which is brought when it is missing (1.2 GB).
#
#   FOREBAY_CUDA_ARCH=80,90a   architectures of the machine code [default: 90a]; other GPUs compile the PTX of the lowest when they start
#   STUB=1                     no compiler: kernels are empty, which is enough for lints and for tests on the emulator
set -euo pipefail
cd "$(dirname "$0")/.."

export FOREBAY_CUDA_ARCH=${FOREBAY_CUDA_ARCH:-90a}
if [ "${STUB:-0}" != 0 ]; then
    # One line each in two places: the build scripts of candle and cudarc ask for a version, and for files.
    # An architecture that nobody builds for: candle's build keeps what it has compiled for one, whoever compiled it.
    export NVCC=$PWD/scripts/nvcc_stub.sh CUDARC_CUDA_VERSION=13000 CUDA_COMPUTE_CAP=75
    export CUDA_HOME=$PWD/.cache/cuda-stub
    mkdir -p "$CUDA_HOME/include" "$CUDA_HOME/lib64" "$CUDA_HOME/bin"
    ln -sf "$NVCC" "$CUDA_HOME/bin/nvcc"
elif [ -z "${CUDA_HOME:-}" ]; then
    "${PYTHON:-python3}" scripts/fetch.py cuda
    export CUDA_HOME=$PWD/.cache/cuda/nvidia/cu13
fi
export CUDA_PATH=$CUDA_HOME PATH=$CUDA_HOME/bin:$PATH

# candle's own kernels are made for one architecture, the lowest; encoders do without them.
lowest=$(tr ',' '\n' <<<"$FOREBAY_CUDA_ARCH" | tr -d 'a-z ' | sort -n | head -n 1)
export CUDA_COMPUTE_CAP=${CUDA_COMPUTE_CAP:-$lowest}

command=$1
shift
if [ "$command" = nextest ]; then
    exec cargo nextest "$1" --features cuda "${@:2}"
fi
exec cargo "$command" --features cuda "$@"
