"""Renders deploy/kubernetes and the Helm chart with the real programs, and holds objects against the schemas of their kinds."""

import functools
import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import jsonschema
import kubernetes_validate
import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "deploy/kubernetes"
CHART = ROOT / "deploy/helm/forebay"
# The newest release whose schemas the pinned validator has, and the oldest that the files are for (the `sleep` of preStop).
VERSIONS = ["1.30", "1.37"]
CRD_SCHEMAS = Path(os.environ.get("FOREBAY_CRD_SCHEMAS", ROOT.parent / "shared/schemas"))


def program(name):
    """kubectl or helm: from .cache/bin, else from PATH; without it the test is skipped, and says so."""
    own = ROOT / ".cache/bin" / name
    found = str(own) if own.exists() else shutil.which(name)
    if not found:
        pytest.skip(f"{name} is not in .cache/bin and not on PATH: what it would render was not rendered")
    return found


def output_of(*command, **kwargs):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=120, **kwargs)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout


def objects_of(text):
    return [value for value in yaml.safe_load_all(text) if value]


@functools.cache
def kustomized(folder):
    """The objects that `kubectl apply -k` would apply."""
    return objects_of(output_of(program("kubectl"), "kustomize", folder))


def by_kind(objects, kind):
    return [value for value in objects if value["kind"] == kind]


def one(objects, kind, name):
    found = [value for value in objects if value["kind"] == kind and value["metadata"]["name"] == name]
    assert len(found) == 1, f"{len(found)} of {kind} {name}"
    return found[0]


def workloads(objects):
    """(name, pod template's spec) of everything that starts pods."""
    kinds = ("Deployment", "StatefulSet", "Job")
    return [(value["metadata"]["name"], value["spec"]["template"]["spec"]) for value in objects if value["kind"] in kinds]


@functools.cache
def custom_schema(kind, version):
    """The schema of a custom resource, as strict as a server with field validation; None where there are no files of schemas."""
    if not CRD_SCHEMAS.is_dir():
        return None
    for path in sorted(CRD_SCHEMAS.glob("*.yaml")):
        for definition in objects_of(path.read_text(encoding="utf-8")):
            if definition["spec"]["names"]["kind"] == kind:
                served = next(entry for entry in definition["spec"]["versions"] if entry["name"] == version)
                schema = closed(served["schema"]["openAPIV3Schema"])
                schema["properties"]["metadata"] = {"type": "object"}
                return schema
    raise AssertionError(f"no schema for {kind} {version} in {CRD_SCHEMAS}")


def closed(schema):
    """Refuses fields that the schema does not name, where it names any."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    copy = {key: closed(value) for key, value in schema.items()}
    if isinstance(copy.get("properties"), dict) and "type" in copy and not schema.get("x-kubernetes-preserve-unknown-fields"):
        copy.setdefault("additionalProperties", False)
    return copy


def is_custom(value):
    return value["apiVersion"].split("/")[0] in ("monitoring.coreos.com", "keda.sh")


def validate(value, seen=set()):  # noqa: B006: kept on purpose
    """Fails with the object's name if its kind's schema refuses it. What several overlays have alike is looked at once."""
    label = f"{value['kind']} {value['metadata'].get('name')}"
    if not is_custom(value):
        if (text := json.dumps(value, sort_keys=True)) in seen:
            return
        for version in VERSIONS:
            try:
                kubernetes_validate.validate(value, version, strict=True)
            except kubernetes_validate.ValidationError as error:
                pytest.fail(f"{label} against Kubernetes {version}: {error}")
        seen.add(text)
        return
    schema = custom_schema(value["kind"], value["apiVersion"].split("/")[1])
    if schema is None:
        pytest.skip(f"no schemas of custom resources in {CRD_SCHEMAS} (FOREBAY_CRD_SCHEMAS): {label} was not validated")
    errors = [f"{'/'.join(map(str, error.absolute_path))}: {error.message}" for error in jsonschema.Draft202012Validator(schema).iter_errors(value)]
    assert not errors, f"{label}: {errors}"


def seconds(text):
    """A duration as forebay's settings write it."""
    number, unit = re.fullmatch(r"(\d+)(ms|s|m|h)", text).groups()
    return int(number) * {"ms": 0.001, "s": 1, "m": 60, "h": 3600}[unit]
