"""Files of deploy/ and monitoring/ that other programs read: each is what its program takes, as far as that can be told here."""

import re
import subprocess
import tomllib
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROMTOOL = ROOT / ".cache/bin/promtool"


def read(path):
    return (ROOT / path).read_text()


def load(path):
    return yaml.safe_load(read(path))


# --- Prometheus ---


def test_prometheus_takes_its_configuration():
    done = subprocess.run([PROMTOOL, "check", "config", ROOT / "monitoring/prometheus/prometheus.yml"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_everything_is_scraped_every_15_seconds_from_services_that_exist():
    config = load("monitoring/prometheus/prometheus.yml")
    assert config["global"]["scrape_interval"] == config["global"]["evaluation_interval"] == "15s"
    jobs = {job["job_name"]: job for job in config["scrape_configs"]}
    assert set(jobs) == {"forebay-aggregator", "forebay", "prometheus", "alertmanager", "grafana", "node", "cadvisor", "nats", "dcgm"}
    names = {name for job in jobs.values() for discovery in job.get("dns_sd_configs", []) for name in discovery["names"]}
    assert names | {"prometheus"} <= set(load("docker-compose.yml")["services"])
    assert jobs["forebay"]["http_sd_configs"][0]["url"] == "http://aggregator:9600/sd"


# --- Locust ---


@pytest.fixture(scope="module")
def tasks():
    """Scenario -> weight, from the source: Locust itself would patch this process' sockets."""
    return {name: int(weight) for weight, name in re.findall(r"@task\((\d+)\)\s+def (\w+)", read("deploy/locust/locustfile.py"))}


def test_the_scenarios_have_their_weights(tasks):
    assert tasks == {"basic": 3, "custom_length": 2, "rapid": 1, "metrics_check": 1}


def test_locust_is_the_same_in_the_image_and_here():
    version = re.search(r"^locust==(\S+)$", read("deploy/locust/requirements.txt"), re.MULTILINE).group(1)
    assert f"locustio/locust:{version}}}" in load("docker-compose.yml")["services"]["locust"]["image"]


# --- the image ---


def test_the_image_sees_every_crate_and_nothing_that_changes_without_one():
    members = tomllib.loads(read("Cargo.toml"))["workspace"]["members"]
    let_in = [line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")]
    for member in members:
        assert any(member == folder or member.startswith(f"{folder}/") for folder in let_in), f".dockerignore keeps {member} out"
    # What the build itself reads beside the crates.
    assert {"build.rs", "monitoring/prometheus/rules"} <= set(let_in)
    assert read(".dockerignore").splitlines()[1] == "*"
    assert not {"docs", "tests", "monitoring", "deploy", ".git", ".cache"} & set(let_in)


def test_the_image_is_pinned_and_runs_as_nobody():
    dockerfile = read("deploy/docker/Dockerfile")
    stages = set(re.findall(r"^FROM \S+ AS (\S+)", dockerfile, re.MULTILINE)) | {"scratch"}
    images = [image for image in re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE) if image not in stages]
    assert images and all(re.search(r":\d+\.\d+\.\d+", image) for image in images), images
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)[-1] == "65532:65532"
    rust = tomllib.loads(read("Cargo.toml"))["workspace"]["package"]["rust-version"]
    assert f"FROM rust:{rust}." in dockerfile


def test_the_image_for_gpus_is_built_alike_and_holds_what_the_binary_opens():
    dockerfile, other = read("deploy/docker/Dockerfile.cuda"), read("deploy/docker/Dockerfile")
    images = re.findall(r"^FROM (\S+)", dockerfile, re.MULTILINE)
    assert images[0] in re.findall(r"^FROM (\S+)", other, re.MULTILINE) and re.fullmatch(r"debian:\d+\.\d+-slim", images[-1])
    assert re.findall(r"^USER (\S+)", dockerfile, re.MULTILINE)[-1] == "65532:65532"
    assert set(re.findall(r"lib\w+(?:-builtins)?\.so\.\d+(?:\.\d)?", dockerfile)) == {
        "libcublas.so.13", "libcublasLt.so.13", "libcurand.so.10", "libnvrtc.so.13", "libnvrtc-builtins.so.13.0",
    }  # fmt: skip
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in dockerfile and "LD_LIBRARY_PATH=/usr/local/lib/forebay-cuda" in dockerfile
    assert {"Makefile", "scripts"} <= {line[1:] for line in read(".dockerignore").splitlines()}


def test_volumes_find_a_folder_of_their_user_in_the_image():
    """An empty volume takes the owner of the folder that it covers, if the image has one."""
    owned = re.search(r"install -d -o forebay[^&]*", read("deploy/docker/Dockerfile")).group(0)
    mounts = load("docker-compose.yml")["services"]["keys"]["volumes"] + load("deploy/docker/compose.replicated.yml")["services"]["keys"]["volumes"]
    for mount in mounts:
        assert re.search(rf"(?<=\s){re.escape(mount.split(':')[1])}(?=\s)", owned), mount


# --- logs, collectors, release ---


def test_loki_keeps_logs_for_a_time():
    loki = load("monitoring/loki/loki.yml")
    assert loki["compactor"]["retention_enabled"] is True
    default = load("docker-compose.yml")["services"]["loki"]["environment"]["LOKI_RETENTION"]
    assert loki["limits_config"]["retention_period"] == default == "${LOKI_RETENTION:-7d}"


def test_alloy_passes_lines_from_component_to_component():
    text = re.sub(r"//[^\n]*", "", re.sub(r'"(?:\\.|[^"\\])*"', '""', read("monitoring/loki/config.alloy")))
    assert text.count("{") == text.count("}") and text.count("[") == text.count("]")
    components = {f"{kind}.{name}" for kind, name in re.findall(r'^([\w.]+) "(\w+)" \{', read("monitoring/loki/config.alloy"), re.MULTILINE)}
    used = set(re.findall(r"\b((?:loki|discovery)\.\w+\.\w+)\.(?:receiver|targets|output)\b", text))
    assert used and used <= components
    assert components - used == {"loki.source.docker.containers"}


@pytest.mark.parametrize("cloud", ["cloudwatch", "google-cloud"])
def test_a_collector_defines_what_its_pipelines_use(cloud):
    config = load(f"monitoring/otel/{cloud}.yml")
    pipelines = config["service"]["pipelines"]
    assert pipelines["metrics"]["receivers"] == ["prometheus"] and pipelines["traces"]["receivers"] == ["otlp"]
    for kind in ("receivers", "processors", "exporters"):
        used = {name for pipeline in pipelines.values() for name in pipeline[kind]}
        assert used == set(config[kind]), f"{cloud}: {kind}"


def test_a_release_is_made_from_a_tag_and_only_after_the_tests():
    workflow = load(".github/workflows/release.yml")
    assert workflow[True] == {"push": {"tags": ["v*"]}}  # YAML 1.1 reads `on` as true
    jobs = workflow["jobs"]
    assert jobs["release"]["needs"] == "test" and workflow["permissions"] == {"contents": "read"}
    assert any(step.get("run") == ".ci/run" for step in jobs["test"]["steps"])
    uses = [step["uses"] for job in jobs.values() for step in job["steps"] if "uses" in step]
    assert uses and all(re.fullmatch(r"[\w./-]+@[0-9a-f]{40}", use) for use in uses)
