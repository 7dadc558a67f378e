"""The numbers that panels show are right: queries over samples whose answer is known. Two aggregators tell the same, and count once.

promtool answers the queries, as a unit test of rules does.
"""

import subprocess

import pytest
import yaml
from dashboards import ROOT, filled, load_all, panels

PROMTOOL = ROOT / ".cache/bin/promtool"
MINUTES = 30
STEPS = MINUTES * 4


def counter(name, per_second, **labels):
    """The same counter on the pages of two aggregators."""
    return fleet(name, f"0+{per_second * 15}x{STEPS}", **labels)


def gauge(name, value, **labels):
    return fleet(name, f"{value}x{STEPS}", **labels)


def fleet(name, values, **labels):
    aggregators = [{"job": "forebay-aggregator", "instance": f"aggregator-{number}:9600"} for number in (1, 2)]
    return [{"series": name + labels_text({**labels, **target}), "values": values} for target in aggregators]


def labels_text(labels):
    return "{" + ", ".join(f'{name}="{value}"' for name, value in labels.items()) + "}"


# One model on two devices at 3.6 an hour each, which compute half of the time: for 100 rows and 2 000 tokens a second.
MODEL = [
    *gauge("forebay_worker_up", 1, worker="worker-1", model="m", device="cuda"),
    *gauge("forebay_worker_up", 1, worker="worker-2", model="m", device="cuda"),
    *gauge("forebay_device_price_per_hour", 3.6, device="cuda"),
    *counter("forebay_device_seconds_total", 1, model="m"),
    *counter("forebay_predictions_total", 100, model="m", task="embed"),
    *counter("forebay_tokens_total", 2000, model="m", kind="prompt"),
    *counter("forebay_tokens_total", 0, model="m", kind="generated"),
    # Two tenants, one of which has three quarters of the devices' time.
    *counter("forebay_tenant_device_seconds_total", 0.75, tenant="a", model="m"),
    *counter("forebay_tenant_device_seconds_total", 0.25, tenant="b", model="m"),
    *counter("forebay_tenant_tokens_total", 1500, tenant="a", kind="prompt"),
    *counter("forebay_tenant_tokens_total", 500, tenant="b", kind="prompt"),
    # 100 requests a second, of which 4 fail by our fault and 6 by the client's.
    *counter("forebay_requests_total", 90, model="m", task="embed", outcome="ok"),
    *counter("forebay_requests_total", 6, model="m", task="embed", outcome="invalid"),
    *counter("forebay_requests_total", 3, model="m", task="embed", outcome="overloaded"),
    *counter("forebay_requests_total", 1, model="m", task="embed", outcome="failed"),
    *counter("forebay_http_requests_total", 96, method="POST", route="/v1/embeddings", status="200"),
    *counter("forebay_http_requests_total", 4, method="POST", route="/v1/embeddings", status="503"),
    *counter("forebay_http_requests_total", 50, method="GET", route="/health/ready", status="200"),
    *counter("forebay_cache_hits_total", 30, model="m"),
    *counter("forebay_cache_misses_total", 70, model="m"),
    *gauge("forebay_queue_pending", 40, model="m", lane="normal"),
    *gauge("forebay_queue_pending", 10, model="m", lane="low"),
    *gauge("forebay_queue_capacity", 1000, model="m"),
    # Nine of ten requests within 0.1 s, all within 0.2 s.
    *counter("forebay_request_duration_seconds_bucket", 90, model="m", task="embed", le="0.1"),
    *counter("forebay_request_duration_seconds_bucket", 100, model="m", task="embed", le="0.2"),
    *counter("forebay_request_duration_seconds_bucket", 100, model="m", task="embed", le="+Inf"),
    *counter("forebay_batch_size_sum", 100, model="m"),
    *counter("forebay_batch_size_count", 12.5, model="m"),
    # What one aggregator did, the other did not.
    {"series": 'forebay_recovery_naks_total{job="forebay-aggregator", instance="aggregator-1:9600"}', "values": f"0+30x{STEPS}"},
    {"series": 'forebay_recovery_naks_total{job="forebay-aggregator", instance="aggregator-2:9600"}', "values": f"0+15x{STEPS}"},
]
M, A, B = {"model": "m"}, {"tenant": "a"}, {"tenant": "b"}

# Dashboard, panel, number of the query → the answer.
EXPECTED = [
    ("tenants", "Cost per 1 000 inferences", 0, [(M, 0.02)]),
    ("tenants", "Cost per 1 000 inferences", 1, [(M, 0.01)]),
    ("tenants", "Cost per million tokens", 0, [(M, 1.0)]),
    ("tenants", "Cost per million tokens", 1, [(M, 0.5)]),
    ("tenants", "Cost per hour: computing and idle", 0, [(M, 3.6)]),
    ("tenants", "Cost per hour: computing and idle", 1, [(M, 3.6)]),
    ("tenants", "Cost per hour and customer", 0, [(A, 2.7), (B, 0.9)]),
    ("tenants", "Tokens per hour", 0, [(A, 5_400_000), (B, 1_800_000)]),
    ("overview", "Request rate (5m average)", 0, [({}, 100)]),
    ("overview", "5xx error rate", 0, [({}, 0.04)]),
    ("overview", "5xx error rate", 1, [({}, 0.04)]),
    ("overview", "API latency percentiles (P95, P99)", 0, [({}, 0.15)]),
    ("overview", "Cache hit rate", 0, [({}, 0.3)]),
    ("overview", "Request queue depth", 0, [(M, 40)]),
    ("overview", "Request queue depth", 1, [(M, 10)]),
    ("batching", "Error Rate", 0, [({}, 0.04)]),
    ("batching", "Average Batch Size", 0, [(M, 8)]),
    ("queue", "Queue utilization", 0, [(M, 0.05)]),
    ("queue", "Time to give work back", 1, [({}, 3)]),
]


def query_of(uid, title, number):
    (panel,) = [panel for panel in panels(load_all()[f"forebay-{uid}"]) if panel["title"] == title]
    return filled(panel["targets"][number]["expr"], __rate_interval="1m")


@pytest.mark.parametrize(("uid", "title", "number", "answer"), EXPECTED)
def test_a_panel_shows_the_right_number(uid, title, number, answer, tmp_path):
    # An hour's growth of a counter that is half an hour old is extrapolated: what is asked for an hour is compared as it is.
    query = query_of(uid, title, number).replace("[1h]", "[1m]")
    per_hour = 60 if "[1h]" in query_of(uid, title, number) else 1
    wanted = [{"labels": labels_text(labels), "value": value} for labels, value in answer]
    test = {
        "interval": "15s",
        "input_series": MODEL,
        "promql_expr_test": [{"expr": f"round({per_hour} * ({query}), 0.0001)", "eval_time": f"{MINUTES - 1}m", "exp_samples": wanted}],
    }
    file = tmp_path / "test.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [test]}))
    done = subprocess.run([PROMTOOL, "test", "rules", file], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
