"""A small system in which everything happens that a dashboard shows, scraped by a real Prometheus every second.

Tenants with keys ask, some of them too often, some with wrong keys or wrong inputs; texts repeat; jobs and a batch run beside;
a worker dies.
"""

import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import requests
import yaml

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from forebay_up import BINARY, ForebayUp, die_with_parent, free_ports, get  # noqa: E402

RULES = ROOT / "monitoring/prometheus/rules"
PROMETHEUS = ROOT / ".cache/bin/prometheus"
# Long enough that a rate over 30 s has many samples, and that what happened once has been scraped.
BUSY_SECONDS = 20


class Prometheus:
    """Scrapes a system like the project's own configuration does, with its rules, but every second. Use it as a context manager."""

    def __init__(self, aggregator):
        self.home = Path(tempfile.mkdtemp(prefix="forebay-prometheus-"))
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.aggregator = aggregator

    def __enter__(self):
        config = {
            "global": {"scrape_interval": "1s", "scrape_timeout": "1s", "evaluation_interval": "1s"},
            "rule_files": ["rules/*.yml"],
            "scrape_configs": [
                {"job_name": "forebay-aggregator", "static_configs": [{"targets": [self.aggregator]}]},
                {"job_name": "forebay", "http_sd_configs": [{"url": f"http://{self.aggregator}/sd", "refresh_interval": "1s"}]},
                {"job_name": "prometheus", "static_configs": [{"targets": [self.address]}]},
            ],
        }
        (self.home / "prometheus.yml").write_text(yaml.safe_dump(config))
        (self.home / "rules").mkdir()
        for path in RULES.glob("*.yml"):
            rules = yaml.safe_load(path.read_text())
            for group in rules["groups"]:
                group.pop("interval", None)
            (self.home / "rules" / path.name).write_text(yaml.safe_dump(rules))
        command = [PROMETHEUS, f"--config.file={self.home}/prometheus.yml", f"--storage.tsdb.path={self.home}/data"]
        with open(self.home / "log", "wb") as log:
            self.process = subprocess.Popen(
                [*command, f"--web.listen-address={self.address}"], stdout=log, stderr=log, preexec_fn=die_with_parent
            )
        end = time.monotonic() + 30
        while get(f"http://{self.address}/-/ready", timeout=1)[0] != 200:
            assert self.process.poll() is None and time.monotonic() < end, (self.home / "log").read_text()[-3000:]
            time.sleep(0.1)
        return self

    def __exit__(self, *_):
        self.process.terminate()
        self.process.wait(20)
        shutil.rmtree(self.home, ignore_errors=True)

    def ask(self, path, **parameters):
        answer = requests.post(f"http://{self.address}/api/v1/{path}", data=parameters, timeout=30)
        assert answer.status_code == 200, f"{parameters}: {answer.text}"
        return answer.json()["data"]

    def values(self, query):
        """What an instant query answers now, one number for each series."""
        return [float(series["value"][1]) for series in self.ask("query", query=query)["result"]]

    def ever(self, query, seconds):
        """What a query answered at any second of the last `seconds`."""
        now = time.time()
        found = self.ask("query_range", query=query, start=now - seconds, end=now, step="1s")["result"]
        return [float(value) for series in found for _, value in series["values"]]

    def label_values(self, label, series):
        answer = requests.get(f"http://{self.address}/api/v1/label/{label}/values", params={"match[]": series}, timeout=30)
        return answer.json()["data"]


