#!/usr/bin/env python3
"""What safety costs: the whole path without a model in each durability mode, and what each mode can lose.

memory, file and fsync are one broker under `forebay up`; replicated is three brokers in a cluster, here on one machine, so that the table
shows the work of replication without a network between the brokers. The modes take turns, so that a noisy minute hits all of them. The run
fails unless every accepted request went through the stream and every message was acknowledged.
"""

import argparse
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from harness import QUICK, ROOT, BenchFailed, ForebayUp, assert_all_acked, free_ports, get, job_messages, median_of, progress, table, undisturbed, wrk
from path import body
from forebay_up import BINARY, cpu_seconds, die_with_parent

LOST = {
    "memory": "synchronous jobs that wait, when the broker's process ends",
    "file": "nothing when the process ends; up to 2 min of acknowledged jobs when the power fails",
    "fsync": "nothing on one broker whose disk survives",
    "replicated": "nothing while two of three brokers live; up to 2 min of acknowledged jobs if the power of two fails at once",
}
ROLES = ("api", "worker", "nats-server")
START_SECONDS = 60


class Replicated:
    """Three brokers, an api and a worker. The same face as `ForebayUp`, as far as it is needed here."""

    def __init__(self):
        self.home = tempfile.TemporaryDirectory(prefix="forebay-replicated-")
        self.folder = Path(self.home.name)
        self.running = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        subprocess.run([str(BINARY), "keys", str(self.folder / "keys")], check=True, stdout=subprocess.DEVNULL)
        ports = free_ports(11)
        clients, monitors, routes, (api, worker) = ports[0:3], ports[3:6], ports[6:9], ports[9:]
        for index in range(3):
            self.broker(index, clients[index], monitors[index], routes)
        for monitor in monitors:
            self.wait(f"http://127.0.0.1:{monitor}/healthz")
        broker = ",".join(f"nats://127.0.0.1:{port}" for port in clients)
        shared = ["--broker", broker, "--durability", "replicated", "--log", "warn"]
        self.role("worker", worker, ["--model", "identity", "--metrics-addr", f"127.0.0.1:{worker}", *shared])
        self.role("api", api, ["--api-addr", f"127.0.0.1:{api}", "--cache-bytes", "0", *shared])
        self.url, self.monitor = f"http://127.0.0.1:{api}", monitors[0]
        self.wait(f"http://127.0.0.1:{worker}/health/ready")
        self.wait(f"{self.url}/health/ready?model=identity")

    def broker(self, index, client, monitor, routes):
        config = self.folder / f"nats-{index}.conf"
        others = ", ".join(f'"nats://127.0.0.1:{port}"' for port in routes)
        config.write_text(
            f'server_name: nats-{index}\nlisten: "127.0.0.1:{client}"\nhttp: "127.0.0.1:{monitor}"\ninclude ./keys/accounts.conf\n'
            f'cluster {{ name: bench, listen: "127.0.0.1:{routes[index]}", routes: [{others}] }}\n'
            f'jetstream {{ store_dir: "{self.folder}/store-{index}", max_file_store: 64GB, max_memory_store: 256MB }}\n'
        )
        self.spawn("nats-server", monitor, [str(ROOT / ".cache/bin/nats-server"), "-c", str(config)])

    def role(self, role, port, flags):
        self.spawn(role, port, [str(BINARY), role, "--broker-credentials", str(self.folder / f"keys/{role}.nk"), *flags])

    def spawn(self, role, port, command):
        log = open(self.folder / f"{role}-{port}.log", "wb")
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, preexec_fn=die_with_parent)
        self.running.append((role, port, process))

    def wait(self, url):
        end = time.monotonic() + START_SECONDS
        while get(url, timeout=1)[0] != 200:
            ended = [f"{role}: {(self.folder / f'{role}-{port}.log').read_text()[-1000:]}" for role, port, process in self.running if process.poll() is not None]
            if ended or time.monotonic() > end:
                raise BenchFailed(f"{url} does not answer; {' '.join(ended)}")
            time.sleep(0.1)

    def processes(self, role):
        return [{"monitor_addr": f"127.0.0.1:{port}"} for of, port, _ in self.running if of == role]

    def cpu(self):
        used = {}
        for role, _, process in self.running:
            used[role] = used.get(role, 0.0) + cpu_seconds(process.pid)
        return used

    def stop(self):
        for _, _, process in reversed(self.running):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()
        self.home.cleanup()


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--modes", nargs="+", default=list(LOST), choices=list(LOST))
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 64])
    parser.add_argument("--rounds", type=int, default=1 if QUICK else 5)
    parser.add_argument("--seconds", type=int, default=2 if QUICK else 20)
    parser.add_argument("--warm-up", type=int, default=1 if QUICK else 5, help="seconds")
    options = parser.parse_args()
    runs = {}
    with undisturbed() as raised, tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        bodies = Path(folder) / "bodies"
        bodies.write_text(body("identity") + "\n")
        systems = {mode: stack.enter_context(start(mode)) for mode in options.modes}
        for connections in options.connections:
            for system in systems.values():
                wrk(f"{system.url}/v1/embeddings", bodies, connections, options.warm_up)
            for turn in range(options.rounds):
                for mode, system in systems.items():
                    result = load(system, bodies, connections, options.seconds)
                    runs.setdefault((mode, connections), []).append(result)
                    progress(f"{connections:4} connections, round {turn + 1}, {mode}: {result['rps']:.0f} req/s")
    note = "Scheduling group raised." if raised else "The scheduling group could not be raised: other work on this machine shows."
    head = ["durability", "connections", "req/s", "of memory", "p50 ms", "p99 ms", "errors", "CPU µs per request (" + ", ".join(ROLES) + ")", "can be lost"]
    notes = [f"Median of {options.rounds} x {options.seconds} s, taking turns. {note}", "replicated: three brokers on this one machine; their CPU is summed."]
    table("Price of durability, 200-byte bodies, no model", head, [row(mode, connections, runs) for (mode, connections) in runs], notes)


def start(mode):
    return Replicated() if mode == "replicated" else ForebayUp(model="identity", args=["--durability", mode])


def load(system, bodies, connections, seconds):
    """One load, what each role used for it, and the proof that the requests took the queue."""
    before, cpu = job_messages(system), system.cpu()
    result = wrk(f"{system.url}/v1/embeddings", bodies, connections, seconds)
    used = {role: (value - cpu.get(role, 0.0)) / max(result["requests"], 1) * 1e6 for role, value in system.cpu().items()}
    assert_all_acked(system)
    if job_messages(system) <= before:
        raise BenchFailed(f"the last sequence of the job stream did not advance: the requests did not go through the queue ({result})")
    return {**result, **used}


def row(mode, connections, runs):
    mine, base = runs[(mode, connections)], runs.get(("memory", connections))
    share = f"{median_of(mine, 'rps') / median_of(base, 'rps'):.0%}" if base else ""
    errors = sum(run["bad_status"] + run["broken"] for run in mine)
    cpu = ", ".join(f"{median_of(mine, role):.0f}" for role in ROLES)
    return [mode, connections, f"{median_of(mine, 'rps'):,.0f}", share, f"{median_of(mine, 'p50_ms'):.2f}", f"{median_of(mine, 'p99_ms'):.2f}", errors, cpu, LOST[mode]]


if __name__ == "__main__":
    main()
