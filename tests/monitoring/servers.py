"""A real Prometheus and a real Alertmanager with this repository's files, on free ports, gone afterwards whatever happens.

Only addresses and waits differ from what an operator runs: who is told is a sink of the tests, and what takes minutes takes seconds.
"""

import json
import shutil
import subprocess
import tempfile
import time
import urllib.parse
from pathlib import Path

import yaml

from alert_test import call
from forebay_up import ROOT, die_with_parent, free_ports, get

MONITORING = ROOT / "monitoring"
RULES = MONITORING / "prometheus" / "rules"
START_SECONDS = 30
STOP_SECONDS = 15
# Between scrapes, evaluations and looks at the list of targets; and how long a condition holds before it is an alert. That must be longer
# than a target that left on purpose is still scraped: until the next look, and Prometheus takes up a changed list every 5 s.
INTERVAL, FOR = "1s", "10s"


def program(name):
    """One that was fetched, else one on PATH."""
    own = ROOT / ".cache" / "bin" / name
    found = str(own) if own.exists() else shutil.which(name)
    assert found, f"there is no {name}: run `make setup`"
    return found


def eventually(what, condition, seconds=30.0):
    """What `condition` returns once it is true; an AssertionError that says `what` when that takes too long."""
    end = time.monotonic() + seconds
    while not (result := condition()):
        assert time.monotonic() < end, f"not within {seconds} s: {what() if callable(what) else what}"
        time.sleep(0.1)
    return result


class Server:
    """One process with a folder of its own. Use it as a context manager."""

    name = ready_path = ""

    def __init__(self):
        self.home = Path(tempfile.mkdtemp(prefix=f"forebay-{self.name}-"))
        self.address = f"127.0.0.1:{free_ports(1)[0]}"
        self.url = f"http://{self.address}"
        self.log = self.home / "log"
        self.process = None

    def command(self):
        """Writes the configuration and returns what to start."""
        raise NotImplementedError

    def __enter__(self):
        try:
            with open(self.log, "wb") as log:
                self.process = subprocess.Popen(
                    self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, preexec_fn=die_with_parent
                )
            eventually(lambda: f"{self.name} is ready\n{self.log.read_text()[-3000:]}", self.is_ready, START_SECONDS)
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def is_ready(self):
        assert self.process.poll() is None, f"{self.name} ended\n{self.log.read_text()[-3000:]}"
        return get(f"{self.url}{self.ready_path}", timeout=1)[0] == 200

    def stop(self):
        if self.process:
            self.process.terminate()
            try:
                self.process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        shutil.rmtree(self.home, ignore_errors=True)

    def ask(self, path, **parameters):
        status, body = get(f"{self.url}{path}?{urllib.parse.urlencode(parameters)}")
        assert status == 200, f"{path} {parameters}: {status} {body}"
        return json.loads(body)


class NodeExporter(Server):
    name, ready_path = "node_exporter", "/metrics"

    def command(self):
        return [program("node_exporter"), f"--web.listen-address={self.address}"]


