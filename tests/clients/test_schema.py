"""The API keeps what its own description promises, whatever it is sent: schemathesis reads `/openapi.json` and makes up requests.

FOREBAY_SCHEMA_SECONDS says for how long, FOREBAY_SCHEMA_SEED repeats a run (a failed one prints its seed).
"""

import json
import os
import random
import subprocess
import sys

import pytest
import requests

from forebay_up import ForebayUp, NotReady

SECONDS = int(os.environ.get("FOREBAY_SCHEMA_SECONDS", "45"))
SEED = int(os.environ.get("FOREBAY_SCHEMA_SEED", random.randrange(2**32)))
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
    "positive_data_acceptance",
    "unsupported_method",
    "allow_header_conformance",
]
# A lack of capacity is no fault where it is documented, which `status_code_conformance` checks.
CONFIG = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "503"]
"""


@pytest.fixture(scope="module")
def identity():
    try:
        with ForebayUp(model="identity", workers=1) as running:
            yield running
    except NotReady as reason:
        pytest.fail(f"forebay up did not start: {reason}")


LEFT_OUT = ("x-request-timeout", "idempotency-key")


def narrowed(document, model):
    """The description with what only a running system knows, so that made-up requests reach the queue: its model, no vector length of
    another, nobody to call. Of headers, the time-out is left out because more is understood than its pattern shows, which counts as a fault here
    (property tests cover it), and the idempotency key because the same made-up key comes again with another body.
    """
    for schema in document["components"]["schemas"].values():
        fields = schema.get("properties", {})
        if {"input", "inputs"} & set(fields):
            fields |= {"model": {"type": "string", "enum": [model]}, "dimensions": {"type": "null"}}
        if "webhook" in fields:
            fields["webhook"] = {"type": "null"}
    for item in document["paths"].values():
        for operation in item.values():
            kept = [parameter for parameter in operation.get("parameters", []) if parameter["name"] not in LEFT_OUT]
            operation["parameters"] = kept
    for parameter in document["paths"]["/v1/models/{id}"]["get"]["parameters"]:
        if parameter["name"] == "id":
            parameter["schema"]["enum"] = [model]
    return document


def test_made_up_requests_find_no_fault(identity, tmp_path):
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    model = requests.get(f"{identity.url}/v1/models", timeout=5).json()["data"][0]["id"]
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(narrowed(requests.get(f"{identity.url}/openapi.json", timeout=5).json(), model)))
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "--no-color", "run", str(document), "--url", identity.url]
    options = ["--checks", ",".join(CHECKS), "--max-time", str(SECONDS), "--seed", str(SEED), "--request-timeout", "35"]
    options += ["--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all", "--continue-on-failure"]
    run = subprocess.run([*command, *options], capture_output=True, text=True, timeout=SECONDS + 120, cwd=tmp_path, check=False)
    assert run.returncode == 0, f"FOREBAY_SCHEMA_SEED={SEED}\n{run.stdout[-20000:]}\n{run.stderr[-4000:]}"
    # The api that was asked all this is the one that started.
    assert requests.get(f"{identity.url}/health/ready", params={"model": model}, timeout=5).ok


def test_the_page_needs_nothing_from_elsewhere(identity):
    page = requests.get(f"{identity.url}/docs", timeout=5)
    assert page.ok and page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "//" not in page.text.replace("// ", ""), "an address in the page"
    document = requests.get(f"{identity.url}/openapi.json", timeout=5)
    assert json.loads(document.text)["openapi"].startswith("3.1")
