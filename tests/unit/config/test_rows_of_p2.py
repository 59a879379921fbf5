"""Rows of priority P2 are recognised: a route that needs one stands aside and says so (routes 1.2, 1.3, 1.7, 3.1)."""

from typing import Any

import pytest

from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.reference import ROUTE_FIELDS, SETTINGS_FIELDS, Fate
from pomerium_agent.config.snapshot import ConfigSnapshot
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.config_records import compiled, config, route

# As routes 1.2 and 1.7 list them.
ROUTE_ROWS = {72, 74, 89, 94}
SETTINGS_ROWS = {
    *(6, 32, 33, 46, 47, 52, 56, 57, 58, 59, 76, 77, 78, 79, 80, 82, 83, 84, 96, 101, 102),
    *(141, 142, 143, 144, 145, 150, 151, 152, 155, 156, 157, 165, 166, 167, 168),
    *(171, 172, 173, 174, 175, 177, 179, 182, 183),
}
PPL = {"raw": "e30="}
NEEDS: tuple[tuple[str, dict[str, Any], str], ...] = (
    ("mcp", {"mcp": {"server": {}}}, "MCP routes"),
    ("mcp", {"mcp": {"server": {"path": "/mcp", "upstream_oauth2": {"client_id": "c"}}}}, "MCP routes"),
    ("mcp", {"mcp": {"client": {}}}, "MCP routes"),
    ("upstream_tunnel", {"upstream_tunnel": {}}, "reverse tunnels over ssh"),
    ("upstream_tunnel", {"upstream_tunnel": {"ssh_policy": PPL}}, "reverse tunnels over ssh"),
    ("upstream_tunnel", {"upstream_tunnel": {"ssh_policy_rego": ["package p"]}}, "reverse tunnels over ssh"),
    ("upstream_tunnel", {"upstream_tunnel": {"ssh_policy_id": "p"}}, "reverse tunnels over ssh"),
    ("session_recording", {"session_recording": {"enabled": True}}, "session recording"),
    ("from", {"from_": "ssh://app.example.com"}, "ssh routes are not supported"),
    ("to", {"to": ["ssh://app.internal:22"]}, "ssh upstreams are not supported"),
)


def numbers(message: Any, table: Any) -> set[int]:
    return {message.DESCRIPTOR.fields_by_name[name].number for name, use in table.items() if use.priority == "P2"}


def serving(snapshot: ConfigSnapshot) -> dict[str, bool]:
    return {each.id: not isinstance(each.action, Unavailable) for each in snapshot.routes}


def test_the_reference_has_the_rows_that_the_specification_lists() -> None:
    assert numbers(config_pb2.Route, ROUTE_FIELDS) == ROUTE_ROWS
    assert numbers(config_pb2.Settings, SETTINGS_FIELDS) == SETTINGS_ROWS


@pytest.mark.parametrize(("field", "given", "why"), NEEDS)
def test_a_route_that_needs_one_stands_aside_and_the_fault_says_so(field: str, given: dict[str, Any], why: str) -> None:
    """Nothing of it is half done, and the route beside it is as it was."""
    beside = route(id="beside", from_="https://beside.example.com")

    snapshot, faults = compiled(config("c", route(id="needs", **given), beside))
    alone, _ = compiled(config("c", beside))

    [fault] = [each for each in faults if each.field.startswith(field) and not each.warning]
    assert why in fault.reason
    assert fault.route_id == "needs"
    assert not serving(snapshot).get("needs", False)
    assert serving(snapshot)["beside"]
    assert alone.routes[0] in snapshot.routes


@pytest.mark.parametrize(
    "given", [{"session_recording": {"enabled": False}}, {"jwt_groups_filter_infer_from_ppl": True}]
)
def test_a_route_that_needs_nothing_of_them_serves(given: dict[str, Any]) -> None:
    """What is switched off is not needed, and what the reference itself ignores changes nothing."""
    snapshot, faults = compiled(config("c", route(id="r", **given)))

    assert (serving(snapshot), faults) == ({"r": True}, ())


def test_of_a_setting_that_does_nothing_the_reference_says_why() -> None:
    rows = [use for use in SETTINGS_FIELDS.values() if use.priority == "P2" and use.fate is not Fate.READ]

    assert rows
    assert [use.name for use in rows if not use.reason] == []
