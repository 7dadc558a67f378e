"""Load on a running forebay: four scenarios, weighted 3 : 2 : 1 : 1, over /v1/embeddings.

    locust -f deploy/locust/locustfile.py --host http://127.0.0.1:8000      then open http://127.0.0.1:8089
    make load                                                               headless, prints the table

LOAD_MODEL names the model (default: the first that the api lists), LOAD_API_KEY the key if the api wants one. Texts do not repeat, so that the
api's cache answers none of them.
"""

import os
import random
import uuid

from locust import HttpUser, between, events, task

MODEL = os.environ.get("LOAD_MODEL", "")
API_KEY = os.environ.get("LOAD_API_KEY", "")
# Words of one token each in most vocabularies: a text's length in words is about its length in tokens.
WORDS = "water wind light river stone paper table green heavy small open close night morning winter summer road bridge field house".split()
BASIC_WORDS = 12
RAPID_REQUESTS = 10


def text(words):
    """A text of about that many tokens that was never sent before."""
    return " ".join([uuid.uuid4().hex[:8], *random.choices(WORDS, k=max(words - 1, 1))])


@events.test_start.add_listener
def check_host(environment, **_):
    if not environment.host:
        raise SystemExit("say where the api is: --host http://127.0.0.1:8000")


class Client(HttpUser):
    """One client: waits a moment between scenarios, as people and programs do."""

    wait_time = between(0.1, 0.5)

    def on_start(self):
        if API_KEY:
            self.client.headers["Authorization"] = f"Bearer {API_KEY}"
        self.model = MODEL or self.first_model()

    def first_model(self):
        with self.client.get("/v1/models", name="models (once per user)", catch_response=True) as answer:
            models = answer.json().get("data", []) if answer.status_code == 200 else []
            if not models:
                answer.failure(f"the api lists no model: {answer.error or answer.status_code}")
        # Without a model the requests fail and are counted, too.
        return models[0]["id"] if models else ""

    def embed(self, texts, scenario):
        """Sends one request; an answer that lacks a vector is a failure."""
        with self.client.post("/v1/embeddings", json={"model": self.model, "input": texts}, name=scenario, catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}: {answer.error or answer.text[:200]}")
                return
            rows = answer.json()["data"]
            if len(rows) != len(texts) or not all(row["embedding"] for row in rows):
                answer.failure(f"{len(texts)} texts, {len(rows)} vectors")

    @task(3)
    def basic(self):
        self.embed([text(BASIC_WORDS)], "basic")

    @task(2)
    def custom_length(self):
        """From one word to a long paragraph, sometimes several texts at once."""
        words = random.choice([1, 8, 32, 64, 128, 200])
        self.embed([text(words) for _ in range(random.choice([1, 1, 1, 4]))], f"custom length ({words} words)")

    @task(1)
    def rapid(self):
        """One after the other without a pause."""
        for _ in range(RAPID_REQUESTS):
            self.embed([text(BASIC_WORDS)], "rapid")

    @task(1)
    def metrics_check(self):
        """The page must be there under load, and it must count."""
        with self.client.get("/metrics", name="metrics check", catch_response=True) as answer:
            if answer.status_code != 200:
                answer.failure(f"{answer.status_code}")
            elif "forebay_api_http_requests_total" not in answer.text:
                answer.failure("no forebay_api_http_requests_total on the page")
