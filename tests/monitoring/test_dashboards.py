"""The dashboards are ones that Grafana accepts, and that people can read.

Grafana's own types are in its Foundation SDK: what they do not know, Grafana does not know.
"""

import itertools
import json
import re

import pytest
import yaml
from dashboards import ROOT, is_prometheus, load_all, panels, used_variables, variables
from grafana_foundation_sdk.cog import runtime
from grafana_foundation_sdk.cog.encoder import JSONEncoder
from grafana_foundation_sdk.cog.plugins import register_default_plugins
from grafana_foundation_sdk.models import dashboard as sdk
from grafana_foundation_sdk.models import units

register_default_plugins()
DASHBOARDS = load_all()

# Fields that Grafana's data source of Prometheus reads from an annotation. The SDK's type of annotations is that of no data source.
OF_PROMETHEUS_ANNOTATIONS = {"titleFormat", "textFormat", "tagKeys", "useValueForTime"}

# The guide of dynamic batchers names these.
BATCHING = {
    "Request Rate",
    "Error Rate",
    "Request Latency",
    "Average Batch Size",
    "Queue Size",
    "Inflight Batches",
    "Batch Wait Time",
    "Inference Time",
    "Batch Size Distribution",
}
# Their overview shows these.
OVERVIEW = {
    "Pod status and health",
    "Request rate (5m average)",
    "API latency percentiles (P95, P99)",
    "5xx error rate",
    "Request queue depth",
    "Inference latency (P95)",
    "Cache hit rate",
    "Pod memory usage",
}
# Titles, or parts of them, under which people look for a dashboard.
TITLES = [
    "Overview",
    "Inference API - Dynamic Batcher",
    "Inference Service Health",
    "API Gateway",
    "ML Worker",
    "ML Service",
    "Model Performance",
    "Queue Analysis",
    "Cache Analysis",
    "Resource Utilization",
    "Business Metrics",
    "ML Model",
    "Logs",
]

VALUES = yaml.safe_load((ROOT / "monitoring/values.yml").read_text())
REQUESTS, QUEUE, RESOURCES, BROKER = (VALUES[part] for part in ("requests", "queue", "resources", "broker"))
MEBIBYTE = 1024**2
# The limits of a panel, in the alerts' terms → the panels that draw them. A count begins to be bad at one more than the alert's limit.
LIMITS = [
    ((REQUESTS["p95"]["above"],), ["Request Latency", "Response time", "P95 latency by model", "API latency percentiles (P95, P99)"]),
    ((REQUESTS["p95"]["above"],), ["P95 latency by api", "P95 today, yesterday, last week"]),
    ((REQUESTS["p99"]["above"],), ["Latency"]),
    ((REQUESTS["http_errors"]["above"],), ["5xx error rate", "Error rate (5xx)"]),
    ((REQUESTS["model_errors"]["above"],), ["Error Rate", "Errors by model"]),
    ((REQUESTS["cache_hits"]["below"],), ["Hit rate in this hour", "Hit rate by model", "Cache hit rate"]),
    ((VALUES["slo"]["burn_3d"], VALUES["slo"]["burn_1h"]), ["Burn rate: availability", "Burn rate: latency"]),
    ((QUEUE["backlog"]["above"], QUEUE["critical"]["above"]), ["Queue Size", "Jobs waiting", "Waiting by model", "Waiting"]),
    ((QUEUE["backlog"]["above"], QUEUE["critical"]["above"]), ["Request queue depth"]),
    ((QUEUE["oldest"]["above"],), ["Age of the oldest"]),
    ((QUEUE["utilization"]["above"],), ["Queue utilization"]),
    ((QUEUE["dead_letters"]["above"] + 1,), ["Dead letters"]),
    ((VALUES["workers"]["load_errors"]["above"] + 1,), ["Loads that failed"]),
    ((VALUES["workers"]["clock_offset"]["above"],), ["Clock offset"]),
    ((BROKER["store_filling"]["above"], BROKER["store_full"]["above"]), ["Store in use"]),
    (
        (RESOURCES["memory_mebibytes"]["above"] * MEBIBYTE, RESOURCES["memory_critical_mebibytes"]["above"] * MEBIBYTE),
        ["Pod memory usage", "Memory by process", "Memory by container"],
    ),
    ((RESOURCES["cpu_millicores"]["above"] / 1000,), ["Pod CPU usage", "CPU by process", "CPU by container"]),
    ((RESOURCES["device_memory"]["above"],), ["Device memory in use"]),
    ((RESOURCES["device_temperature"]["above"],), ["Temperature"]),
    ((RESOURCES["disk_free_critical"]["below"], RESOURCES["disk_free"]["below"]), ["Free disk space"]),
    # Something is there, or it is not: these alerts have no limit.
    ((1,), ["Firing alerts", "Processes down", "Workers ready", "Broker answers"]),
]

