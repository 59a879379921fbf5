"""The JSON of stored payloads: what the reference writes is read, and what we write it reads (11.5; D-27, D-28)."""

import json
import math

import pytest
from google.protobuf import duration_pb2, empty_pb2, struct_pb2, timestamp_pb2, wrappers_pb2
from google.protobuf.json_format import ParseDict
from google.protobuf.message import Message
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.databroker.postgres.encoding import decode, encode, placeholder
from pomerium_agent.errors import InvalidRequest
from pomerium_agent.pb.pomerium import config_pb2, session_pb2, user_pb2
from pomerium_agent.records import Payload, pack, unpack

URL = "type.googleapis.com/"


def session() -> session_pb2.Session:
    message = session_pb2.Session(id="s1", user_id="u1", audience=["a.example"])
    message.issued_at.FromJsonString("2026-08-01T10:00:00.123456789Z")
    message.oauth_token.access_token = "at"
    message.id_token.raw = "e30"
    message.claims["groups"].values.add().string_value = "admins"
    return message


GOLDEN: list[tuple[Message, dict[str, object]]] = [
    (
        session(),
        {
            "@type": f"{URL}session.Session",
            "id": "s1",
            "userId": "u1",
            "audience": ["a.example"],
            "issuedAt": "2026-08-01T10:00:00.123456789Z",
            "oauthToken": {"accessToken": "at"},
            "idToken": {"raw": "e30"},
            "claims": {"groups": ["admins"]},
        },
    ),
    (
        user_pb2.User(id="u1", name="Ada", email="ada@example.com"),
        {"@type": f"{URL}user.User", "id": "u1", "name": "Ada", "email": "ada@example.com"},
    ),
    (
        config_pb2.VersionedConfig(
            config=config_pb2.Config(name="c", routes=[config_pb2.Route(name="r", to=["https://up"])])
        ),
        {
            "@type": f"{URL}pomerium.config.VersionedConfig",
            "config": {"name": "c", "routes": [{"name": "r", "to": ["https://up"]}]},
        },
    ),
    (
        ParseDict({"etag": "e", "last_modified": "m", "record_types": ["t"], "n": 1, "f": 1.5}, struct_pb2.Struct()),
        {
            "@type": f"{URL}google.protobuf.Struct",
            "value": {"etag": "e", "last_modified": "m", "record_types": ["t"], "n": 1, "f": 1.5},
        },
    ),
    (empty_pb2.Empty(), {"@type": f"{URL}google.protobuf.Empty", "value": {}}),
    (wrappers_pb2.Int64Value(value=5), {"@type": f"{URL}google.protobuf.Int64Value", "value": "5"}),
    (wrappers_pb2.BytesValue(value=b"\xff\x00"), {"@type": f"{URL}google.protobuf.BytesValue", "value": "/wA="}),
    (duration_pb2.Duration(seconds=90), {"@type": f"{URL}google.protobuf.Duration", "value": "90s"}),
    (timestamp_pb2.Timestamp(seconds=1), {"@type": f"{URL}google.protobuf.Timestamp", "value": "1970-01-01T00:00:01Z"}),
]


@pytest.mark.parametrize(("message", "row"), GOLDEN, ids=lambda part: type(part).__name__)
def test_rows_are_those_of_the_reference_both_ways(message: Message, row: dict[str, object]) -> None:
    """D-27, D-28: Session, User, Config, BundleCacheEntry; 64-bit numbers are texts, well-known types under `value`."""
    assert json.loads(encode(pack(message))) == row
    assert decode(json.dumps(row)) == pack(message)


def test_numbers_are_written_as_filters_compare_them() -> None:
    """Databroker 6: 1, not 1.0."""
    written = encode(pack(ParseDict({"a": 1, "b": -2.5, "c": 123456789}, struct_pb2.Struct())))

    assert json.loads(written, parse_int=str, parse_float=str)["value"] == {"a": "1", "b": "-2.5", "c": "123456789"}


def test_an_empty_any_is_an_empty_object() -> None:
    """C12."""
    assert encode(Payload()) == "{}"
    assert decode("{}") == Payload()


def test_an_empty_message_without_value_is_read() -> None:
    """Some runtimes leave it out."""
    assert decode(json.dumps({"@type": f"{URL}google.protobuf.Empty"})) == pack(empty_pb2.Empty())


def test_what_is_unknown_in_a_row_is_passed_over() -> None:
    row = {"@type": f"{URL}user.User", "id": "u1", "addedLater": {"x": [1]}}

    assert decode(json.dumps(row)) == pack(user_pb2.User(id="u1"))


def test_unknown_fields_of_a_payload_are_lost() -> None:
    """11.5, as in the reference."""
    newer = Payload(f"{URL}user.User", user_pb2.User(id="u1").SerializeToString() + b"\xf2\x7f\x01x")

    assert decode(encode(newer)) == pack(user_pb2.User(id="u1"))


@pytest.mark.parametrize(
    "text",
    [
        None,
        '{"@type": "type.googleapis.com/no.Such", "x": 1}',
        '{"@type": 5}',
        '{"@type": "type.googleapis.com/user.User", "id": 5}',
        '{"@type": "type.googleapis.com/google.protobuf.Struct"}',
        '{"x": 1}',
        "[]",
        "5",
        "no JSON",
    ],
)
def test_a_row_that_cannot_be_read_is_no_payload(text: str | None) -> None:
    """C28, D-29: and what stands in for it names the record."""
    assert decode(text) is None
    value = unpack(placeholder("r1"), struct_pb2.Value)
    assert value is not None
    assert value.struct_value["id"] == "r1"


@given(value=st.binary(), name=st.from_regex(r"[a-z]{1,9}/no\.Such[A-Za-z.]{0,9}", fullmatch=True))
def test_a_type_that_is_unknown_here_is_kept_whole_and_is_a_struct_for_others(value: bytes, name: str) -> None:
    """V15."""
    payload = Payload(name, value)

    assert decode(encode(payload)) == payload
    assert json.loads(encode(payload))["@type"] == f"{URL}google.protobuf.Struct"


@pytest.mark.parametrize(
    "payload",
    [
        Payload(f"{URL}user.User", b"\xff\xff"),
        Payload("", b"x"),
        pack(struct_pb2.Value(number_value=math.nan)),
        pack(struct_pb2.Value(number_value=math.inf)),
        pack(user_pb2.User(id="a\0b")),
        pack(ParseDict({"a\0b": 1}, struct_pb2.Struct())),
        Payload("x/no.\0Such", b""),
    ],
)
def test_what_cannot_be_stored_is_refused(payload: Payload) -> None:
    """D-36."""
    with pytest.raises(InvalidRequest, match="cannot be stored"):
        encode(payload)


texts = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
numbers = st.floats(allow_nan=False, allow_infinity=False).map(lambda number: number + 0.0)  # a zero has no sign there
json_values: st.SearchStrategy[object] = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(texts, inner, max_size=3)),
    max_leaves=10,
)


@given(st.dictionaries(texts, json_values, max_size=4))
def test_a_struct_comes_back_as_it_was(fields: dict[str, object]) -> None:
    payload = pack(ParseDict(fields, struct_pb2.Struct()))

    assert decode(encode(payload)) == payload
