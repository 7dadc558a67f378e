"""The manifests of deploy/kubernetes: rendered by kustomize itself, and held against the schemas of Kubernetes and of the operators.

No cluster is at hand: what is proved is that an API server would take them, and that they say what the roles need.
"""

import functools
import json
import os
import re
import subprocess
import tempfile
from pathlib import Path

import pytest
import yaml
from kubernetes_objects import KUBERNETES, ROOT, by_kind, is_custom, kustomized, objects_of, one, output_of, program, seconds, validate, workloads

OVERLAYS = ["overlays/cpu", "overlays/gpu", "overlays/monitoring", "overlays/standalone-prometheus", "jobs/migrate", "jobs/migrate-apply", "example"]
COMPONENTS = ["components/keda", "components/hpa", "components/tls", "components/tracing", "components/webhooks"]
FLEETS = ["overlays/cpu", "overlays/gpu", "example"]


def all_objects():
    """Every object of every overlay, and of every component upon an overlay."""
    found = [(folder, value) for folder in OVERLAYS for value in kustomized(KUBERNETES / folder)]
    return found + [(f"overlays/cpu + {name}", value) for name in COMPONENTS for value in composed("overlays/cpu", name)]


@functools.cache
def composed(overlay, *components):
    """An overlay with components, as a site's own kustomization has them."""
    with tempfile.TemporaryDirectory() as folder:
        # kustomize takes no absolute paths.
        here = os.path.relpath(KUBERNETES, os.path.realpath(folder))
        lists = {"resources": [f"{here}/{overlay}"], "components": [f"{here}/{name}" for name in components]}
        Path(folder, "kustomization.yaml").write_text(yaml.dump({"apiVersion": "kustomize.config.k8s.io/v1beta1", "kind": "Kustomization", **lists}))
        return objects_of(output_of(program("kubectl"), "kustomize", folder))


def test_every_folder_is_rendered_here():
    tests = {KUBERNETES / name for name in [*OVERLAYS, *COMPONENTS, "base"]}
    generated = {KUBERNETES / "overlays/monitoring/dashboards", KUBERNETES / "overlays/monitoring-compat"}
    assert {path.parent for path in KUBERNETES.rglob("kustomization.yaml")} - generated == tests


def test_kubernetes_own_objects_are_valid():
    own = [(where, value) for where, value in all_objects() if not is_custom(value)]
    assert len(own) > 100
    for _, value in own:
        validate(value)


def test_custom_resources_are_valid():
    custom = [value for _, value in all_objects() if is_custom(value)]
    kinds = {value["kind"] for value in custom}
    assert {"ServiceMonitor", "ScaledObject"} <= kinds
    for value in custom:
        validate(value)


def test_a_wrong_field_is_found():
    wrong = json.loads(json.dumps(one(kustomized(KUBERNETES / "overlays/cpu"), "Deployment", "forebay-api")))
    wrong["spec"]["template"]["spec"]["containers"][0]["livenesProbe"] = {}
    with pytest.raises(pytest.fail.Exception, match="livenesProbe"):
        validate(wrong)
    monitor = {"apiVersion": "monitoring.coreos.com/v1", "kind": "ServiceMonitor", "metadata": {"name": "x"}}
    with pytest.raises(AssertionError, match="intervall"):
        validate({**monitor, "spec": {"selector": {}, "endpoints": [{"intervall": "15s"}]}})


def test_pods_are_locked_down():
    for where, value in all_objects():
        for name, spec in workloads([value]):
            label = f"{where}: {name}"
            assert spec["enableServiceLinks"] is False, label
            assert spec["securityContext"]["runAsNonRoot"] is True, label
            assert spec["securityContext"]["runAsUser"] > 0, label
            assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, label
            # Those that the namespace's pod security standard (restricted) takes.
            for volume in spec["volumes"]:
                assert volume.keys() - {"name"} <= {"configMap", "emptyDir", "persistentVolumeClaim", "projected", "secret"}, f"{label}: {volume}"
            assert spec.get("serviceAccountName") == "prometheus" or spec["automountServiceAccountToken"] is False, label
            for container in spec["containers"]:
                label = f"{where}: {name}/{container['name']}"
                context = container["securityContext"]
                assert context["allowPrivilegeEscalation"] is False and context["readOnlyRootFilesystem"] is True, label
                assert context["capabilities"] == {"drop": ["ALL"]}, label
                assert {"cpu", "memory"} <= container["resources"]["limits"].keys(), label
                assert {"cpu", "memory"} <= container["resources"]["requests"].keys(), label
                assert re.search(r":v?\d+\.\d+\.\d+[\w.-]*$", container["image"]), f"{label}: {container['image']} is no pinned version"


