"""Rules and their unit tests: promtool reads all of them, and every alert is shown firing and not firing."""

import re
import shutil
import subprocess
from collections import defaultdict
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
PROMETHEUS = ROOT / "monitoring" / "prometheus"
RULES, TESTS = sorted((PROMETHEUS / "rules").glob("*.yml")), sorted((PROMETHEUS / "tests").glob("*.yml"))
RUNBOOKS = ROOT / "docs" / "runbooks"
# It cannot be silent: that it fires without end is what it is for.
ALWAYS_FIRES = {"ForebayWatchdog"}


def promtool(*arguments):
    own = ROOT / ".cache" / "bin" / "promtool"
    program = str(own) if own.exists() else shutil.which("promtool")
    assert program, "there is no promtool: run `make setup`"
    result = subprocess.run([program, *map(str, arguments)], capture_output=True, text=True, timeout=300)
    return result.returncode, result.stdout + result.stderr


def rules():
    return [rule for path in RULES for group in yaml.safe_load(path.read_text())["groups"] for rule in group["rules"]]


def alerts():
    return {rule["alert"]: rule for rule in rules() if "alert" in rule}


def test_promtool_accepts_every_rule():
    code, output = promtool("check", "rules", *RULES)
    assert code == 0, output
    assert "SUCCESS" in output and "duplicate" not in output, output


@pytest.mark.parametrize("path", TESTS, ids=lambda path: path.stem)
def test_the_rules_decide_as_their_unit_tests_say(path):
    code, output = promtool("test", "rules", path)
    assert code == 0, output


def test_every_alert_is_shown_firing_and_not_firing():
    shown = defaultdict(set)
    for path in TESTS:
        for test in yaml.safe_load(path.read_text())["tests"]:
            for check in test.get("alert_rule_test", []):
                shown[check["alertname"]].add(bool(check["exp_alerts"]))
    wanted = {name: {True} if name in ALWAYS_FIRES else {True, False} for name in alerts() if name.startswith("Forebay")}
    assert len(wanted) > 40
    assert {name: shown[name] for name in wanted} == wanted


def test_every_alert_says_what_it_is_and_where_to_read_on():
    for name, rule in alerts().items():
        labels, notes = rule["labels"], rule["annotations"]
        assert labels["severity"] in ("critical", "warning", "info") and labels["stack"] == "forebay", name
        assert notes["summary"] and "$value" in notes["description"], name
        assert notes["runbook_url"].endswith(f"/docs/runbooks/{name}.md"), name
        assert (RUNBOOKS / f"{name}.md").is_file(), name


def test_every_runbook_answers_the_three_questions():
    for path in sorted(RUNBOOKS.glob("Forebay*.md")):
        text = path.read_text()
        assert text.startswith(f"# {path.stem}\n"), path
        assert [line for line in text.splitlines() if line.startswith("## ")] == ["## Look", "## Do"], path
        assert "`" in text.split("## Look")[1].split("## Do")[0], f"{path} names nothing to look at"


def test_what_the_runbooks_ask_is_promql(tmp_path):
    # The generator checks the names; this, the grammar.
    blocks = [block for path in RUNBOOKS.glob("*.md") for block in re.findall(r"```promql\n(.*?)```", path.read_text(), re.S)]
    lines = [line.split(" #")[0].strip() for block in blocks for line in block.splitlines()]
    asked = [{"record": f"asked:{number}", "expr": line} for number, line in enumerate(filter(None, lines))]
    assert len(asked) > 100
    (tmp_path / "asked.yml").write_text(yaml.safe_dump({"groups": [{"name": "asked", "rules": asked}]}))
    code, output = promtool("check", "rules", tmp_path / "asked.yml")
    assert code == 0, output


def test_the_runbooks_links_lead_somewhere():
    for path in RUNBOOKS.glob("*.md"):
        for link in re.findall(r"\]\(([^)#]+)", path.read_text()):
            assert link.startswith("http") or (path.parent / link).exists(), f"{path.name}: {link}"


def test_what_several_aggregators_tell_is_never_added_up():
    # A sum over a fleet's series must see one aggregator: `max without (instance, job)` stands between.
    for rule in rules():
        name = rule.get("alert") or rule["record"]
        if not name.lower().startswith("forebay"):
            continue
        for part in rule["expr"].replace("\n", " ").split("sum by")[1:]:
            inner = part.partition("(")[2].partition("(")[2].strip()
            assert not inner.startswith(("rate(forebay_", "increase(forebay_", "forebay_")), f"{name}: {inner[:60]}"
