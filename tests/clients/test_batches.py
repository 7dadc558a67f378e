"""The openai package's files and batches, unmodified: nothing changed but the base URL."""

import io
import json
import time

import openai
import pytest


@pytest.fixture(scope="module")
def client(url):
    return openai.OpenAI(base_url=f"{url}/v1", api_key="unused", max_retries=0, timeout=60)


def line(custom_id, model, **body):
    request = {"custom_id": custom_id, "method": "POST", "url": "/v1/embeddings", "body": {"model": model, **body}}
    return json.dumps(request)


def upload(client, lines, name="in.jsonl"):
    return client.files.create(file=(name, io.BytesIO("\n".join(lines).encode())), purpose="batch")


def begin(client, file, **more):
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/embeddings", completion_window="24h", **more
    )


def finished(client, batch, limit=60):
    end = time.monotonic() + limit
    while batch.status not in ("completed", "failed", "expired", "cancelled"):
        assert time.monotonic() < end, batch
        time.sleep(0.1)
        batch = client.batches.retrieve(batch.id)
    return batch


def test_a_batch_gives_what_single_requests_give(client, model, expected, same):
    texts = [row["text"] for row in expected]
    file = upload(client, [line(f"text-{i}", model, input=text) for i, text in enumerate(texts)])
    assert (file.object, file.purpose, file.filename, file.status) == ("file", "batch", "in.jsonl", "processed")
    batch = begin(client, file, metadata={"kind": "nightly"})
    assert (batch.object, batch.endpoint, batch.input_file_id) == ("batch", "/v1/embeddings", file.id)
    assert batch.metadata == {"kind": "nightly"}
    batch = finished(client, batch)
    assert batch.status == "completed" and batch.errors is None and batch.error_file_id is None, batch
    counts = batch.request_counts
    assert (counts.total, counts.completed, counts.failed) == (len(texts), len(texts), 0)
    rows = [json.loads(row) for row in client.files.content(batch.output_file_id).text.splitlines()]
    assert [row["custom_id"] for row in rows] == [f"text-{i}" for i in range(len(texts))]
    assert all(row["error"] is None and row["response"]["status_code"] == 200 for row in rows)
    same([row["response"]["body"]["data"][0]["embedding"] for row in rows], [row["embedding"] for row in expected])


def test_lines_that_fail_are_in_the_error_file_and_the_others_are_not(client, model, too_long):
    lines = [line("good", model, input="x"), line("long", model, input=too_long["text"] * 2), line("none", "no", input="x")]
    batch = finished(client, begin(client, upload(client, lines)))
    assert batch.status == "completed"
    assert (batch.request_counts.completed, batch.request_counts.failed) == (1, 2)
    assert json.loads(client.files.content(batch.output_file_id).text)["custom_id"] == "good"
    errors = [json.loads(row) for row in client.files.content(batch.error_file_id).text.splitlines()]
    said = [(row["custom_id"], row["response"]["status_code"], row["response"]["body"]["error"]["code"]) for row in errors]
    assert said == [("long", 400, "context_length_exceeded"), ("none", 404, "model_not_found")]


def test_an_input_that_cannot_be_read_fails_the_batch_and_names_the_lines(client, model):
    lines = [line("a", model, input="x"), "no json", line("a", model, input="x")]
    batch = finished(client, begin(client, upload(client, lines)))
    assert batch.status == "failed" and batch.output_file_id is None
    assert [(error.code, error.line) for error in batch.errors.data] == [("invalid_json_line", 2), ("duplicate_custom_id", 3)]


def test_batches_and_files_are_listed_newest_first_in_pages(client, model):
    batches = [begin(client, upload(client, [line("a", model, input="x")], f"{i}.jsonl")) for i in range(3)]
    listed = [batch.id for batch in client.batches.list(limit=2)]
    assert listed[:3] == [batch.id for batch in reversed(batches)], "the client follows the pages by itself"
    page = client.batches.list(limit=2)
    assert len(page.data) == 2 and page.has_more
    names = [file.filename for file in client.files.list(purpose="batch", limit=2)]
    assert names[:3] == ["2.jsonl", "1.jsonl", "0.jsonl"]
    for batch in batches:
        finished(client, batch)


def test_a_batch_is_cancelled_and_says_of_every_line_whether_it_ran(client, model, sentences):
    lines = [line(f"row-{i}", model, input=[f"{i} {text}" for text in sentences[:20]]) for i in range(2_000)]
    batch = client.batches.cancel(begin(client, upload(client, lines)).id)
    assert batch.status == "cancelling"
    batch = finished(client, batch)
    assert batch.status == "cancelled" and batch.cancelled_at >= batch.cancelling_at
    ids = [batch.output_file_id, batch.error_file_id]
    if batch.in_progress_at is None:
        # The cancel came before the file was read: no line exists for the batch, so nothing can be said of one.
        assert ids == [None, None] and batch.request_counts.total == 0, batch
    else:
        assert batch.request_counts.total == 2_000, batch
        rows = [row for id in ids if id for row in client.files.content(id).text.splitlines()]
        assert sorted(json.loads(row)["custom_id"] for row in rows) == sorted(f"row-{i}" for i in range(2_000))


def test_a_deleted_file_is_gone(client, model):
    file = upload(client, [line("a", model, input="x")])
    assert client.files.retrieve(file.id).bytes == file.bytes
    deleted = client.files.delete(file.id)
    assert deleted.deleted and deleted.id == file.id
    for call in (client.files.retrieve, client.files.content, client.files.delete):
        with pytest.raises(openai.NotFoundError):
            call(file.id)
    with pytest.raises(openai.BadRequestError) as refused:
        begin(client, file)
    assert refused.value.param == "input_file_id"


def test_what_is_not_supported_is_refused_by_name(client, model):
    with pytest.raises(openai.BadRequestError) as refused:
        client.files.create(file=("a.jsonl", b"{}"), purpose="fine-tune")
    assert refused.value.param == "purpose"
    file = upload(client, [line("a", model, input="x")])
    with pytest.raises(openai.BadRequestError) as refused:
        client.batches.create(input_file_id=file.id, endpoint="/v1/chat/completions", completion_window="24h")
    assert refused.value.param == "endpoint"
    with pytest.raises(openai.NotFoundError):
        client.batches.retrieve("batch_0")
