"""benches/gpu.py, which runs where nobody can mend it: everything in it runs here, on the CPU and in little."""

import json
import shutil
import subprocess
import sys

import pytest
from conftest import MINILM, ROOT
from forebay_up import BINARY

sys.path.insert(0, str(ROOT / "benches"))

import gpu_clients  # noqa: E402
import gpu_cores  # noqa: E402
import gpu_model  # noqa: E402


def bench(folder, model):
    command = [sys.executable, str(ROOT / "benches/gpu.py"), "--quick", "--device", "cpu", "--bin", str(BINARY), "--model", str(model)]
    command += ["--work", str(folder / "models"), "--results", str(folder / "results")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    return done, json.loads((folder / "results/results.json").read_text()), (folder / "results/report.md").read_text()


def test_a_quick_run_fills_every_part_of_the_report(tmp_path):
    done, found, report = bench(tmp_path, MINILM)
    assert done.returncode == 0, done.stdout + done.stderr
    assert found["self_test"]["passed"] == found["self_test"]["of"] > 50
    for key in ("random", "model"):
        assert [(cell["rows"], cell["length"]) for cell in found[key]["cells"]] == [(1, 8), (4, 8), (1, 32), (4, 32)]
        assert all(cell["figures"]["tokens_per_second"] > 0 for cell in found[key]["cells"])
    load = found["system"]["load"]
    assert load["errors"] == 0 and load["checked"] > 0 and load["worst_cosine"] > gpu_clients.LEAST_COSINE
    assert load["sentences_per_second"] > 0 and 20 < load["tokens_per_sentence"] < 32
    assert {"api", "worker", "nats-server", "clients"} <= found["system"]["cores"].keys()
    assert "compute" in found["system"]["cores"]["worker"] and 0 < found["system"]["device_busy"] < 1.5
    for section in ("## Self-test", "## Encoder with random weights", "## Whole system", "## PyTorch on the same device", "## Commands", "Quick run"):
        assert section in report
    assert "\nnot run\n" not in report


def test_a_device_that_fails_its_self_test_is_not_measured(tmp_path):
    impostor = tmp_path / "all-MiniLM-L6-v2"
    shutil.copytree(ROOT / "tests/fixtures/tiny-bert-embed", impostor)
    done, found, report = bench(tmp_path, impostor)
    assert done.returncode == 1 and "nothing was measured" in done.stderr
    assert not {"random", "model", "system", "peer"} & found.keys()
    assert "Missed: all-MiniLM-L6-v2: " in report and "The run ended early" in report and report.count("\nnot run\n") == 4


def test_random_weights_are_bf16_and_the_same_for_a_seed(tmp_path):
    assert gpu_model.bf16([1.0, -2.0, 0.0]) == bytes.fromhex("803f00c00000")
    written = [gpu_model.write(tmp_path / name, MINILM, gpu_model.TINY, seed) for name, seed in [("a", 1), ("b", 1), ("c", 2)]]
    a, b, c = [(folder / "model.safetensors").read_bytes() for folder in written]
    assert a == b != c
    before = (tmp_path / "a/model.safetensors").stat().st_mtime_ns
    gpu_model.write(tmp_path / "a", MINILM, gpu_model.TINY)
    assert (tmp_path / "a/model.safetensors").stat().st_mtime_ns == before, "what is there is not written again"
    header = json.loads(a[8 : 8 + int.from_bytes(a[:8], "little")])
    assert header["encoder.layer.1.output.dense.weight"]["shape"] == [64, 256]
    assert len(a) == 8 + int.from_bytes(a[:8], "little") + max(tensor["data_offsets"][1] for tensor in header.values())


def test_answers_are_compared_and_threads_counted_by_kind():
    assert gpu_clients.cosine((1.0, 2.0), (2.0, 4.0)) == pytest.approx(1.0)
    assert gpu_clients.cosine((0.0, 0.0), (1.0, 0.0)) == 0.0
    assert [gpu_cores.kind(name) for name in ("tokenize-3", "compute-12", "engine", "7")] == ["tokenize", "compute", "engine", "7"]
    before = {("worker", 1, "2"): ("compute-1", 1.0)}
    after = {("worker", 1, "2"): ("compute-1", 3.0), ("worker", 1, "3"): ("compute-2", 1.0), ("worker", 1, "1"): ("engine", 0.5)}
    assert gpu_cores.cores(before, after, 2.0) == {"worker": {"compute": 1.5, "engine": 0.25}}
