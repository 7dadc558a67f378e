"""The openai package, unmodified, with an API key: what it makes of a key that is missing, limited or used up."""

import json
import subprocess

import openai
import pytest

from conftest import ForebayUp
from forebay_up import BINARY


def new_key(name):
    """(key, entry of the file), as an operator gets them."""
    made = subprocess.run([str(BINARY), "api-key", "new", name], capture_output=True, text=True, check=True)
    key, entry = made.stdout.splitlines()
    return key, json.loads(entry)


@pytest.fixture(scope="module")
def keys():
    return {name: new_key("only") for name in ("free", "limited", "spent", "elsewhere")}


@pytest.fixture(scope="module")
def keyed(keys, tmp_path_factory):
    """The base URL of a system that asks for keys."""
    rights = {"limited": {"requests_per_second": 1}, "spent": {"tokens_per_day": 1}, "elsewhere": {"models": ["other"]}}
    tenants = [{"name": name, "keys": [entry], **rights.get(name, {})} for name, (_, entry) in keys.items()]
    file = tmp_path_factory.mktemp("keys") / "keys.json"
    file.write_text(json.dumps({"tenants": tenants}))
    with ForebayUp(model="identity", workers=1, env={"FOREBAY_API_KEYS_FILE": str(file), "FOREBAY_CACHE_BYTES": str(1 << 20)}) as system:
        yield f"{system.url}/v1"


@pytest.fixture
def client(keyed, keys):
    return lambda name: openai.OpenAI(base_url=keyed, api_key=keys[name][0], max_retries=0, timeout=60)


def ask(client, text="hello", **options):
    return client.embeddings.create(model="identity", input=text, **options)


def test_a_key_opens(client):
    assert len(ask(client("free")).data) == 1
    assert [model.id for model in client("free").models.list()] == ["identity"]


def test_a_wrong_key_is_an_authentication_error(keyed):
    stranger = openai.OpenAI(base_url=keyed, api_key="fb-none", max_retries=0)
    with pytest.raises(openai.AuthenticationError, match="not known"):
        ask(stranger)


def test_a_model_that_is_not_allowed_is_a_permission_error(client):
    with pytest.raises(openai.PermissionDeniedError, match="may not use the model"):
        ask(client("elsewhere"))
    assert list(client("elsewhere").models.list()) == []


def test_over_its_rate_a_client_waits_and_gets_its_answer(client):
    raw = client("limited").embeddings.with_raw_response.create(model="identity", input="hello")
    assert raw.headers["x-ratelimit-limit-requests"] == "1"
    with pytest.raises(openai.RateLimitError) as refused:
        ask(client("limited"))
    assert refused.value.response.headers["retry-after"] == "1"
    assert refused.value.code == "rate_limit_exceeded"
    patient = client("limited").with_options(max_retries=3)
    assert len(ask(patient).data) == 1


def test_a_quota_that_is_used_up_says_so(client):
    with pytest.raises(openai.RateLimitError) as refused:
        ask(client("spent"), "many words are more than one token")
    assert refused.value.code == "insufficient_quota"


def test_answers_say_whether_they_were_kept(client):
    told = []
    for options in ({}, {}, {"extra_headers": {"Cache-Control": "no-store"}}):
        raw = client("free").embeddings.with_raw_response.create(model="identity", input="asked twice", **options)
        told.append(raw.headers["x-forebay-cache"])
    assert told == ["miss", "hit", "miss"]
