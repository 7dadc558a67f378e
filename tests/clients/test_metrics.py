"""The /metrics page of every process is one that Prometheus and its linter accept, and it counts what the clients sent."""

import re
import shutil
import subprocess
import time

import pytest
import requests
from conftest import ROOT

PROMTOOL = shutil.which("promtool") or ROOT / ".cache/bin/promtool"


def page(url):
    answer = requests.get(url, timeout=30)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/plain"), answer.headers
    return answer.text


def total(text, name, **labels):
    """The sum of all series of that name which carry these labels."""
    found = re.findall(rf"^{name}(?:{{(.*)}})? (\S+)$", text, re.MULTILINE)
    return sum(float(value) for have, value in found if all(f'{key}="{wanted}"' in have for key, wanted in labels.items()))


@pytest.fixture(scope="module")
def pages(system, url, model):
    """Every page, taken after some traffic and once the aggregator has heard of it."""
    for _ in range(10):
        assert requests.post(f"{url}/embed", json={"inputs": "count me"}, timeout=60).status_code == 200
    time.sleep(3)
    return {name: page(address) for name, address in system.metrics_urls().items()}


def test_api_worker_and_aggregator_each_serve_a_page(pages):
    assert {name.split()[0] for name in pages} == {"api", "worker", "aggregator"}
    assert len([name for name in pages if name.startswith("worker")]) == 2


@pytest.mark.parametrize("role", ["api", "worker", "aggregator"])
def test_promtool_has_nothing_to_say(pages, role):
    for name, text in pages.items():
        if name.startswith(role):
            done = subprocess.run([PROMTOOL, "check", "metrics"], input=text, capture_output=True, text=True)
            assert (done.returncode, done.stdout + done.stderr) == (0, ""), name


def test_a_name_belongs_to_one_view(pages):
    for name, text in pages.items():
        own = {"api": "forebay_api_", "worker": "forebay_worker_", "aggregator": "forebay_"}[name.split()[0]]
        families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
        assert families and all(family.startswith((own, "process_")) for family in families), name
        if name.startswith("aggregator"):
            # What the aggregator itself says about workers is no worker's own metric.
            about_workers = ("forebay_worker_up", "forebay_worker_last_report_timestamp_seconds", "forebay_worker_capacity_jobs_per_second")
            assert not [f for f in families if f.startswith(("forebay_api_", "forebay_worker_")) and f not in about_workers]


def test_the_fleet_counts_what_the_apis_count(pages):
    def sum_over(role, metric):
        return sum(total(text, metric, outcome="ok") for name, text in pages.items() if name.startswith(role))

    assert sum_over("api", "forebay_api_requests_total") >= 10
    assert sum_over("aggregator", "forebay_requests_total") == sum_over("api", "forebay_api_requests_total")
