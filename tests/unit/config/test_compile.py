"""From records to a snapshot as a whole: what is refused, what is remembered, what changes nothing."""

from datetime import UTC, datetime

import pytest

from pomerium_agent.config.action import Forward
from pomerium_agent.config.compile import CompileCache
from pomerium_agent.config.digest import CONFIG, records_digest
from pomerium_agent.errors import ConfigRejected
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Payload, Record, pack
from tests.fakes.config_records import broken, compiled, config, entity, issue, route, settings, versioned


def test_no_records_at_all_are_a_configuration_too() -> None:
    snapshot, faults = compiled()

    assert (snapshot.routes, faults) == ((), ())
    assert snapshot.settings.certificates


def test_when_nothing_can_be_read_nothing_changes() -> None:
    """Z-48."""
    with pytest.raises(ConfigRejected, match=r'Config record "a".*cannot be decoded'):
        compiled(broken("a"), broken("b"))


@pytest.mark.parametrize(
    "data",
    [None, Payload(CONFIG, b"\xff"), Payload("type.googleapis.com/pomerium.config.Route", b"")],
    ids=["empty", "junk", "another type"],
)
def test_a_record_that_holds_no_configuration_is_named(data: Payload | None) -> None:
    _, faults = compiled(Record(type=CONFIG, id="bad", data=data), config("good", route()))

    assert [fault.record_id for fault in faults] == ["bad"]


def test_records_of_other_types_and_deleted_ones_are_none_of_our_business() -> None:
    deleted = config("a", route(id="gone")).as_deleted(datetime.now(UTC))

    snapshot, faults = compiled(Record(type="session.Session", id="s", data=Payload("x", b"\xff")), deleted)

    assert (snapshot.routes, faults) == ((), ())


def test_unknown_fields_of_a_newer_control_plane_do_no_harm() -> None:
    """R-1."""
    record = config("a", route(id="r"))
    assert record.data is not None
    newer = Record(type=CONFIG, id="a", data=Payload(CONFIG, record.data.value + b"\xfa\x3f\x03new"))

    snapshot, faults = compiled(newer)

    assert ([r.id for r in snapshot.routes], faults) == (["r"], ())


def test_what_a_server_computes_changes_nothing() -> None:
    """R-1: computed fields are stripped."""
    touched = route(
        id="r",
        modified_at="2030-01-01T00:00:00Z",
        created_at="2030-01-01T00:00:00Z",
        enforced_policies=[{"id": "p"}],
        assigned_policies=[{"id": "p"}],
        namespace_name="n",
        policies=[{"id": "p", "modified_at": "2030-01-01T00:00:00Z", "assigned_routes": [{"id": "r"}]}],
    )

    plain, _ = compiled(config("c", route(id="r", policies=[{"id": "p"}])))
    same, faults = compiled(config("c", touched, modified_at="2030-01-01T00:00:00Z"))

    assert not faults
    assert same.routes == plain.routes
    assert same.settings == plain.settings


def test_the_digest_names_the_records() -> None:
    records = [config("a", route(id="1")), config("b")]

    assert compiled(*records)[0].digest == records_digest(records) == compiled(*reversed(records))[0].digest
    assert compiled(config("a"))[0].digest != compiled(config("b"))[0].digest


# --- what is remembered ----------------------------------------------------------------------------


def test_a_cache_changes_the_cost_and_nothing_else() -> None:
    """R-31: a route whose bytes did not change is the same object."""
    cache = CompileCache()
    others = [config(f"c{n}", *(route(id=f"{n}-{i}", prefix=f"/{n}/{i}") for i in range(5))) for n in range(5)]
    before, _ = compiled(*others, config("x", route(id="a"), route(id="b", prefix="/b")), cache=cache)

    changed = config("x", route(id="a"), route(id="b", prefix="/b", timeout="1s"))
    after, _ = compiled(*others, changed, cache=cache, previous=before)

    assert after == compiled(*others, changed)[0]
    fresh = [r.id for r in after.routes if not any(r is old for old in before.routes)]
    assert fresh == ["b"]


