#!/usr/bin/env python3
"""What the whole path costs when the model costs nothing: HTTP, JetStream with file storage, a worker, the reply.

Two peers stand beside it and take turns with it, so that a noisy minute hits all three: a bare axum echo (the ceiling of HTTP on this
machine) and mosec's batched echo (the fastest plain batching server found; no queue). The run fails unless every accepted request went
through the stream and every message was acknowledged.
"""

import argparse
import importlib.util
import json
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path

from harness import HERE, QUICK, ROOT, BenchFailed, ForebayUp, assert_all_acked, free_ports, job_messages, median_of, peer, progress, table, undisturbed, wrk

BODY_BYTES = 200
ROLES = ("api", "worker", "nats-server")


def body(model):
    """A request of 200 bytes."""
    empty = len(json.dumps({"model": model, "input": ""}))
    return json.dumps({"model": model, "input": "x" * (BODY_BYTES - empty)})


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64, 256])
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 5)
    parser.add_argument("--seconds", type=int, default=2 if QUICK else 20)
    parser.add_argument("--warm-up", type=int, default=1 if QUICK else 5, help="seconds")
    parser.add_argument("--skip-peers", action="store_true")
    options = parser.parse_args()
    with undisturbed() as raised, tempfile.TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies"
        bodies.write_text(body("identity") + "\n")
        with ForebayUp(model="identity", workers=1) as system, running_peers(options) as peers:
            rows = measure(options, bodies, {"forebay": (f"{system.url}/v1/embeddings", system), **peers})
    note = "Scheduling group raised." if raised else "The scheduling group could not be raised: other work on this machine shows."
    head = ["server", "connections", "req/s", "p50 ms", "p99 ms", "errors", "requests per message", "CPU µs per request (" + ", ".join(ROLES) + ")"]
    table("Path overhead, 200-byte bodies, file storage, no model", head, rows, [f"Median of {options.rounds} x {options.seconds} s, taking turns. {note}"])


@contextmanager
def running_peers(options):
    """Starts the peers that are installed: name -> (address, None)."""
    axum, mosec = free_ports(2)
    peers = {}
    with ExitStack() as stack:
        binary = ROOT / "target/release/examples/bare_echo"
        if options.skip_peers:
            pass
        elif binary.exists():
            stack.enter_context(peer([str(binary), "--addr", f"127.0.0.1:{axum}"], axum))
            peers["bare axum echo"] = (f"http://127.0.0.1:{axum}/v1/embeddings", None)
        else:
            progress("left out: bare axum echo (cargo build --release --example bare_echo)")
        if options.skip_peers:
            pass
        elif importlib.util.find_spec("mosec"):
            stack.enter_context(peer([sys.executable, str(HERE / "peers/mosec_peer.py"), "--address", "127.0.0.1", "--port", str(mosec)], mosec, {"PEER": "echo"}, "mosec"))
            peers["mosec echo, batches to 64, 1 ms"] = (f"http://127.0.0.1:{mosec}/inference", None)
        else:
            progress("left out: mosec (scripts/fetch.py bench)")
        yield peers


def measure(options, bodies, servers):
    """Rows of the table."""
    rows = []
    for connections in options.connections:
        results = {name: [] for name in servers}
        for url, _ in servers.values():
            wrk(url, bodies, connections, options.warm_up)
        for turn in range(options.rounds):
            for name, (url, system) in servers.items():
                results[name].append(load(url, system, bodies, connections, options.seconds))
                progress(f"{connections:4} connections, round {turn + 1}, {name}: {results[name][-1]['rps']:.0f} req/s")
        for name, runs in results.items():
            errors = sum(run["bad_status"] + run["broken"] for run in runs)
            own = ["", ""]
            if servers[name][1]:
                own = [f"{median_of(runs, 'per_message'):.1f}", ", ".join(f"{median_of(runs, role):.0f}" for role in ROLES)]
            cells = [f"{median_of(runs, 'rps'):,.0f}", f"{median_of(runs, 'p50_ms'):.2f}", f"{median_of(runs, 'p99_ms'):.2f}", errors]
            rows.append([name, connections, *cells, *own])
    return rows


def load(url, system, bodies, connections, seconds):
    """One load; for the system itself also what it did in it, and the proof that the requests took the queue."""
    if system is None:
        return wrk(url, bodies, connections, seconds)
    messages, cpu = job_messages(system), system.cpu()
    result = wrk(url, bodies, connections, seconds)
    used = {role: (value - cpu.get(role, 0.0)) / max(result["requests"], 1) * 1e6 for role, value in system.cpu().items()}
    assert_all_acked(system)
    taken = job_messages(system) - messages
    if taken <= 0:
        raise BenchFailed("the last sequence of the job stream did not advance: the requests did not go through the queue")
    return {**result, **used, "per_message": (result["requests"] - result["bad_status"]) / taken}


if __name__ == "__main__":
    main()
