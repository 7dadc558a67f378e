"""The openai package, unmodified: nothing changed but the base URL."""

import asyncio
import base64

import numpy as np
import openai
import pytest


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60)


def vectors(answer):
    assert [row.index for row in answer.data] == list(range(len(answer.data)))
    assert {row.object for row in answer.data} <= {"embedding"}
    return [row.embedding for row in answer.data]


def test_a_string_gives_the_vector_of_sentence_transformers(client, model, expected, same):
    answer = client.embeddings.create(model=model, input=expected[0]["text"])
    assert answer.object == "list" and answer.model == model
    same(vectors(answer), [expected[0]["embedding"]])


def test_a_list_of_strings_gives_one_vector_each_in_order(client, model, expected, same):
    answer = client.embeddings.create(model=model, input=[row["text"] for row in expected])
    same(vectors(answer), [row["embedding"] for row in expected])


def test_usage_counts_the_tokens_that_the_model_read(client, model, expected):
    rows = expected[:5]
    usage = client.embeddings.create(model=model, input=[row["text"] for row in rows]).usage
    assert usage.prompt_tokens == usage.total_tokens == sum(row["tokens"] for row in rows)


def ids_of(text, vocabulary):
    """Token ids of a sentence whose words are all in the vocabulary."""
    words = text.lower().replace(".", " .").split()
    return [vocabulary["[CLS]"], *(vocabulary[word] for word in words), vocabulary["[SEP]"]]


SIMPLE = ["The gate opens slowly.", "The river is green."]


def test_token_ids_are_taken_as_they_are(client, model, vocabulary, same):
    texts = vectors(client.embeddings.create(model=model, input=SIMPLE[0]))
    ids = ids_of(SIMPLE[0], vocabulary)
    answer = client.embeddings.create(model=model, input=ids)
    same(vectors(answer), texts)
    assert answer.usage.prompt_tokens == len(ids)


def test_a_list_of_token_id_lists_gives_one_vector_each(client, model, vocabulary, same):
    texts = vectors(client.embeddings.create(model=model, input=SIMPLE))
    same(vectors(client.embeddings.create(model=model, input=[ids_of(text, vocabulary) for text in SIMPLE])), texts)


def test_float_and_base64_carry_the_same_vector(client, model, expected):
    texts = [row["text"] for row in expected[:3]]
    default = vectors(client.embeddings.create(model=model, input=texts))  # the client asks for base64 and decodes it
    floats = vectors(client.embeddings.create(model=model, input=texts, encoding_format="float"))
    raw = vectors(client.embeddings.create(model=model, input=texts, encoding_format="base64"))
    decoded = [np.frombuffer(base64.b64decode(text), dtype="<f4") for text in raw]
    assert all(isinstance(text, str) for text in raw)
    np.testing.assert_array_equal(np.asarray(default, "f4"), np.asarray(decoded))
    np.testing.assert_array_equal(np.asarray(floats, "f4"), np.asarray(decoded))


def test_a_hundred_inputs_come_back_in_their_order(client, model, sentences, same):
    texts = sentences[:100]
    together = vectors(client.embeddings.create(model=model, input=texts))
    assert len(together) == 100
    for position in (0, 1, 49, 98, 99):
        same([together[position]], vectors(client.embeddings.create(model=model, input=texts[position])))
    assert len({tuple(vector) for vector in together}) == len(set(texts))


def test_dimensions_are_refused_where_the_model_has_only_one_size(client, model):
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model=model, input="hello", dimensions=64)
    assert error.value.param == "dimensions"


def test_an_unknown_model_is_not_found_and_the_known_ones_are_named(client, model):
    with pytest.raises(openai.NotFoundError) as error:
        client.embeddings.create(model="no-such-model", input="hello")
    assert error.value.code == "model_not_found"
    assert model in error.value.message and "no-such-model" in error.value.message


def test_an_input_longer_than_the_model_reads_is_refused_with_its_code(client, model, too_long):
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model=model, input=too_long["text"])
    assert error.value.code == "context_length_exceeded"
    assert error.value.type == "invalid_request_error"


@pytest.mark.parametrize("empty", ["", [], [""]], ids=["text", "list", "text in list"])
def test_an_empty_input_is_refused(client, model, empty):
    with pytest.raises(openai.BadRequestError) as error:
        client.embeddings.create(model=model, input=empty)
    assert error.value.type == "invalid_request_error"


def test_a_token_id_outside_the_vocabulary_is_refused(client, model):
    with pytest.raises(openai.BadRequestError):
        client.embeddings.create(model=model, input=[101, 4_000_000, 102])


def test_models_are_listed_and_found_by_their_id(client, model):
    listed = client.models.list()
    assert [entry.id for entry in listed.data] == [model]
    assert listed.data[0].object == "model"
    assert client.models.retrieve(model).id == model


async def concurrently(client, model, texts):
    async with client:
        answers = await asyncio.gather(*(client.embeddings.create(model=model, input=text) for text in texts))
    return [answer.data[0].embedding for answer in answers]


def test_a_hundred_requests_at_once_each_get_their_own_answer(url, client, model, sentences, same):
    texts = sentences[100:200]
    wanted = vectors(client.embeddings.create(model=model, input=texts))
    parallel = openai.AsyncOpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60)
    same(asyncio.run(concurrently(parallel, model, texts)), wanted)
