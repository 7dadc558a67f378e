"""A load whose every request is counted: what was sent, how it was answered, how long it took.

One request in ten fails on purpose: half of those are wrong (400), half cannot be answered in time (5xx). A fifth of the good ones ask
again for what is in the cache. The order is shuffled with a fixed seed.
"""

import json
import random
import threading
import time
from collections import Counter
from typing import NamedTuple

import requests

SIMULATED, TINY = "simulated", "tiny-bert-embed"
CLIENTS = 8
REQUESTS = 600
# One of CLIENTS sends a request about every so many seconds: a load that two cores hardly feel.
PAUSE = 0.2


class Sent(NamedTuple):
    """One request and its answer."""

    kind: str
    model: str
    status: int
    rows: int
    cached: str
    seconds: float


def planned():
    """(kind, model, inputs, headers) of every request."""
    plan = []
    for number in range(REQUESTS):
        fresh = [f"text {number} of this load"]
        if number % 20 == 0:
            plan.append(("wrong", SIMULATED, "", {}))
        elif number % 20 == 10:
            plan.append(("late", SIMULATED, fresh, {"x-request-timeout": "10ms"}))
        elif number % 5 == 1:
            plan.append(("again", SIMULATED, "what everybody asks", {}))
        elif number % 20 == 3:
            plan.append(("rows", SIMULATED, [f"{fresh[0]}, row {row}" for row in range(4)], {}))
        elif number % 20 == 7:
            plan.append(("tiny", TINY, fresh, {}))
        else:
            plan.append(("fresh", SIMULATED, fresh, {}))
    random.Random(4).shuffle(plan)
    return plan


class Load:
    """Runs on `url` until everything is sent."""

    def __init__(self, url):
        self.url, self.sent, self.plan = url, [], planned()
        self.lock = threading.Lock()

    def run(self):
        clients = [threading.Thread(target=self.client, args=(number,)) for number in range(CLIENTS)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        assert len(self.sent) == REQUESTS, "a client of the load failed"
        return self

    def client(self, number):
        time.sleep(PAUSE * number / CLIENTS)
        with requests.Session() as session:
            while True:
                with self.lock:
                    if not self.plan:
                        return
                    request = self.plan.pop()
                sent = self.send(session, *request)
                with self.lock:
                    self.sent.append(sent)
                time.sleep(PAUSE)

    def send(self, session, kind, model, inputs, headers):
        body = json.dumps({"model": model, "input": inputs})
        started = time.monotonic()
        answer = session.post(f"{self.url}/v1/embeddings", data=body, headers={"content-type": "application/json", **headers}, timeout=30)
        seconds = time.monotonic() - started
        rows = len(answer.json()["data"]) if answer.ok else 0
        return Sent(kind, model, answer.status_code, rows, answer.headers.get("x-forebay-cache", ""), seconds)

    def count(self, **wanted):
        """Requests whose fields have these values."""
        return sum(all(getattr(sent, field) == value for field, value in wanted.items()) for sent in self.sent)

    @property
    def good(self):
        return self.count(status=200)

    @property
    def bad(self):
        return len(self.sent) - self.good

    @property
    def statuses(self):
        return Counter(sent.status for sent in self.sent)

    @property
    def server_errors(self):
        return sum(count for status, count in self.statuses.items() if status >= 500)

    @property
    def predictions(self):
        return sum(sent.rows for sent in self.sent)

    def percentile(self, share):
        seconds = sorted(sent.seconds for sent in self.sent if sent.seconds)
        return seconds[min(int(share * len(seconds)), len(seconds) - 1)]
