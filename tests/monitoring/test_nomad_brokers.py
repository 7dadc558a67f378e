"""Three real nats-servers with the configuration that Nomad would write for each, found by the services that are there at that moment.

The first one starts alone. Nomad writes its file again when another is registered, and sends SIGHUP, as the job says. Each is on a
loopback address of its own.
"""

import json
import os
import signal
import socket
import subprocess
import time
import urllib.request

import pytest
from test_nomad import ROOT, filled, tasks, text_of

SERVER = ROOT / ".cache/bin/nats-server"
ADDRESSES = ["127.0.1.1", "127.0.1.2", "127.0.1.3"]


def free_ports(count):
    """Ports that no address of this machine uses."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("0.0.0.0", 0))
    ports = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports


class Broker:
    def __init__(self, folder, address, ports):
        self.folder, self.address = folder / address, address
        self.client, self.cluster, self.monitor = ports
        self.folder.mkdir()
        self.process = None
        (self.folder / "accounts.conf").write_text("accounts { FOREBAY { jetstream: enabled, users: [ { user: a, password: b } ] } }\n")

    def write(self, registered):
        """What Nomad writes when these brokers are registered."""
        template = next(entry for entry in tasks("nats")["nats"]["template"] if text_of(entry["destination"]) == "secrets/nats.conf")
        assert (text_of(template["change_mode"]), text_of(template["change_signal"])) == ("signal", "SIGHUP")
        environment = {
            "node.unique.name": self.address,
            "NOMAD_IP_cluster": self.address,
            "NOMAD_ADDR_client": f"{self.address}:{self.client}",
            "NOMAD_ADDR_cluster": f"{self.address}:{self.cluster}",
        }
        text = filled(text_of(template["data"]), {"forebay-nats-cluster": [f"{one.address}:{one.cluster}" for one in registered]}, environment)
        for port, ours in ((4222, self.client), (6222, self.cluster), (8222, self.monitor)):
            text = text.replace(f'"0.0.0.0:{port}"', f'"{self.address}:{ours}"')
        # 60 GB are not there on every machine that tests; the rest stays.
        text = text.replace('"/data"', f'"{self.folder}/data"').replace("60GB", "1GB")
        (self.folder / "nats.conf").write_text(text)
        if self.process:
            self.process.send_signal(signal.SIGHUP)

    def start(self):
        log = open(self.folder / "log", "w")
        environment = {**os.environ, "FOREBAY_STORE_KEY": "k" + "0" * 64}
        self.process = subprocess.Popen([SERVER, "-c", self.folder / "nats.conf"], stdout=log, stderr=log, env=environment)

    def meta(self):
        """The broker's view of the group of all brokers, empty while it has none."""
        try:
            with urllib.request.urlopen(f"http://{self.address}:{self.monitor}/jsz", timeout=2) as answer:
                return json.load(answer).get("meta_cluster", {})
        except OSError:
            return {}


@pytest.mark.skipif(not SERVER.exists(), reason="nats-server is not in .cache/bin")
def test_brokers_find_each_other_as_they_are_registered(tmp_path):
    ports = free_ports(3)
    brokers = [Broker(tmp_path, address, ports) for address in ADDRESSES]
    running = []
    try:
        for broker in brokers:
            running.append(broker)
            broker.write(running[:-1])  # not registered before it runs
            broker.start()
            time.sleep(0.5)
            for one in running:
                one.write(running)
        until = time.monotonic() + 60
        while not all(broker.meta().get("leader") and broker.meta().get("cluster_size") == 3 for broker in brokers):
            assert time.monotonic() < until, [broker.meta() for broker in brokers] + [(broker.folder / "log").read_text()[-2000:] for broker in brokers]
            time.sleep(0.2)
        assert len({broker.meta()["leader"] for broker in brokers}) == 1
        for broker in brokers:
            assert "[FTL]" not in (broker.folder / "log").read_text()
        # Lame duck mode, which is how the job asks a broker to go: it ends by itself, within its kill_timeout.
        task = tasks("nats")["nats"]
        assert text_of(task["kill_signal"]) == "SIGUSR2"
        brokers[2].process.send_signal(signal.SIGUSR2)
        assert brokers[2].process.wait(timeout=60) == 0
    finally:
        for broker in running:
            if broker.process:
                broker.process.kill()
                broker.process.wait()
