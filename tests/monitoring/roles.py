"""The system put together by hand: what dies here stays dead, which `forebay up` would mend."""

import signal
import subprocess
import tempfile
import time
from pathlib import Path

from forebay_up import BINARY, NotReady, die_with_parent, free_ports, get
from servers import program

START_SECONDS = 60


class Roles:
    """A broker, an api, an aggregator and workers, each a process under its name. Use it as a context manager."""

    def __init__(self, model="identity", workers=1, worker_flags=(), env=None, disk=None):
        """`disk`: size of a file system of its own for the broker's store, such as "64m"; only root can mount one."""
        self.home = tempfile.TemporaryDirectory(prefix="forebay-roles-")
        self.folder = Path(self.home.name)
        self.model, self.workers, self.worker_flags = model, workers, list(worker_flags)
        # Equal inputs must take the queue, too.
        self.env = {"FOREBAY_CACHE_BYTES": "0", "PATH": "/usr/bin:/bin", **(env or {})}
        self.store, self.disk, self.mounted = self.folder / "store", disk, False
        self.running, self.addresses = {}, {}

    def __enter__(self):
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(self, *_):
        self.stop()

    def start(self):
        subprocess.run([str(BINARY), "keys", str(self.folder / "keys")], check=True, stdout=subprocess.DEVNULL)
        self.store.mkdir()
        if self.disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={self.disk}", "tmpfs", str(self.store)], check=True)
            self.mounted = True
        client, monitor = free_ports(2)
        config = self.folder / "nats.conf"
        config.write_text(
            f'server_name: test\nlisten: "127.0.0.1:{client}"\nhttp: "127.0.0.1:{monitor}"\ninclude ./keys/accounts.conf\n'
            f'jetstream {{ store_dir: "{self.store}", max_file_store: 32GB, max_memory_store: 256MB }}\n'
        )
        self.broker = f"nats://127.0.0.1:{client}"
        self.spawn("nats", [program("nats-server"), "-c", str(config)])
        self.wait("nats", f"http://127.0.0.1:{monitor}/healthz")
        self.role("aggregator", "aggregator-1", "--aggregator-addr")
        self.role("api", "api-1", "--api-addr")
        for number in range(self.workers):
            self.add_worker(f"worker-{number + 1}")
        self.wait("aggregator-1", f"http://{self.addresses['aggregator-1']}/health/ready")
        self.wait("api-1", f"{self.url}/health/ready?model={self.model}")

    @property
    def url(self):
        return f"http://{self.addresses['api-1']}"

    @property
    def aggregator(self):
        return self.addresses["aggregator-1"]

    def add_worker(self, name, flags=None):
        """A worker, by its own flags or those of all; back when it is ready."""
        self.role("worker", name, "--metrics-addr", ["--model", self.model, *(self.worker_flags if flags is None else flags)])
        self.wait(name, f"http://{self.addresses[name]}/health/ready")

    def role(self, role, name, address_flag, flags=()):
        address = self.addresses[name] = f"127.0.0.1:{free_ports(1)[0]}"
        shared = ["--broker", self.broker, "--broker-credentials", str(self.folder / f"keys/{role}.nk"), "--process-name", name]
        self.spawn(name, [str(BINARY), role, address_flag, address, *shared, *flags])

    def spawn(self, name, command):
        with open(self.folder / f"{name}.log", "wb") as log:
            self.running[name] = subprocess.Popen(
                command, env=self.env, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0, preexec_fn=die_with_parent
            )

    def wait(self, name, url):
        end = time.monotonic() + START_SECONDS
        while get(url, timeout=1)[0] != 200:
            if self.running[name].poll() is not None or time.monotonic() > end:
                raise NotReady(f"{url} does not answer\n{(self.folder / f'{name}.log').read_text()[-3000:]}")
            time.sleep(0.1)

    def end(self, name, how=signal.SIGTERM):
        """Ends one process and returns its status; nobody starts it again."""
        process = self.running.pop(name)
        process.send_signal(how)
        return process.wait(START_SECONDS)

    def stop(self):
        for process in reversed(self.running.values()):
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        self.running.clear()
        if self.mounted:
            subprocess.run(["umount", "-l", str(self.store)], check=True)
        self.home.cleanup()
