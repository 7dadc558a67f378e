"""Alertmanager's file: what it accepts, whom it tells of what, what it keeps quiet, and what it writes."""

import subprocess
import sys

import pytest
import yaml

from alert_test import call
from forebay_up import ROOT
from servers import MONITORING, RULES, Alertmanager, eventually, program

RECEIVERS = ["pagerduty", "slack", "email", "deadman"]
CONFIG = MONITORING / "alertmanager" / "alertmanager.yml"

# Labels of an alert -> who is told of it.
ROUTES = [
    ("severity=critical", "pagerduty"),
    ("severity=warning", "slack,email"),
    ("severity=info", "none"),
    ("", "none"),
    ("severity=warning notify=email", "email"),
    ("severity=info notify=email", "email"),
    ("severity=critical notify=email", "pagerduty,email"),
    ("severity=critical model=m alertname=ForebayAnything", "pagerduty"),
    ("alertname=ForebayWatchdog severity=info", "deadman"),
    ("alertname=ForebayWatchdog severity=critical", "deadman"),
    ("test_receiver=pagerduty severity=info", "pagerduty"),
    ("test_receiver=slack severity=info", "slack"),
    ("test_receiver=email severity=info", "email"),
    ("test_receiver=deadman severity=info", "deadman"),
    # Whoever mistypes a test wakes nobody.
    ("test_receiver=pager severity=critical notify=email", "none"),
]

# A cause, what it silences, and what it must leave alone: others, and the same of another model or machine.
INHIBITIONS = [
    (
        {"alertname": "ForebayBrokerDown"},
        [{"alertname": "ForebayNoWorker", "model": "m"}, {"alertname": "ForebayHighErrorRate"}, {"alertname": "ForebayQueueBacklog", "model": "m"}],
        [{"alertname": "ForebayDiskSpaceCritical", "instance": "i"}, {"alertname": "ForebayPodDown", "job": "forebay"}, {"alertname": "ForebayWatchdog"}],
    ),
    (
        {"alertname": "ForebayAggregatorDown"},
        [{"alertname": "ForebayPodDown", "job": "forebay-aggregator"}, {"alertname": "ForebayTargetMissing"}],
        [{"alertname": "ForebayPodDown", "job": "forebay"}],
    ),
    (
        {"alertname": "ForebayNoWorker", "model": "m"},
        [{"alertname": "ForebayQueueCritical", "model": "m"}, {"alertname": "ForebayWorkerSilent", "model": "m", "worker": "w"}],
        [{"alertname": "ForebayQueueCritical", "model": "other"}, {"alertname": "ForebayModelLoadErrors", "model": "m"}],
    ),
    (
        {"alertname": "ForebayQueueCritical", "model": "m"},
        [{"alertname": "ForebayQueueBacklog", "model": "m"}],
        [{"alertname": "ForebayQueueBacklog", "model": "other"}],
    ),
    (
        {"alertname": "ForebayDiskSpaceCritical", "instance": "i", "mountpoint": "/"},
        [{"alertname": "ForebayDiskSpaceLow", "instance": "i", "mountpoint": "/"}],
        [{"alertname": "ForebayDiskSpaceLow", "instance": "i", "mountpoint": "/data"}],
    ),
    (
        {"alertname": "Mine", "severity": "critical", "model": "m"},
        [{"alertname": "Mine", "severity": "warning", "model": "m"}],
        [{"alertname": "Mine", "severity": "warning", "model": "other"}, {"alertname": "Another", "severity": "warning", "model": "m"}],
    ),
]


