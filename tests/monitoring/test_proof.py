"""The chain from a process to a person: a real Prometheus scrapes, its rules fire, and a real Alertmanager tells somebody."""

import json
import shutil
import signal
import subprocess
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

import pytest

from servers import RULES, eventually

# The alerts of which this file proves that they arrive.
DOWN, BACKLOG, WRITES = "ForebayPodDown", "ForebayQueueBacklog", "ForebayPersistenceWriteFailure"


def post(url, body):
    """The status; what is no 2xx is an exception."""
    request = urllib.request.Request(url, data=json.dumps(body).encode(), headers={"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=120) as answer:
        return answer.status


def test_every_target_is_up(system, prometheus):
    jobs = {"forebay-aggregator": 1, "forebay": 3, "prometheus": 1, "alertmanager": 1, "node": 1}

    def states():
        targets = prometheus.targets()
        found = {job: sum(target["labels"]["job"] == job for target in targets) for job in jobs}
        down = [f"{target['scrapeUrl']}: {target['lastError']}" for target in targets if target["health"] != "up"]
        return found, down

    eventually(lambda: f"{jobs} are up; {states()}", lambda: states() == (jobs, []))
    up = {(labels["role"], labels["process"]) for labels, value in prometheus.query('up{job="forebay"}') if value == 1}
    assert up == {(process["role"], process["name"]) for role in ("api", "worker") for process in system.processes(role)}


def test_every_rule_is_evaluated_without_an_error(prometheus):
    def rules():
        return [rule for group in prometheus.rule_groups() for rule in group["rules"]]

    eventually("every rule is evaluated", lambda: all(rule["health"] != "unknown" for rule in rules()))
    wrong = {rule["name"]: rule["lastError"] for rule in rules() if rule["health"] != "ok"}
    assert rules() and not wrong, wrong
    assert len({group["file"] for group in prometheus.rule_groups()}) == len(list(RULES.glob("*.yml")))


def test_a_healthy_system_raises_no_alarm_but_the_watchdog(prometheus, model, system, inbox):
    for _ in range(20):
        assert post(f"{system.url}/v1/embeddings", {"model": model, "input": ["gate", "weir"]}) == 200
    eventually("the watchdog fires", lambda: prometheus.alerts("ForebayWatchdog"))
    eventually("and feeds the dead man's switch", lambda: inbox.told("deadman", "ForebayWatchdog"))
    eventually("all alerts have had time to fire", lambda: prometheus.query('time() - process_start_time_seconds{job="prometheus"} > 25'))
    # How full the disks of this machine are is not what is tested.
    fired = prometheus.query('count by (alertname) (count_over_time(ALERTS{alertstate="firing", alertname!~"ForebayDisk.*"}[5m]))')
    assert {labels["alertname"] for labels, _ in fired} == {"ForebayWatchdog"}


def test_a_worker_that_leaves_is_no_alarm_and_one_that_dies_is(roles, watch, inbox):
    system = roles(workers=3)
    prometheus = watch(system)

    def up(worker):
        return prometheus.value(f'up{{process="{worker}"}}')

    eventually("three workers are up", lambda: [up(f"worker-{number}") for number in (1, 2, 3)] == [1, 1, 1])
    assert system.end("worker-2", signal.SIGTERM) == 0
    assert system.end("worker-3", signal.SIGKILL) == -signal.SIGKILL
    eventually("the dead one is a target that is down", lambda: up("worker-3") == 0)
    eventually("the alert fires", lambda: prometheus.alerts(DOWN, process="worker-3"))
    eventually("somebody is told", lambda: inbox.told("pagerduty", DOWN, "worker-3") or inbox.told("slack", DOWN, "worker-3"))
    # The one that left had as much time to raise an alarm.
    assert up("worker-2") is None, "it is no target any more"
    for label in ("process", "worker"):
        assert not prometheus.query(f'count_over_time(ALERTS{{{label}="worker-2", alertstate="firing"}}[5m])')
    assert not [text for receiver in ("pagerduty", "slack", "email") for text in inbox.told(receiver, "worker-2")]
    assert up("worker-1") == 1


def test_a_backlog_is_told_to_somebody_and_so_is_its_end(roles, watch, inbox):
    slow, fast = ["--simulated-base", "300ms", "--batch-max-rows", "1"], ["--simulated-base", "0ms"]
    patient = {"FOREBAY_REQUEST_TIMEOUT": "120s", "FOREBAY_NO_DEADLINE_ADMISSION": "true"}
    system = roles(model="simulated", workers=1, worker_flags=slow, env=patient)
    prometheus = watch(system)
    firing, resolved = f"[FIRING:1] {BACKLOG}", f"[RESOLVED] {BACKLOG}"

    def waiting():
        return prometheus.value("sum(forebay_queue_pending)")

    with ThreadPoolExecutor(10) as clients:
        request = {"model": "simulated", "input": ["a sentence"] * 30}
        answers = [clients.submit(post, f"{system.url}/v1/embeddings", request) for _ in range(10)]
        eventually(lambda: f"Prometheus sees the backlog: {waiting()}", lambda: (waiting() or 0) > 250)
        eventually("the alert fires", lambda: prometheus.alerts(BACKLOG, model="simulated"))
        for receiver in ("slack", "email"):
            eventually(f"{receiver} is told", lambda receiver=receiver: inbox.told(receiver, firing))
            assert not inbox.told(receiver, resolved)
        system.add_worker("worker-2", fast)
        eventually("the backlog is worked off", lambda: waiting() == 0, 60)
        assert [answer.result() for answer in answers] == [200] * 10
    for receiver in ("slack", "email"):
        eventually(f"{receiver} is told of the end", lambda receiver=receiver: inbox.told(receiver, resolved))
    assert not prometheus.alerts(BACKLOG)


def can_mount(folder):
    """Root can, but not in every container."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)], capture_output=True, check=False).returncode == 0
    if mounted:
        subprocess.run(["umount", str(folder)], check=True)
    return mounted


def test_a_broker_whose_disk_is_full_is_told_to_somebody(roles, watch, inbox, tmp_path):
    if not can_mount(tmp_path):
        pytest.skip("no small disk can be mounted here: that needs root, and a container that allows it")
    system = roles(disk="64m", env={"FOREBAY_REQUEST_TIMEOUT": "10s"})
    prometheus = watch(system)
    request = {"model": "identity", "input": ["a sentence" * 500]}
    assert post(f"{system.url}/v1/embeddings", request) == 200
    assert not prometheus.alerts(WRITES)
    with open(system.store / "filler", "wb") as filler, pytest.raises(OSError, match="No space left"):
        while True:
            filler.write(bytes(64 * 1024))
            filler.flush()
    assert shutil.disk_usage(system.store).free == 0

    def answer():
        try:
            return post(f"{system.url}/v1/embeddings", request)
        except urllib.error.HTTPError as error:
            return error.code

    # Nothing is accepted and lost: clients hear of it.
    assert {answer() for _ in range(2)} <= {503, 504}
    eventually("the alert fires", lambda: answer() != 200 and prometheus.alerts(WRITES), 60)
    eventually("somebody is told", lambda: inbox.told("pagerduty", WRITES))
