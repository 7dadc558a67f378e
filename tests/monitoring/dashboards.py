"""The committed dashboards, as the tests see them: panels, queries, the values that Grafana would put in for variables."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "monitoring/grafana/dashboards"

# What Grafana itself knows (https://grafana.com/docs/grafana/latest/dashboards/variables/add-template-variables/#global-variables).
BUILT_IN = {"__all", "__rate_interval", "__range", "__interval", "__auto", "__from", "__to", "__url_time_range"}


def load_all():
    """uid -> dashboard."""
    return {path.stem: json.loads(path.read_text()) for path in sorted(FOLDER.glob("*.json"))}


def panels(dashboard):
    return [panel for panel in dashboard["panels"] if panel["type"] != "row"]


def is_prometheus(target):
    return target["datasource"]["type"] == "prometheus"


def variables(dashboard):
    return {variable["name"]: variable for variable in dashboard["templating"]["list"]}


def used_variables(text):
    """Names after `$`, and in `${…}`, without those that Grafana knows. A `$` in a regular expression is followed by no name."""
    found = re.findall(r"\$(?:\{(\w+)[^}]*\}|(\w+))", text)
    return {braced or plain for braced, plain in found} - BUILT_IN


def filled(query, **values):
    """The query as Grafana sends it where everything is chosen."""
    known = {"model": ".*", "instance": ".*", "tenant": ".*", "__rate_interval": "30s", "__range": "1h", **values}
    return re.sub(r"\$(?:\{(\w+)\}|(\w+))", lambda match: str(known[match[1] or match[2]]), query)
