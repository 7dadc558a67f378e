#!/usr/bin/env python3
"""What the fleet's /metrics page costs as the fleet grows: size, time of a scrape, and the aggregator's CPU time while traffic flows."""

import argparse
import json
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from harness import HERE, QUICK, WRK, BenchFailed, ForebayUp, get, progress, table, undisturbed


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--workers", type=int, nargs="+", default=[1, 4] if QUICK else [1, 4, 16, 32])
    parser.add_argument("--scrapes", type=int, default=20 if QUICK else 200)
    parser.add_argument("--connections", type=int, default=16, help="of the traffic that flows meanwhile")
    options = parser.parse_args()
    rows = []
    with undisturbed() as raised, tempfile.TemporaryDirectory() as folder:
        bodies = Path(folder) / "bodies"
        bodies.write_text(json.dumps({"model": "simulated", "input": "one short sentence"}) + "\n")
        for workers in options.workers:
            with ForebayUp(model="simulated", workers=workers) as system:
                rows.append(measure(system, workers, bodies, options))
    head = ["workers", "series", "page KiB", "scrape p50 ms", "scrape p99 ms", "aggregator CPU s per s, scraped", "aggregator CPU s per s, not scraped"]
    note = "Scheduling group raised." if raised else "The scheduling group could not be raised: other work on this machine shows."
    table("A scrape of the fleet", head, rows, [f"{options.scrapes} scrapes, 20 per second, with {options.connections} connections of traffic. {note}"])


def measure(system, workers, bodies, options):
    page = f"{system.aggregator_url}/metrics"
    seconds = options.scrapes // 20 + 8
    command = [WRK, "-t1", f"-c{options.connections}", f"-d{2 * seconds}s", "-s", str(HERE / "post.lua"), f"{system.url}/v1/embeddings", "--", str(bodies)]
    traffic = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        wait_ready(page)
        time.sleep(3)  # a report of every worker is in
        quiet = cpu_rate(system, lambda: time.sleep(options.scrapes / 20))
        times = []

        def scrape():
            for _ in range(options.scrapes):
                started = time.perf_counter()
                status, _ = get(page)
                times.append((time.perf_counter() - started) * 1e3)
                if status != 200:
                    raise BenchFailed(f"{page} answered {status}")
                time.sleep(max(0.0, 0.05 - times[-1] / 1e3))

        busy = cpu_rate(system, scrape)
        text = get(page)[1]
    finally:
        traffic.kill()
        traffic.wait()
    series = sum(1 for line in text.splitlines() if line and not line.startswith("#"))
    p50, p99 = statistics.median(times), statistics.quantiles(times, n=100)[98]
    progress(f"{workers:3} workers: {series} series, p50 {p50:.2f} ms")
    return [workers, series, f"{len(text) / 1024:.0f}", f"{p50:.2f}", f"{p99:.2f}", f"{busy:.3f}", f"{quiet:.3f}"]


def wait_ready(page):
    """An aggregator answers 503 until it knows the past."""
    end = time.monotonic() + 30
    while (status := get(page)[0]) != 200:
        if time.monotonic() > end:
            raise BenchFailed(f"{page} still answers {status}")
        time.sleep(0.2)


def cpu_rate(system, work):
    """CPU seconds per second that the aggregator uses while `work` runs."""
    before, started = system.cpu()["aggregator"], time.monotonic()
    work()
    return (system.cpu()["aggregator"] - before) / (time.monotonic() - started)


if __name__ == "__main__":
    main()
