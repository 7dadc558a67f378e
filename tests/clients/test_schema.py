"""The API keeps what its own description promises, whatever it is sent: schemathesis reads `/openapi.json` and makes up requests.

FOREBAY_SCHEMA_SECONDS says for how long. The requests are the same every time, so that a failure is about a change; another
FOREBAY_SCHEMA_SEED (any number) looks further.
"""

import copy
import json
import os
import subprocess
import sys

import pytest
import requests

from forebay_up import ForebayUp, NotReady

SECONDS = int(os.environ.get("FOREBAY_SCHEMA_SECONDS", "45"))
SEED = int(os.environ.get("FOREBAY_SCHEMA_SEED", "20261126"))
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


# Tokens that the model `identity` knows.
VOCABULARY = 65_536
LEFT_OUT = ("x-request-timeout", "idempotency-key")


def made(url, model):
    """What can be asked about: for every path with an id, the one of each method."""
    line = {"custom_id": "1", "method": "POST", "url": "/v1/embeddings", "body": {"model": model, "input": "a"}}
    begin = {"endpoint": "/v1/embeddings", "completion_window": "24h"}

    def created(path, **body):
        answer = requests.post(f"{url}{path}", timeout=10, **body)
        assert answer.ok, answer.text
        return answer.json()["id"]

    def file():
        return created("/v1/files", data={"purpose": "batch"}, files={"file": ("in.jsonl", json.dumps(line))})

    def job():
        return created("/v1/jobs", json={"task": "embed", "model": model, "input": "a"})

    kept = file()
    batch = created("/v1/batches", json={"input_file_id": kept, **begin})
    return {
        "/v1/files/{id}": {"get": kept, "delete": file()},
        "/v1/files/{id}/content": {"get": kept},
        "/v1/batches/{id}": {"get": batch},
        "/v1/batches/{id}/cancel": {"post": batch},
        "/v1/jobs/{id}": {"get": job(), "delete": job()},
        "/v1/jobs/{id}/events": {"get": job()},
        "/v1/jobs/{id}/webhook": {"post": job()},
        "/v1/models/{id}": {"get": model},
    }, kept


def bounded(schema, most):
    """Token ids up to what is in the vocabulary."""
    if isinstance(schema, dict):
        if schema.get("type") == "integer":
            schema["maximum"] = most
        schema = list(schema.values())
    for part in schema if isinstance(schema, list) else []:
        bounded(part, most)


def narrowed(document, model, url):
    """The description with what only a running system knows, so that made-up requests reach the queue: its model and vocabulary, no vector
    length of another, nobody to call, the ids of things that exist. Of headers, the time-out is left out because more is understood than its pattern shows, which counts as a fault here
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
    ids, input_file = made(url, model)
    for path, methods in ids.items():
        for method, known in methods.items():
            for parameter in document["paths"][path][method]["parameters"]:
                if parameter["name"] == "id":
                    parameter["schema"]["enum"] = [known]
    schemas = document["components"]["schemas"]
    schemas["BatchRequest"]["properties"]["input_file_id"]["enum"] = [input_file]
    # A job is accepted before anybody has looked a token up.
    schemas["JobInputs"] = copy.deepcopy(schemas["Inputs"])
    schemas["JobRequest"]["properties"]["input"] = {"$ref": "#/components/schemas/JobInputs"}
    bounded(schemas["Inputs"], VOCABULARY - 1)
    return document


def test_made_up_requests_find_no_fault(identity, tmp_path):
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    model = requests.get(f"{identity.url}/v1/models", timeout=5).json()["data"][0]["id"]
    document = tmp_path / "openapi.json"
    document.write_text(json.dumps(narrowed(requests.get(f"{identity.url}/openapi.json", timeout=5).json(), model, identity.url)))
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