class Busy:
    """The system, its Prometheus and its clients. Use it as a context manager."""

    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix="forebay-busy-"))
        self.over = threading.Event()
        self.threads = []

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()
        for part in ("prometheus", "system"):
            if hasattr(self, part):
                getattr(self, part).__exit__()
        shutil.rmtree(self.home, ignore_errors=True)

    def start(self):
        # The small model, and what a trainer leaves beside one.
        model = self.home / "tiny"
        shutil.copytree(ROOT / "tests/fixtures/tiny-bert-embed", model)
        history = [{"loss": 0.9, "step": 1}, {"loss": 0.4, "step": 2}, {"eval_loss": 0.5, "step": 2}]
        (model / "trainer_state.json").write_text(json.dumps({"log_history": history}))
        self.model = model.name
        self.keys = {}
        env = {"FOREBAY_API_KEYS_FILE": str(self.key_file()), "FOREBAY_CACHE_BYTES": str(1 << 20), "FOREBAY_DEVICE_PRICE": "2.5"}
        self.system = ForebayUp(model=model, workers=2, env=env).__enter__()
        self.prometheus = Prometheus(self.system.aggregator_url.removeprefix("http://")).__enter__()
        self.began = time.monotonic()
        clients = [self.ask_new_texts, self.ask_much, self.ask_equal_texts, self.ask_wrongly, self.ask_too_often, self.ask_for_later]
        self.threads = [threading.Thread(target=client, daemon=True) for client in clients]
        for thread in self.threads:
            thread.start()
        time.sleep(BUSY_SECONDS / 2)
        os.kill(self.system.pids()["worker"][0], signal.SIGKILL)
        time.sleep(BUSY_SECONDS / 2)

    @property
    def seconds(self):
        """Since Prometheus began to scrape."""
        return time.monotonic() - self.began

    def key_file(self):
        tenants = []
        for name, rights in {"search": {}, "shop": {}, "hasty": {"requests_per_second": 1}}.items():
            made = subprocess.run([str(BINARY), "api-key", "new", "only"], capture_output=True, text=True, check=True)
            self.keys[name], entry = made.stdout.splitlines()
            tenants.append({"name": name, "keys": [json.loads(entry)], **rights})
        file = self.home / "keys.json"
        file.write_text(json.dumps({"tenants": tenants}))
        return file

    def post(self, path, tenant="search", **more):
        headers = {"authorization": f"Bearer {self.keys.get(tenant, 'fb-wrong')}"}
        try:
            return requests.post(f"{self.system.url}{path}", headers=headers, timeout=30, **more)
        except requests.RequestException:
            return None  # the worker died under it, or the system is being stopped

    def embed(self, texts, **more):
        return self.post("/v1/embeddings", json={"model": self.model, "input": texts}, **more)

    def often(self, seconds):
        """Numbers, one after each pause, until the system is stopped."""
        return itertools.takewhile(lambda _: not self.over.wait(seconds), itertools.count())

    def ask_new_texts(self):
        for number in self.often(0.02):
            self.embed([f"text {number} {line}" for line in range(number % 7 + 1)], tenant=("search", "shop")[number % 2])

    def ask_much(self):
        """Enough to compute that what a worker can do becomes known."""
        for number in self.often(0.05):
            self.embed([f"{number} {line} " + "water " * 20 for line in range(200)])

    def ask_equal_texts(self):
        for _ in self.often(0.1):
            self.embed(["the same", "as ever"])

    def ask_wrongly(self):
        for _ in self.often(0.5):
            self.embed([])
            self.embed(["whose key?"], tenant="nobody")
            self.post("/v1/embeddings", json={"model": "none", "input": "x"})

    def ask_too_often(self):
        for number in self.often(0.2):
            self.embed([f"hurry {number}"], tenant="hasty")

    def ask_for_later(self):
        line = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"model": self.model, "input": "x"}}
        file = self.post("/v1/files", files={"file": ("in.jsonl", io.BytesIO(json.dumps(line).encode()))}, data={"purpose": "batch"})
        self.post("/v1/batches", json={"input_file_id": file.json()["id"], "endpoint": "/v1/embeddings", "completion_window": "24h"})
        for number in self.often(1):
            self.post("/v1/jobs", json={"task": "embed", "model": self.model, "input": [f"later {number}"]})
