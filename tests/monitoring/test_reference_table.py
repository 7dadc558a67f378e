"""What the table of the reference guides points to exists: files, panels, alerts with their runbooks."""

import json

import pytest
import yaml
from reference_stack import ROOT

MONITORING = ROOT / "monitoring"
STACKS = yaml.safe_load((MONITORING / "reference" / "stacks.yml").read_text())


def rows(field):
    found = {row[field] for stack in STACKS for part in stack.values() if isinstance(part, list) for row in part if field in row}
    assert found
    return sorted(found)


@pytest.mark.parametrize("path", rows("file"))
def test_a_file_exists(path):
    assert (ROOT / path).exists()


@pytest.mark.parametrize("panel", rows("panel"))
def test_a_panel_exists(panel):
    uid, _, title = panel.partition("/")
    dashboard = json.loads((MONITORING / "grafana" / "dashboards" / f"{uid}.json").read_text())
    assert dashboard["uid"] == uid
    assert title in {found["title"] for found in dashboard["panels"]}


@pytest.mark.parametrize("alert", rows("alert"))
def test_an_alert_and_its_runbook_exist(alert):
    files = [yaml.safe_load(path.read_text()) for path in sorted((MONITORING / "prometheus" / "rules").glob("*.yml"))]
    assert alert in {rule.get("alert") for file in files for group in file["groups"] for rule in group["rules"]}
    assert (ROOT / "docs" / "runbooks" / f"{alert}.md").exists()
