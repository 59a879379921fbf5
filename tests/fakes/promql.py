"""The dashboard and the alert rules as tests read them: their queries, and the metrics that those ask for."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import promql_parser
import yaml

MONITORING = Path(__file__).parents[2] / "monitoring"
DASHBOARD = MONITORING / "dashboard.json"
ALERTS = MONITORING / "alerts.yaml"
_VALUES_OF = re.compile(r"label_values\((.+), \w+\)")


def alert_queries() -> dict[str, str]:
    """Alert → its condition."""
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    return {rule["alert"]: rule["expr"] for group in groups for rule in group["rules"]}


def dashboard_queries() -> Iterator[tuple[str, str]]:
    """Panel or variable, and each query of it, with the variables of Grafana filled in."""
    dashboard = json.loads(DASHBOARD.read_text())
    for panel in dashboard["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"].replace("$__rate_interval", "5m")
    for variable in dashboard["templating"]["list"]:
        if variable["type"] == "query":
            found = _VALUES_OF.fullmatch(variable["query"]["query"])
            assert found, variable["name"]
            yield variable["name"], found[1]


def metrics_of(query: str) -> set[str]:
    """The names of all metrics in a query; raises ValueError for what Prometheus would not take."""
    names: set[str] = set()

    def look(part: object) -> bool:
        if isinstance(part, promql_parser.VectorSelector):
            names.add(str(part.name))
        return True

    promql_parser.walk(promql_parser.parse(query), look)
    return names
