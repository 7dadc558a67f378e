#!/usr/bin/env python3
"""Sentences per second through the whole path with a real model: one sentence per request, as it comes from clients.

The peer, where it is installed (scripts/fetch.py bench), is mosec with the same weights on onnxruntime, taking turns with it.
"""

import argparse
import importlib.util
import json
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import HERE, QUICK, ROOT, ForebayUp, assert_all_acked, free_ports, get, median_of, metric, peer, progress, table, undisturbed, wrk

ONNX = ROOT / ".cache" / "onnx"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default=".cache/models/all-MiniLM-L6-v2", type=Path)
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 3)
    parser.add_argument("--seconds", type=int, default=2 if QUICK else 20)
    parser.add_argument("--warm-up", type=int, default=1 if QUICK else 5, help="seconds")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--skip-peers", action="store_true")
    options = parser.parse_args()
    model = options.model.resolve()
    sentences = (ROOT / "tests/fixtures/sentences.txt").read_text().splitlines()
    with undisturbed() as raised, tempfile.TemporaryDirectory() as folder:
        with ForebayUp(model=model, workers=options.workers) as system, running_peer(options, model) as peers:
            bodies = Path(folder) / "bodies"
            bodies.write_text("".join(json.dumps({"model": model_id(system), "input": sentence}) + "\n" for sentence in sentences))
            rows = measure(options, bodies, {"forebay": (f"{system.url}/v1/embeddings", system), **peers})
    note = "Scheduling group raised." if raised else "The scheduling group could not be raised: other work on this machine shows."
    head = ["server", "connections", "sentences/s", "p50 ms", "p99 ms", "errors", "share of the time in the model"]
    notes = [f"{len(sentences)} sentences of tests/fixtures/sentences.txt in turn, {model.name}, {options.workers} worker(s). Median of {options.rounds} x {options.seconds} s. {note}"]
    table("Embedding, one sentence per request", head, rows, notes)


def model_id(system):
    return json.loads(get(f"{system.url}/v1/models")[1])["data"][0]["id"]


@contextmanager
def running_peer(options, model):
    """mosec with onnxruntime on the same weights, when both are installed: name -> (address, None)."""
    with ExitStack() as stack:
        peers = {}
        if not options.skip_peers and all(map(importlib.util.find_spec, ("mosec", "onnxruntime", "onnx"))):
            if not (ONNX / "f32.onnx").exists():
                subprocess.run([sys.executable, str(HERE / "peers/minilm_onnx.py"), str(model), str(ONNX)], check=True, stdout=subprocess.DEVNULL)
            (port,) = free_ports(1)
            env = {"PEER": "f32", "MODEL_DIR": str(model), "ONNX_DIR": str(ONNX)}
            stack.enter_context(peer([sys.executable, str(HERE / "peers/mosec_peer.py"), "--address", "127.0.0.1", "--port", str(port)], port, env, "mosec"))
            peers["mosec + onnxruntime f32"] = (f"http://127.0.0.1:{port}/inference", None)
        else:
            progress("left out: mosec + onnxruntime")
        yield peers


def measure(options, bodies, servers):
    rows = []
    for connections in options.connections:
        results = {name: [] for name in servers}
        for url, _ in servers.values():
            wrk(url, bodies, connections, options.warm_up)
        for turn in range(options.rounds):
            for name, (url, system) in servers.items():
                results[name].append(load(url, system, bodies, connections, options))
                progress(f"{connections:4} connections, round {turn + 1}, {name}: {results[name][-1]['rps']:.0f} sentences/s")
        for name, runs in results.items():
            share = f"{median_of(runs, 'share'):.0%}" if servers[name][1] else ""
            errors = sum(run["bad_status"] + run["broken"] for run in runs)
            rows.append([name, connections, f"{median_of(runs, 'rps'):.0f}", f"{median_of(runs, 'p50_ms'):.1f}", f"{median_of(runs, 'p99_ms'):.1f}", errors, share])
    return rows


def model_seconds(system):
    """Seconds that the workers have spent in the model so far."""
    return sum(metric(url, "forebay_worker_inference_seconds_sum") for name, url in system.metrics_urls().items() if name.startswith("worker"))


def load(url, system, bodies, connections, options):
    if system is None:
        return wrk(url, bodies, connections, options.seconds)
    before = model_seconds(system)
    result = wrk(url, bodies, connections, options.seconds)
    share = (model_seconds(system) - before) / result["seconds"] / options.workers
    assert_all_acked(system)
    return {**result, "share": share}


if __name__ == "__main__":
    main()