def amtool(*arguments):
    done = subprocess.run([program("amtool"), *arguments], capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout + done.stderr


def test_the_file_and_its_templates_are_accepted():
    status, said = amtool("check-config", str(CONFIG))
    assert status == 0, said
    assert " - 5 receivers\n - 1 templates" in said, said


@pytest.mark.parametrize(("labels", "receivers"), ROUTES, ids=[labels or "no labels" for labels, _ in ROUTES])
def test_severity_decides_who_is_told(labels, receivers):
    status, said = amtool("config", "routes", "test", f"--config.file={CONFIG}", f"--verify.receivers={receivers}", *labels.split())
    assert status == 0, said


def test_no_secret_stands_in_the_file():
    keys = {"api_url", "slack_api_url", "routing_key", "service_key", "auth_password", "smtp_auth_password", "credentials", "url", "password"}

    def names(node):
        if isinstance(node, dict):
            yield from node
            node = list(node.values())
        if isinstance(node, list):
            for child in node:
                yield from names(child)

    assert not keys & set(names(yaml.safe_load(CONFIG.read_text())))


def test_only_rules_that_exist_are_named():
    """A renamed alert must not fall out of its route or its inhibition."""
    rules = [rule for path in RULES.glob("*.yml") for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]
    alerts = {rule["alert"] for rule in rules if "alert" in rule}
    config = yaml.safe_load(CONFIG.read_text())
    routes = [matcher for route in config["route"]["routes"] for matcher in route.get("matchers", [])]
    inhibitions = [matcher for rule in config["inhibit_rules"] for side in ("source_matchers", "target_matchers") for matcher in rule[side]]
    named = set()
    for matcher in routes + inhibitions:
        label, operator, value = matcher.split(maxsplit=2)
        if label == "alertname":
            assert operator in ("=", "=~"), matcher
            named |= set(value.strip('"').split("|"))
    assert named and named <= alerts, named - alerts


@pytest.mark.parametrize("receiver", RECEIVERS)
def test_a_test_alert_reaches_the_receiver_it_names_and_no_other(alertmanager, inbox, receiver):
    done = alert_test(alertmanager, receiver)
    assert done.returncode == 0, done.stderr
    test = done.stdout.split("test alert ")[1].split()[0]
    assert inbox.told(receiver, test), "the id that was printed is in the message"
    if receiver != "deadman":  # which has no title, and is not told of an end
        assert inbox.told(receiver, test, "[TEST] [FIRING:1] ForebayTest")
        eventually("its end is told", lambda: inbox.told(receiver, test, "[TEST] [RESOLVED] ForebayTest"))
    assert not [other for other in RECEIVERS if other != receiver and inbox.told(other, test)]


def test_a_test_alert_that_does_not_arrive_says_so(alertmanager, inbox):
    inbox.refuse.add("/slack")
    try:
        done = alert_test(alertmanager, "slack")
    finally:
        inbox.refuse.discard("/slack")
    assert done.returncode == 1 and "slack: sending failed" in done.stderr, done.stderr
    unknown = alert_test(alertmanager, "pager")
    assert unknown.returncode == 1 and "there is no receiver pager; Alertmanager knows none, pagerduty, slack" in unknown.stderr, unknown.stderr


def alert_test(alertmanager, receiver):
    command = [sys.executable, str(ROOT / "scripts/alert_test.py"), receiver, "--alertmanager", alertmanager.url, "--seconds", "15"]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)


def test_it_starts_without_any_secret_and_says_what_it_could_not_send(inbox):
    def without_secrets(config):
        text = yaml.safe_dump(config)
        folder = text.split("routing_key_file: ")[1].split("/secrets")[0]
        return yaml.safe_load(text.replace(f"{folder}/secrets", "/nowhere"))

    with Alertmanager(inbox, without_secrets) as server:
        server.post({"alertname": "ForebayAnything", "severity": "critical", "model": "none of it"})
        eventually("the failure is logged", lambda: "/nowhere/pagerduty_routing_key" in server.log.read_text())
        assert server.alerts(alertname="ForebayAnything"), "it is shown all the same"


def test_messages_link_to_the_runbook(alertmanager, inbox):
    """One alert on its way to Slack and to e-mail."""
    runbook = "https://example.com/runbooks/ForebayAnything"
    labels = {"alertname": "ForebayAnything", "stack": "forebay", "severity": "warning", "model": "linked"}
    annotations = {"summary": "the summary", "description": "it is <12 s> late", "runbook_url": runbook}
    call(alertmanager.url, "/api/v2/alerts", [{"labels": labels, "annotations": annotations}])
    title = "[FIRING:1] ForebayAnything (linked): the summary"
    slack = eventually("Slack is told", lambda: inbox.told("slack", title))[0]
    assert f"<{runbook}|Runbook>" in slack and "it is <12 s> late" in slack
    mail = eventually("a mail comes", lambda: inbox.told("email", title))[0]
    assert f"Runbook: {runbook}" in mail and "model=linked" in mail
    html = next(mail for mail in inbox.mails if mail["Subject"] == title).get_body(("html",)).get_content()
    assert f'<a href="{runbook}">runbook</a>' in html and "it is &lt;12 s&gt; late" in html
    assert ["forebay@example.com", "mail-password"] in inbox.logins, "the password came from its file"
    assert not inbox.told("pagerduty", "linked")


def test_processes_of_one_model_share_a_message_and_models_do_not(alertmanager, inbox):
    alert = {"alertname": "ForebayGrouped", "severity": "critical"}
    alertmanager.post(*({**alert, "model": model, "process": process} for model in ("a", "b") for process in ("worker-1", "worker-2")))
    for model in ("a", "b"):
        eventually(f"one message about {model}", lambda model=model: inbox.told("pagerduty", f"[FIRING:2] ForebayGrouped ({model})"))


@pytest.mark.parametrize(("cause", "silenced", "loud"), INHIBITIONS, ids=[cause["alertname"] for cause, _, _ in INHIBITIONS])
def test_a_cause_silences_its_consequences_and_nothing_else(inbox, cause, silenced, loud):
    with Alertmanager(inbox) as server:
        server.post(cause, *silenced, *loud)

        def states():
            return [[bool(server.alerts(**labels)[0]["status"]["inhibitedBy"]) for labels in kind] for kind in ([cause], silenced, loud)]

        expected = [[False], [True] * len(silenced), [False] * len(loud)]
        eventually(lambda: f"{states()} is {expected}", lambda: len(server.alerts()) == 1 + len(silenced) + len(loud) and states() == expected)
