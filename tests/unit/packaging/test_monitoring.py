"""The dashboard and the alert rules can be loaded; that their metrics exist is shown by tests/e2e/test_metrics.py."""

import json
from collections import Counter

import pytest
import yaml

from tests.fakes.promql import ALERTS, DASHBOARD, alert_queries, dashboard_queries, metrics_of


def test_every_query_is_one_that_prometheus_takes() -> None:
    queries = [*alert_queries().items(), *dashboard_queries()]

    assert len(queries) > 50
    for where, query in queries:
        assert metrics_of(query), where


@pytest.mark.parametrize("wrong", ["sum(", "rate(up)", 'up{job=~"a"', "up >"])
def test_the_parser_would_tell(wrong: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011  # whatever it says
        metrics_of(wrong)


def test_alerts_have_what_a_person_at_night_needs() -> None:
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]

    assert set(groups[0]) == {"name", "rules"}
    assert len({rule["alert"] for rule in rules}) == len(rules)
    for rule in rules:
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}, rule["alert"]
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert all(rule["annotations"][part] for part in ("summary", "description")), rule["alert"]
        text = rule["annotations"]["summary"] + rule["annotations"]["description"]
        assert text.count("{{") == text.count("}}")


def test_panels_have_places_of_their_own_and_use_the_chosen_source() -> None:
    dashboard = json.loads(DASHBOARD.read_text())
    panels = dashboard["panels"]

    assert max(Counter(panel["id"] for panel in panels).values()) == 1
    taken: set[tuple[int, int]] = set()
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
