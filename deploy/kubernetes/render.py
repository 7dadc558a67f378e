#!/usr/bin/env python3
"""Writes what Kubernetes needs of monitoring/ in its own form: rules as PrometheusRule objects, dashboards as ConfigMaps.

    deploy/kubernetes/render.py            write
    deploy/kubernetes/render.py --check    write nothing; list what is stale and fail if there is anything

Kustomize reads no file above its own folder, and a rule file is no Kubernetes object: so these are copies, never edited by hand.
Needs PyYAML (the tests' environment has it).
"""

import argparse
import json
import sys
from pathlib import Path

import yaml

HERE = Path(__file__).resolve().parent
WRITTEN = "Written by deploy/kubernetes/render.py; changes are lost at the next run."
# What `kubectl apply --server-side` and etcd take of one object, with room for the rest of it.
LARGEST_BYTES = 1_000_000


class Dumper(yaml.SafeDumper):
    """Texts of several lines stay readable, and nothing is an alias."""

    def ignore_aliases(self, data):
        return True


Dumper.add_representer(str, lambda dumper, text: dumper.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None))


def dump(value):
    return f"# {WRITTEN}\n" + yaml.dump(value, Dumper=Dumper, sort_keys=False, width=1000, allow_unicode=True)


def prometheus_rule(name, files):
    """One object with the groups of all files."""
    groups = [group for path in files for group in yaml.safe_load(path.read_text(encoding="utf-8"))["groups"]]
    names = [group["name"] for group in groups]
    if doubled := {name for name in names if names.count(name) > 1}:
        raise SystemExit(f"two groups of one name: {', '.join(sorted(doubled))}")
    # kube-prometheus-stack reads rules with the label of its release; the guides call it `prometheus`.
    metadata = {"name": name, "namespace": "forebay", "labels": {"release": "prometheus"}}
    return dump({"apiVersion": "monitoring.coreos.com/v1", "kind": "PrometheusRule", "metadata": metadata, "spec": {"groups": groups}})


def kustomization(body):
    return dump({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **body})


def rendered(monitoring):
    """Path below deploy/kubernetes -> text, for everything that follows from `monitoring`."""
    rules = sorted((monitoring / "prometheus" / "rules").glob("*.yml"))
    compat = [path for path in rules if path.name.startswith("compat-")]
    own = [path for path in rules if path not in compat]
    files = {}
    parts = ["servicemonitor.yaml"]
    if own:
        files["overlays/monitoring/prometheusrule.yaml"] = prometheus_rule("forebay", own)
        parts.append("prometheusrule.yaml")
    dashboards = sorted((monitoring / "grafana" / "dashboards").glob("*.json"))
    for path in dashboards:
        text = path.read_text(encoding="utf-8")
        json.loads(text)
        if len(text) > LARGEST_BYTES:
            raise SystemExit(f"{path.name} has {len(text)} bytes: too large for a ConfigMap")
        files[f"overlays/monitoring/dashboards/{path.name}"] = text
    if dashboards:
        label = {"disableNameSuffixHash": True, "labels": {"grafana_dashboard": "1"}}
        maps = [{"name": f"grafana-dashboard-{path.stem}", "files": [path.name], "options": label} for path in dashboards]
        files["overlays/monitoring/dashboards/kustomization.yaml"] = kustomization({"namespace": "monitoring", "configMapGenerator": maps})
        parts.append("dashboards")
    files["overlays/monitoring/kustomization.yaml"] = kustomization({"resources": parts})
    for path in compat:
        files[f"overlays/monitoring-compat/{path.stem}.yaml"] = prometheus_rule(f"forebay-{path.stem}", [path])
    if compat:
        names = [f"{path.stem}.yaml" for path in compat]
        files["overlays/monitoring-compat/kustomization.yaml"] = kustomization({"resources": names})
    return files


def present(target):
    """Files of an earlier run, those that nothing would write any more among them."""
    found = [*target.glob("overlays/monitoring/dashboards/*"), *target.glob("overlays/monitoring-compat/*")]
    rule = target / "overlays/monitoring/prometheusrule.yaml"
    return {str(path.relative_to(target)) for path in [*found, *([rule] if rule.exists() else [])]}


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="write nothing, fail if anything is stale")
    parser.add_argument("--monitoring", type=Path, default=HERE.parents[1] / "monitoring", help="where rules and dashboards are")
    parser.add_argument("--target", type=Path, default=HERE, help="what to write into")
    options = parser.parse_args(arguments)
    files = rendered(options.monitoring)
    target = options.target
    stale = {name for name, text in files.items() if not (target / name).is_file() or (target / name).read_text(encoding="utf-8") != text}
    gone = present(target) - files.keys()
    if options.check:
        for name in sorted(stale | gone):
            print(f"stale: deploy/kubernetes/{name}; run deploy/kubernetes/render.py", file=sys.stderr)
        return 1 if stale | gone else 0
    for name in sorted(gone):
        (target / name).unlink()
    for name in sorted(stale):
        (target / name).parent.mkdir(parents=True, exist_ok=True)
        (target / name).write_text(files[name], encoding="utf-8")
        print(f"written: deploy/kubernetes/{name}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
