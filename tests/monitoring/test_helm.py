"""The Helm chart: rendered by helm itself, valid as Kubernetes sees it, and the same as the manifests of deploy/kubernetes.

It was never installed: no cluster is at hand.
"""

import json
import os
import re
import shutil
import subprocess
import tarfile

import pytest
import yaml
from kubernetes_objects import CHART, KUBERNETES, ROOT, by_kind, is_custom, kustomized, objects_of, one, output_of, program, validate, workloads

PROD = ("-f", "values-prod.yaml")
EVERYTHING = (
    "monitoring.serviceMonitor.enabled=true",
    "monitoring.prometheusRule.enabled=true",
    "monitoring.prometheusRule.compat=true",
    "monitoring.dashboards.enabled=true",
    "tls.enabled=true",
    "networkPolicy.webhooks=true",
)


@pytest.fixture(scope="session")
def chart(tmp_path_factory):
    """The chart, with small rules and dashboards where monitoring/ has none."""
    copy = tmp_path_factory.mktemp("chart") / "forebay"
    shutil.copytree(CHART, copy, symlinks=True)
    samples = {
        "rules/alerts.yml": yaml.dump({"groups": [{"name": "a", "rules": [{"alert": "A", "expr": "up == 0", "annotations": {"summary": "{{ $labels.x }}"}}]}]}),
        "rules/compat-3.yml": yaml.dump({"groups": [{"name": "c", "rules": [{"record": "x", "expr": "y"}]}]}),
        "dashboards/sample.json": json.dumps({"title": "{{ braces }} $(and) ${dollars}"}),
    }
    for name in ("rules", "dashboards"):
        source = (CHART / "files" / name).resolve()
        (copy / "files" / name).unlink()
        (copy / "files" / name).mkdir()
        found = list(source.glob("*.yml")) + list(source.glob("*.json")) if source.is_dir() else []
        for path in found:
            shutil.copy(path, copy / "files" / name)
        for sample, text in samples.items():
            if sample.startswith(name) and not found:
                (copy / "files" / sample).write_text(text)
    return copy


def rendered(chart, *options, values=()):
    sets = [part for value in values for part in ("--set", value)]
    return objects_of(output_of(program("helm"), "template", "forebay", ".", "-n", "forebay", "--kube-version", "1.33.0", *options, *sets, cwd=chart))


def refused(chart, *values):
    sets = [part for value in values for part in ("--set", value)]
    done = subprocess.run([program("helm"), "template", "forebay", ".", *sets], cwd=chart, capture_output=True, text=True, timeout=60)
    assert done.returncode != 0
    return done.stderr


def test_lint(chart):
    for options in ((), PROD):
        output_of(program("helm"), "lint", "--strict", ".", *options, cwd=chart)


def test_rules_and_dashboards_come_from_monitoring(tmp_path):
    for name, folder in (("rules", "prometheus/rules"), ("dashboards", "grafana/dashboards")):
        link = CHART / "files" / name
        assert link.is_symlink() and os.readlink(link) == f"../../../../monitoring/{folder}"
    if not (ROOT / "monitoring").exists():
        pytest.skip("no monitoring/: the links lead nowhere yet")
    output_of(program("helm"), "package", CHART, "-d", tmp_path)
    with tarfile.open(next(tmp_path.glob("forebay-*.tgz"))) as package:
        names = package.getnames()
    assert any(name.startswith("forebay/files/rules/") for name in names)
    assert any(name.startswith("forebay/files/dashboards/") for name in names)


@pytest.mark.parametrize(
    ("options", "values"),
    [((), ()), (PROD, ()), ((), EVERYTHING), ((), ("autoscaling.hpa.enabled=true",)), ((), ("nats.enabled=false", "nats.url=nats://queue:4222"))],
    ids=["default", "production", "everything", "hpa", "own broker"],
)
def test_all_objects_are_valid(chart, options, values):
    objects = rendered(chart, *options, values=values)
    for value in objects:
        if not is_custom(value):
            validate(value)
    for value in objects:
        if is_custom(value):
            validate(value)


