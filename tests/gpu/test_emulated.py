"""Everything of a GPU but the GPU: the CUDA binary computes right on a stand-in that is as late as streams and events allow, survives too
little memory and a lost device, and says what is missing where there is no CUDA. No speed here is that of a device."""

import json
import os
import subprocess
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest
from conftest import BINARY, ROOT

os.environ.setdefault("FOREBAY_BIN", str(BINARY))
from forebay_up import ForebayUp  # noqa: E402

TINY = ROOT / "tests/fixtures/tiny-bert-embed"
TEXTS = [line for line in (ROOT / "tests/fixtures/sentences.txt").read_text().splitlines() if 0 < len(line) < 60][:120]

# A worker tries its largest batch when it starts, which takes an emulated device seconds.
SMALL = {"FOREBAY_BATCH_MAX_TOKENS": "2048"}


def without_cuda():
    return {name: value for name, value in os.environ.items() if name not in ("LD_LIBRARY_PATH", "CUDA_HOME", "CUDA_PATH")}


def embed(url, texts):
    body = json.dumps({"model": "tiny-bert-embed", "input": texts}).encode()
    request = urllib.request.Request(f"{url}/v1/embeddings", body, {"content-type": "application/json"})
    with urllib.request.urlopen(request, timeout=60) as answer:
        return [row["embedding"] for row in json.load(answer)["data"]]


def cosine(a, b):
    dot = lambda x, y: sum(p * q for p, q in zip(x, y, strict=True))  # noqa: E731
    return dot(a, b) / (dot(a, a) * dot(b, b)) ** 0.5


@pytest.fixture(scope="module")
def on_cpu():
    """What the same binary answers on the CPU, in f32."""
    with ForebayUp(model=TINY, env=without_cuda(), args=["--device", "cpu"]) as system:
        return embed(system.url, TEXTS)


def test_without_cuda_the_binary_names_what_it_looked_for_and_computes_on_the_cpu(forebay):
    code, said = forebay("self-test", "--device", "cuda:0", env=without_cuda())
    assert code == 1 and "libcuda.so.1" in said and "/usr/local/cuda" in said and "--device cpu" in said, said
    assert "panicked" not in said
    code, said = forebay("self-test", "--device", "cpu", "--batches", "20", env=without_cuda())
    assert code == 0 and "passed" in said, said


def test_every_kernel_and_every_mix_of_rows_is_right_in_all_precisions(emulated):
    command = [BINARY, "self-test", "--device", "cuda:0", "--batches", "12", "--dtype"]
    running = {dtype: subprocess.Popen([*command, dtype], env=emulated, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) for dtype in ("f16", "bf16", "f32")}
    for dtype, process in running.items():
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0 and "emulated device" in said, f"{dtype}: {said}"


def test_an_ordinal_that_is_not_there_is_refused(emulated, forebay):
    code, said = forebay("self-test", "--device", "cuda:3", env=emulated)
    assert code == 1 and "cuda:3" in said and "GPU-e0e0e0e0" in said, said


def test_answers_under_load_are_those_of_the_cpu(emulated, on_cpu):
    env = {**emulated, **SMALL}
    with ForebayUp(model=TINY, env=env, args=["--device", "cuda:0"]) as system, ThreadPoolExecutor(8) as clients:
        parts = [TEXTS[first : first + 5] for first in range(0, len(TEXTS), 5)]
        answers = [row for rows in clients.map(lambda part: embed(system.url, part), parts) for row in rows]
    assert min(map(cosine, answers, on_cpu)) > 0.9999


def test_a_lost_device_is_a_new_process_and_no_failed_request(emulated, on_cpu):
    """Every process of the worker loses its device after so many kernels; the supervisor starts the next."""
    env = {**emulated, **SMALL, "FOREBAY_EMULATED_LOST_AT_LAUNCH": "180"}
    with ForebayUp(model=TINY, env=env, args=["--device", "cuda:0"]) as system, ThreadPoolExecutor(4) as clients:
        answers = [row for rows in clients.map(lambda text: embed(system.url, [text]), TEXTS[:48]) for row in rows]
        log = system.log_tail(400)
    assert min(map(cosine, answers, on_cpu)) > 0.9999
    assert "device is lost" in log, log


def test_a_device_with_little_memory_gets_smaller_batches(emulated, on_cpu):
    env = {**emulated, "FOREBAY_EMULATED_MEMORY": str(48 << 20)}
    with ForebayUp(model=TINY, env=env, args=["--device", "cuda:0"]) as system:
        answers = embed(system.url, TEXTS[:40])
        logs = "\n".join(path.read_text() for path in system.store.rglob("*.log"))
    assert min(map(cosine, answers, on_cpu)) > 0.9999
    assert "memory for smaller batches only" in logs, logs[-2000:]
