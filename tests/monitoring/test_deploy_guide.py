"""Commands of docs/deploy.md, run as far as that goes without a cluster: they make what the manifests mount, and render what they name."""

import re
import shlex
import shutil
import subprocess

import pytest
import yaml
from kubernetes_objects import KUBERNETES, ROOT, kustomized, objects_of, output_of, program, workloads

GUIDE = (ROOT / "docs/deploy.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^ *```sh\n(.*?)^ *```", GUIDE, re.S | re.M)
COMMANDS = [line.split(" # ")[0].strip() for block in BLOCKS for line in block.splitlines() if line.strip()]
IN_TABLES = re.findall(r"`((?:kubectl|helm) [^`]+)`", GUIDE)
# Files that an operator brings.
KEYS = ["api.nk", "worker.nk", "aggregator.nk", "reaper.nk", "system.nk", "operator.nk", "store.key", "accounts.conf"]
BROUGHT = ["api-keys.json", "pagerduty_routing_key", "slack_webhook_url", "smtp_password", "alertmanager.yaml"]


@pytest.fixture(scope="module")
def desk(tmp_path_factory):
    """A folder as an operator has it: the repository, keys and secrets."""
    folder = tmp_path_factory.mktemp("desk")
    for name in ("deploy", "monitoring"):
        if (ROOT / name).exists():
            (folder / name).symlink_to(ROOT / name)
    (folder / "keys").mkdir()
    for name in [*(f"keys/{key}" for key in KEYS), *BROUGHT]:
        (folder / name).write_text(f"{name}\n")
    return folder


def created(desk):
    """(kind, namespace, name) -> its keys, of every `kubectl create` whose files are here."""
    found = {}
    for command in COMMANDS:
        words = shlex.split(command)
        if words[:2] != ["kubectl", "create"]:
            continue
        paths = [word.removeprefix("--from-file=") for word in words if word.startswith("--from-file=")]
        if not all((desk / path).exists() for path in paths):
            assert all(path.startswith("monitoring/") or (desk / path).exists() for path in paths), command
            continue
        (value,) = objects_of(output_of(program("kubectl"), *words[1:], "--dry-run=client", "-o", "yaml", cwd=desk))
        found[value["kind"], value["metadata"].get("namespace"), value["metadata"]["name"]] = set(value.get("data", {}))
    return found


def test_secrets_are_made_as_they_are_mounted(desk):
    made = created(desk)
    for folder in ("overlays/cpu", "overlays/gpu", "jobs/migrate"):
        for name, spec in workloads(kustomized(KUBERNETES / folder)):
            for container in spec["containers"]:
                mounts = {mount["name"]: mount["mountPath"] for mount in container.get("volumeMounts", [])}
                for entry in container.get("env", []):
                    if reference := entry.get("valueFrom", {}).get("secretKeyRef"):
                        assert reference["key"] in made["Secret", "forebay", reference["name"]], name
                    # A file that a setting names is in the secret that is mounted there.
                    for volume in spec.get("volumes", []):
                        path = mounts.get(volume["name"])
                        if path and "secret" in volume and str(entry.get("value", "")).startswith(f"{path}/"):
                            file = entry["value"].removeprefix(f"{path}/")
                            assert file in made["Secret", "forebay", volume["secret"]["secretName"]], f"{name}: {entry['value']}"
    assert made["ConfigMap", "forebay", "forebay-accounts"] == {"accounts.conf"}
    assert made["Secret", "forebay", "forebay-aggregator"] == {"aggregator.nk", "system.nk", "reaper.nk"}


def test_alertmanager_is_given_what_it_mounts(desk):
    if not (ROOT / "monitoring/alertmanager/alertmanager.yml").exists():
        pytest.skip("no monitoring/alertmanager")
    made = created(desk)
    spec = dict(workloads(kustomized(KUBERNETES / "overlays/standalone-prometheus")))["alertmanager"]
    sources = next(volume for volume in spec["volumes"] if "projected" in volume)["projected"]["sources"]
    files = set()
    for source in sources:
        for kind, label in (("configMap", "ConfigMap"), ("secret", "Secret")):
            for item in source.get(kind, {}).get("items", []):
                files.add(item["path"])
                if kind == "configMap":
                    assert item["key"] in made[label, "monitoring", source[kind]["name"]]
    named = set(re.findall(r"/etc/alertmanager/([\w/]+)", (ROOT / "monitoring/alertmanager/alertmanager.yml").read_text()))
    assert named <= files
    assert {path.name for path in (ROOT / "monitoring/alertmanager/templates").iterdir()} == {path.split("/")[1] for path in files if path.startswith("templates/")}


def test_what_is_applied_can_be_rendered():
    paths = set(re.findall(r"kubectl apply (?:--server-side )?-k (\S+)", " \n".join(COMMANDS + IN_TABLES)))
    assert len(paths) >= 6
    for path in paths:
        path = path.strip("`")
        if path.endswith(("dashboards", "compat")) and not (ROOT / path).exists():
            continue  # written by render.py, from what monitoring/ holds
        assert kustomized(ROOT / path), path
    for path in re.findall(r"kubectl apply (?:--server-side )?-f (deploy/\S+)", " \n".join(COMMANDS + IN_TABLES)):
        if path.endswith("prometheusrule.yaml") and not (ROOT / "monitoring/prometheus/rules").exists():
            continue
        assert (ROOT / path).is_file(), path


def test_charts_are_installed_with_values_that_they_have(tmp_path):
    helm = program("helm")
    installs = [shlex.split(command) for command in COMMANDS + IN_TABLES if command.startswith("helm install forebay ")]
    assert len(installs) >= 3
    for words in installs:
        # Without the folder of dashboards and rules, which may not be there: what is looked at are names of values.
        chart = tmp_path / "forebay"
        shutil.copytree(ROOT / "deploy/helm/forebay", chart, ignore=shutil.ignore_patterns("files"), dirs_exist_ok=True)
        words = [word.replace("deploy/helm/forebay", str(chart)) for word in words]
        assert objects_of(output_of(helm, "template", *words[2:]))
    adapter = re.search(r"-f (deploy/kubernetes/components/hpa/\S+\.yaml)", GUIDE)[1]
    assert yaml.safe_load((ROOT / adapter).read_text())["rules"]["external"]


def test_nomad_is_given_files_that_exist():
    for path in re.findall(r"deploy/nomad/[\w./-]+\.(?:hcl|sh)", GUIDE):
        assert (ROOT / path).is_file(), path
    for path in (ROOT / "deploy/nomad").glob("*.nomad.hcl"):
        assert path.name in GUIDE or path.name == "worker-gpu.nomad.hcl", path.name


def test_links_lead_somewhere():
    # What those pages describe may not be there yet.
    subjects = {"../monitoring/README.md": "monitoring", "compose.md": "docker-compose.yml"}
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", GUIDE):
        if link not in subjects or (ROOT / subjects[link]).exists():
            assert (ROOT / "docs" / link).exists(), link


def test_nomad_variables_fit(tmp_path):
    """Nomad takes up to 64 KiB in one variable; the list of accounts is the largest."""
    forebay = next((ROOT / path for path in ("target/debug/forebay", "target/release/forebay") if (ROOT / path).exists()), None)
    if forebay is None:
        pytest.skip("no forebay is built")
    subprocess.run([forebay, "keys", tmp_path], check=True, capture_output=True, timeout=30)
    assert (tmp_path / "accounts.conf").stat().st_size + (tmp_path / "store.key").stat().st_size < 60_000
