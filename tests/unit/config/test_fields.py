"""No field of a route or of the settings is forgotten (R-1)."""

from pathlib import Path
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor

import pomerium_agent.config
from pomerium_agent.config.digest import CONFIG
from pomerium_agent.config.fields import ROUTE_FIELDS, ROUTE_LATER_HARMLESS, SETTINGS_FIELDS, Fate, Use
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record, pack
from tests.fakes.config_records import compiled, config, route

TABLES = ((config_pb2.Route, ROUTE_FIELDS), (config_pb2.Settings, SETTINGS_FIELDS))
ROOM = Path(pomerium_agent.config.__file__).parent
READERS = "\n".join(path.read_text() for path in ROOM.glob("*.py") if path.name != "fields.py")


def names(fields: Any, *fates: Fate) -> list[str]:
    return sorted(name for name, use in fields.items() if use.fate in fates)


def something(message: Any, name: str) -> None:
    """Set the field to anything at all."""
    field = message.DESCRIPTOR.fields_by_name[name]
    if field.is_repeated and field.message_type is None:
        getattr(message, name).append("x" if field.type == FieldDescriptor.TYPE_STRING else 1)
    elif field.is_repeated and field.message_type.GetOptions().map_entry:
        assert getattr(message, name)["x"] is not None  # asking for an entry makes one
    elif field.is_repeated:
        getattr(message, name).add()
    elif name == "session_recording":
        message.session_recording.enabled = True
    elif name == "blob_storage":
        message.blob_storage.bucket_uri = "x"
    elif name == "metrics_certificate":
        message.metrics_certificate.id = "x"
    elif field.message_type is not None and field.message_type.name == "StringList":
        getattr(message, name).values.append("x")
    elif field.message_type is not None and field.message_type.name == "Duration":
        getattr(message, name).seconds = 1
    elif field.message_type is not None:
        getattr(message, name).SetInParent()
    elif field.type == FieldDescriptor.TYPE_STRING:
        setattr(message, name, "x")
    else:
        setattr(message, name, 1)


@pytest.mark.parametrize(("message", "table"), TABLES)
def test_every_field_of_the_wire_is_classified_and_nothing_else(message: Any, table: dict[str, Use]) -> None:
    assert sorted(table) == sorted(message.DESCRIPTOR.fields_by_name)


def test_there_are_86_fields_of_a_route_and_149_of_the_settings() -> None:
    assert (len(ROUTE_FIELDS), len(SETTINGS_FIELDS)) == (86, 149)


@pytest.mark.parametrize(("message", "table"), TABLES)
def test_what_is_ignored_or_left_for_later_says_why(message: Any, table: dict[str, Use]) -> None:
    assert [name for name, use in table.items() if use.fate is not Fate.READ and not use.reason] == []


@pytest.mark.parametrize(
    "name", sorted({*names(ROUTE_FIELDS, Fate.READ), *names(SETTINGS_FIELDS, Fate.READ)} - {"from"})
)
def test_what_is_said_to_be_read_is_read_somewhere(name: str) -> None:
    assert f".{name}" in READERS or f'"{name}"' in READERS


@pytest.mark.parametrize("name", names(ROUTE_FIELDS, Fate.LATER))
def test_a_route_that_needs_what_is_not_there_yet_stands_aside(name: str) -> None:
    message = route(id="r")
    something(message, name)

    _, faults = compiled(config("c", message))

    found = [fault for fault in faults if fault.field == name and "by this version yet" in fault.reason]
    assert [fault.warning for fault in found] == [name in ROUTE_LATER_HARMLESS]


@pytest.mark.parametrize("name", names(ROUTE_FIELDS, Fate.IGNORED))
def test_a_route_serves_whatever_an_ignored_field_says(name: str) -> None:
    message = route(id="r")
    something(message, name)

    snapshot, faults = compiled(config("c", message))

    assert not faults
    assert snapshot.routes[0].id == "r"


@pytest.mark.parametrize("name", names(SETTINGS_FIELDS, Fate.LATER))
def test_a_setting_that_does_nothing_yet_draws_a_warning(name: str) -> None:
    message = config_pb2.Config()
    something(message.settings, name)
    plain, _ = compiled()

    snapshot, faults = compiled(Record(type=CONFIG, id="c", data=pack(message)))

    assert [(name in fault.field.split(", "), fault.warning) for fault in faults] == [(True, True)]
    assert snapshot.settings == plain.settings


@pytest.mark.parametrize("name", names(SETTINGS_FIELDS, Fate.IGNORED))
def test_an_ignored_setting_changes_nothing(name: str) -> None:
    message = config_pb2.Config()
    something(message.settings, name)
    plain, _ = compiled()

    snapshot, faults = compiled(Record(type=CONFIG, id="c", data=pack(message)))

    assert (snapshot.settings, faults) == (plain.settings, ())
