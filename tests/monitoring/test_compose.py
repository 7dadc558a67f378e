"""docker-compose.yml as docker-compose reads it: what is published, what may reach what, who runs with which rights, and that .env can set everything."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROFILES = ["gpu", "logs", "load", "exporters", "tools"]
CLOUD, REPLICATED = "deploy/docker/compose.cloud.yml", "deploy/docker/compose.replicated.yml"

# service -> published port; everything else is reached over networks only.
PUBLISHED = {"api": 8000, "prometheus": 9090, "alertmanager": 9093, "grafana": 3000, "locust": 8089}
ONCE = {"keys", "operator"}
# Root, each for the reason that stands beside it in docker-compose.yml.
ROOT_USERS = {"docker-api", "cadvisor", "dcgm-exporter"}
# Set by the file itself, or of no use in containers.
NOT_IN_ENV = {
    "FOREBAY_API_ADDR", "FOREBAY_WORKER_METRICS_ADDR", "FOREBAY_AGGREGATOR_ADDR", "FOREBAY_METRICS_ADDR", "FOREBAY_PROCESS_NAME",
    "FOREBAY_ADVERTISE_ADDR", "FOREBAY_BROKER_CREDENTIALS", "FOREBAY_SYSTEM_CREDENTIALS", "FOREBAY_REAPER_CREDENTIALS", "FOREBAY_BROKER_TOKEN",
}  # fmt: skip


def program():
    """docker-compose: the one that scripts/fetch.py brought, else the one on PATH."""
    own = ROOT / ".cache/bin/docker-compose"
    found = os.environ.get("FOREBAY_DOCKER_COMPOSE") or (str(own) if own.exists() else shutil.which("docker-compose"))
    assert found, "no docker-compose: run scripts/fetch.py compose"
    return found


def config(*files, env=None):
    """What docker-compose makes of the files; a warning is a failure. The example, which sets nothing, stands in for .env."""
    command = [program(), "--env-file", str(ROOT / ".env.example"), "--project-directory", str(ROOT)]
    command += [f"-f{ROOT / file}" for file in ("docker-compose.yml", *files)]
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("FOREBAY_", "COMPOSE_"))}
    profiles = {"COMPOSE_PROFILES": ",".join(PROFILES)}
    done = subprocess.run([*command, "config"], env={**clean, **profiles, **(env or {})}, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert not re.search(r"warn|deprecat|obsolete", done.stderr, re.IGNORECASE), done.stderr
    return yaml.safe_load(done.stdout)


@pytest.fixture(scope="module")
def services():
    return config()["services"]


@pytest.fixture(scope="module")
def every_service(services):
    """Those of all files."""
    return {**services, **config(CLOUD)["services"], **config(REPLICATED)["services"]}


def environment(service):
    return service.get("environment") or {}


def port_of(entry):
    """(address, published, container's) of an entry in either form that docker-compose prints."""
    if isinstance(entry, dict):
        return entry.get("host_ip"), str(entry["published"]), int(entry["target"])
    address, published, target = entry.removesuffix("/tcp").rsplit(":", 2)
    return address, published, int(target)


def volume_of(entry):
    """(source, target, read-only)."""
    if isinstance(entry, dict):
        return entry["source"], entry["target"], entry.get("read_only", False)
    source, target, *mode = entry.split(":")
    return source, target, bool(mode) and "ro" in mode[0].split(",")


def test_profiles_hold_what_they_promise(services):
    always = {name for name, service in services.items() if not service.get("profiles")}
    assert always == {"keys", "nats", "api", "worker", "aggregator", "prometheus", "alertmanager", "grafana"}
    of = {profile: {name for name, service in services.items() if profile in service.get("profiles", [])} for profile in PROFILES}
    assert of["logs"] == {"loki", "alloy", "docker-api"}
    assert of["load"] == {"locust"}
    assert of["exporters"] == {"node-exporter", "cadvisor", "nats-exporter"}
    assert of["gpu"] == {"worker-gpu", "dcgm-exporter"}


def test_only_the_promised_ports_are_published_and_only_on_loopback(every_service):
    published = {name: [port_of(entry) for entry in service["ports"]] for name, service in every_service.items() if service.get("ports")}
    assert published == {name: [("127.0.0.1", str(port), port)] for name, port in PUBLISHED.items()}


def test_addresses_and_ports_come_from_the_environment():
    open_to_all = config(env={"FOREBAY_BIND": "0.0.0.0", "FOREBAY_API_PORT": "80", "GRAFANA_PORT": "3001"})["services"]
    assert port_of(open_to_all["api"]["ports"][0]) == ("0.0.0.0", "80", 8000)
    assert port_of(open_to_all["grafana"]["ports"][0]) == ("127.0.0.1", "3001", 3000)


def test_broker_and_monitoring_have_no_way_out():
    networks = config()["networks"]
    assert {name for name, network in networks.items() if network and network.get("internal")} == {"broker", "monitoring", "docker-api"}


def test_the_broker_meets_only_the_roles_and_its_exporter(every_service):
    on = {name for name, service in every_service.items() if "broker" in (service.get("networks") or {})}
    assert on == {"nats", "nats-2", "nats-3", "api", "worker", "worker-gpu", "aggregator", "operator", "nats-exporter"}
    for name in ("nats", "nats-2", "nats-3", "aggregator", "nats-exporter"):
        assert set(every_service[name]["networks"]) <= {"broker", "monitoring"}, name


def test_every_image_is_pinned(every_service):
    for name, service in every_service.items():
        repository, _, tag = service["image"].rpartition(":")
        assert repository and re.search(r"\d+\.\d+", tag) and "/" not in tag, f"{name}: {service['image']}"


def test_forebay_can_be_pulled_or_built(services):
    for name in ("keys", "api", "worker", "aggregator", "operator"):
        build = services[name]["build"]
        assert services[name]["image"] == services["api"]["image"]
        assert (ROOT / "deploy/docker/Dockerfile").samefile(Path(build["context"]) / build["dockerfile"])


def test_the_image_for_gpus_can_be_built_too(services):
    build = services["worker-gpu"]["build"]
    assert (ROOT / "deploy/docker/Dockerfile.cuda").samefile(Path(build["context"]) / build["dockerfile"])
    assert services["worker-gpu"]["image"] == services["worker"]["image"] + "-cuda"


def test_a_gpu_worker_has_one_device_which_may_be_a_slice():
    def device(env):
        worker = config(env=env)["services"]["worker-gpu"]
        (found,) = worker["deploy"]["resources"]["reservations"]["devices"]
        assert found["driver"] == "nvidia" and found["capabilities"] == ["gpu"] and worker["environment"]["FOREBAY_DEVICE"] == "cuda:0"
        return found["device_ids"]

    slice_of_one = "MIG-0a55c3d1-7d0b-5d6c-9a3e-0d5c1f6b7a88"
    assert device({}) == ["0"] and device({"FOREBAY_GPU": slice_of_one}) == [slice_of_one]


def test_containers_are_read_only_and_without_rights(every_service):
    for name, service in every_service.items():
        assert service.get("read_only") is True, name
        assert service.get("cap_drop") == ["ALL"] and not service.get("cap_add"), name
        assert service.get("security_opt") == ["no-new-privileges:true"], name
        assert not service.get("privileged") and int(service["pids_limit"]) > 0, name
        assert (service["user"].split(":")[0] == "0") == (name in ROOT_USERS), f"{name} runs as {service['user']}"


def test_what_runs_is_restarted_checked_and_can_be_scaled(every_service):
    for name, service in every_service.items():
        assert "container_name" not in service, name
        assert service["restart"] == ("no" if name in ONCE else "unless-stopped"), name
        # The collector's image has nothing to ask it with.
        if name not in ONCE | {"collector"}:
            assert service["healthcheck"]["test"][0] == "CMD", name


def test_workers_can_be_scaled(services):
    worker = services["worker"]
    assert "ports" not in worker and "hostname" not in worker
    # Each is found under its container's own name.
    assert not {"FOREBAY_PROCESS_NAME", "FOREBAY_ADVERTISE_ADDR"} & set(environment(worker))
    assert environment(worker)["FOREBAY_WORKER_METRICS_ADDR"] == "0.0.0.0:9401"


def test_roles_may_finish_what_they_began(services):
    for name in ("api", "worker", "worker-gpu", "aggregator"):
        assert services[name]["stop_grace_period"] == "40s", name


def test_each_role_has_only_its_own_key(every_service):
    holders = {}
    for name, service in every_service.items():
        for source, target, read_only in map(volume_of, service.get("volumes", [])):
            if source.startswith("keys"):
                holders.setdefault(source, set()).add(name)
                assert read_only or name == "keys", f"{name} may write {target}"
    assert holders == {
        "keys": {"keys", "operator"},
        "keys-nats": {"keys", "nats", "nats-2", "nats-3"},
        "keys-api": {"keys", "api"},
        "keys-worker": {"keys", "worker", "worker-gpu"},
        "keys-aggregator": {"keys", "aggregator"},
    }


def test_files_that_are_mounted_exist(every_service):
    ours = (source for service in every_service.values() for source, _, _ in map(volume_of, service.get("volumes", [])) if source.startswith(str(ROOT)))
    assert not [source for source in ours if not Path(source).exists()]


def role_settings(role):
    """The variables that a role takes, by the reference page."""
    page = (ROOT / "docs/reference/settings.md").read_text()
    section = page.split(f"\n## `forebay {role}`\n")[1].split("\n## ")[0]
    return set(re.findall(r"\| `([A-Z][A-Z_]+)` \|", section))


@pytest.mark.parametrize("role", ["api", "worker", "aggregator"])
def test_every_setting_of_a_role_can_be_given(services, role):
    wanted = role_settings(role) - NOT_IN_ENV
    assert wanted, f"no settings of {role} on the reference page"
    assert wanted - set(environment(services[role])) == set()


def test_what_is_not_set_is_left_to_the_program(services):
    given = environment(services["api"])
    assert given["FOREBAY_MAX_INPUTS"] is None
    assert environment(config(env={"FOREBAY_MAX_INPUTS": "7"})["services"]["api"])["FOREBAY_MAX_INPUTS"] == "7"


def compose_settings():
    """variable -> default (empty where the program has one), in all files."""
    found = {}
    for file in ("docker-compose.yml", CLOUD, REPLICATED):
        text = (ROOT / file).read_text()
        found |= dict(re.findall(r"\$\{([A-Z_]+):-([^}]*)\}", text))
        found |= {name: "" for name in re.findall(r"^\s+\? ([A-Z_]+)$", text, re.MULTILINE)}
        assert not re.findall(r"\$\{[A-Z_]+\}", text), f"{file}: a variable without a default"
    return found


def test_the_example_of_settings_is_complete_and_true():
    example = dict(re.findall(r"^# ([A-Z_]+)=(.*)$", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert set(example.pop("COMPOSE_PROFILES").split(",")) <= set(PROFILES)
    assert example == compose_settings()