class Prometheus(Server):
    """Scrapes `aggregators` (addresses) and, through the first of them, every api and worker."""

    name, ready_path = "prometheus", "/-/ready"

    def __init__(self, aggregators, alertmanager=None, nodes=(), rules=RULES):
        super().__init__()
        self.aggregators, self.nodes, self.rules_folder = list(aggregators), list(nodes), rules
        self.alertmanagers = [alertmanager] if alertmanager else []

    def command(self):
        (self.home / "rules").mkdir()
        for path in sorted(self.rules_folder.glob("*.yml")):
            (self.home / "rules" / path.name).write_text(yaml.safe_dump(quick_rules(yaml.safe_load(path.read_text()))))
        (self.home / "prometheus.yml").write_text(yaml.safe_dump(self.config()))
        flags = {"config.file": "prometheus.yml", "storage.tsdb.path": "data"}
        flags = [f"--{flag}={self.home}/{value}" for flag, value in flags.items()]
        # What fires at once is first told before Alertmanager is known, and by default again a minute later.
        quick = ["--rules.alert.resend-delay=1s", "--log.level=warn"]
        return [program("prometheus"), *flags, *quick, f"--web.listen-address={self.address}"]

    def config(self):
        """With the names of jobs that the rules know."""
        static = {
            "forebay-aggregator": self.aggregators,
            "prometheus": [self.address],
            "alertmanager": self.alertmanagers,
            "node": self.nodes,
        }
        jobs = [{"job_name": job, "static_configs": [{"targets": targets}]} for job, targets in static.items() if targets]
        found = {"url": f"http://{self.aggregators[0]}/sd", "refresh_interval": INTERVAL}
        return {
            "global": {"scrape_interval": INTERVAL, "scrape_timeout": INTERVAL, "evaluation_interval": INTERVAL},
            "rule_files": ["rules/*.yml"],
            "alerting": {"alertmanagers": [{"static_configs": [{"targets": self.alertmanagers}]}]},
            "scrape_configs": [*jobs, {"job_name": "forebay", "http_sd_configs": [found]}],
        }

    def query(self, expression):
        """[(labels, value)] of an instant vector or a scalar, now."""
        data = self.ask("/api/v1/query", query=expression)["data"]
        if data["resultType"] == "scalar":
            return [({}, float(data["result"][1]))]
        return [(series["metric"], float(series["value"][1])) for series in data["result"]]

    def value(self, expression):
        """The only value of a query; None when there is none."""
        found = self.query(expression)
        assert len(found) < 2, f"{expression} has {len(found)} values: {found}"
        return found[0][1] if found else None

    def targets(self):
        return self.ask("/api/v1/targets", state="active")["data"]["activeTargets"]

    def rule_groups(self):
        return self.ask("/api/v1/rules")["data"]["groups"]

    def alerts(self, name=None, state="firing", **labels):
        """Labels of alerts in this state."""
        found = [alert["labels"] for alert in self.ask("/api/v1/alerts")["data"]["alerts"] if alert["state"] == state]
        return [alert for alert in found if name in (None, alert["alertname"]) and labels.items() <= alert.items()]


def quick_rules(file):
    """The same rules, decided at once instead of after minutes."""
    for group in file["groups"]:
        group.pop("interval", None)
        for rule in group["rules"]:
            rule.pop("keep_firing_for", None)
            if "for" in rule:
                rule["for"] = FOR
    return file


class Alertmanager(Server):
    """The repository's configuration; whatever it would send goes to `inbox`."""

    name, ready_path = "alertmanager", "/-/ready"

    def __init__(self, inbox, change=lambda config: config):
        super().__init__()
        self.inbox, self.change = inbox, change

    def command(self):
        config = redirected(yaml.safe_load((MONITORING / "alertmanager/alertmanager.yml").read_text()), self.inbox, self.home)
        (self.home / "alertmanager.yml").write_text(yaml.safe_dump(self.change(config)))
        shutil.copytree(MONITORING / "alertmanager/templates", self.home / "templates")
        flags = [f"--config.file={self.home}/alertmanager.yml", f"--storage.path={self.home}/data", "--cluster.listen-address="]
        return [program("alertmanager"), *flags, f"--web.listen-address={self.address}"]

    def alerts(self, **labels):
        """What is known, silenced and inhibited included."""
        return [alert for alert in self.ask("/api/v2/alerts") if labels.items() <= alert["labels"].items()]

    def post(self, *alerts):
        """Alerts as Prometheus would send them, by their labels."""
        body = [{"labels": {"stack": "forebay", **labels}, "annotations": {"summary": "s", "description": "d"}} for labels in alerts]
        call(self.url, "/api/v2/alerts", body)


def redirected(config, inbox, folder):
    """The same configuration with the addresses of the inbox, secrets from files in `folder`, and shorter waits."""
    secrets = {"slack_webhook_url": f"{inbox.url}/slack", "pagerduty_routing_key": "routing-key", "smtp_password": "mail-password"}
    (folder / "secrets").mkdir()
    for name, secret in secrets.items():
        (folder / "secrets" / name).write_text(secret)
    config = json.loads(json.dumps(config).replace("/etc/alertmanager/secrets", f"{folder}/secrets"))
    config["global"].update(smtp_smarthost=inbox.mail_address, smtp_require_tls=False, pagerduty_url=f"{inbox.url}/pagerduty")
    deadman = next(receiver for receiver in config["receivers"] if receiver["name"] == "deadman")
    deadman["webhook_configs"] = [{"url": f"{inbox.url}/deadman", "send_resolved": False}]

    def hurry(route):
        for wait in ("group_wait", "group_interval"):
            if wait in route:
                route[wait] = "1s"
        for child in route.get("routes", []):
            hurry(child)

    hurry(config["route"])
    return config