def test_wrong_values_are_refused(chart):
    assert "servedName" in refused(chart, "workers.worker.servedName=a/b")
    assert "autoscaling" in refused(chart, "autoscaling.keda.enabled=true", "autoscaling.hpa.enabled=true")
    assert "monitorring" in refused(chart, "monitorring.serviceMonitor.enabled=true")
    assert "url" in refused(chart, "nats.enabled=false")
    assert "device" in refused(chart, "workers.worker.device=tpu")


def same(container):
    """What the chart and the manifests must say alike of a container."""
    names = ("image", "command", "args", "ports", "readinessProbe", "livenessProbe", "startupProbe", "lifecycle", "resources", "securityContext")
    kept = {name: container.get(name) for name in names}
    kept["env"] = {entry["name"]: entry.get("value") or entry["valueFrom"] for entry in container.get("env", [])}
    kept["volumeMounts"] = sorted(container.get("volumeMounts", []), key=lambda mount: mount["name"])
    return kept


@pytest.mark.parametrize(("folder", "values"), [("overlays/cpu", ()), ("overlays/gpu", ("workers.worker.device=gpu",))])
def test_it_starts_what_the_manifests_start(chart, folder, values):
    charted, manifests = rendered(chart, values=values), kustomized(KUBERNETES / folder)
    of_chart, of_manifests = dict(workloads(charted)), dict(workloads(manifests))
    assert of_chart.keys() == of_manifests.keys() and len(of_chart) == 4
    for name, spec in of_chart.items():
        other = of_manifests[name]
        assert spec["terminationGracePeriodSeconds"] == other["terminationGracePeriodSeconds"], name
        assert {**other["securityContext"], "fsGroupChangePolicy": "OnRootMismatch"} == spec["securityContext"], name
        for ours, theirs in zip(spec["containers"], other["containers"], strict=True):
            ours, theirs = same(ours), same(theirs)
            if name == "forebay-worker":
                # Values say these for each model; the manifests have a ConfigMap and overlays.
                for key in ("FOREBAY_MODEL", "FOREBAY_SERVED_NAME", "FOREBAY_THREADS"):
                    ours["env"].pop(key, None)
                    theirs["env"].pop(key, None)
                if values:
                    assert ours.pop("resources")["limits"]["nvidia.com/gpu"] == theirs.pop("resources")["limits"]["nvidia.com/gpu"] == 1
            assert ours == theirs, name
    services = lambda objects: {value["metadata"]["name"]: (value["spec"]["ports"], value["spec"].get("clusterIP")) for value in by_kind(objects, "Service")}  # noqa: E731
    assert services(charted) == services(manifests)
    settings = lambda objects: one(objects, "ConfigMap", "forebay-settings")["data"]  # noqa: E731
    assert settings(charted) == settings(manifests)


def test_its_monitors_and_scalers_say_what_the_manifests_say(chart):
    objects = rendered(chart, values=(*EVERYTHING, "autoscaling.keda.enabled=true"))
    monitors = {value["metadata"]["name"]: value["spec"]["endpoints"] for value in by_kind(objects, "ServiceMonitor")}
    assert monitors == {value["metadata"]["name"]: value["spec"]["endpoints"] for value in by_kind(kustomized(KUBERNETES / "overlays/monitoring"), "ServiceMonitor")}
    scaled = one(objects, "ScaledObject", "forebay-worker")["spec"]
    assert scaled == yaml.safe_load((KUBERNETES / "components/keda/scaledobject.yaml").read_text())["spec"]
    assert "replicas" not in one(objects, "StatefulSet", "forebay-worker")["spec"]
    hpa = one(rendered(chart, values=("autoscaling.hpa.enabled=true",)), "HorizontalPodAutoscaler", "forebay-worker")["spec"]
    assert hpa == yaml.safe_load((KUBERNETES / "components/hpa/hpa.yaml").read_text())["spec"]


def test_monitoring_is_off_until_asked_for(chart):
    assert not [value for value in rendered(chart) if is_custom(value)]
    rules = by_kind(rendered(chart, values=("monitoring.prometheusRule.enabled=true",)), "PrometheusRule")
    assert rules and not [value for value in rules if "compat" in value["metadata"]["name"]]
    for value in rules:
        name = value["metadata"]["name"].removeprefix("forebay-")
        assert value["spec"] == yaml.safe_load((chart / f"files/rules/{name}.yml").read_text())
    dashboards = by_kind(rendered(chart, values=("monitoring.dashboards.enabled=true",)), "ConfigMap")
    dashboards = [value for value in dashboards if value["metadata"]["labels"].get("grafana_dashboard") == "1"]
    assert len(dashboards) == len(list((chart / "files/dashboards").glob("*.json"))) > 0
    for value in dashboards:
        ((name, text),) = value["data"].items()
        assert text == (chart / "files/dashboards" / name).read_text()
        assert value["metadata"]["namespace"] == "monitoring"


