#!/usr/bin/env python3
"""Throughput against the number of workers, with a model that only waits: what is measured is whether the queue keeps all of them busy.

Each worker can do `--rows` requests per `--base` milliseconds and no more. The backlog is always several batches per worker deep, so a gap to
the linear line is time that a worker stood idle although work was there. The last column is the CPU time of everything but the workers.
"""

import argparse
import json
import tempfile
from pathlib import Path

from harness import QUICK, ForebayUp, assert_all_acked, progress, table, undisturbed, wrk


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 2, 4] if QUICK else [1, 2, 4, 8, 16])
    parser.add_argument("--base", type=int, default=10, help="milliseconds per batch")
    parser.add_argument("--rows", type=int, default=8, help="largest batch")
    parser.add_argument("--depth", type=int, default=4, help="batches waiting per worker")
    parser.add_argument("--seconds", type=int, default=3 if QUICK else 15)
    parser.add_argument("--warm-up", type=int, default=1 if QUICK else 3, help="seconds")
    options = parser.parse_args()
    env = {"FOREBAY_SIMULATED_BASE": f"{options.base}ms", "FOREBAY_SIMULATED_PER_TOKEN": "0s", "FOREBAY_BATCH_MAX_ROWS": str(options.rows)}
    rows = []
    with undisturbed() as raised, tempfile.TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies"
        bodies.write_text(json.dumps({"model": "simulated", "input": "one short sentence"}) + "\n")
        for workers in options.workers:
            with ForebayUp(model="simulated", workers=workers, env=env) as system:
                rows.append(measure(system, workers, bodies, options))
    one = rows[0]["rps"] / rows[0]["workers"]
    limit = options.rows * 1000 / options.base
    cells = [
        [row["workers"], f"{row['rps']:,.0f}", f"{row['rps'] / one / row['workers']:.0%}", f"{row['rps'] / limit / row['workers']:.0%}",
         f"{row['p50_ms']:.1f}", f"{row['p99_ms']:.1f}", row["bad_status"] + row["broken"], f"{row['outside']:.2f}", f"{row['inside']:.2f}"]
        for row in rows
    ]  # fmt: skip
    head = ["workers", "req/s", "of linear", "of what the workers can do", "p50 ms", "p99 ms", "errors", "CPU s per s outside the workers", "in the workers"]
    note = "Scheduling group raised." if raised else "The scheduling group could not be raised: other work on this machine shows."
    notes = [f"Simulated engine: {options.base} ms per batch of at most {options.rows}, {options.depth} batches per worker waiting; {options.seconds} s each. {note}"]
    table("Scaling with the number of workers", head, cells, notes)


def measure(system, workers, bodies, options):
    url = f"{system.url}/v1/embeddings"
    connections = max(64, workers * options.rows * options.depth)
    wrk(url, bodies, connections, options.warm_up)
    before = system.cpu()
    result = wrk(url, bodies, connections, options.seconds)
    used = {role: (value - before.get(role, 0.0)) / result["seconds"] for role, value in system.cpu().items()}
    assert_all_acked(system)
    progress(f"{workers:3} workers: {result['rps']:.0f} req/s, {result['bad_status'] + result['broken']} errors")
    return {**result, "workers": workers, "inside": used.pop("worker", 0.0), "outside": sum(used.values())}


if __name__ == "__main__":
    main()
