"""huggingface_hub's InferenceClient, unmodified. A URL as `model` is used as it stands: `/` and `/embed` must both answer."""

import numpy as np
import pytest
from huggingface_hub import InferenceClient
from huggingface_hub.errors import HfHubHTTPError


@pytest.fixture(params=["", "/embed"], ids=["root", "embed"])
def client(url, request):
    return InferenceClient(model=url + request.param, timeout=60)


def test_a_text_gives_one_row(client, expected, same):
    got = client.feature_extraction(expected[0]["text"], normalize=True, truncate=True)
    assert got.shape == (1, 384) and got.dtype == np.float32
    same(got, [expected[0]["embedding"]])


def test_a_list_gives_a_row_each(client, expected, same):
    got = client.feature_extraction([row["text"] for row in expected[:4]], normalize=True)
    same(got, [row["embedding"] for row in expected[:4]])


def test_without_normalisation_only_the_length_differs(client, expected, same):
    raw = client.feature_extraction(expected[0]["text"], normalize=False)
    length = np.linalg.norm(raw)
    assert abs(length - 1) > 1e-3
    same(raw / length, [expected[0]["embedding"]])


def test_truncate_reads_the_beginning_of_what_is_too_long(client, too_long, same):
    same(client.feature_extraction(too_long["text"], truncate=True), [too_long["embedding"]])


def test_the_truncation_direction_right_is_the_default_and_left_is_refused(client, too_long, same):
    same(client.feature_extraction(too_long["text"], truncate=True, truncation_direction="right"), [too_long["embedding"]])
    with pytest.raises(HfHubHTTPError) as error:
        client.feature_extraction("hello", truncate=True, truncation_direction="left")
    assert error.value.response.status_code == 422 and "truncation_direction" in str(error.value)


def test_too_long_without_truncate_is_refused_in_words(client, too_long):
    with pytest.raises(HfHubHTTPError) as error:
        client.feature_extraction(too_long["text"], truncate=False)
    assert error.value.response.status_code == 413
    assert "tokens" in str(error.value)


def test_an_unknown_prompt_name_is_refused(client):
    with pytest.raises(HfHubHTTPError) as error:
        client.feature_extraction("hello", prompt_name="no-such-prompt")
    assert error.value.response.status_code == 422 and "prompt_name" in str(error.value)
