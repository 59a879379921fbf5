"""An existing configuration that comes over the cluster API (zero link 17)."""

from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest
import zstandard

from pomerium_agent.console import importing
from pomerium_agent.console.core_config import parse_core_config, read_core_config
from pomerium_agent.console.core_export import export_core
from pomerium_agent.console.importing import ImportRefused, read_hints, read_import
from pomerium_agent.console.route_names import name_routes
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.console import MIXED, NOW, QUICKSTART, Visit, bearing, visited_console


def packed(config: config_pb2.Config) -> bytes:
    return zstandard.ZstdCompressor().compress(config.SerializeToString())


def route(**fields: object) -> config_pb2.Route:
    given = {"from": "https://a.example.com", "to": ["http://a"]} | fields
    return config_pb2.Route(**given)  # type: ignore[arg-type]  # a wrong name fails the test anyway


async def put(
    visit: Visit, body: bytes, hints: str = "", bearer: str | None = None
) -> tuple[int, Mapping[str, object]]:
    headers = bearing(await visit.bearer() if bearer is None else bearer) | {
        "Content-Type": "application/octet-stream",
        "X-Import-Hints": hints,
    }
    async with visit.http.put(
        f"{visit.console.cluster_api}/config/import", data=BytesIO(body), headers=headers
    ) as answer:
        return answer.status, await answer.json()


async def test_an_imported_configuration_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    """Z-67, and zero link 17: it replaces routes, policies and certificates."""
    async with visited_console(tmp_path) as visit:
        visit.apply(MIXED)
        config = read_core_config(QUICKSTART).config

        status, said = await put(visit, packed(config), "hostname=box,systemType=docker,argv0=x")

        stored = visit.console.store.config(visit.cluster.id)
    assert status == 200
    assert said == {
        "messages": ["cluster demo is now at version 3", "2 routes took the place of 200 routes"],
        "warnings": [],
    }
    assert stored.config == config
    assert stored.reason == "imported from docker box"


@pytest.mark.parametrize("sample", [QUICKSTART, MIXED])
async def test_import_export_import_is_a_fixed_point(tmp_path: Path, sample: Path) -> None:
    """Zero link 17."""
    async with visited_console(tmp_path) as visit:
        await put(visit, packed(name_routes(read_core_config(sample).config)))
        first = visit.console.store.config(visit.cluster.id)
        exported = export_core(first.config)

        again = parse_core_config(exported.text, "exported.yaml", tmp_path)
        status, said = await put(visit, packed(name_routes(again.config)))

        second = visit.console.store.config(visit.cluster.id)
    assert (status, said["warnings"], exported.notes, again.complaints) == (200, [], (), ())
    assert second.config == first.config
    assert second.digest == first.digest


async def test_nothing_is_imported_once_a_replica_has_connected(tmp_path: Path) -> None:
    """Zero link 17, server rule: 403, be that replica forgotten by now."""
    async with visited_console(tmp_path) as visit:
        bearer = await visit.bearer()
        async with visit.subscribed(bearer):
            await visit.console.presence.written()
        await visit.console.presence.written()
        visit.console.store.sightings.start_over()
        visit.console.store.sightings.forget(NOW.replace(year=2999))

        status, said = await put(visit, packed(read_core_config(QUICKSTART).config))

        assert visit.console.store.cluster(visit.cluster.id).version == 1
    assert status == 403
    assert "console apply -f FILE --cluster demo" in str(said["error"])


async def test_nobody_imports_without_a_bearer(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        status, _ = await put(visit, packed(config_pb2.Config()), bearer="nonsense")

    assert status == 401


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "not compressed"),
        (b"no zstd", "not compressed"),
        (zstandard.ZstdCompressor().compress(b"\xff\xff\xff"), "not a pomerium.config.Config"),
        (zstandard.ZstdCompressor().compress(b"\x12\x03\x12\x01\xff"), "not a pomerium.config.Config"),
        (packed(config_pb2.Config(routes=[route()]))[:-1], "its end is missing"),
        (packed(config_pb2.Config()) * 2, "something behind"),
        (packed(config_pb2.Config(routes=[route(tls_downstream_client_ca_file="/ca.pem")])), "send what is in it"),
        (packed(config_pb2.Config(routes=[route(policy_ids=["p"])])), "another control plane"),
        (
            packed(config_pb2.Config(settings=config_pb2.Settings(certificate_authority_key_pair_id="k"))),
            "another control plane",
        ),
    ],
)
async def test_what_cannot_be_taken_whole_changes_nothing(tmp_path: Path, body: bytes, why: str) -> None:
    """Z-10: 400 with the reason. A file or a reference that got lost could leave a route more open than it was."""
    async with visited_console(tmp_path) as visit:
        status, said = await put(visit, body)

        assert visit.console.store.cluster(visit.cluster.id).version == 1
    assert status == 400
    assert why in str(said["error"])


