"""The bundle: deterministic bytes, small changes, and the form of zero link 11.5."""

import gzip
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.console.bundle import RECORD_BYTES, Bundle, build_bundle, build_records
from pomerium_agent.console.store import KeyedCertificate
from pomerium_agent.pb.pomerium import config_pb2, databroker_pb2
from pomerium_agent.records import Record, record_from_message, unpack

NOW = datetime(2030, 1, 1, tzinfo=UTC)
STARTER = KeyedCertificate(chain="the chain", key="the key", not_after=NOW)


def config(routes: int, **first: str) -> config_pb2.Config:
    made = config_pb2.Config(settings=config_pb2.Settings(log_level="info"))
    for number in range(routes):
        route = made.routes.add(id=f"r{number}", to=[f"http://upstream-{number}.internal"])
        setattr(route, "from", f"https://app-{number}.example.com")
    for name, value in first.items():
        setattr(made.routes[0], name, value)
    return made


def bundle(of: config_pb2.Config) -> Bundle:
    return build_bundle(of, STARTER, version=7, modified_at=NOW)


def parse(content: bytes) -> list[Record]:
    """Read a bundle as a replica would: varint, message, until the end exactly (Z-37)."""
    records, place = [], 0
    while place < len(content):
        size = shift = 0
        while True:
            byte = content[place]
            place += 1
            size |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                break
        assert place + size <= len(content)
        records.append(record_from_message(databroker_pb2.Record.FromString(content[place : place + size])))
        place += size
    return records


def configs(records: tuple[Record, ...]) -> list[config_pb2.Config]:
    return [found for record in records if (found := unpack(record.data, config_pb2.Config)) is not None]


@pytest.mark.parametrize("routes", [0, 1, 200, 1000])
def test_a_bundle_holds_every_route_once_and_reads_back_exactly(routes: int) -> None:
    made = bundle(config(routes))

    records = parse(made.content)

    assert tuple(records) == made.records
    found = [route.id for part in configs(made.records) for route in part.routes]
    assert sorted(found) == sorted(f"r{number}" for number in range(routes))


def test_a_cluster_without_routes_still_has_a_record() -> None:
    """An empty bundle never converges (zero link 12.3), so there is none."""
    (record,) = bundle(config_pb2.Config()).records

    assert record.type == "type.googleapis.com/pomerium.config.Config"
    (only,) = configs((record,))
    assert only.settings.certificates[0].cert_bytes == b"the chain"


def test_settings_and_certificates_are_in_the_record_that_sorts_first() -> None:
    records = build_records(config(1000), STARTER)

    assert [record.id for record in records] == sorted(record.id for record in records)
    first, *others = configs(records)
    assert first.settings.log_level == "info"
    assert not first.routes
    assert not any(part.HasField("settings") for part in others)


def test_the_operators_certificates_come_before_the_starter_certificate() -> None:
    mine = config(0)
    mine.settings.certificates.add(cert_bytes=b"mine", key_bytes=b"secret")

    first = configs(build_records(mine, STARTER))[0]

    assert [each.cert_bytes for each in first.settings.certificates] == [b"mine", b"the chain"]


def test_the_same_configuration_makes_the_same_bytes_in_any_order() -> None:
    forward, backward = config(500), config(500)
    routes = list(backward.routes)
    del backward.routes[:]
    backward.routes.extend(reversed(routes))

    assert bundle(forward).etag == bundle(backward).etag
    assert bundle(forward).gzipped == bundle(backward).gzipped
    assert gzip.decompress(bundle(forward).gzipped) == bundle(forward).content


@pytest.mark.parametrize("routes", [1, 200, 5000])
def test_a_changed_route_changes_one_record(routes: int) -> None:
    before = {record.id: record for record in bundle(config(routes)).records}
    after = {record.id: record for record in bundle(config(routes, prefix="/new")).records}

    assert before.keys() == after.keys()
    assert sum(before[id] != after[id] for id in before) == 1


def test_a_changed_setting_leaves_the_routes_alone() -> None:
    changed = config(1000)
    changed.settings.log_level = "debug"

    differs = [
        old.id for old, new in zip(bundle(config(1000)).records, bundle(changed).records, strict=True) if old != new
    ]

    assert differs == ["config-000"]


def test_up_to_256_routes_are_one_record_and_then_a_power_of_two() -> None:
    numbers = {routes: len(build_records(config(routes), STARTER)) - 1 for routes in (1, 256, 257, 600, 5000)}

    assert numbers == {1: 1, 256: 1, 257: 2, 600: 4, 5000: 32}


def test_large_routes_are_spread_over_more_records() -> None:
    big = config(200)
    for route in big.routes:
        route.description = "x" * 20_000

    sizes = [len(record.data.value) for record in build_records(big, STARTER) if record.data]

    assert len(sizes) > 8
    assert max(sizes) < RECORD_BYTES + 1000


def test_the_digest_is_the_one_a_replica_computes() -> None:
    made = bundle(config(300))

    assert made.digest == Bundle(1, tuple(reversed(parse(made.content))), NOW).digest
    assert made.digest != bundle(config(301)).digest


@given(sizes=st.lists(st.integers(0, 70_000), max_size=4))
def test_lengths_of_any_size_are_read_back(sizes: list[int]) -> None:
    made = config(len(sizes))
    for route, size in zip(made.routes, sizes, strict=True):
        route.description = "x" * size

    assert tuple(parse(bundle(made).content)) == bundle(made).records
