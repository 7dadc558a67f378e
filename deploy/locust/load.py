#!/usr/bin/env python3
"""Runs the scenarios of locustfile.py headless and prints the table; ends with 1 when a request failed.

    deploy/locust/load.py --model .cache/models/all-MiniLM-L6-v2     starts `forebay up` for it, on free ports
    deploy/locust/load.py --host http://127.0.0.1:8000               against a system that runs
"""

import argparse
import contextlib
import importlib.util
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1] / "scripts"))

from forebay_up import ForebayUp, NotReady  # noqa: E402


def locust(host, options):
    command = [sys.executable, "-m", "locust", "-f", str(HERE / "locustfile.py"), "--headless", "--only-summary", "--host", host]
    command += ["--users", str(options.users), "--spawn-rate", str(options.spawn_rate), "--run-time", f"{options.seconds}s", "--stop-timeout", "10"]
    print(f"$ {' '.join(command[2:])}", flush=True)
    return subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="", help="a running api; without it a system is started")
    parser.add_argument("--model", default=".cache/models/all-MiniLM-L6-v2", help="what to start a system with")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--users", type=int, default=10)
    parser.add_argument("--spawn-rate", type=float, default=10)
    parser.add_argument("--seconds", type=int, default=30)
    options = parser.parse_args()
    if importlib.util.find_spec("locust") is None:
        sys.exit("Locust is not installed: run scripts/fetch.py load")
    if options.host:
        return locust(options.host, options)
    try:
        with contextlib.ExitStack() as stack:
            system = stack.enter_context(ForebayUp(model=options.model, workers=options.workers))
            return locust(system.url, options)
    except NotReady as reason:
        sys.exit(f"forebay up did not start: {reason}")


if __name__ == "__main__":
    sys.exit(main())