def test_a_setting_that_routes_depend_on_reaches_those_that_did_not_change() -> None:
    cache = CompileCache()
    compiled(config("a", route(id="r")), cache=cache)

    after, _ = compiled(config("a", route(id="r")), config("b", allow_upgrades={"values": ["x"]}), cache=cache)

    action = after.routes[0].action
    assert isinstance(action, Forward)
    assert ("x", True) in action.upgrades


def test_a_changed_file_reaches_the_route_that_names_it() -> None:
    files = {"/ca.pem": issue("one.example.com")[0]}
    records = [config("a", route(id="r", tls_custom_ca_file="/ca.pem"), route(id="s", prefix="/s"))]
    cache = CompileCache()
    before, _ = compiled(*records, cache=cache, read_file=files.__getitem__)
    same, _ = compiled(*records, cache=cache, read_file=files.__getitem__)
    files["/ca.pem"] = issue("two.example.com")[0]

    after, _ = compiled(*records, cache=cache, read_file=files.__getitem__)

    assert [a is b for a, b in zip(before.routes, same.routes, strict=True)] == [True, True]
    assert [a is b for a, b in zip(before.routes, after.routes, strict=True)] == [True, False]


def test_files_are_not_opened_unless_a_reader_is_handed_in() -> None:
    _, faults = compiled(config("a", route(tls_custom_ca_file="/etc/passwd")))

    assert ["not read here" in fault.reason for fault in faults] == [True]


def test_a_record_that_turns_unreadable_stays_as_it_was_read_last() -> None:
    cache = CompileCache()
    before, _ = compiled(config("a", route(id="r"), cookie_name="mine"), config("b"), cache=cache)

    after, faults = compiled(broken("a"), config("b"), cache=cache, previous=before)

    assert (after.routes, after.settings) == (before.routes, before.settings)
    assert ["last readable version" in fault.reason for fault in faults] == [True]
    assert compiled(config("b"), cache=cache)[0].routes == ()


def test_an_entity_that_changes_is_seen_through_a_cache() -> None:
    cache = CompileCache()
    pair = config_pb2.KeyPair(id="p", certificate=issue("one.example.com")[0])
    user = entity("r", route(tls_custom_ca_key_pair_id="p"))
    before, _ = compiled(user, entity("p", pair), cache=cache)
    same, _ = compiled(user, entity("p", pair), cache=cache)
    pair.certificate = issue("two.example.com")[0]

    after, _ = compiled(user, entity("p", pair), cache=cache)

    assert same.routes[0] is before.routes[0]
    assert after.routes[0].key != before.routes[0].key


def test_compiling_changes_no_record_and_no_cached_message() -> None:
    cache = CompileCache()
    records = [
        config("a", route(id="r", modified_at="2030-01-01T00:00:00Z"), cookie_name="a"),
        versioned("v", conditions=[], scopes=["s"]),
        entity("s", settings(scopes=["t"], certificate_key_pair_ids=["p"])),
        entity("p", config_pb2.KeyPair(id="p", certificate=b"c", key=b"k")),
    ]
    first = compiled(*records, cache=cache)

    assert compiled(*records, cache=cache) == first
    assert compiled(*records) == first
    assert records[0].data == pack(config_pb2.Config.FromString(records[0].data.value)) if records[0].data else None


def test_the_cache_forgets_what_is_gone() -> None:
    cache = CompileCache()
    compiled(config("a", route()), config("b", certificates=[{"id": "c"}]), cache=cache)

    compiled(config("a", route()), cache=cache)

    assert list(cache.decoded) == [(CONFIG, "a")]
    assert list(cache.layers) == [f"{CONFIG}/a"]
    assert not cache.certificates
