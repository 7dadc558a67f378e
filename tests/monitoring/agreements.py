"""What each query of the reference guides must agree with: one function for each `agrees` of monitoring/reference/queries.yml.

A function gets the running `Reference`, the series of the answer and the query's window in seconds, and asserts. What the load generator
counted itself decides; where it cannot know (how many batches the work made) the workers' own pages do.
"""

import math
import os
import re

from reference_load import REQUESTS, SIMULATED, TINY
from reference_stack import BATCH_SECONDS

POST = {"method": "POST", "endpoint": "/v1/embeddings"}
# A percentage may be a point off, a share a hundredth.
POINT = 1.0


def only(series):
    """The value of the one series."""
    assert len(series) == 1, series
    return series[0][1]


def exactly(rate, window, wanted):
    """A rate over a window that began at 0 and ends at an evaluation is exact but for rounding."""
    assert math.isclose(rate * window, wanted, rel_tol=1e-6, abs_tol=1e-6), f"{rate * window} instead of {wanted}"


def bucket(reference, name, seconds):
    """In which bucket of the histogram a time falls."""
    bounds = sorted(float(labels["le"]) for labels, _ in reference.query(f"count by (le) ({name}_bucket)"))
    return next(number for number, bound in enumerate(bounds) if seconds <= bound)


def same_bucket(reference, name, got, wanted):
    apart = bucket(reference, name, got) - bucket(reference, name, wanted)
    assert abs(apart) <= 1, f"{got} s and {wanted} s are {apart} buckets apart"


def inference_rate_by_status(reference, series, window):
    rates = {labels["status"]: value for labels, value in series}
    assert set(rates) == {"success", "error"}
    exactly(rates["success"], window, reference.load.good)
    exactly(rates["error"], window, reference.load.bad)


def inference_error_percent(reference, series, _):
    load = reference.load
    assert load.bad == REQUESTS / 10, f"the load had {load.statuses}"
    assert abs(only(series) - 100 * load.bad / len(load.sent)) <= POINT


def request_p95(reference, series, _):
    same_bucket(reference, "batcher_request_latency_seconds", only(series), reference.load.percentile(0.95))


def mean_batch_size(reference, series, _):
    rows, batches = (reference.workers_sum(f"forebay_worker_batch_size_{part}") for part in ("sum", "count"))
    load = reference.load
    computed = sum(sent.rows for sent in load.sent if sent.cached != "hit")
    assert computed <= rows <= computed + load.count(kind="late"), "the workers ran other rows than were asked for"
    assert math.isclose(only(series), rows / batches, rel_tol=1e-6)


def batch_rate(reference, series, window):
    exactly(only(series), window, reference.workers_sum("forebay_worker_batch_size_count"))


def waiting_jobs(reference, series, _):
    assert only(series) == 0, "everything is answered"
    # Eight clients, each with four rows at most.
    assert reference.value("max_over_time(batcher_queue_size[1m])") <= 32


def mean_inference_seconds(reference, series, _):
    seconds, batches = (reference.workers_sum(f"forebay_worker_inference_seconds_{part}") for part in ("sum", "count"))
    assert math.isclose(only(series), seconds / batches, rel_tol=1e-6)
    assert only(series) < max(sent.seconds for sent in reference.load.sent)


def host_cpu_percent(reference, series, _):
    assert 0 < only(series) <= 100
    mean = reference.value(f"avg_over_time(cpu_usage_percent[{reference.load_seconds:.0f}s] @ {reference.load_ended})")
    assert abs(mean - reference.load_cpu_percent) <= 15, f"{mean} % and {reference.load_cpu_percent} % by /proc/stat"


def host_memory_bytes(_, series, __):
    with open("/proc/meminfo", encoding="ascii") as file:
        kib = {line.split(":")[0]: int(line.split()[1]) for line in file}
    used = (kib["MemTotal"] - kib["MemAvailable"]) * 1024
    # Others use memory on this host, too: a tenth, and half a gigabyte.
    assert abs(only(series) - used) <= used * 0.1 + 2**29, f"{only(series)} and {used}"