async def test_a_small_body_that_grows_without_end_is_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Zero link 17: 413."""
    monkeypatch.setattr(importing, "MAX_PLAIN_BYTES", 1000)
    async with visited_console(tmp_path) as visit:
        status, said = await put(visit, zstandard.ZstdCompressor().compress(bytes(10_000_000)))
        too_long, _ = await put(visit, bytes(9 * 1024 * 1024))

    assert status == too_long == 413
    assert "larger than 1000 bytes" in str(said["error"])


def test_what_a_cluster_decides_for_itself_is_left_out_and_named() -> None:
    config = config_pb2.Config(name="theirs", routes=[route(namespace_id="n")])
    config.settings.shared_secret = "hunter2"
    config.settings.id = "theirs"
    config.settings.autocert = True
    config.settings.log_level = "info"

    read, warnings = read_import(packed(config))

    assert read.settings == config_pb2.Settings(log_level="info")
    assert not read.name
    assert not read.routes[0].HasField("namespace_id")
    assert [warning.partition(": left")[0].partition(" is ")[0] for warning in sorted(warnings)] == [
        "settings: autocert",
        "settings: shared_secret",
    ]
    assert "hunter2" not in "".join(warnings)


def test_fields_that_nobody_here_knows_are_named() -> None:
    plain = config_pb2.Config(routes=[route()]).SerializeToString() + b"\xa2\x06\x01x"

    _, warnings = read_import(zstandard.ZstdCompressor().compress(plain))

    assert warnings == ["the configuration has fields that this console does not know; they are left out"]


def test_routes_without_an_id_get_that_of_a_file(tmp_path: Path) -> None:
    text = "routes:\n" + "- {from: https://a.example.com, to: http://%s}\n" * 2 % ("a", "b")
    wanted = parse_core_config(text, "f", tmp_path).config
    sent = config_pb2.Config.FromString(wanted.SerializeToString())
    for each in sent.routes:
        each.ClearField("id")

    read, warnings = read_import(packed(sent))

    assert read == wanted
    assert warnings == []


def test_the_same_route_twice_is_kept_once() -> None:
    read, warnings = read_import(
        packed(config_pb2.Config(routes=[route(), route(), route(), route(id="x"), route(id="x")]))
    )

    assert len(read.routes) == 3
    assert len(warnings) == 2


async def test_what_replicas_will_leave_out_is_said(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        config = config_pb2.Config(routes=[route(id="bad", regex="(?!x)", **{"from": "https://bad.example.com"})])

        status, said = await put(visit, packed(config))

    assert status == 200
    warning = str(said["warnings"])
    assert 'left out by replicas: route "bad"' in warning
    assert "regex" in warning


@pytest.mark.parametrize(
    ("header", "hints"),
    [
        ("", {}),
        ("systemType=linux,argv0=/bin/x", {"systemType": "linux", "argv0": "/bin/x"}),
        ("systemType=,evil=1,hostname=a\tb=c", {"hostname": "ab=c"}),
        (f"hostname={'x' * 1000}", {"hostname": "x" * 64}),
    ],
)
def test_hints_are_another_machines_words(header: str, hints: dict[str, str]) -> None:
    assert read_hints(header) == hints


def test_a_refusal_names_no_more_than_anybody_reads() -> None:
    many = config_pb2.Config(routes=[route(policy_ids=["p"]) for _ in range(50)])

    with pytest.raises(ImportRefused) as refused:
        read_import(packed(many))

    assert refused.value.text.endswith("and 30 more")


def test_every_route_gets_a_name_of_its_own() -> None:
    """Zero link 17: from its host and path; names that are there stay."""
    given = config_pb2.Config(
        routes=[
            route(prefix="/Api/v1"),
            route(prefix="/api/v1/"),
            route(name="a-example-com-api-v1-2"),
            route(**{"from": "tcp+https://db.example.com:5432"}),
            route(**{"from": "https://*"}),
        ]
    )

    named = name_routes(given)

    assert [each.name for each in named.routes] == [
        "a-example-com-api-v1",
        "a-example-com-api-v1-3",
        "a-example-com-api-v1-2",
        "db-example-com-5432",
        "route",
    ]
    assert not given.routes[0].name
    assert name_routes(named) == named
