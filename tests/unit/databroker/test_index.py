"""Looking records up: fields, networks, text; always the same answer as looking at every record."""

import ipaddress

from google.protobuf.any_pb2 import Any as AnyMessage
from google.protobuf.json_format import ParseDict
from google.protobuf.struct_pb2 import Struct, Value
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.databroker.index import FieldIndex, NetworkIndex, indexed_values, network_of
from pomerium_agent.databroker.textsearch import contains_text
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.records import Payload, pack


def struct(fields: dict[str, object]) -> Struct:
    return ParseDict(fields, Struct())


def nested(payload: Payload, levels: int) -> Payload:
    """The payload inside that many Anys."""
    for _ in range(levels):
        payload = pack(AnyMessage(type_url=payload.type_url, value=payload.value))
    return payload


v4 = st.tuples(st.integers(0x0A000000, 0x0A00FFFF), st.integers(8, 32)).map(lambda p: ipaddress.ip_network(p, False))
v6 = st.tuples(st.integers(0x20010DB8 << 96, (0x20010DB8 << 96) + 0xFFFF), st.integers(32, 128)).map(
    lambda p: ipaddress.ip_network((p[0], p[1]), False)
)
networks = st.one_of(v4, v6)


@given(
    writes=st.lists(st.tuples(st.sampled_from("abcdef"), st.one_of(st.none(), networks)), max_size=20),
    wanted=st.lists(networks, min_size=1, max_size=5),
)
def test_networks_are_found_as_if_each_was_looked_at(
    writes: list[tuple[str, ipaddress.IPv4Network | ipaddress.IPv6Network | None]],
    wanted: list[ipaddress.IPv4Network | ipaddress.IPv6Network],
) -> None:
    """D-22, V10."""
    index = NetworkIndex()
    current: dict[str, ipaddress.IPv4Network | ipaddress.IPv6Network | None] = {}
    for id, network in writes:
        index.set(id, pack(struct({"$index": {"cidr": str(network)}})) if network else None)
        current[id] = network

    for place in [*wanted, *(network for network in current.values() if network)]:
        covering = {
            id
            for id, network in current.items()
            if network
            and network.version == place.version
            and network.prefixlen <= place.prefixlen
            and place.network_address in network
        }
        assert set(index.covering(str(place))) == covering


@given(writes=st.lists(st.tuples(st.sampled_from("abc"), st.sampled_from(["", "x", "y"]), st.booleans()), max_size=20))
def test_fields_are_found_as_if_each_record_was_looked_at(writes: list[tuple[str, str, bool]]) -> None:
    """C20."""
    index = FieldIndex(["user_id", "idp_id"])
    current: dict[str, str] = {}
    for id, user_id, remove in writes:
        if remove:
            index.remove(id)
            current.pop(id, None)
        else:
            index.set(id, pack(session_pb2.Session(user_id=user_id, idp_id="idp")))
            current[id] = user_id

    for value in ("x", "y"):
        assert set(index.find("user_id", value)) == {id for id, user_id in current.items() if user_id == value}
    assert set(index.find("idp_id", "idp")) == set(current)
    assert not index.find("user_id", "")
    assert not index.find("id", "")


def test_the_network_is_read_from_structs_and_values_through_nested_anys() -> None:
    fields: dict[str, object] = {"$index": {"cidr": "10.0.0.7/8"}, "other": 1}
    for message in (struct(fields), Value(struct_value=struct(fields))):
        for levels in (0, 1, 3):
            assert network_of(nested(pack(message), levels)) == ipaddress.ip_network("10.0.0.0/8")
    assert network_of(pack(Value(string_value="$index"))) is None
    assert network_of(pack(session_pb2.Session(id="$index"))) is None
    assert network_of(Payload("type.googleapis.com/google.protobuf.Struct", b"$index")) is None


def test_only_texts_are_indexed_and_one_odd_field_spares_the_others() -> None:
    message = session_pb2.Session(user_id="u", audience=["x"], refresh_disabled=True)
    message.claims["c"].values.add().string_value = "1"
    fields = ["user_id", "audience", "refresh_disabled", "claims.c", "claims", "issued_at", "user_id.x", "", "."]

    assert list(indexed_values(pack(message), fields)) == [("user_id", "u")]
    assert list(indexed_values(Payload("no.such/Type", b"x"), fields)) == []


def test_map_entries_and_struct_members_are_fields_too() -> None:
    binding = session_pb2.SessionBinding(details={"ip": "10.0.0.1"})
    data = struct({"a": {"b": "x"}, "n": 1, "value": "y"})

    assert list(indexed_values(pack(binding), ["details.ip", "details.no"])) == [("details.ip", "10.0.0.1")]
    assert list(indexed_values(pack(data), ["value.a.b", "value.n", "a.b", "value.value"])) == [
        ("value.a.b", "x"),
        ("value.value", "y"),
    ]


def test_text_is_found_in_every_corner() -> None:
    """D-9, V8."""
    message = session_pb2.Session(id="Needle-1", audience=["Needle-2"], id_token={"raw": "Needle-3"})
    message.claims["key"].values.add().string_value = "NEEDLE-4"
    binding = session_pb2.SessionBinding(details={"key": "Needle-5"})
    deep = struct({"a": [{"b": "Needle-6"}]})

    for number in range(1, 5):
        assert contains_text(pack(message), f"needle-{number}")
    assert contains_text(pack(binding), "needle-5")
    assert contains_text(nested(pack(deep), 5), "needle-6")
    assert not contains_text(pack(message), "key")
    assert not contains_text(pack(message), "needle-9")


def test_data_that_unfolds_without_end_is_left_folded() -> None:
    assert not contains_text(nested(pack(struct({"a": "needle"})), 2000), "needle")
    assert network_of(nested(pack(struct({"$index": {"cidr": "10.0.0.0/8"}})), 2000)) is None


def test_data_of_an_unknown_type_contains_nothing() -> None:
    assert not contains_text(Payload("type.googleapis.com/no.such.Message", b"needle"), "needle")
    assert not contains_text(None, "needle")