def test_several_models_are_several_sets_of_workers(chart):
    more = ("workers.big.model=BAAI/bge-base-en-v1.5", "workers.big.servedName=bge-base", "workers.big.device=gpu", "workers.big.resources.limits.cpu=4", "workers.big.resources.limits.memory=8Gi")
    objects = rendered(chart, values=(*more, "workers.big.resources.requests.cpu=4", "autoscaling.keda.enabled=true"))
    sets = {name: spec for name, spec in workloads(objects) if "worker" in spec["containers"][0]["args"]}
    assert set(sets) == {"forebay-worker", "forebay-big"}
    assert sets["forebay-big"]["containers"][0]["image"].endswith("-cuda")
    queries = {value["metadata"]["name"]: value["spec"]["triggers"][0]["metadata"]["query"] for value in by_kind(objects, "ScaledObject")}
    assert 'model="bge-base"' in queries["forebay-big"] and 'model="all-MiniLM-L6-v2"' in queries["forebay-worker"]
    selectors = [json.dumps(value["spec"]["selector"], sort_keys=True) for value in by_kind(objects, "StatefulSet")]
    assert len(set(selectors)) == 3


def test_a_worker_may_ask_for_a_slice_of_a_gpu(chart):
    values = ("workers.worker.device=gpu", "workers.worker.gpuResource=nvidia.com/mig-1g.10gb", "workers.worker.runtimeClassName=nvidia")
    spec = dict(workloads(rendered(chart, values=values)))["forebay-worker"]
    limits = spec["containers"][0]["resources"]["limits"]
    assert limits["nvidia.com/mig-1g.10gb"] == 1 and "nvidia.com/gpu" not in limits
    assert spec["runtimeClassName"] == "nvidia"
    on_cpus = dict(workloads(rendered(chart, values=values[1:])))["forebay-worker"]
    assert "runtimeClassName" not in on_cpus and set(on_cpus["containers"][0]["resources"]["limits"]) == {"cpu", "memory"}


def test_nats_server_takes_the_charts_configuration(chart, tmp_path):
    server = ROOT / ".cache/bin/nats-server"
    if not server.exists():
        pytest.skip("nats-server is not in .cache/bin")
    text = one(rendered(chart), "ConfigMap", "forebay-nats")["data"]["nats.conf"]
    (tmp_path / "nats.conf").write_text(text.replace('"/data"', f'"{tmp_path}/data"').replace("/var/run/nats/", f"{tmp_path}/"))
    (tmp_path / "accounts.conf").write_text("accounts { FOREBAY { jetstream: enabled, users: [ { user: a, password: b } ] } }\n")
    environment = {**os.environ, "POD_NAME": "forebay-nats-0", "FOREBAY_STORE_KEY": "k" + "0" * 64}
    done = subprocess.run([server, "-t", "-c", tmp_path / "nats.conf"], capture_output=True, text=True, env=environment, timeout=30)
    assert done.returncode == 0 and "is valid" in done.stderr + done.stdout, done.stderr


def test_every_value_is_used_and_every_used_value_exists():
    """Also where there is no helm: names of values, and templates that end what they begin."""
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    used = set()
    for path in sorted((CHART / "templates").iterdir()):
        text = path.read_text(encoding="utf-8")
        assert text.count("{{") == text.count("}}"), path.name
        begun = len(re.findall(r"\{\{-? *(?:if|range|with|define)\b", text))
        assert begun == len(re.findall(r"\{\{-? *end\b", text)), path.name
        used |= set(re.findall(r"\.Values((?:\.\w+)+)", text))
    for name in used:
        value = values
        for part in name.strip(".").split("."):
            assert part in value, f".Values{name} is not in values.yaml"
            value = value[part]
    top = {name.strip(".").split(".")[0] for name in used}
    assert top == values.keys()
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["apiVersion"], chart["name"]) == ("v2", "forebay")
