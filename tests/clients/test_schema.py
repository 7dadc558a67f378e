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
# What is valid by its shape may still be refused: a model that nobody serves, a vector length that the model does not have.
CHECKS = [
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
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


def test_made_up_requests_find_no_fault(identity, tmp_path):
    config = tmp_path / "schemathesis.toml"
    config.write_text(CONFIG)
    command = [sys.executable, "-m", "schemathesis.cli", "--config-file", str(config), "run", f"{identity.url}/openapi.json"]
    options = ["--checks", ",".join(CHECKS), "--max-time", str(SECONDS), "--seed", str(SEED), "--request-timeout", "35", "--no-color"]
    options += ["--phases", "examples,coverage,fuzzing", "--suppress-health-check", "all", "--continue-on-failure"]
    model = requests.get(f"{identity.url}/v1/models", timeout=5).json()["data"][0]["id"]
    assert requests.get(f"{identity.url}/v1/models/{model}", timeout=5).ok
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
