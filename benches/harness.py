"""What every bench shares: load by wrk, peers as child processes, what the broker and the processes say, and the printed table."""

import json
import os
import platform
import re
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
HERE = ROOT / "benches"
sys.path.insert(0, str(ROOT / "scripts"))

import forebay_up  # noqa: E402, F401
from forebay_up import ForebayUp, cpu_seconds, free_ports, get  # noqa: E402, F401

QUICK = os.environ.get("QUICK", "") not in ("", "0")
WRK = shutil.which("wrk") or str(ROOT / ".cache/bin/wrk")
AUTOGROUP = Path("/proc/self/autogroup")


class BenchFailed(SystemExit):
    """A measurement that does not mean what its table would say: the run ends with the reason."""


@contextmanager
def undisturbed():
    """Raises the scheduling group of this shell, where that is permitted, above whatever else runs on the machine.

    `nice` does nothing between terminals when the kernel groups by session; this does. Everything measured stays in this group.
    """
    before = None
    try:
        before = AUTOGROUP.read_text().split()[-1]
        AUTOGROUP.write_text("-20")
    except OSError:
        before = None
    try:
        yield before is not None
    finally:
        if before is not None:
            AUTOGROUP.write_text(before)


def wrk(url, bodies, connections, seconds):
    """One load: requests, seconds, p50_ms, p99_ms, bad_status, broken; and rps."""
    # One thread: the generator shares the machine with what it measures.
    command = [WRK, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "--latency", "-s", str(HERE / "post.lua"), url, "--", str(bodies)]
    done = subprocess.run(command, capture_output=True, text=True)
    found = re.search(r"^RESULT (.*)$", done.stdout, re.MULTILINE)
    if not found:
        raise BenchFailed(f"wrk failed: {done.stdout}{done.stderr}")
    result = json.loads(found[1])
    return {**result, "rps": result["requests"] / result["seconds"]}


def median_of(results, key):
    return statistics.median(result[key] for result in results)


@contextmanager
def peer(command, port, env=None, name=None):
    """A server to compare with, from when it accepts connections until the block ends."""
    log = tempfile.TemporaryFile("w+", encoding="utf-8")
    process = subprocess.Popen(command, env={**os.environ, **(env or {})}, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)
    try:
        end = time.monotonic() + 60
        while get(f"http://127.0.0.1:{port}/", timeout=1)[0] == 0:
            if process.poll() is not None or time.monotonic() > end:
                log.seek(0)
                raise BenchFailed(f"{name or command[0]} did not start: {log.read()[-2000:]}")
            time.sleep(0.2)
        yield process
    finally:
        try:
            os.killpg(process.pid, signal.SIGINT)
            process.wait(10)
        except (subprocess.TimeoutExpired, ProcessLookupError):
            pass
        try:
            os.killpg(process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        process.wait()
        log.close()


def streams(system):
    """Stream name -> state, as the brokers' monitoring ports tell; of several brokers, the one that has got furthest with the stream."""
    found = {}
    for broker in system.processes("nats-server"):
        status, body = get(f"http://{broker['monitor_addr']}/jsz?accounts=true&streams=true&consumers=true")
        if status != 200:
            raise BenchFailed(f"the broker's /jsz answered {status}: {body}")
        for account in json.loads(body).get("account_details") or []:
            for stream in account.get("stream_detail") or []:
                known = found.get(stream["name"])
                if known is None or known["state"]["last_seq"] <= stream["state"]["last_seq"]:
                    found[stream["name"]] = stream
    return found


def job_messages(system):
    """Messages that the job streams have ever taken (the sum of their last sequences)."""
    return sum(stream["state"]["last_seq"] for name, stream in streams(system).items() if name.startswith("FOREBAY_JOBS_"))


def assert_all_acked(system, patience=15.0):
    """Fails unless every message of the job streams is acknowledged and gone within `patience` seconds."""
    end = time.monotonic() + patience
    while True:
        jobs = {name: stream for name, stream in streams(system).items() if name.startswith("FOREBAY_JOBS_")}
        left = sum(stream["state"]["messages"] for stream in jobs.values())
        pending = sum(consumer.get("num_ack_pending", 0) for stream in jobs.values() for consumer in stream.get("consumer_detail") or [])
        if jobs and left == 0 and pending == 0:
            return
        if time.monotonic() > end:
            raise BenchFailed(f"{left} messages left in {sorted(jobs)}, {pending} delivered without an ack")
        time.sleep(0.2)


def metric(url, name, **labels):
    """The sum of all series of one metric on one page which carry these labels."""
    status, text = get(url)
    if status != 200:
        raise BenchFailed(f"{url} answered {status}")
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for have, value in found if all(f'{key}="{wanted}"' in have for key, wanted in labels.items()))


def machine():
    """One line about where this was measured."""
    try:
        text = Path("/proc/cpuinfo").read_text()
        cpu = re.search(r"^model name\s*: (.*)$", text, re.MULTILINE)[1]
    except (OSError, TypeError):
        cpu = platform.processor() or platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{len(os.sched_getaffinity(0))} cores {cpu}, {memory:.0f} GiB, Linux {platform.release()}"


def table(title, head, rows, notes=()):
    """Prints a markdown table with its machine and command line, and puts the same text into $BENCH_OUT when that is set."""
    lines = [f"### {title}", "", "| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    lines += ["| " + " | ".join(str(cell) for cell in row) + " |" for row in rows]
    lines += ["", f"{time.strftime('%Y-%m-%d')}, {machine()}, load generator (wrk) on the same cores.", *notes]
    settings = " ".join(f"{key}={shlex.quote(os.environ[key])}" for key in ("QUICK",) if os.environ.get(key))
    lines += [f"Command: `{settings}{' ' if settings else ''}{' '.join(map(shlex.quote, ['python', *sys.argv]))}`"]
    if QUICK:
        lines += ["**QUICK run: too short to mean anything.**"]
    text = "\n".join(lines)
    print(f"\n{text}\n", flush=True)
    if out := os.environ.get("BENCH_OUT"):
        with open(out, "a", encoding="utf-8") as file:
            file.write(text + "\n\n")


def progress(text):
    print(f"  {text}", file=sys.stderr, flush=True)
