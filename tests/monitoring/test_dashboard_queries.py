"""Every query of every dashboard, sent to a real Prometheus that scrapes a busy system, answers with a number."""

import math
import re
import time

import pytest
from busy import Busy
from dashboards import filled, is_prometheus, load_all, panels, variables

# What a machine without the part cannot answer: a piece of the query, and why. A query in this list that answers is an error.
SILENT = {
    'kind="file_limit"': "the broker that `forebay up` starts has no limit of its own",
    "DCGM_": "no GPU, and no exporter of NVIDIA's figures",
    "device_utilization_ratio": "no GPU",
    "device_memory_busy_ratio": "no GPU",
    "device_temperature_celsius": "no GPU",
    "device_power_watts": "no GPU",
    "node_": "no node_exporter",
    "forebay:pod:": "no cAdvisor, and no kubelet",
    "gnatsd_": "no exporter of nats-server's own figures",
    "offset 1d": "the system does not run since yesterday",
    "offset 7d": "the system does not run since last week",
}

DASHBOARDS = load_all()
QUERIES = [
    pytest.param(target["expr"], id=f"{uid}-{panel['title']}-{target['refId']}")
    for uid, board in DASHBOARDS.items()
    for panel in panels(board)
    for target in panel["targets"]
    if is_prometheus(target)
]
CHOICES = [
    pytest.param(variable["query"]["query"], id=f"{uid}-{name}")
    for uid, board in DASHBOARDS.items()
    for name, variable in variables(board).items()
    if variable["type"] == "query" and variable["datasource"]["uid"] == "${datasource}"
]


@pytest.fixture(scope="module")
def busy():
    with Busy() as running:
        yield running


@pytest.mark.parametrize("query", QUERIES)
def test_a_query_answers(busy, query):
    values = busy.prometheus.values(filled(query))
    answered = [value for value in values if math.isfinite(value)]
    why_not = [reason for part, reason in SILENT.items() if part in query]
    if why_not:
        assert not answered, f"it answers; the list says: {why_not}"
    else:
        assert answered, f"{values} from {filled(query)}"
        assert min(answered) >= 0, "nothing here is negative, losses of this model included"


@pytest.mark.parametrize("query", CHOICES)
def test_a_choice_has_values(busy, query):
    series, label = re.fullmatch(r"label_values\((.+), (\w+)\)", query).groups()
    values = busy.prometheus.label_values(label, series)
    expected = {"model": {busy.model}, "tenant": {"search", "shop", "hasty"}, "instance": set()}[label]
    assert values and expected <= set(values)


@pytest.mark.parametrize("name", ["Restarts", "Model loads"])
def test_a_mark_is_set(busy, name):
    (query,) = {
        annotation["expr"]
        for board in DASHBOARDS.values()
        for annotation in board["annotations"]["list"]
        if annotation["name"] == name
    }
    now = time.time()
    query = filled(query, __from=int((now - 600) * 1000), __to=int(now * 1000))
    assert busy.prometheus.ever(query, busy.seconds + 1)


def test_every_reason_for_silence_is_needed():
    assert [part for part in SILENT if not any(part in param.values[0] for param in QUERIES)] == []


def test_numbers_are_those_of_the_clients(busy):
    """A spot check that a query does not merely answer: who was refused, and that two views agree."""
    board = {panel["title"]: panel for panel in panels(DASHBOARDS["forebay-tenants"])}
    over = filled(board["Over their limits"]["targets"][0]["expr"])
    by_tenant = {
        (series["metric"]["tenant"], series["metric"]["outcome"]): float(series["value"][1])
        for series in busy.prometheus.ask("query", query=over)["result"]
    }
    assert by_tenant["hasty", "rate_limited"] > 1
    assert by_tenant["search", "rate_limited"] == 0
