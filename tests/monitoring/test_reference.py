"""Every name, query and command of the five reference guides, on a running system under a load that is counted, with 10 % errors."""

import math
import subprocess
import time

import agreements
import pytest
import yaml
from reference_stack import ROOT, TRAINING_LOSS, VALIDATION_LOSS, Reference, eventually, get, program

REFERENCE = ROOT / "monitoring" / "reference"
QUERIES = yaml.safe_load((REFERENCE / "queries.yml").read_text())
STACKS = yaml.safe_load((REFERENCE / "stacks.yml").read_text())
RULES = {number: yaml.safe_load((ROOT / f"monitoring/prometheus/rules/compat-{number}.yml").read_text()) for number in range(1, 6)}
RECORDED = {number: {rule["record"] for group in file["groups"] for rule in group["rules"]} for number, file in RULES.items()}
COMMANDS = [row for stack in STACKS for part in stack.values() if isinstance(part, list) for row in part if "run" in row]
# Change with every scrape and every second; their values are looked at by the queries.
RESTLESS = ("cpu_usage_percent", "ram_usage_bytes", "http_request", "api_request", "in_progress")


def cpu_ticks():
    """(busy, all) processor time of this host so far."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


@pytest.fixture(scope="module")
def idle():
    """The system before its first request of a client, with every name recorded."""
    with Reference() as reference:
        everything = set().union(*RECORDED.values())

        def missing():
            return everything - {labels["__name__"] for labels, _ in reference.query('{job="forebay-compat"}')}

        eventually(lambda: f"every name recorded; missing: {sorted(missing())}", lambda: not missing())
        eventually("the first answer recorded", lambda: reference.value('batcher_requests_total{status="success"}') == 1)
        reference.before = reference.query('{job="forebay-compat"}')
        yield reference


@pytest.fixture(scope="module")
def loaded(idle):
    """The same system after the load."""
    busy, total = cpu_ticks()
    started = time.time()
    idle.send_load()
    idle.load_ended, idle.load_seconds = time.time(), time.time() - started
    busy, total = cpu_ticks()[0] - busy, cpu_ticks()[1] - total
    idle.load_cpu_percent = 100 * busy / total
    idle.at = {number: idle.evaluated(min(names)) for number, names in RECORDED.items()}
    return idle


def test_errors_stand_at_zero_before_the_first(idle):
    """Without such a series a rate of errors has no value, and the next query no denominator."""

    def at_zero(name, **labels):
        found = [(have, value) for have, value in idle.before if have["__name__"] == name and labels.items() <= have.items()]
        return bool(found) and all(value == 0 for _, value in found)

    assert at_zero("batcher_requests_total", status="error")
    assert at_zero("inferno_http_requests_total", endpoint="/v1/embeddings", status="504")
    assert at_zero("api_request_total", endpoint="/v1/embeddings", http_status="503")
    assert at_zero("inferno_inference_errors_total", model="simulated")
    assert at_zero("inferno_tokens_generated_total", model="simulated")
    assert at_zero("inferno_queue_dropped_total")
    assert at_zero("inferno_cache_hits_total")
    assert at_zero("quota_exceeded_total")
    assert at_zero("data_validation_checks_total", result="failed")


def test_every_recorded_value_is_finite(loaded):
    found = loaded.query('{job="forebay-compat"}')
    assert {labels["__name__"] for labels, _ in found} == set().union(*RECORDED.values())
    assert [labels for labels, value in found if not math.isfinite(value)] == []


@pytest.mark.parametrize("query", QUERIES, ids=[query["id"] for query in QUERIES])
def test_a_printed_query_agrees_with_what_was_sent(loaded, query):
    if query["agrees"] == "samples":
        pytest.skip("no cAdvisor here: proved on samples by promtool, monitoring/prometheus/tests/compat-container.yml")
    if query["agrees"] == "node_filesystem" and not loaded.node:
        pytest.skip("there is no node_exporter here")
    expression = query.get("left_side") or query.get("query") or query["printed"]
    series = loaded.query(expression, loaded.at[query["stack"]])
    assert series, f"{expression} has no answer"
    assert all(math.isfinite(value) for _, value in series), series
    getattr(agreements, query["agrees"])(loaded, series, agreements.window_of(expression))


@pytest.mark.parametrize("query", QUERIES, ids=[query["id"] for query in QUERIES])
def test_a_printed_query_is_as_good_as_the_list_says(loaded, query):
    status, answer = loaded.ask(query["printed"], loaded.at[query["stack"]])
    if query["as_printed"] == "invalid":
        assert status == 400 and "parse error" in answer["error"], answer
    elif query["as_printed"] != "words":
        assert status == 200, answer
    if query["id"].endswith("error-percent"):
        values = [float(series["value"][1]) for series in answer["data"]["result"]]
        assert values and all(value == 100 or math.isnan(value) for value in values), "it does not mislead as the list says"


def test_losses_are_those_of_the_model_folder(loaded):
    assert loaded.value("training_loss") == TRAINING_LOSS
    assert loaded.value("validation_loss") == VALIDATION_LOSS


def test_bounds_read_as_pythons_client_prints_them(loaded):
    bounds = {labels["le"] for labels, _ in loaded.query("batcher_batch_size_bucket")}
    assert bounds == {"1.0", "2.0", "4.0", "8.0", "16.0", "32.0", "64.0", "128.0", "256.0", "+Inf"}


@pytest.mark.parametrize("number", sorted(RULES))
def test_an_aggregators_page_has_the_same_series_as_the_rules(loaded, number):
    parser = pytest.importorskip("prometheus_client.parser", reason="prometheus_client is not installed")
    status, text = get(f"{loaded.system.aggregator_url}/metrics?names={number}")
    assert status == 200, text

    def key(labels, name):
        return name, tuple(sorted((label, value) for label, value in labels.items() if label not in ("__name__", "job")))

    samples = [sample for family in parser.text_string_to_metric_families(text) for sample in family.samples]
    page = {key(sample.labels, sample.name): sample.value for sample in samples}
    assert len(page) == len(samples), "a series stands there twice"
    found = loaded.query('{job="forebay-compat"}')
    recorded = {key(labels, labels["__name__"]): value for labels, value in found if labels["__name__"] in RECORDED[number]}
    assert page.keys() == recorded.keys()
    for series, value in page.items():
        if not any(part in series[0] for part in RESTLESS):
            assert math.isclose(value, recorded[series], rel_tol=1e-9), series


def test_a_page_of_names_that_nobody_has_says_which_there_are(loaded):
    status, text = get(f"{loaded.system.aggregator_url}/metrics?names=6")
    assert status == 400 and "1 to 5" in text


@pytest.mark.parametrize("row", COMMANDS, ids=[row["printed"] for row in COMMANDS])
def test_the_equivalent_of_a_command_works(loaded, row):
    command = row["run"]
    if not program(command.split()[0]):
        pytest.skip(f"there is no {command.split()[0]} here")
    # Bodies of requests have braces of their own.
    places = {"{api}": loaded.system.url, "{aggregator}": loaded.system.aggregator_url, "{prometheus}": loaded.prometheus}
    for name, url in places.items():
        command = command.replace(name, url)
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=30)
    assert done.returncode == 0 and done.stdout, done.stderr
