"""No field of a route or of the settings is forgotten, and each says of itself what is so (R-1, R-4)."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

import pomerium_agent.config
from pomerium_agent.config.action import Unavailable
from pomerium_agent.config.reference import (
    ROUTE_FIELDS,
    ROUTE_TOPICS,
    SETTINGS_FIELDS,
    SETTINGS_TOPICS,
    Fate,
    Field,
    Topic,
    example_for,
)
from pomerium_agent.config.snapshot import ConfigSnapshot, Fault
from pomerium_agent.envoyconfig.resources import ROUTES
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.settings import Local
from tests.fakes.config_records import compiled, route
from tests.fakes.golden import resources_of
from tests.fakes.reference import read_file, record, route_of, settings_of

TABLES = ((config_pb2.Route, ROUTE_FIELDS, ROUTE_TOPICS), (config_pb2.Settings, SETTINGS_FIELDS, SETTINGS_TOPICS))
ROOM = Path(pomerium_agent.config.__file__).parent
READERS = "\n".join(path.read_text() for path in ROOM.glob("*.py"))
NEIGHBOUR = route(id="neighbour", from_="https://neighbour.example.com")
# A policy or a token that cannot be used closes its route: nobody comes in, and who asks is told so.
CLOSES = {
    "policies",
    "kubernetes_service_account_token",
    "kubernetes_service_account_token_file",
    "kubernetes_service_account_token_key_pair_id",
}
SAID = {"policies": "policy", "certificates": "certificate"}  # where one of many is named
# What a mistake in these leaves is less than what was: nobody gets in by what can no longer be read.
FAIL_CLOSED = {"downstream_mtls", "identity_providers", "google_cloud_serverless_authentication_service_account"}


def fields(table: Mapping[str, Field], *fates: Fate) -> list[Any]:
    return [pytest.param(use, id=name) for name, use in table.items() if use.fate in fates]


def breakable(table: Mapping[str, Field]) -> list[Any]:
    return [pytest.param(use, id=name) for name, use in table.items() if use.broken is not None]


def compile_routes(*routes: config_pb2.Route) -> tuple[ConfigSnapshot, tuple[Fault, ...]]:
    needed = settings_of(SETTINGS_FIELDS["identity_providers"].good())  # for the field of the same name of a route
    return compiled(record(*routes, settings=needed), read_file=read_file)


def compile_settings(
    given: dict[str, Any], previous: ConfigSnapshot | None = None
) -> tuple[ConfigSnapshot, tuple[Fault, ...]]:
    return compiled(record(NEIGHBOUR, settings=settings_of(given)), previous=previous, local=Local())


@pytest.mark.parametrize(("message", "table", "topics"), TABLES)
def test_every_field_of_the_wire_is_in_the_table_once_and_nothing_else_is(
    message: Any, table: Mapping[str, Field], topics: tuple[Topic, ...]
) -> None:
    listed = sorted(field.name for topic in topics for field in topic.fields)

    assert listed == sorted(message.DESCRIPTOR.fields_by_name)
    assert sorted(table) == listed


@pytest.mark.parametrize(("message", "table", "topics"), TABLES)
def test_every_field_has_a_meaning_a_priority_and_an_example(
    message: Any, table: Mapping[str, Field], topics: tuple[Topic, ...]
) -> None:
    assert [name for name, use in table.items() if not use.becomes or use.example is None] == []
    assert {use.priority for use in table.values()} <= {"P0", "P1", "P2", "-"}


def test_what_is_said_to_work_is_read_somewhere() -> None:
    read = [use.name for table in (ROUTE_FIELDS, SETTINGS_FIELDS) for use in table.values() if use.fate is Fate.READ]

    assert [n for n in read if n != "from" and f".{n}" not in READERS and f'"{n}"' not in READERS] == []


@pytest.mark.parametrize("use", fields(ROUTE_FIELDS, Fate.READ))
def test_the_example_of_a_field_is_one_that_serves_and_makes_a_difference(use: Field) -> None:
    snapshot, faults = compile_routes(route_of(use.good()), NEIGHBOUR)

    assert faults == ()
    assert not any(isinstance(each.action, Unavailable) for each in snapshot.routes)
    assert resources_of(snapshot).of(ROUTES)
    without = route_of(use.good())
    without.ClearField(use.name)
    plain, _ = compile_routes(without, NEIGHBOUR)
    assert plain.routes != snapshot.routes


@pytest.mark.parametrize("use", fields(ROUTE_FIELDS, Fate.LATER))
def test_a_route_that_needs_what_is_not_there_yet_stands_aside_and_its_neighbour_does_not(use: Field) -> None:
    """The rows of routes 1.2 that are P2."""
    snapshot, faults = compile_routes(route_of(use.good()), NEIGHBOUR)
    alone, _ = compile_routes(NEIGHBOUR)

    [fault] = [each for each in faults if each.field == use.name and "not supported by this version yet" in each.reason]
    serves = {each.id: not isinstance(each.action, Unavailable) for each in snapshot.routes}
    assert (fault.warning, serves) == (False, {"sample": False, "neighbour": True})
    assert alone.routes[0] in snapshot.routes


@pytest.mark.parametrize("use", fields(ROUTE_FIELDS, Fate.IGNORED))
def test_a_route_serves_whatever_an_ignored_field_says(use: Field) -> None:
    snapshot, faults = compile_routes(route_of(use.good()))

    assert faults == ()
    assert not isinstance(snapshot.routes[0].action, Unavailable)


@pytest.mark.parametrize("use", breakable(ROUTE_FIELDS))
def test_a_broken_value_troubles_its_own_route_only_and_is_named(use: Field) -> None:
    """R-4, R-5."""
    snapshot, faults = compile_routes(route_of(use.bad()), NEIGHBOUR)
    alone, _ = compile_routes(NEIGHBOUR)

    assert faults
    assert all(SAID.get(use.name, use.name) in str(fault) for fault in faults), [str(fault) for fault in faults]
    assert {fault.route_id for fault in faults} == {"sample"} or use.name == "from"
    assert alone.routes[0] in snapshot.routes
    broken = [each for each in snapshot.routes if each.id != "neighbour"]
    if any(not fault.warning for fault in faults):
        closed = [each for each in broken if use.name in CLOSES and each.access.policy.closed]
        assert closed == broken or all(isinstance(each.action, Unavailable) for each in broken)
    assert resources_of(snapshot).of(ROUTES)


@pytest.mark.parametrize("use", fields(SETTINGS_FIELDS, Fate.READ))
def test_the_example_of_a_setting_is_one_that_applies_and_makes_a_difference(use: Field) -> None:
    plain, _ = compile_settings({})

    snapshot, faults = compile_settings(use.good())

    assert faults == ()
    assert (snapshot.settings, snapshot.routes) != (plain.settings, plain.routes) or use.name == "runtime_flags"
    assert resources_of(snapshot).of(ROUTES)


@pytest.mark.parametrize("use", fields(SETTINGS_FIELDS, Fate.LATER))
def test_a_setting_that_does_nothing_yet_draws_a_warning(use: Field) -> None:
    plain, _ = compile_settings({})

    snapshot, faults = compile_settings(use.good())

    assert [(use.name in fault.field.split(", "), fault.warning) for fault in faults] == [(True, True)]
    assert snapshot.settings == plain.settings


@pytest.mark.parametrize("use", fields(SETTINGS_FIELDS, Fate.IGNORED))
def test_an_ignored_setting_changes_nothing(use: Field) -> None:
    plain, _ = compile_settings({})

    snapshot, faults = compile_settings(use.good())

    assert (snapshot.settings, faults) == (plain.settings, ())


@pytest.mark.parametrize("use", breakable(SETTINGS_FIELDS))
def test_a_broken_setting_leaves_everything_else_as_it_was_and_is_named(use: Field) -> None:
    """R-4: it keeps its value from before, or its default; what protects is closed instead."""
    good, before_faults = compile_settings(use.good())
    plain, _ = compile_settings({})

    fresh, faults = compile_settings(use.bad())
    after, _ = compile_settings(use.bad(), previous=good)

    assert before_faults == ()
    assert faults
    assert all(SAID.get(use.name, use.name) in str(fault) for fault in faults), [str(fault) for fault in faults]
    assert [each.id for each in fresh.routes] == ["neighbour"]
    assert fresh.routes[0].action == plain.routes[0].action
    if use.name not in FAIL_CLOSED and not all(fault.warning for fault in faults):
        assert fresh.settings == plain.settings
        assert after.settings == good.settings
    assert resources_of(fresh).of(ROUTES)


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("routes[3].timeout", "timeout: 90s"),
        ("routes[12].allow_websockets", "allow_websockets: true"),
        ("timeout_read", "timeout_read: 60s"),
        ("routes[0].tls_custom_ca", ""),  # no line shows a certificate
        ("routes[0].load_balancing_policy", ""),  # the message lists the choices
        ("routes[0].health_checks", ""),
        ("routes[0].upstream_tunnel", ""),  # does nothing yet
        ("routes[0].redirect.response_code", ""),
        ("routes[0].nonsense", ""),
        ("", ""),
    ],
)
def test_a_message_about_a_field_shows_how_it_is_set_well(path: str, line: str) -> None:
    assert example_for(path) == line
