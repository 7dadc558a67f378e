"""A running system with a Prometheus that scrapes it and has the compatibility rules, for the queries of the reference guides.

Two models: `simulated`, of which a batch takes a set time, and a real one that tells the losses of its training. The aggregator is scraped
under two addresses: rules that added up what two aggregators tell would count everything twice. Scrapes and evaluations stand one second
apart instead of fifteen; nothing else differs from what an operator runs.
"""

import json
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from forebay_up import ForebayUp, die_with_parent, free_ports, get  # noqa: E402

from reference_load import SIMULATED, TINY, Load, Sent  # noqa: E402

RULES = ROOT / "monitoring" / "prometheus" / "rules"
BATCH_SECONDS = 0.02
TRAINING_LOSS, VALIDATION_LOSS = 0.25, 0.5
# `forebay up` asks one question itself when all is ready: it counts like any other, and nobody here measured it.
FIRST_ANSWER = Sent("first", SIMULATED, 200, 1, "miss", 0.0)
START_SECONDS, STOP_SECONDS = 30.0, 15.0


def program(name):
    """One that was fetched, else one on PATH; None if there is none."""
    own = ROOT / ".cache" / "bin" / name
    return str(own) if own.exists() else shutil.which(name)


def eventually(what, condition, seconds=START_SECONDS):
    """What `condition` returns once it is true."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(0.2)
    return result


class Background:
    """A program that runs until the end of the tests."""

    def __init__(self, command, log):
        with open(log, "wb") as out:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, process_group=0, preexec_fn=die_with_parent
            )

    def stop(self):
        self.process.terminate()
        try:
            self.process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


class Reference:
    """The system, Prometheus, a node_exporter where there is one, and the load once it ran. Use it as a context manager."""

    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix="forebay-reference-"))
        env = {"FOREBAY_CACHE_BYTES": "16777216", "FOREBAY_SIMULATED_BASE": f"{BATCH_SECONDS * 1000:.0f}ms"}
        self.system = ForebayUp(model=SIMULATED, workers=2, env=env, args=["--model", str(self.trained_model())])
        prometheus, node = free_ports(2)
        self.prometheus = f"http://127.0.0.1:{prometheus}"
        self.node = f"127.0.0.1:{node}" if program("node_exporter") else None
        self.running = []
        self.load = None

    def trained_model(self):
        folder = self.home / TINY
        shutil.copytree(ROOT / "tests" / "fixtures" / TINY, folder)
        log = [{"loss": 0.9}, {"eval_loss": 0.8}, {"loss": TRAINING_LOSS}, {"eval_loss": VALIDATION_LOSS}]
        (folder / "trainer_state.json").write_text(json.dumps({"log_history": log}))
        return folder

    def __enter__(self):
        try:
            self.system.__enter__()
            if self.node:
                self.start("node_exporter", f"--web.listen-address={self.node}")
            (self.home / "prometheus.yml").write_text(yaml.safe_dump(self.config()))
            flags = [f"--config.file={self.home}/prometheus.yml", f"--storage.tsdb.path={self.home}/data"]
            # As two of the guides set it: flags of theirs must be flags of this Prometheus.
            flags += ["--storage.tsdb.retention.time=15d", "--storage.tsdb.retention.size=50GB"]
            self.start("prometheus", *flags, f"--web.listen-address={self.prometheus.removeprefix('http://')}", "--log.level=warn")
            log = self.home / "prometheus.log"
            eventually(lambda: f"Prometheus is ready\n{log.read_text()[-3000:]}", lambda: get(f"{self.prometheus}/-/ready", 1.0)[0] == 200)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self, name, *flags):
        self.running.append(Background([program(name), *flags], self.home / f"{name}.log"))

    def stop(self):
        for background in reversed(self.running):
            background.stop()
        self.running = []
        self.system.stop()
        shutil.rmtree(self.home, ignore_errors=True)

    def config(self):
        port = self.system.aggregator_url.rpartition(":")[2]
        static = {
            "forebay-aggregator": [f"127.0.0.1:{port}", f"localhost:{port}"],
            "prometheus": [self.prometheus.removeprefix("http://")],
            "node": [self.node] if self.node else [],
        }
        jobs = [{"job_name": job, "static_configs": [{"targets": targets}]} for job, targets in static.items() if targets]
        jobs.append({"job_name": "forebay", "http_sd_configs": [{"url": f"{self.system.aggregator_url}/sd", "refresh_interval": "1s"}]})
        return {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": [f"{RULES}/compat-*.yml"],
            "scrape_configs": jobs,
        }

    def send_load(self):
        """Sends the load and waits until Prometheus has recorded all of it."""
        self.load = Load(self.system.url).run()
        self.load.sent.insert(0, FIRST_ANSWER)
        total = len(self.load.sent)
        everything = lambda: self.value("sum(batcher_requests_total)") == total  # noqa: E731
        eventually(lambda: f"{total} requests recorded, not {self.query('sum(batcher_requests_total)')}", everything)
        # A worker tells what it counted once a second.
        time.sleep(3)

    def ask(self, expression, at=None):
        """The status and the answer of Prometheus."""
        parameters = {"query": expression} | ({"time": at} if at else {})
        status, body = get(f"{self.prometheus}/api/v1/query?{urllib.parse.urlencode(parameters)}")
        return status, json.loads(body)

    def query(self, expression, at=None):
        """[(labels, value)] of an instant vector."""
        status, answer = self.ask(expression, at)
        assert status == 200, f"{expression}: {answer}"
        return [(one["metric"], float(one["value"][1])) for one in answer["data"]["result"]]

    def value(self, expression, at=None):
        """The value of the only series; None if there is none."""
        found = self.query(expression, at)
        assert len(found) <= 1, f"{expression} has {len(found)} series: {found}"
        return found[0][1] if found else None

    def evaluated(self, name):
        """When the rules that record `name` were last evaluated; each file has a moment of its own. A rate that ends there is not
        extrapolated."""
        return max(value for _, value in self.query(f"timestamp({name})"))

    def workers_sum(self, name):
        """What the workers' own pages say of a series, added up over all of them."""
        total = 0.0
        for process in self.system.processes("worker"):
            _, page = get(f"http://{process['addr']}/metrics")
            lines = [line for line in page.splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
            total += sum(float(line.rpartition(" ")[2]) for line in lines)
        return total
