#!/usr/bin/env python3
"""Sends a marked test alert through one real receiver of a running Alertmanager, and says what became of it.

    scripts/alert_test.py slack
    scripts/alert_test.py pagerduty --alertmanager http://127.0.0.1:9093

The alert carries test_receiver="<name>", for which monitoring/alertmanager/alertmanager.yml has a route to that receiver and to no other.
It is resolved again at the end. Standard library only.
"""

import argparse
import json
import re
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import uuid
from datetime import datetime, timedelta, timezone

# Type of a receiver, as Alertmanager counts its messages, where it is not the receiver's name.
INTEGRATIONS = {"deadman": "webhook"}
# For this long the alert fires if nobody resolves it: a run that is interrupted leaves nothing for long.
LIFETIME = timedelta(minutes=5)
RUNBOOK = "https://github.com/forebay/forebay/blob/main/monitoring/README.md"


class Failed(Exception):
    """The test alert did not arrive; the text says why, and what to do."""


def call(base, path, body=None):
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(base + path, data=data, headers={"Content-Type": "application/json"})
    try:
        with urllib.request.urlopen(request, timeout=10) as answer:
            return answer.read().decode()
    except urllib.error.HTTPError as error:
        raise Failed(f"{base}{path} answers {error.code}: {error.read().decode(errors='replace').strip()}") from None
    except OSError as error:
        raise Failed(f"no Alertmanager at {base}: {error}; start it, or name another with --alertmanager") from None


def receivers(base):
    return [receiver["name"] for receiver in json.loads(call(base, "/api/v2/receivers"))]


def counts(base, integration):
    """(messages tried, messages that failed) of one type of receiver so far, single tries included."""
    page = call(base, "/metrics")

    def total(name):
        values = re.findall(rf'^{name}{{(?=[^}}]*integration="{integration}")[^}}]*}} (\S+)$', page, re.MULTILINE)
        return sum(map(float, values))

    return total("alertmanager_notification_requests_total"), total("alertmanager_notification_requests_failed_total")


def alert(receiver, test, ends):
    return {
        "labels": {"alertname": "ForebayTest", "stack": "forebay", "severity": "info", "test_receiver": receiver, "test_id": test},
        "annotations": {
            "summary": f"this is a test of the receiver {receiver}",
            "description": f"Somebody tries the receiver {receiver}. Nothing is wrong, and there is nothing to do. Test {test}.",
            "runbook_url": RUNBOOK,
        },
        "endsAt": ends.isoformat(),
    }


def routed_to(base, test, deadline):
    """The receivers that Alertmanager chose for the alert, once it knows of it."""
    query = urllib.parse.urlencode({"filter": f'test_id="{test}"'})
    while time.monotonic() < deadline:
        found = json.loads(call(base, f"/api/v2/alerts?{query}"))
        if found:
            return [receiver["name"] for receiver in found[0]["receivers"]]
        time.sleep(0.2)
    raise Failed("Alertmanager took the alert and does not show it")


def outcome(base, integration, before, deadline):
    """Waits for the first message since `before`."""
    while time.monotonic() < deadline:
        tried, failed = (now - then for now, then in zip(counts(base, integration), before, strict=True))
        if failed:
            raise Failed(f"{integration}: sending failed; Alertmanager's log says why (a missing file in secrets/, an address that does not answer?)")
        if tried:
            return
        time.sleep(0.2)
    raise Failed(f"{integration}: nothing was sent; does the receiver have a {integration}_configs entry?")


def send(base, receiver, seconds, say=print):
    known = receivers(base)
    if receiver not in known:
        raise Failed(f"there is no receiver {receiver}; Alertmanager knows {', '.join(known)}")
    integration, test, deadline = INTEGRATIONS.get(receiver, receiver), uuid.uuid4().hex[:8], time.monotonic() + seconds
    before = counts(base, integration)
    call(base, "/api/v2/alerts", [alert(receiver, test, datetime.now(timezone.utc) + LIFETIME)])
    say(f"sent    test alert {test} to {base}")
    try:
        chosen = routed_to(base, test, deadline)
        if chosen != [receiver]:
            raise Failed(f"it went to {', '.join(chosen)}: the route for test_receiver=\"{receiver}\" is missing in alertmanager.yml")
        say(f"routed  to {receiver}, and to nobody else")
        outcome(base, integration, before, deadline)
        say(f"done    {integration} has accepted a message; look for [TEST] and {test} there")
    finally:
        call(base, "/api/v2/alerts", [alert(receiver, test, datetime.now(timezone.utc))])
    say("ended   the alert is resolved; receivers that tell of the end do so within seconds")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("receiver", help="its name in alertmanager.yml: pagerduty, slack, email, deadman")
    parser.add_argument("--alertmanager", default="http://127.0.0.1:9093", metavar="URL")
    parser.add_argument("--seconds", type=float, default=30.0, help="how long to wait for the message to be sent (default 30)")
    arguments = parser.parse_args()
    try:
        send(arguments.alertmanager.rstrip("/"), arguments.receiver, arguments.seconds)
    except Failed as reason:
        print(f"failed  {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
