"""`forebay up` for one test or one measurement: on free ports, with a store of its own, and gone afterwards whatever happens.

    with ForebayUp(model="identity", workers=2) as system:
        system.url                                  # http://127.0.0.1:<port>
        system.processes("worker")                  # entries of <store>/processes.json

The end is the user's Ctrl-C: SIGINT to the supervisor, then its children are expected to be gone by themselves. What is not gone is killed,
and `stop` says so by returning False.
"""

import ctypes
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BINARY = ROOT / os.environ.get("FOREBAY_BIN", "target/release/forebay")
MINILM = ROOT / os.environ.get("FOREBAY_TEST_MODEL", ".cache/models/all-MiniLM-L6-v2")
START_SECONDS = float(os.environ.get("FOREBAY_START_SECONDS", "60"))
STOP_SECONDS = 20.0
PR_SET_PDEATHSIG = 1


class NotReady(Exception):
    """The system did not become ready; the text ends with the last lines of its log."""


def free_ports(count):
    """Ports that nobody listens on now. They are held open together, so that they differ."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def get(url, timeout=5.0):
    """(status, body) of a GET; (0, reason) when nobody answers."""
    try:
        with urllib.request.urlopen(url, timeout=timeout) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode(errors="replace")
    except OSError as error:
        return 0, str(error)


def alive(pid):
    """Whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def cpu_seconds(pid):
    """User and system time that a process has used, all its threads together; 0 when it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def die_with_parent():
    """In the child: SIGINT when whoever started it is killed, so that not even SIGKILL leaves a system behind."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)


class ForebayUp:
    """One running system. Use it as a context manager."""

    def __init__(self, model=None, workers=1, env=None, args=(), store=None):
        self.model, self.workers, self.args = str(model or MINILM), workers, list(args)
        # What is tested and measured is the queue: equal inputs must take it, too. Whoever wants the cache sets this.
        self.env = {"FOREBAY_CACHE_BYTES": "0", **os.environ, **(env or {})}
        self.home = Path(tempfile.mkdtemp(prefix="forebay-"))
        self.store = Path(store) if store else self.home / "store"
        self.log = self.home / "up.log"
        self.process = None

    def command(self):
        up = [str(BINARY), "up", "--model", self.model, "--workers", str(self.workers), "--store", str(self.store)]
        return [*up, "--api-addr", "127.0.0.1:0", "--aggregator-addr", "127.0.0.1:0", *self.args]

    @property
    def url(self):
        return f"http://{self.processes('api')[0]['addr']}"

    @property
    def aggregator_url(self):
        return f"http://{self.processes('aggregator')[0]['addr']}"

    def __enter__(self):
        if not BINARY.exists():
            raise NotReady(f"there is no {BINARY}: run `make build`")
        # A process group, not a session: a session would also be a scheduling group of its own, which distorts measurements.
        with open(self.log, "wb") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, preexec_fn=die_with_parent
            )
        try:
            self.wait_ready()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def wait_ready(self):
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            if self.process.poll() is not None:
                raise NotReady(f"forebay up ended with status {self.process.returncode}\n{self.log_tail()}")
            if self.is_ready():
                return
            time.sleep(0.1)
        raise NotReady(f"not ready after {START_SECONDS:.0f} s\n{self.log_tail()}")

    def is_ready(self):
        """Every worker has loaded its model and the api knows of one."""
        workers = self.processes("worker")
        if not self.processes("api") or len(workers) < self.workers:
            return False
        pages = [f"http://{worker['addr']}/health/ready" for worker in workers]
        name = urllib.parse.quote(Path(self.model).name if Path(self.model).is_dir() else self.model, safe="")
        return all(get(page, timeout=1.0)[0] == 200 for page in [*pages, f"{self.url}/health/ready?model={name}"])

    def log_tail(self, lines=40):
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def processes(self, role=None):
        """What runs now, as the supervisor wrote it down; nothing before it has."""
        try:
            found = json.loads((self.store / "processes.json").read_text())["processes"]
        except FileNotFoundError:
            return []
        return [process for process in found if role in (None, process["role"])]

    def pids(self):
        """role -> process ids, the supervisor included under "up"."""
        found = {"up": [self.process.pid]}
        for process in self.processes():
            found.setdefault(process["role"], []).append(process["pid"])
        return found

    def cpu(self):
        """role -> CPU seconds used so far by all processes of that role."""
        return {role: sum(map(cpu_seconds, pids)) for role, pids in self.pids().items()}

    def metrics_urls(self):
        """(role, address) as one string -> the /metrics page, of every process that serves one."""
        roles = ("api", "worker", "aggregator")
        return {f"{p['role']} {p['addr']}": f"http://{p['addr']}/metrics" for p in self.processes() if p["role"] in roles and p.get("addr")}

    def stop(self):
        """Ends the system and removes its store. True when it went by itself, with status 0 and no process left."""
        if self.process is None:
            return True
        children = [process["pid"] for process in self.processes()]
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
        try:
            clean = self.process.wait(STOP_SECONDS) == 0
        except subprocess.TimeoutExpired:
            clean = False
        left = [pid for pid in children if alive(pid)]
        for end in (lambda: os.killpg(self.process.pid, signal.SIGKILL), *(lambda pid=pid: os.kill(pid, signal.SIGKILL) for pid in left)):
            try:
                end()
            except ProcessLookupError:
                pass
        self.process.wait()
        self.process = None
        shutil.rmtree(self.home, ignore_errors=True)
        return clean and not left