def test_every_process_says_whether_it_lives_and_takes_work():
    for folder in ["overlays/cpu", "overlays/gpu", "overlays/standalone-prometheus"]:
        for name, spec in workloads(kustomized(KUBERNETES / folder)):
            first = spec["containers"][0]
            ports = {port["name"] for port in first["ports"]}
            for probe in ("livenessProbe", "readinessProbe"):
                assert first[probe]["httpGet"]["port"] in ports, name
            if "forebay/forebay" in first["image"]:
                assert first["livenessProbe"]["httpGet"]["path"] == "/health/live", name
                assert first["readinessProbe"]["httpGet"]["path"] == "/health/ready", name


@pytest.mark.parametrize("folder", FLEETS)
def test_a_process_has_time_to_finish_what_it_began(folder):
    pods = dict(workloads(kustomized(KUBERNETES / folder)))
    environment = {entry["name"]: entry.get("value") for entry in pods["forebay-worker"]["containers"][0]["env"]}
    assert pods["forebay-worker"]["terminationGracePeriodSeconds"] >= seconds(environment["FOREBAY_DRAIN_TIMEOUT"]) + 15
    # An api gives its requests 30 s, after the pause before it is asked to stop.
    pause = pods["forebay-api"]["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    assert pods["forebay-api"]["terminationGracePeriodSeconds"] >= pause + 30 + 10
    config = one(kustomized(KUBERNETES / folder), "StatefulSet", "forebay-nats")
    assert config["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] > 30 + 5  # lame duck and its grace period


@pytest.mark.parametrize("folder", FLEETS)
def test_every_name_in_a_manifest_leads_somewhere(folder):
    objects = kustomized(KUBERNETES / folder)
    made_by_hand = {"forebay-accounts", "forebay-store", "forebay-api", "forebay-worker", "forebay-aggregator", "forebay-tenants", "forebay-nats-tls", "forebay-role-tls"}
    maps = {value["metadata"]["name"] for value in by_kind(objects, "ConfigMap")}
    documented = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
    for name in made_by_hand:
        assert re.search(rf"\b{name}\b", documented), f"docs/deploy.md does not say how {name} is made"
    text = json.dumps([spec for _, spec in workloads(objects)])
    for name in re.findall(r'"configMap(?:Ref)?": \{"name": "([^"]+)"', text):
        assert name in maps | made_by_hand, name
    for name in re.findall(r'"secret(?:Name|KeyRef)": (?:\{"key": "[^"]+", "name": )?"([^"]+)"', text):
        assert name in made_by_hand, name
    for service in by_kind(objects, "Service"):
        wanted = service["spec"]["selector"].items()
        pods = [value for value in objects if value["kind"] in ("Deployment", "StatefulSet") and wanted <= value["spec"]["template"]["metadata"]["labels"].items()]
        assert len(pods) == 1, service["metadata"]["name"]
        ports = {port["name"] for container in pods[0]["spec"]["template"]["spec"]["containers"] for port in container["ports"]}
        assert {port["targetPort"] for port in service["spec"]["ports"]} <= ports
    for kind in ("StatefulSet",):
        for value in by_kind(objects, kind):
            assert one(objects, "Service", value["spec"]["serviceName"])["spec"]["clusterIP"] == "None"
    for value in by_kind(objects, "PodDisruptionBudget"):
        wanted = value["spec"]["selector"]["matchLabels"].items()
        assert any(wanted <= pod["spec"]["template"]["metadata"]["labels"].items() for pod in objects if pod["kind"] in ("Deployment", "StatefulSet"))


def test_settings_are_settings_of_forebay():
    """Each variable of a role stands in the reference page of settings, in that role's part."""
    parts = dict(re.findall(r"^## `forebay (\w+)`\n(.*?)(?=^## |\Z)", (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8"), re.S | re.M))
    for folder in [*FLEETS, "jobs/migrate"]:
        objects = kustomized(KUBERNETES / folder)
        for name, spec in workloads(objects):
            first = spec["containers"][0]
            if "forebay/forebay" not in first["image"]:
                continue
            names = {entry["name"] for entry in first["env"]}
            for source in first["envFrom"]:
                for value in by_kind(objects, "ConfigMap"):
                    if value["metadata"]["name"] == source["configMapRef"]["name"]:
                        names |= value["data"].keys()
            known = parts[first["args"][0]]
            for variable in names:
                assert not variable.startswith("FOREBAY_") or f"`{variable}`" in known, f"{name}: {variable} is no setting of forebay {first['args'][0]}"


def test_nothing_is_reachable_unless_it_is_said():
    objects = kustomized(KUBERNETES / "overlays/cpu")
    deny = one(objects, "NetworkPolicy", "forebay-default-deny")["spec"]
    assert deny == {"podSelector": {}, "policyTypes": ["Ingress", "Egress"]}
    open_to_all = [
        (value["metadata"]["name"], [port["port"] for port in rule["ports"]])
        for value in by_kind(objects, "NetworkPolicy")
        for rule in value["spec"].get("ingress", [])
        if "from" not in rule
    ]
    assert open_to_all == [("forebay-api", [8000])]


def test_three_brokers_with_disks_of_their_own_on_machines_of_their_own():
    objects = kustomized(KUBERNETES / "overlays/cpu")
    nats = one(objects, "StatefulSet", "forebay-nats")["spec"]
    assert nats["replicas"] == 3 and nats["podManagementPolicy"] == "Parallel"
    assert nats["template"]["spec"]["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"]
    disk = int(nats["volumeClaimTemplates"][0]["spec"]["resources"]["requests"]["storage"].removesuffix("Gi")) * 2**30
    config = next(value for value in by_kind(objects, "ConfigMap") if "nats.conf" in value["data"])["data"]["nats.conf"]
    assert int(re.search(r"max_file_store: (\d+)GB", config)[1]) * 10**9 < disk
    settings = one(objects, "ConfigMap", "forebay-settings")["data"]
    assert settings["FOREBAY_DURABILITY"] == "replicated" and settings["FOREBAY_BROKER"].count("nats://") == 3
    assert all(f"forebay-nats-{index}.forebay-nats:6222" in config for index in range(3))


@pytest.mark.parametrize("components", [(), ("components/tls",)])
def test_nats_server_takes_its_configuration(components, tmp_path):
    """The real nats-server reads what the pod would give it, TLS included."""
    server = ROOT / ".cache/bin/nats-server"
    if not server.exists():
        pytest.skip("nats-server is not in .cache/bin")
    objects = composed("overlays/cpu", *components) if components else kustomized(KUBERNETES / "overlays/cpu")
    files = next(value for value in by_kind(objects, "ConfigMap") if "nats.conf" in value["data"])["data"]
    for name, text in files.items():
        text = text.replace("/etc/nats-tls/", f"{tmp_path}/").replace('"/data"', f'"{tmp_path}/data"').replace("/var/run/nats/", f"{tmp_path}/")
        (tmp_path / name).write_text(text)
    assert bool(components) == ("verify: true" in (tmp_path / "tls.conf").read_text())
    if components:
        subject = ["-subj", "/CN=forebay-nats-0.forebay-nats", "-addext", "subjectAltName=DNS:forebay-nats-0.forebay-nats"]
        output_of("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-keyout", tmp_path / "tls.key", "-out", tmp_path / "tls.crt", *subject)
        (tmp_path / "ca.crt").write_text((tmp_path / "tls.crt").read_text())
    (tmp_path / "accounts.conf").write_text("accounts { FOREBAY { jetstream: enabled, users: [ { user: a, password: b } ] } }\n")
    environment = {**os.environ, "POD_NAME": "forebay-nats-0", "FOREBAY_STORE_KEY": "k" + "0" * 64}
    done = subprocess.run([server, "-t", "-c", tmp_path / "nats.conf"], capture_output=True, text=True, env=environment, timeout=30)
    assert done.returncode == 0 and "is valid" in done.stderr + done.stdout, done.stderr


def test_a_gpu_worker_has_one_device():
    spec = dict(workloads(kustomized(KUBERNETES / "overlays/gpu")))["forebay-worker"]
    worker = spec["containers"][0]
    assert worker["resources"]["limits"]["nvidia.com/gpu"] == 1
    assert worker["image"].endswith("-cuda")
    assert any(entry["key"] == "nvidia.com/gpu" for entry in spec["tolerations"])


def query_of(model):
    return f'max(max without (instance, job) (forebay_desired_workers{{model="{model}"}}))'


def test_keda_follows_the_desired_number_down_to_none():
    objects = composed("overlays/cpu", "components/keda")
    scaled = one(objects, "ScaledObject", "forebay-worker")["spec"]
    model = next(value for value in by_kind(objects, "ConfigMap") if value["metadata"]["name"].startswith("forebay-model"))["data"]
    assert scaled["minReplicaCount"] == 0
    (trigger,) = scaled["triggers"]
    assert trigger["metadata"]["query"] == query_of(model["FOREBAY_SERVED_NAME"])
    assert (trigger["metricType"], trigger["metadata"]["threshold"], trigger["metadata"]["ignoreNullValues"]) == ("AverageValue", "1", "false")
    assert "replicas" not in one(objects, "StatefulSet", "forebay-worker")["spec"]


def test_the_autoscaler_follows_the_desired_number():
    objects = composed("overlays/cpu", "components/hpa")
    spec = one(objects, "HorizontalPodAutoscaler", "forebay-worker")["spec"]
    (metric,) = spec["metrics"]
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "1"}
    value = metric["external"]["metric"]["selector"]["matchLabels"]["model"]
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_.-]{0,61}[A-Za-z0-9])?", value), "no valid value of a label"
    model = next(entry for entry in by_kind(objects, "ConfigMap") if entry["metadata"]["name"].startswith("forebay-model"))["data"]
    assert value == model["FOREBAY_SERVED_NAME"]
    assert "replicas" not in one(objects, "StatefulSet", "forebay-worker")["spec"]
    adapter = yaml.safe_load((KUBERNETES / "components/hpa/adapter-values.yaml").read_text())
    (rule,) = adapter["rules"]["external"]
    assert rule["metricsQuery"] == "max by (model) (max without (instance, job) (<<.Series>>{<<.LabelMatchers>>}))"


def test_the_example_scales_the_model_that_it_serves():
    objects = kustomized(KUBERNETES / "example")
    model = next(value for value in by_kind(objects, "ConfigMap") if value["metadata"]["name"].startswith("forebay-model"))["data"]
    query = one(objects, "ScaledObject", "forebay-worker")["spec"]["triggers"][0]["metadata"]["query"]
    assert query == query_of(model["FOREBAY_SERVED_NAME"])


def test_figures_carry_the_labels_that_rules_expect():
    monitors = by_kind(kustomized(KUBERNETES / "overlays/monitoring"), "ServiceMonitor")
    objects = kustomized(KUBERNETES / "overlays/cpu")
    jobs = {}
    for monitor in monitors:
        (endpoint,) = monitor["spec"]["endpoints"]
        assert endpoint["interval"] == "15s"
        set_to = {entry["targetLabel"]: entry for entry in endpoint["relabelings"] if "targetLabel" in entry}
        jobs[set_to["job"]["replacement"]] = set(set_to)
        dropped = next(entry["regex"] for entry in endpoint["relabelings"] if entry.get("action") == "labeldrop")
        # What would tell two aggregators' equal figures apart after `max without (instance, job)`.
        assert {"pod", "container", "service", "endpoint"} <= set(dropped.split("|"))
        selector = monitor["spec"]["selector"]
        components = [value for entry in selector.get("matchExpressions", []) for value in entry["values"]] or [selector["matchLabels"]["app.kubernetes.io/component"]]
        for component in components:
            ports = {
                port["name"]
                for service in by_kind(objects, "Service")
                if service["metadata"]["labels"]["app.kubernetes.io/component"] == component
                for port in service["spec"]["ports"]
            }
            assert endpoint["port"] in ports, component
    assert jobs == {"forebay-aggregator": {"job", "instance"}, "forebay": {"job", "role", "process", "instance"}, "nats": {"job", "instance"}}


def test_the_standalone_prometheus_has_the_jobs_of_the_other_ones():
    config = yaml.safe_load((KUBERNETES / "overlays/standalone-prometheus/prometheus.yml").read_text())
    jobs = {entry["job_name"] for entry in config["scrape_configs"]}
    assert jobs == {"forebay-aggregator", "forebay", "prometheus", "alertmanager", "grafana", "node", "cadvisor", "dcgm", "nats"}
    assert (config["global"]["scrape_interval"], config["global"]["evaluation_interval"]) == ("15s", "15s")


def test_promtool_takes_the_standalone_configuration(tmp_path):
    promtool = ROOT / ".cache/bin/promtool"
    if not promtool.exists():
        pytest.skip("promtool is not in .cache/bin")
    config = yaml.safe_load((KUBERNETES / "overlays/standalone-prometheus/prometheus.yml").read_text())
    # Debian's build leaves Kubernetes' discovery out; the rest of such a job is checked all the same.
    for job in config["scrape_configs"]:
        job.pop("kubernetes_sd_configs", None)
    (tmp_path / "prometheus.yml").write_text(yaml.dump(config))
    output_of(promtool, "check", "config", "--syntax-only", tmp_path / "prometheus.yml")
