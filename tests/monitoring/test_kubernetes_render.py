"""deploy/kubernetes/render.py: rules and dashboards in the form that Kubernetes reads, and current."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from kubernetes_objects import KUBERNETES, by_kind, kustomized, validate


def test_rules_and_dashboards_are_those_of_monitoring():
    done = subprocess.run([sys.executable, KUBERNETES / "render.py", "--check"], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


def render_module():
    spec = importlib.util.spec_from_file_location("render", KUBERNETES / "render.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def monitoring(tmp_path):
    """A small monitoring/ folder, and a place to render it into."""
    rules, dashboards = tmp_path / "monitoring/prometheus/rules", tmp_path / "monitoring/grafana/dashboards"
    rules.mkdir(parents=True)
    dashboards.mkdir(parents=True)
    rule = {"alert": "A", "expr": "up == 0\n", "labels": {"severity": "critical"}, "annotations": {"summary": "{{ $labels.instance }}"}}
    (rules / "alerts.yml").write_text(yaml.dump({"groups": [{"name": "a", "rules": [rule]}]}))
    (rules / "compat-3.yml").write_text(yaml.dump({"groups": [{"name": "c", "rules": [{"record": "x", "expr": "y"}]}]}))
    (dashboards / "overview.json").write_text('{"title": "Overview", "text": "{{ braces }} $(and) ${dollars}"}')
    target = tmp_path / "kubernetes"
    (target / "overlays/monitoring").mkdir(parents=True)
    (target / "overlays/monitoring/servicemonitor.yaml").write_text((KUBERNETES / "overlays/monitoring/servicemonitor.yaml").read_text())
    return tmp_path / "monitoring", target


def test_render_writes_what_the_operator_and_grafana_read(monitoring):
    source, target = monitoring
    main = render_module().main
    arguments = ["--monitoring", str(source), "--target", str(target)]
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0 and main([*arguments, "--check"]) == 0
    objects = kustomized(target / "overlays/monitoring")
    (rule,) = by_kind(objects, "PrometheusRule")
    validate(rule)
    assert rule["spec"]["groups"] == yaml.safe_load((source / "prometheus/rules/alerts.yml").read_text())["groups"]
    (dashboard,) = by_kind(objects, "ConfigMap")
    assert dashboard["metadata"] == {"name": "grafana-dashboard-overview", "namespace": "monitoring", "labels": {"grafana_dashboard": "1"}}
    assert dashboard["data"]["overview.json"] == (source / "grafana/dashboards/overview.json").read_text()
    # The names of other stacks are not in it, but at hand.
    assert [value["metadata"]["name"] for value in kustomized(target / "overlays/monitoring-compat")] == ["forebay-compat-3"]


def test_render_notices_what_has_gone(monitoring):
    source, target = monitoring
    main = render_module().main
    arguments = ["--monitoring", str(source), "--target", str(target)]
    main(arguments)
    (source / "grafana/dashboards/overview.json").unlink()
    assert main([*arguments, "--check"]) == 1
    assert main(arguments) == 0
    assert not Path(target, "overlays/monitoring/dashboards/overview.json").exists()
