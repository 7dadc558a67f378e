#!/usr/bin/env python3
"""A device from its self-test to the whole system: one command on a machine that has nothing but Python, the binary and a model.

In this order: self-test (anything wrong ends the run); the encoder with random weights in the shape of bge-base, over batch and length; the encoder of
the model; `forebay up` under clients on the same machine; PyTorch where it is installed. Writes report.md and results.json.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path

import gpu_clients
import gpu_cores
import gpu_model
import gpu_report
from harness import BenchFailed, forebay_up, machine, metric, progress

ROOT = Path(__file__).resolve().parent.parent
# Words that make some 25 tokens of the sentences file.
WORDS = 22


def main():
    options = settings()
    found = {"device": options.device, "date": time.strftime("%Y-%m-%d %H:%M"), "quick": options.quick, "where": where(options), "commands": []}
    found["commands"].append(shlex.join(["python3", *sys.argv]))
    failure = None
    try:
        measure(options, found)
    except (BenchFailed, forebay_up.NotReady) as reason:
        failure = str(reason)
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "results.json").write_text(json.dumps(found, indent=1))
    text = gpu_report.whole(found) + (f"\n**The run ended early: {failure}**\n" if failure else "")
    (options.results / "report.md").write_text(text)
    print(text)
    progress(f"written to {options.results}")
    sys.exit(failure)


def settings():
    cores = len(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda:0", help="as `forebay worker --device`")
    parser.add_argument("--dtype", help="f32, f16 or bf16, for what is measured [default: bf16; f32 on the CPU]")
    parser.add_argument("--self-test-dtype", default="all", help="f32, f16, bf16 or all; what is measured is tested once more before, whatever this says")
    parser.add_argument("--model", type=Path, default=ROOT / ".cache/models/all-MiniLM-L6-v2", help="folder of all-MiniLM-L6-v2 or another model")
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release/forebay", help="the binary")
    parser.add_argument("--results", type=Path, help="folder for the report [default: target/bench-gpu/DATE]")
    parser.add_argument("--work", type=Path, default=ROOT / "target/bench-gpu/models", help="folder for the model with random weights")
    parser.add_argument("--seconds", type=float, help="least time per figure of a device [default: 0.7]")
    parser.add_argument("--load-seconds", type=float, help="time under load [default: 30]")
    parser.add_argument("--clients", type=int, help="client processes [default: a third of the cores, 8 at most]")
    parser.add_argument("--connections", type=int, help="connections of each client process [default: 8]")
    parser.add_argument("--tokenizer-threads", type=int, default=max(1, cores // 3), help="threads of the worker that tokenise")
    parser.add_argument("--batch-rows", type=int, default=512, help="rows per batch at most, in the whole system")
    parser.add_argument("--peer-python", default=sys.executable, help="an interpreter that has PyTorch")
    parser.add_argument("--quick", action="store_true", help="tiny sizes: shows that everything runs, measures nothing")
    options = parser.parse_args()
    quick = options.quick
    options.bin, options.model = options.bin.resolve(), options.model.resolve()
    options.dtype = options.dtype or ("f32" if options.device == "cpu" else "bf16")
    options.seconds = options.seconds or (0.05 if quick else 0.7)
    options.load_seconds = options.load_seconds or (2 if quick else 30)
    options.clients = options.clients or (2 if quick else max(1, min(8, cores // 3)))
    options.connections = options.connections or (2 if quick else 8)
    options.results = options.results or ROOT / "target/bench-gpu" / time.strftime("%Y%m%d-%H%M%S")
    options.shape, options.name = (gpu_model.TINY, "random-tiny") if quick else (gpu_model.BASE, "random-bge-base")
    options.rows, options.lengths = ([1, 4], [8, 32]) if quick else ([1, 8, 32, 128, 256], [8, 25, 64, 128, 256, 512])
    if not options.bin.is_file():
        parser.error(f"there is no binary {options.bin}")
    if not (options.model / "tokenizer.json").is_file():
        parser.error(f"{options.model} is no model folder")
    forebay_up.BINARY = options.bin
    return options


def where(options):
    """What was measured, and on what."""
    found = {"machine": machine(), "binary": output([str(options.bin), "--version"])}
    commit = output(["git", "-C", str(ROOT), "rev-parse", "--short=12", "HEAD"])
    dirty = output(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    found["commit"] = f"{commit or 'unknown'}{' with changes' if dirty else ''}"
    if shutil.which("nvidia-smi"):
        query = "name,driver_version,memory.total,clocks.max.sm,power.limit"
        found["GPU, driver, memory, clock, power"] = output(["nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader"]).replace("\n", "; ")
    return found


def output(command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    except OSError:
        return ""


def measure(options, found):
    progress("self-test")
    dtype = ["--dtype", options.self_test_dtype]
    tested = ask(options, found, ["self-test", "--device", options.device, *dtype, "--model", str(options.model), *(["--batches", "20"] if options.quick else [])])
    found["self_test"] = tested
    if not tested or tested["passed"] != tested["of"] or tested["of"] == 0:
        raise BenchFailed("the self-test did not pass: nothing was measured")
    progress("random weights")
    random = gpu_model.write(options.work / options.name, options.model, options.shape)
    for key, folder in [("random", random), ("model", options.model)]:
        progress(f"encoder of {folder.name}")
        shapes = ["--rows", ",".join(map(str, options.rows)), "--lengths", ",".join(map(str, options.lengths)), "--seconds", str(options.seconds)]
        found[key] = ask(options, found, ["device-bench", "--device", options.device, "--dtype", options.dtype, "--model", str(folder), *shapes])
        if not found[key]:
            raise BenchFailed(f"device-bench of {folder.name} failed")
    progress("whole system")
    found["system"] = system(options, found)
    progress("PyTorch")
    found["peer"] = peer(options, found, random)
    load = found["system"]["load"]
    if load["errors"] or not load["checked"] or load["worst_cosine"] < gpu_clients.LEAST_COSINE:
        raise BenchFailed(f"the whole system answered wrongly: {load['errors']} errors, {load['checked']} answers checked, worst cosine {load['worst_cosine']}")


def ask(options, found, command):
    """What the binary prints with --json; nothing if it prints nothing, after its error has been shown."""
    line = [str(options.bin), *command, "--json"]
    found["commands"].append(shlex.join(line))
    done = subprocess.run(line, capture_output=True, text=True, check=False)
    if done.stderr.strip():
        progress(done.stderr.strip())
    return json.loads(done.stdout) if done.stdout.strip() else None


def system(options, found):
    """`forebay up` with the device under clients that send arrays of short sentences."""
    text = (ROOT / "tests/fixtures/sentences.txt").read_text()
    requests = gpu_clients.bodies(text, options.model.name, 4 if options.quick else 32, WORDS)[: 3 if options.quick else None]
    on_cpu = {"FOREBAY_DEVICE": "cpu", "FOREBAY_DTYPE": "f32"}
    with forebay_up.ForebayUp(model=options.model, env=on_cpu) as right:
        references = gpu_clients.ask_all(f"{right.url}/v1/embeddings", requests)
    env = {"FOREBAY_DEVICE": options.device, "FOREBAY_DTYPE": options.dtype, "FOREBAY_TOKENIZER_THREADS": str(options.tokenizer_threads)}
    env["FOREBAY_BATCH_MAX_ROWS"] = str(options.batch_rows)
    with forebay_up.ForebayUp(model=options.model, env=env) as running:
        found["commands"].append(" ".join([*(f"{key}={value}" for key, value in env.items()), shlex.join(running.command())]))
        share = 1.0 if options.quick else 0.01
        warm_up = 0.5 if options.quick else 5
        url = f"{running.url}/v1/embeddings"
        clients = gpu_clients.Clients(url, requests, references, options.clients, options.connections, warm_up, options.load_seconds, share)
        groups = {**running.pids(), "clients": clients.pids()}
        before = at(clients.begin, running, groups)
        after = at(clients.end, running, groups)
        load = clients.wait()
    seconds = after["time"] - before["time"]
    what = f"{options.model.name} in {options.dtype}, 1 worker, {options.tokenizer_threads} tokenizer threads; {options.clients} client processes with "
    what += f"{options.connections} connections each on the same cores, arrays of {len(requests[0][1])} sentences of {load['tokens_per_sentence']:.1f} tokens, "
    what += f"base64, {options.load_seconds:g} s, no cache."
    busy = (after["device"] - before["device"]) / seconds
    return {"what": what, "load": load, "device_busy": busy, "cores": gpu_cores.cores(before["threads"], after["threads"], seconds)}


def at(moment, running, groups):
    """CPU time of all threads and device time at a moment."""
    time.sleep(max(0.0, moment - time.time()))
    now, threads = time.time(), gpu_cores.snapshot(groups)
    pages = [url for name, url in running.metrics_urls().items() if name.startswith("api")]
    return {"time": now, "threads": threads, "device": sum(metric(url, "forebay_api_device_seconds_total") for url in pages)}


def peer(options, found, random):
    command = [options.peer_python, str(ROOT / "benches/gpu_peer.py"), "--device", options.device, "--dtype", options.dtype, "--random", str(random)]
    command += ["--model", str(options.model), "--sentences", str(ROOT / "tests/fixtures/sentences.txt"), "--seconds", str(options.seconds)]
    command += ["--rows", *map(str, options.rows), "--lengths", *map(str, options.lengths)]
    found["commands"].append(shlex.join(command))
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, ValueError):
        return {"not_run": f"{command[1]} ended with {done.returncode}: {done.stderr.strip()[-300:]}"}


if __name__ == "__main__":
    main()
