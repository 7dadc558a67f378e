"""text-embeddings-inference's protocol as its users speak it: plain HTTP, and errors in its shape."""

import socket
from urllib.parse import urlsplit

import pytest
import requests


@pytest.fixture(scope="module")
def embed(url):
    with requests.Session() as session:
        yield lambda body, **kwargs: session.post(f"{url}/embed", json=body, timeout=60, **kwargs)


def refused(answer, status, error_type=None):
    """The answer is an error in this protocol's shape."""
    assert answer.status_code == status, answer.text
    body = answer.json()
    assert set(body) == {"error", "error_type"} and body["error"], body
    assert error_type in (None, body["error_type"]), body


def test_a_text_gives_a_list_with_one_vector(embed, expected, same):
    answer = embed({"inputs": expected[0]["text"], "truncate": True, "normalize": True})
    assert answer.status_code == 200 and answer.headers["content-type"].startswith("application/json")
    same(answer.json(), [expected[0]["embedding"]])


def test_a_list_gives_a_vector_each_in_order(embed, expected, same):
    answer = embed({"inputs": [row["text"] for row in expected]})
    same(answer.json(), [row["embedding"] for row in expected])


def test_normalisation_is_the_default(embed, expected, same):
    same(embed({"inputs": expected[1]["text"]}).json(), [expected[1]["embedding"]])


def test_the_truncation_direction_is_spelled_as_in_its_documentation(embed, too_long, same):
    same(embed({"inputs": too_long["text"], "truncate": True, "truncation_direction": "Right"}).json(), [too_long["embedding"]])
    refused(embed({"inputs": "hello", "truncate": True, "truncation_direction": "Left"}), 422, "Validation")


def test_too_long_is_a_validation_error(embed, too_long):
    refused(embed({"inputs": too_long["text"], "truncate": False}), 413, "Validation")


@pytest.mark.parametrize("empty", ["", [], ["a", ""]], ids=["text", "list", "text in list"])
def test_an_empty_input_is_a_validation_error(embed, empty):
    refused(embed({"inputs": empty}), 422, "Validation")


def test_malformed_json_is_a_bad_request(url):
    answer = requests.post(f"{url}/embed", data=b'{"inputs": ', headers={"content-type": "application/json"}, timeout=60)
    refused(answer, 400)


@pytest.mark.parametrize("body", [{}, {"inputs": 5}, {"inputs": None}, []], ids=["no inputs", "number", "null", "list"])
def test_a_body_of_another_shape_is_refused(embed, body):
    refused(embed(body), 422, "Validation")


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_a_body_over_the_limit_is_refused_before_it_is_read(url, path):
    host, port = urlsplit(url).hostname, urlsplit(url).port
    head = f"POST {path} HTTP/1.1\r\nhost: {host}\r\ncontent-type: application/json\r\ncontent-length: {1 << 30}\r\n\r\n"
    with socket.create_connection((host, port), timeout=30) as connection:
        connection.sendall(head.encode())
        assert connection.recv(4096).split(b" ", 2)[1] == b"413"


@pytest.mark.parametrize("path", ["/embed", "/v1/embeddings"])
def test_a_deadline_that_passes_is_a_gateway_timeout(url, model, sentences, path):
    texts = [" ".join(sentences[start : start + 8]) for start in range(0, 64)]
    body = {"inputs": texts, "truncate": True} if path == "/embed" else {"model": model, "input": sentences[:64]}
    answer = requests.post(f"{url}{path}", json=body, headers={"x-request-timeout": "1ms"}, timeout=60)
    assert answer.status_code == 504, answer.text


def test_the_request_id_comes_back(embed):
    assert embed({"inputs": "hello"}, headers={"x-request-id": "client-test-1"}).headers["x-request-id"] == "client-test-1"


def test_an_unknown_path_is_not_found_and_a_wrong_method_not_allowed(url):
    assert requests.get(f"{url}/no-such-path", timeout=30).status_code == 404
    assert requests.get(f"{url}/embed", timeout=30).status_code == 405


def test_health_answers(url):
    assert requests.get(f"{url}/health/live", timeout=30).status_code == 200
    assert requests.get(f"{url}/health/ready", timeout=30).status_code == 200
