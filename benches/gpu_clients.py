"""Clients of the embeddings endpoint in processes of their own: arrays of sentences in, base64 out, a share of the answers looked at."""

import base64
import http.client
import json
import math
import multiprocessing
import random
import struct
import threading
import time
import urllib.parse

# An answer is the same as its reference above this; the bound of half precision.
LEAST_COSINE = 0.9999


def bodies(text, model, rows, words):
    """Request bodies of `rows` sentences of `words` words each, cut from a text in turn, with the sentences of each."""
    stream = text.split()
    cut = [" ".join(stream[i : i + words]) for i in range(0, len(stream) - words + 1, words)]
    groups = [cut[i : i + rows] for i in range(0, len(cut) - rows + 1, rows)]
    return [(json.dumps({"model": model, "input": group, "encoding_format": "base64"}).encode(), group) for group in groups]


def vector(text):
    raw = base64.b64decode(text)
    return struct.unpack(f"<{len(raw) // 4}f", raw)


def cosine(a, b):
    dot, aa, bb = math.sumprod(a, b) if hasattr(math, "sumprod") else sum(map(float.__mul__, a, b)), sum(x * x for x in a), sum(x * x for x in b)
    return dot / math.sqrt(aa * bb) if aa > 0 and bb > 0 else 0.0


def post(connection, path, body):
    """(status, answer) of one request."""
    connection.request("POST", path, body, {"Content-Type": "application/json"})
    answer = connection.getresponse()
    return answer.status, answer.read()


def ask_all(url, requests):
    """The vectors of every request, one request after another: the references of a system that is known to be right."""
    where = urllib.parse.urlsplit(url)
    connection = http.client.HTTPConnection(where.hostname, where.port, timeout=300)
    answers = []
    for body, _ in requests:
        status, answer = post(connection, where.path, body)
        if status != 200:
            raise RuntimeError(f"the reference system answered {status}: {answer[:300]!r}")
        answers.append([vector(row["embedding"]) for row in json.loads(answer)["data"]])
    connection.close()
    return answers


class Tally:
    """What one process has seen in the time that counts."""

    def __init__(self):
        self.lock = threading.Lock()
        self.latencies, self.rows, self.tokens, self.errors, self.checked, self.worst = [], 0, 0, 0, 0, 1.0
        self.first_error = None

    def error(self, reason):
        with self.lock:
            self.errors += 1
            self.first_error = self.first_error or str(reason)[:300]

    def result(self):
        names = ("latencies", "rows", "tokens", "errors", "checked", "worst", "first_error")
        return {name: getattr(self, name) for name in names}


def one_connection(url, requests, references, share, begin, end, seed, tally):
    """Requests back to back from now to `end`; those that begin after `begin` count."""
    where, rng, connection = urllib.parse.urlsplit(url), random.Random(seed), None
    while time.time() < end:
        which = rng.randrange(len(requests))
        body, sentences = requests[which]
        started, counted = time.perf_counter(), time.time() >= begin
        try:
            connection = connection or http.client.HTTPConnection(where.hostname, where.port, timeout=60)
            status, answer = post(connection, where.path, body)
        except OSError as reason:
            connection = None
            tally.error(reason)
            continue
        took = time.perf_counter() - started
        if status != 200:
            tally.error(f"{status}: {answer!r}")
            continue
        # An answer after the end is of no second that counts.
        if counted and time.time() <= end:
            with tally.lock:
                tally.latencies.append(took)
                tally.rows += len(sentences)
        if rng.random() < share:
            check(answer, references[which], tally)


def check(answer, references, tally):
    parsed = json.loads(answer)
    worst = min(cosine(vector(row["embedding"]), reference) for row, reference in zip(parsed["data"], references, strict=True))
    with tally.lock:
        tally.checked += 1
        tally.tokens = parsed["usage"]["prompt_tokens"]
        tally.worst = min(tally.worst, worst)


def process(url, requests, references, share, begin, end, connections, seed, pipe):
    tally = Tally()
    work = (url, requests, references, share, begin, end)
    threads = [threading.Thread(target=one_connection, args=(*work, seed * 1000 + i, tally)) for i in range(connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    pipe.send(tally.result())
    pipe.close()


class Clients:
    """Several processes with several connections each. They begin at once; what counts is from `begin` to `end`."""

    def __init__(self, url, requests, references, processes, connections, warm_up, seconds, share):
        context = multiprocessing.get_context("spawn")
        # Interpreters that start up are not load yet.
        self.begin = time.time() + 1.0 + warm_up
        self.end, self.seconds = self.begin + seconds, seconds
        self.running = []
        for number in range(processes):
            ours, theirs = context.Pipe(duplex=False)
            args = (url, requests, references, share, self.begin, self.end, connections, number, theirs)
            child = context.Process(target=process, args=args, daemon=True)
            child.start()
            theirs.close()
            self.running.append((child, ours))

    def pids(self):
        return [child.pid for child, _ in self.running]

    def wait(self):
        """Everything together: sentences_per_second, p50_ms, p99_ms, requests, errors, checked, worst_cosine, tokens_per_sentence."""
        parts = [pipe.recv() for _, pipe in self.running]
        for child, _ in self.running:
            child.join()
        latencies = sorted(latency for part in parts for latency in part["latencies"])
        at = lambda share: latencies[min(len(latencies) - 1, int(share * len(latencies)))] * 1e3 if latencies else math.nan  # noqa: E731
        rows = sum(part["rows"] for part in parts)
        return {
            "sentences_per_second": rows / self.seconds,
            "requests": len(latencies),
            "p50_ms": at(0.50),
            "p99_ms": at(0.99),
            "errors": sum(part["errors"] for part in parts),
            "first_error": next((part["first_error"] for part in parts if part["first_error"]), None),
            "checked": sum(part["checked"] for part in parts),
            "worst_cosine": min(part["worst"] for part in parts),
            "tokens_per_sentence": max(part["tokens"] for part in parts) / max(1, rows / max(1, len(latencies))),
        }
