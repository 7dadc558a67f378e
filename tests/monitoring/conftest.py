"""One `forebay up` with MiniLM, a Prometheus that scrapes it and an Alertmanager that tells an inbox, for all tests of this folder.

`roles` puts a second, smaller system together by hand; `watch` gives it a Prometheus of its own.
"""

import json
import signal
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from forebay_up import MINILM, ForebayUp, NotReady, get  # noqa: E402
from inbox import Inbox  # noqa: E402
from roles import Roles  # noqa: E402
from servers import Alertmanager, NodeExporter, Prometheus  # noqa: E402


def pytest_sessionstart():
    # A plain `kill` must run the fixtures' clean-up like Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@pytest.fixture(scope="session")
def system():
    """`ForebayUp` of two workers."""
    try:
        with ForebayUp(model=MINILM, workers=2) as running:
            yield running
    except NotReady as reason:
        pytest.exit(f"forebay up did not start: {reason}", returncode=1)


@pytest.fixture(scope="session")
def model(system):
    """The id under which the api lists the model."""
    status, body = get(f"{system.url}/v1/models")
    assert status == 200, body
    return json.loads(body)["data"][0]["id"]


@pytest.fixture(scope="session")
def inbox():
    with Inbox() as running:
        yield running


@pytest.fixture(scope="session")
def alertmanager(inbox):
    with Alertmanager(inbox) as running:
        yield running


@pytest.fixture(scope="session")
def prometheus(system, alertmanager):
    """Scrapes `system`, a node_exporter, itself and Alertmanager every second, with all rules of the repository."""
    aggregator = system.aggregator_url.removeprefix("http://")
    with NodeExporter() as node, Prometheus([aggregator], alertmanager.address, [node.address]) as running:
        yield running


@pytest.fixture
def roles():
    """roles(model="identity", workers=2): a running `Roles`."""
    with ExitStack() as stack:
        yield lambda **options: stack.enter_context(Roles(**options))


@pytest.fixture
def watch(alertmanager):
    """watch(roles): a running Prometheus for it, which tells `alertmanager`."""
    with ExitStack() as stack:
        yield lambda system: stack.enter_context(Prometheus([system.aggregator], alertmanager.address))