def rate_by_status(reference, series, window, label):
    wanted = {str(status): count for status, count in reference.load.statuses.items()}
    found = {labels[label]: value for labels, value in series if POST.items() <= labels.items()}
    assert wanted.keys() <= found.keys()
    for status, rate in found.items():
        exactly(rate, window, wanted.get(status, 0))


def http_rate_by_status(reference, series, window):
    rate_by_status(reference, series, window, "status")


def api_rate_by_status(reference, series, window):
    rate_by_status(reference, series, window, "http_status")


def api_rate(reference, series, window):
    """Beside the load stand what Prometheus scrapes of the api, twice a second at most, and the probes of the start."""
    sent = len(reference.load.sent)
    assert sent * 0.999 <= only(series) * window <= sent + 2 * window


def http_p95(reference, series, _):
    same_bucket(reference, "http_request_duration_seconds", only(series), reference.load.percentile(0.95))


def http_p99(reference, series, _):
    same_bucket(reference, "http_request_duration_seconds", only(series), reference.load.percentile(0.99))


def http_5xx_percent(reference, series, _):
    load = reference.load
    assert abs(only(series) - 100 * load.server_errors / len(load.sent)) <= POINT


def http_5xx_ratio(reference, series, window):
    http_5xx_percent(reference, [(labels, 100 * value) for labels, value in series], window)


def queue_ratio(reference, series, _):
    assert only(series) == 0, "everything is answered"
    assert reference.value("inferno_queue_max_capacity") > 0


def cache_hit_ratio(reference, series, _):
    load = reference.load
    hits = sum(sent.rows for sent in load.sent if sent.cached == "hit")
    misses = sum(sent.rows for sent in load.sent if sent.cached != "hit")
    assert hits > 50, "the load asked again for what is in the cache"
    # What came too late was looked for, or not.
    assert hits / (hits + misses + load.count(kind="late")) - 1e-9 <= only(series) <= hits / (hits + misses) + 1e-9


def inference_p95_by_model(reference, series, _):
    seconds = {labels["model"]: value for labels, value in series}
    assert set(seconds) == {SIMULATED, TINY}
    same_bucket(reference, "inferno_inference_duration_seconds", seconds[SIMULATED], BATCH_SECONDS)
    assert 0 < seconds[TINY] < max(sent.seconds for sent in reference.load.sent)


def server_error_rate_by_model(reference, series, window):
    rates = {labels["model"]: value for labels, value in series}
    exactly(rates[SIMULATED], window, reference.load.server_errors)
    exactly(rates[TINY], window, 0)


def node_filesystem(_, series, __):
    compared = 0
    for labels, value in series:
        try:
            found = os.statvfs(labels["mountpoint"])
        except OSError:
            continue
        if available := found.f_bavail * found.f_frsize:
            compared += 1
            assert abs(value - available) <= available * 0.1 + 2**30, labels
    assert compared, "no file system of this host is among them"


def all_up(_, series, __):
    jobs = {labels["job"] for labels, _ in series}
    assert {"forebay", "forebay-aggregator", "prometheus"} <= jobs
    assert all(value == 1 for _, value in series), series


def quota_rate(reference, series, window):
    exactly(only(series), window, reference.load.count(status=429))


def predictions(reference, series, _):
    assert only(series) == reference.load.predictions


def model_info(_, series, __):
    assert {labels["model"] for labels, _ in series} == {SIMULATED, TINY}
    assert all(value == 1 and labels["version"] for labels, value in series), series


def one(_, series, __):
    assert only(series) == 1


def scrape_seconds(_, series, __):
    assert series and all(0 < value < 1 for _, value in series), series


def window_of(expression):
    """Seconds of the first range in a query, 0 without one."""
    found = re.search(r"\[(\d+)m\]", expression)
    return int(found[1]) * 60 if found else 0
