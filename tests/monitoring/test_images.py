"""One version of each image, wherever it is started from: Kubernetes, Helm, Nomad and docker-compose."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = ROOT / "docker-compose.yml"
IMAGE = re.compile(r"(?<![\w/.])(?<!\w-)((?:ghcr\.io/forebay|natsio|prom|grafana|hashicorp)/[a-z-]+|nats):(v?\d+\.\d+\.\d+[\w.-]*)")


def images_of(paths):
    """Image -> its versions, without the suffix of the CUDA variant."""
    found = {}
    for path in paths:
        for name, tag in IMAGE.findall(path.read_text(encoding="utf-8")):
            found.setdefault(name, {}).setdefault(tag.removesuffix("-cuda"), set()).add(str(path.relative_to(ROOT)))
    return found


def files():
    folders = [ROOT / "deploy/kubernetes", ROOT / "deploy/nomad", ROOT / "deploy/helm"]
    return [path for folder in folders for path in folder.rglob("*") if path.is_file() and path.suffix in (".yaml", ".hcl", ".tpl")]


def test_orchestrators_agree():
    found = images_of(files())
    assert {"nats", "ghcr.io/forebay/forebay", "prom/prometheus", "prom/alertmanager", "natsio/prometheus-nats-exporter"} <= found.keys()
    for name, tags in found.items():
        assert len(tags) == 1, f"{name}: {tags}"


def test_they_agree_with_compose():
    if not COMPOSE.exists():
        pytest.skip("no docker-compose.yml")
    compose, ours = images_of([COMPOSE]), images_of(files())
    both = compose.keys() & ours.keys()
    assert {"nats", "prom/prometheus"} <= both
    for name in both:
        assert compose[name].keys() == ours[name].keys(), f"{name}: {compose[name]} and {ours[name]}"