KNOWN_UNITS = {value for name, value in vars(units).items() if not name.startswith("_") and isinstance(value, str)}

each = pytest.mark.parametrize("uid", DASHBOARDS)
every_panel = pytest.mark.parametrize(
    ("uid", "panel"), [pytest.param(uid, panel, id=f"{uid}-{panel['title']}") for uid, board in DASHBOARDS.items() for panel in panels(board)]
)


def unit(panel):
    return panel["options"]["yAxis"]["unit"] if panel["type"] == "heatmap" else panel["fieldConfig"]["defaults"]["unit"]


def lost(before, after, path=""):
    """What was written and is not there, or is not the same, after Grafana's types have read it."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key not in after:
                yield f"{path}.{key}"
            else:
                yield from lost(value, after[key], f"{path}.{key}")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after)):
            yield from lost(one, other, f"{path}[{index}]")
    elif before != after:
        yield f"{path}: {before!r} became {after!r}"


@each
def test_grafanas_types_know_every_field(uid):
    board = DASHBOARDS[uid]
    after = json.loads(JSONEncoder().encode(sdk.Dashboard.from_json(board)))
    unknown = [place for place in lost(board, after) if not (".annotations." in place and place.rpartition(".")[2] in OF_PROMETHEUS_ANNOTATIONS)]
    assert unknown == []


def test_a_field_that_grafana_does_not_know_would_be_found():
    board = json.loads(json.dumps(DASHBOARDS["forebay-overview"]))
    board["panels"][1]["options"]["colourMode"] = "value"
    board["panels"][1]["targets"][0]["expression"] = "up"
    after = json.loads(JSONEncoder().encode(sdk.Dashboard.from_json(board)))
    assert {".panels[1].options.colourMode", ".panels[1].targets[0].expression"} <= set(lost(board, after))


@each
def test_numbers_and_places_are_unique(uid):
    board = DASHBOARDS[uid]
    assert board["uid"] == uid and re.fullmatch(r"[a-z-]{8,40}", uid)
    ids = [panel["id"] for panel in board["panels"]]
    assert len(ids) == len(set(ids))
    cells = [
        (x, y)
        for place in (panel["gridPos"] for panel in board["panels"])
        for x, y in itertools.product(range(place["x"], place["x"] + place["w"]), range(place["y"], place["y"] + place["h"]))
    ]
    assert max(x for x, _ in cells) < 24
    assert len(cells) == len(set(cells)), "panels overlap"
    height = max(y for _, y in cells) + 1
    assert len(cells) == 24 * height, "there are holes between panels"


def test_titles_are_unique_and_found():
    titles = [board["title"] for board in DASHBOARDS.values()]
    assert len(titles) == len(set(titles))
    assert [title for title in TITLES if not any(title in have for have in titles)] == []


@every_panel
def test_a_panel_says_what_it_shows(uid, panel):
    kind = runtime.panelcfg_config(panel["type"])
    assert kind is not None, "Grafana has no such panel"
    assert panel["title"] and len(panel["description"]) > 10
    assert unit(panel) in KNOWN_UNITS
    assert panel["targets"]
    names = [target["refId"] for target in panel["targets"]]
    assert len(names) == len(set(names))
    for target in panel["targets"]:
        assert target["datasource"]["uid"] in ("${datasource}", "${loki}")
        if panel["type"] in ("timeseries", "bargauge"):
            assert target["legendFormat"], "a line without a name"


@every_panel
def test_axes_begin_at_zero(uid, panel):
    defaults = panel["fieldConfig"]["defaults"]
    if panel["type"] in ("timeseries", "stat", "gauge", "bargauge"):
        may_be_negative = panel["title"] in ("Training loss", "Validation loss")
        assert ("min" in defaults) != may_be_negative
        assert defaults.get("min", 0) == 0
    if unit(panel) == "percentunit":
        assert defaults.get("max", 1) == 1


@each
def test_variables_are_defined_and_used(uid):
    board = DASHBOARDS[uid]
    defined = variables(board)
    texts = [json.dumps(part) for part in (board["panels"], board["annotations"])]
    used = set().union(*map(used_variables, texts))
    between = set().union(*(used_variables(json.dumps(variable)) for variable in defined.values()))
    assert used | between <= set(defined)
    assert set(defined) <= used | between, "a choice that changes nothing"
    sources = [variable for variable in defined.values() if variable["type"] == "datasource"]
    assert [variable["query"] for variable in sources] == [{"forebay-logs": "loki"}.get(uid, "prometheus")]


@each
def test_links_lead_somewhere(uid):
    board = DASHBOARDS[uid]
    for link in board["links"]:
        assert link["type"] == "dashboards" and link["includeVars"] and link["keepTime"]
        assert all(set(link["tags"]) <= set(other["tags"]) for other in DASHBOARDS.values())
    for panel in panels(board):
        for link in panel.get("links", []):
            assert link["url"].removeprefix("/d/") in set(DASHBOARDS) - {uid}


@each
def test_nobody_edits_a_dashboard_and_it_looks_at_now(uid):
    board = DASHBOARDS[uid]
    assert board["editable"] is False
    assert board["refresh"] == "15s" and board["time"]["to"] == "now"
    assert "id" not in board and "version" not in board, "these belong to one Grafana"


@each
def test_restarts_and_loads_of_models_are_marked(uid):
    names = {annotation["name"] for annotation in DASHBOARDS[uid]["annotations"]["list"]}
    assert {"Restarts", "Model loads"} <= names or uid == "forebay-logs"


def test_known_panels_keep_their_names():
    assert BATCHING <= {panel["title"] for panel in panels(DASHBOARDS["forebay-batching"])}
    assert OVERVIEW <= {panel["title"] for panel in panels(DASHBOARDS["forebay-overview"])}


def test_limits_are_those_of_the_alerts():
    drawn = {}
    for board in DASHBOARDS.values():
        for panel in panels(board):
            steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]
            assert steps[0]["value"] is None
            if limits := tuple(step["value"] for step in steps[1:]):
                assert list(limits) == sorted(limits)
                drawn.setdefault(panel["title"], set()).add(limits)
    assert drawn == {title: {limits} for limits, titles in LIMITS for title in titles}


def test_provisioning_names_the_data_source_and_the_folder():
    folder = ROOT / "monitoring/grafana/provisioning"
    sources = yaml.safe_load((folder / "datasources/prometheus.yml").read_text())["datasources"]
    assert [(source["uid"], source["type"], source["editable"]) for source in sources] == [("forebay-prometheus", "prometheus", False)]
    assert sources[0]["jsonData"]["timeInterval"] == "15s"
    (provider,) = yaml.safe_load((folder / "dashboards/forebay.yml").read_text())["providers"]
    assert (provider["folder"], provider["allowUiUpdates"], provider["disableDeletion"]) == ("forebay", False, True)


@pytest.mark.skipif(not (ROOT / "docker-compose.yml").exists(), reason="there is no docker-compose.yml")
def test_compose_gives_grafana_what_the_files_name():
    grafana = yaml.safe_load((ROOT / "docker-compose.yml").read_text())["services"]["grafana"]
    assert grafana["environment"]["PROMETHEUS_URL"] == "http://prometheus:9090"
    assert "./monitoring/grafana/dashboards:/etc/grafana/dashboards:ro" in grafana["volumes"]
    assert "./monitoring/grafana/provisioning:/etc/grafana/provisioning:ro" in grafana["volumes"]


def test_logs_are_asked_of_loki_and_the_rest_of_prometheus():
    for uid, board in DASHBOARDS.items():
        for panel in panels(board):
            assert all(is_prometheus(target) != (uid == "forebay-logs") for target in panel["targets"])
