"""Conditions of a VersionedConfig (Z-50, routes 1.1)."""

import pytest

from pomerium_agent.config.complaints import Unusable
from pomerium_agent.config.versions import KNOWN_VERSIONS, applies
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.config_records import compiled, route, versioned

VERSIONS = {"": "0.30.2", "envoy": "1.40.0", "mcp": "0.32.0-rc.1", "odd": "main"}


def holds(*conditions: dict[str, str]) -> bool:
    return applies([config_pb2.VersionedConfig.Condition(**condition) for condition in conditions], VERSIONS)


@pytest.mark.parametrize(
    ("condition", "expected"),
    [
        ({}, True),
        ({"at_least": "0.30.2"}, True),
        ({"at_least": "v0.30"}, True),
        ({"at_least": "0.30.3"}, False),
        ({"at_least": "0.30.10"}, False),
        ({"less_than": "0.30.2"}, False),
        ({"less_than": "0.30.3"}, True),
        ({"at_least": "0.30.2-rc1"}, True),
        ({"less_than": "0.30.2-rc1"}, False),
        ({"feature": "envoy", "at_least": "1.40.0", "less_than": "1.41.0"}, True),
        ({"feature": "envoy", "at_least": "1.40.0", "less_than": "1.40.0"}, False),
        ({"feature": "mcp", "at_least": "0.32.0"}, True),  # our pre-release part does not count
        ({"feature": "unknown", "at_least": "0.0.1"}, False),
        ({"feature": "unknown", "less_than": "0.0.1"}, True),
        ({"feature": "odd", "at_least": "0.0.1"}, False),  # a development version is 0.0.0
        ({"feature": "odd", "less_than": "0.0.1"}, True),
    ],
)
def test_a_condition_holds_as_semantic_versions_say(condition: dict[str, str], expected: bool) -> None:
    assert holds(condition) is expected


def test_every_condition_must_hold_and_none_is_none_too_many() -> None:
    assert holds()
    assert holds({"at_least": "0.1.0"}, {"less_than": "1.0.0"})
    assert not holds({"at_least": "0.1.0"}, {"less_than": "0.2.0"})


def test_a_requirement_that_cannot_be_read_is_refused_whatever_the_others_say() -> None:
    with pytest.raises(Unusable, match="is not a version"):
        holds({"at_least": "9.9.9"}, {"less_than": "soon"})


def test_a_number_without_end_is_no_version() -> None:
    with pytest.raises(Unusable, match="is not a version"):
        holds({"at_least": "9" * 5000})


def test_the_known_components_are_those_we_report() -> None:
    assert {"", "envoy", "config", "hosted-authenticate-oidc", "mcp", "ssh"} <= KNOWN_VERSIONS.keys()


def test_a_record_counts_only_while_its_conditions_hold() -> None:
    record = versioned("v", route(id="new"), conditions=[{"feature": "x", "at_least": "2.0.0"}])

    assert [r.id for r in compiled(record, versions={"x": "2.0.0"})[0].routes] == ["new"]
    assert compiled(record, versions={"x": "1.9.9"})[0].routes == ()


def test_a_record_whose_conditions_cannot_be_read_stands_aside_and_is_named() -> None:
    snapshot, faults = compiled(versioned("v", route(), conditions=[{"at_least": "soon"}]))

    assert snapshot.routes == ()
    assert [(fault.subject, fault.field) for fault in faults] == [('VersionedConfig record "v"', "conditions")]
