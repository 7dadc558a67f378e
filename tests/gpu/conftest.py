"""The CUDA binary on a machine without a GPU: a stand-in for CUDA's driver and libraries, built from worker/tests/cuda_emulator."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

BINARY = Path(os.environ.get("FOREBAY_BIN", ROOT / "target/debug/forebay"))
EMULATOR = ROOT / "worker/tests/cuda_emulator"
KERNELS = ROOT / "worker/src/kernels/cuda"
LIBRARIES = ROOT / "target/cuda-emulator"
# One file under all the names that the binary opens.
NAMES = ["libcuda.so.1", "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10"]


@pytest.fixture(scope="session")
def emulated():
    """An environment in which there is one emulated device."""
    compiler = os.environ.get("CXX") or shutil.which("c++")
    if not compiler:
        pytest.skip("no C++ compiler to build the emulator with")
    sources = [EMULATOR / name for name in ("emulator.cpp", "driver.cpp", "blas.cpp")]
    newest = max(path.stat().st_mtime for folder in (EMULATOR, KERNELS) for path in folder.iterdir())
    library = LIBRARIES / NAMES[0]
    if not library.exists() or library.stat().st_mtime < newest:
        LIBRARIES.mkdir(parents=True, exist_ok=True)
        # As worker/tests/cuda_emulator/mod.rs compiles the kernels; all in one library.
        command = [compiler, "-std=c++17", "-O2", "-shared", "-fPIC", "-march=native", "-ffp-contract=off", "-fno-strict-aliasing", "-w", *sources, "-o", library]
        built = subprocess.run(command, capture_output=True, text=True, check=False)
        assert built.returncode == 0, built.stderr
    for name in NAMES[1:]:
        if not (LIBRARIES / name).exists():
            (LIBRARIES / name).symlink_to(NAMES[0])
    return {**os.environ, "LD_LIBRARY_PATH": str(LIBRARIES)}


@pytest.fixture(scope="session")
def forebay():
    """Runs the binary and returns what it ended with and said."""

    def run(*arguments, env=None, timeout=240):
        command = [BINARY, *arguments]
        ended = subprocess.run(command, env=env, capture_output=True, text=True, timeout=timeout, check=False)
        return ended.returncode, ended.stdout + ended.stderr

    return run
