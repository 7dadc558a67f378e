"""One running `forebay up` with MiniLM for all tests of this folder."""

import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))

from forebay_up import MINILM, ForebayUp, NotReady, get  # noqa: E402

# Two float32 paths that sum in another order differ by less than this in one component of a normalised vector.
TOLERANCE = 2e-5


def pytest_sessionstart():
    # A plain `kill` must run the fixtures' clean-up like Ctrl-C does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))


@pytest.fixture(scope="session")
def system():
    try:
        with ForebayUp(model=MINILM, workers=2) as running:
            yield running
    except NotReady as reason:
        pytest.exit(f"forebay up did not start: {reason}", returncode=1)


@pytest.fixture(scope="session")
def url(system):
    return system.url


@pytest.fixture(scope="session")
def model(url):
    """The id under which the api lists the model."""
    status, body = get(f"{url}/v1/models")
    assert status == 200, body
    return json.loads(body)["data"][0]["id"]


@pytest.fixture(scope="session")
def reference():
    """Texts with what sentence-transformers makes of them: text, tokens (special ones included), embedding."""
    return json.loads((ROOT / "tests/fixtures/minilm/expected.json").read_text())


@pytest.fixture(scope="session")
def expected(reference):
    """Those rows that every protocol accepts as they are: neither empty nor cut at the model's limit."""
    return [row for row in reference["rows"] if row["text"] and row["tokens"] < reference["max_seq_length"]]


@pytest.fixture(scope="session")
def too_long(reference):
    """A row whose text has more tokens than the model reads; its embedding is that of the beginning."""
    return next(row for row in reference["rows"] if row["tokens"] == reference["max_seq_length"])


@pytest.fixture(scope="session")
def vocabulary():
    """Word -> id, as the model numbers them."""
    return {word: number for number, word in enumerate((MINILM / "vocab.txt").read_text().splitlines())}


@pytest.fixture(scope="session")
def sentences():
    return (ROOT / "tests/fixtures/sentences.txt").read_text().splitlines()


@pytest.fixture
def same():
    """Asserts that two (lists of) vectors are equal up to rounding."""

    def check(got, wanted, tolerance=TOLERANCE):
        np.testing.assert_allclose(np.asarray(got, dtype=float), np.asarray(wanted, dtype=float), rtol=0, atol=tolerance)

    return check
