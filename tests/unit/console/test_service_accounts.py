"""Service accounts from the console: known to every replica with the next bundle, gone at once, and no token kept."""

import asyncio
import json
import logging
import shlex
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
import pytest
from joserfc import jwt
from joserfc.jwk import OctKey
from structlog.testing import capture_logs

from pomerium_agent.config.digest import CONFIG
from pomerium_agent.console.accounts import ServiceAccount
from pomerium_agent.console.bundle import SERVICE_ACCOUNT, build_accounts, build_bundle
from pomerium_agent.console.clusters import create_cluster
from pomerium_agent.console.control import poke
from pomerium_agent.console.database import MIGRATIONS
from pomerium_agent.console.service_accounts import (
    create_service_account,
    parse_life,
    revoke_service_account,
    sign_token,
)
from pomerium_agent.console.store import open_store
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import config_pb2, connect_pb2, user_pb2
from pomerium_agent.records import Record, pack, unpack
from pomerium_agent.runtime.health import Health, bundle_check
from pomerium_agent.sessions.handle import Handle, parse_handle
from pomerium_agent.settings import Secret
from pomerium_agent.zero.api import ClusterApi
from pomerium_agent.zero.bundle_format import read_bundle
from pomerium_agent.zero.bundles import Downloader, DownloadUrls
from pomerium_agent.zero.identity import Identity
from pomerium_agent.zero.reconciler import Reconciler
from tests.fakes.clock import ManualClock
from tests.fakes.console import NOW, QUICKSTART, Visit, visited_console
from tests.unit.console.typed import refused, type_in

IDENTITY = Identity(instance="i", hostname="h", version="v", envoy_version="e", user_agent="pomerium-agent/test")


def account(id: str, *, expires_at: datetime | None = None) -> ServiceAccount:
    return ServiceAccount(
        id=id, name=f"name of {id}", user_id="u", description="", created_at=NOW, expires_at=expires_at
    )


# --- the bundle -----------------------------------------------------------------------------------


def test_an_account_is_a_record_with_the_fields_of_its_type() -> None:
    """Databroker 13, zero link 11.5."""
    made = ServiceAccount(
        id="a1", name="robot", user_id="ci", description="builds", created_at=NOW, expires_at=NOW + timedelta(days=90)
    )

    (record,) = build_accounts([made])

    assert (record.type, record.id) == ("type.googleapis.com/user.ServiceAccount", "a1")
    found = unpack(record.data, user_pb2.ServiceAccount)
    assert found is not None
    assert (found.id, found.user_id, found.description) == ("a1", "ci", "builds")
    assert found.issued_at.ToDatetime(UTC) == NOW
    assert found.expires_at.ToDatetime(UTC) == NOW + timedelta(days=90)
    assert not found.HasField("accessed_at")


def test_an_account_that_never_expires_and_says_nothing_leaves_both_unset() -> None:
    """Authorize 5: unset timestamps never expire."""
    found = unpack(build_accounts([account("a")])[0].data, user_pb2.ServiceAccount)

    assert found is not None
    assert not found.HasField("expires_at")
    assert not found.HasField("description")


def test_the_same_accounts_make_the_same_bytes_in_any_order() -> None:
    def bundle(*ids: str) -> tuple[str, bytes]:
        made = build_bundle(config_pb2.Config(), None, version=1, modified_at=NOW, accounts=[account(id) for id in ids])
        return made.etag, made.gzipped

    assert bundle("a", "b", "c") == bundle("c", "a", "b")
    assert bundle("a", "b") != bundle("a", "c")


def test_accounts_change_the_tag_of_a_bundle_and_not_the_digest_of_its_configuration() -> None:
    """So a new account leaves every replica's version in force as it is (Z-45)."""
    plain = build_bundle(config_pb2.Config(), None, version=1, modified_at=NOW)
    with_account = build_bundle(config_pb2.Config(), None, version=1, modified_at=NOW, accounts=[account("a")])

    assert with_account.etag != plain.etag
    assert with_account.digest == plain.digest
    assert read_bundle(with_account.content) == with_account.records
    assert [record.type for record in with_account.records] == [CONFIG, SERVICE_ACCOUNT]


def test_a_bundle_never_holds_users_since_it_would_own_them_all() -> None:
    """Zero link 12.2: people who logged in would be deleted with every sync."""
    records = build_bundle(
        config_pb2.Config(), None, version=1, modified_at=NOW, accounts=[account("a"), account("b")]
    ).records

    assert {record.type for record in records} == {CONFIG, SERVICE_ACCOUNT}


# --- the store ------------------------------------------------------------------------------------


def test_what_was_made_is_listed_by_name_until_it_is_revoked(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        other = create_cluster(store, "other", now=NOW).cluster
        zoe = create_service_account(store, cluster, "zoe", now=NOW, user_id="ci", expires="2d").account
        ada = create_service_account(store, cluster, "ada", now=NOW, description="reads").account
        create_service_account(store, other, "ada", now=NOW)

        assert store.accounts.of(cluster.id) == (ada, zoe)
        assert (ada.user_id, zoe.user_id) == ("ada", "ci")
        assert (ada.expires_at, zoe.expires_at) == (None, NOW + timedelta(days=2))

        revoke_service_account(store, cluster, "ada", now=NOW)
        revoke_service_account(store, cluster, zoe.id, now=NOW)

        assert store.accounts.of(cluster.id) == ()
        assert len(store.accounts.of(other.id)) == 1


def test_each_change_is_a_new_number_beside_the_version_of_the_configuration(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        before = create_cluster(store, "demo", now=NOW).cluster
        create_service_account(store, before, "robot", now=NOW + timedelta(seconds=1))
        between = store.cluster("demo")
        revoke_service_account(store, before, "robot", now=NOW + timedelta(seconds=2))
        after = store.cluster("demo")

    assert [each.accounts_version for each in (before, between, after)] == [0, 1, 2]
    assert [each.accounts_changed_at for each in (before, between, after)] == [
        None,
        NOW + timedelta(seconds=1),
        NOW + timedelta(seconds=2),
    ]
    assert {each.version for each in (before, between, after)} == {1}
    assert {each.bootstrap_version for each in (before, between, after)} == {1}


def test_a_name_is_taken_once_and_what_failed_changes_nothing(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        create_service_account(store, cluster, "robot", now=NOW, expires="1s")

        with pytest.raises(SettingsError, match=r"already a service account 'Robot'.*revoke that one first"):
            create_service_account(store, cluster, "Robot", now=NOW + timedelta(days=1))

        assert store.cluster("demo").accounts_version == 1


def test_a_name_that_is_used_again_does_not_bring_the_old_token_back(tmp_path: Path) -> None:
    """Authorize 4.1: a token is good only while there is a record of its `jti`."""
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        old = create_service_account(store, cluster, "robot", now=NOW)
        revoke_service_account(store, cluster, "robot", now=NOW)

        new = create_service_account(store, cluster, "robot", now=NOW)

    assert new.account.id != old.account.id
    assert new.token != old.token


def test_who_is_not_there_is_answered_with_those_who_are(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        with pytest.raises(SettingsError, match="'robto' in this cluster; there is none at all"):
            revoke_service_account(store, cluster, "robto", now=NOW)
        create_service_account(store, cluster, "robot", now=NOW)

        with pytest.raises(SettingsError, match="'robto' in this cluster; there are: robot"):
            revoke_service_account(store, cluster, "robto", now=NOW)


@pytest.mark.parametrize("name", ["", " ", "-x", "a b", "ada@example.com", "a/b", "x" * 65, "é", "a\n"])
def test_a_name_is_one_plain_word(tmp_path: Path, name: str) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster

        with pytest.raises(SettingsError, match="NAME: "):
            create_service_account(store, cluster, name, now=NOW)

        assert store.accounts.of(cluster.id) == ()


@pytest.mark.parametrize("setting", ["user_id", "description"])
@pytest.mark.parametrize("text", ["two\nlines", "\x1b[31m", "x" * 257])
def test_texts_are_short_and_printable(tmp_path: Path, setting: str, text: str) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster

        with pytest.raises(SettingsError, match=f"--{setting.replace('_', '-')}: "):
            create_service_account(store, cluster, "robot", now=NOW, **{setting: text})


@pytest.mark.parametrize(
    ("text", "life"),
    [
        ("90d", timedelta(days=90)),
        ("12h", timedelta(hours=12)),
        ("8w", timedelta(weeks=8)),
        ("5m", timedelta(minutes=5)),
        ("1s", timedelta(seconds=1)),
        ("36500d", timedelta(days=36_500)),
        ("never", None),
    ],
)
def test_how_long_it_lives_is_said_in_one_unit(text: str, life: timedelta | None) -> None:
    assert parse_life(text) == life


@pytest.mark.parametrize(
    "text", ["", "0d", "-1d", "d", "90", "1.5d", "90 d", "1y", "36501d", "9999999999w", "١d", "1d\n"]
)
def test_any_other_life_is_refused_with_what_to_write(text: str) -> None:
    with pytest.raises(SettingsError, match=r"--expires: .* such as 90d, or never"):
        parse_life(text)


def test_a_database_of_the_first_step_is_brought_forward_with_its_clusters(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        create_cluster(store, "demo", now=NOW)
    with sqlite3.connect(tmp_path / "console.db") as connection:
        later = "SELECT name FROM sqlite_master WHERE type = 'table' AND name LIKE 'login_%'"
        tables = [table for (table,) in connection.execute(later).fetchall()]
        for table in (*tables, "connected", "cluster_address", "telemetry"):
            connection.execute(f"DROP TABLE {table}")
        connection.execute("DROP TABLE service_account")
        connection.execute("DROP TABLE old_token")
        connection.execute("ALTER TABLE replica DROP COLUMN generation")
        connection.execute("ALTER TABLE cluster DROP COLUMN accounts_version")
        connection.execute("ALTER TABLE cluster DROP COLUMN accounts_changed_at")
        connection.execute("PRAGMA user_version = 1")
    connection.close()

    with open_store(tmp_path) as store:
        cluster = store.cluster("demo")
        create_service_account(store, cluster, "robot", now=NOW)

        assert (cluster.accounts_version, cluster.accounts_changed_at) == (0, None)
        assert store.cluster("demo").accounts_version == 1
        assert int(store.database.read("PRAGMA user_version")[0][0]) == len(MIGRATIONS)


# --- the token ------------------------------------------------------------------------------------


def test_a_token_is_a_session_handle_under_the_clusters_secret(tmp_path: Path) -> None:
    """Authorize 4.1, A-5; read by a library that is not ours, too."""
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW, domain="demo.example.com").cluster
        key = store.secrets(cluster.id).shared_secret
        other = store.secrets(create_cluster(store, "other", now=NOW).cluster.id).shared_secret
        made = create_service_account(store, cluster, "robot", now=NOW + timedelta(microseconds=7), user_id="ci")

    assert parse_handle(made.token, [other]) is None
    assert parse_handle(made.token, [key]) == Handle(
        id=made.account.id, user_id="ci", issuer="demo.example.com", issued_at=int(NOW.timestamp())
    )
    read = jwt.decode(made.token, OctKey.import_key(key), algorithms=["HS256"])
    assert read.header == {"alg": "HS256", "typ": "JWT"}
    assert read.claims == {
        "iss": "demo.example.com",
        "iat": int(NOW.timestamp()),
        "jti": made.account.id,
        "sub": "ci",
    }


def test_a_token_is_neither_on_the_disk_nor_in_a_repr_and_could_be_signed_again(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        made = create_service_account(store, cluster, "robot", now=NOW)
        again = sign_token(store, cluster, store.accounts.find(cluster.id, "robot"))

        found = b"".join(path.read_bytes() for path in sorted(tmp_path.iterdir()) if path.is_file())

    assert again == made.token
    for part in (str(made.token), *str(made.token).split(".")[1:]):
        assert part.encode() not in found
        assert part not in repr(made)


# --- the running console --------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Replica:
    """What of a replica matters here: a databroker, and who keeps it equal to the bundle of a real console."""

    backend: MemoryBackend
    reconciler: Reconciler
    health: Health

    async def sync(self) -> None:
        await self.reconciler.sync("config")

    async def accounts(self) -> list[str]:
        return [record.id for record in (await self.backend.latest(SERVICE_ACCOUNT))[1]]

    async def reported(self) -> dict[str, str]:
        """What it says of the bundle that it has."""
        async for report in self.health.follow():
            if report.check == bundle_check("config"):
                return dict(report.attributes)
        raise AssertionError("health is followed without end")


@asynccontextmanager
async def replica_of(visit: Visit) -> AsyncIterator[Replica]:
    clock, health = ManualClock(datetime.now(UTC)), Health()
    backend = MemoryBackend(clock)
    async with aiohttp.ClientSession() as http, aiohttp.ClientSession(auto_decompress=False) as plain:
        api = ClusterApi(http, visit.console.cluster_api, Secret(visit.token), IDENTITY, clock=clock)
        downloader = Downloader(plain, DownloadUrls(api, clock), IDENTITY)
        yield Replica(
            backend=backend,
            reconciler=Reconciler(api, downloader, backend, health=health, clock=clock),
            health=health,
        )
    await backend.close()


def create(visit: Visit, name: str) -> ServiceAccount:
    return create_service_account(visit.console.store, visit.cluster, name, now=datetime.now(UTC)).account


def revoke(visit: Visit, name: str) -> None:
    revoke_service_account(visit.console.store, visit.cluster, name, now=datetime.now(UTC))


async def test_a_replica_gets_what_is_made_and_loses_what_is_revoked_to_the_last_one(tmp_path: Path) -> None:
    """Z-38: the types in the replica's cache entry are compared too, so none is left when the bundle has none."""
    async with visited_console(tmp_path) as visit, replica_of(visit) as replica:
        await replica.sync()
        assert await replica.accounts() == []

        one, other = create(visit, "one"), create(visit, "other")
        await replica.sync()
        assert await replica.accounts() == sorted([one.id, other.id])

        revoke(visit, "one")
        await replica.sync()
        assert await replica.accounts() == [other.id]

        revoke(visit, "other")
        await replica.sync()
        assert await replica.accounts() == []


async def test_people_who_logged_in_stay_whatever_happens_to_accounts(tmp_path: Path) -> None:
    """Zero link 12.2: the bundle owns the types that it holds, and no other."""
    user = Record(type="type.googleapis.com/user.User", id="ada", data=pack(user_pb2.User(id="ada")))
    async with visited_console(tmp_path) as visit, replica_of(visit) as replica:
        await replica.backend.put([user])

        create(visit, "robot")
        await replica.sync()
        revoke(visit, "robot")
        await replica.sync()

        assert [record.id for record in (await replica.backend.latest(user.type))[1]] == ["ada"]


async def test_accounts_leave_the_configuration_of_a_replica_alone(tmp_path: Path) -> None:
    """Same version, same digest, and not one configuration record is written again."""
    async with visited_console(tmp_path) as visit, replica_of(visit) as replica:
        visit.apply(QUICKSTART)
        await replica.sync()
        before, configs = await replica.reported(), await replica.backend.latest(CONFIG)

        create(visit, "robot")
        await replica.sync()

        assert await replica.reported() == before
        assert before["X-Bundle-Version"] == "2"
        assert [one.version for one in (await replica.backend.latest(CONFIG))[1]] == [one.version for one in configs[1]]
        assert visit.console.store.versions_of_digests(visit.cluster.id)[before["X-Bundle-Digest"]] == 2


async def test_an_account_stays_when_another_file_is_applied(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit, replica_of(visit) as replica:
        robot = create(visit, "robot")
        await replica.sync()

        visit.apply(QUICKSTART)
        await replica.sync()

        assert await replica.accounts() == [robot.id]
        assert (await replica.reported())["X-Bundle-Version"] == "2"


async def test_the_tag_moves_with_each_change_and_back_when_the_content_does(tmp_path: Path) -> None:
    """Zero link 11.4: a conditional request is answered by content."""
    async with visited_console(tmp_path) as visit:
        url = await visit.bundle_url()

        async def tag(have: str = "") -> tuple[int, str]:
            async with visit.http.get(url, headers={"If-None-Match": have} if have else {}) as answer:
                return answer.status, answer.headers["ETag"]

        _, plain = await tag()
        create(visit, "robot")
        changed, with_robot = await tag(plain)
        unchanged, _ = await tag(with_robot)
        revoke(visit, "robot")
        gone, without = await tag(with_robot)

    assert (changed, unchanged, gone) == (200, 304, 200)
    assert with_robot != plain
    assert without == plain


async def test_replicas_hear_of_an_account_at_once_and_of_its_end(tmp_path: Path) -> None:
    """Z-20: `config_updated` on the stream, with the version that stays."""
    async with visited_console(tmp_path) as visit, visit.subscribed(await visit.bearer()) as call:
        for change in (create, revoke):
            change(visit, "robot")
            assert await asyncio.to_thread(poke, visit.console.data_dir, visit.cluster.id)

            async with asyncio.timeout(1):
                message = await call.read()

            assert isinstance(message, connect_pb2.Message)
            assert message.config_updated.changeset_version == 1


async def test_no_token_and_no_key_is_ever_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with capture_logs() as logged:
        async with visited_console(tmp_path) as visit, replica_of(visit) as replica:
            made = create_service_account(visit.console.store, visit.cluster, "robot", now=NOW)
            await replica.sync()
            revoke(visit, "robot")
            await replica.sync()
            key = visit.console.store.secrets(visit.cluster.id).shared_secret

    said = repr(logged) + caplog.text
    assert "bundle applied" in said
    assert str(made.token).rpartition(".")[2] not in said
    assert key.hex() not in said
    assert repr(key) not in said


# --- the verbs ------------------------------------------------------------------------------------


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The data directory of a console with the cluster `demo`."""
    monkeypatch.setenv("POMERIUM_CONSOLE_DATA", str(tmp_path / "data"))
    with open_store(tmp_path / "data") as store:
        create_cluster(store, "demo", now=datetime.now(UTC), domain="demo.example.com")
    return tmp_path / "data"


@pytest.mark.usefixtures("place")
def test_a_new_account_is_shown_with_its_token_and_lines_to_paste() -> None:
    said = type_in("service-account", "create", "robot", "--cluster", "demo", "--user-id", "ci").splitlines()

    assert said[0].startswith("service account robot is made in cluster demo; it expires on 20")
    assert said[1] == "policies take it for the user ci"
    token = said[5].strip()
    assert len(token.split(".")) == 3
    lines = [shlex.split(line) for line in said if line.startswith("  curl ")]
    assert [line[line.index("-H") + 1] for line in lines] == [
        f"Authorization: Bearer Pomerium-{token}",
        f"X-Pomerium-Authorization: {token}",
    ]
    assert {line[-1] for line in lines} == {"https://app.demo.example.com/"}
    assert "no console is serving this data directory" in said[-1]


def test_it_is_said_to_programs_too(place: Path) -> None:
    made = json.loads(
        type_in(
            "service-account",
            "create",
            "robot",
            "--cluster",
            "demo",
            "--expires",
            "90d",
            "--description",
            "x",
            "--json",
        )
    )

    assert made["name"] == made["user_id"] == "robot"
    assert made["cluster"] == "demo"
    assert made["description"] == "x"
    assert not made["expired"]
    assert not made["console_told"]
    life = datetime.fromisoformat(made["expires_at"]) - datetime.fromisoformat(made["created_at"])
    assert life == timedelta(days=90)
    assert made["headers"] == {
        "Authorization": f"Bearer Pomerium-{made['jwt']}",
        "X-Pomerium-Authorization": made["jwt"],
    }
    with open_store(place) as store:
        handle = parse_handle(made["jwt"], [store.secrets(store.cluster("demo").id).shared_secret])
    assert handle is not None
    assert (handle.id, handle.user_id) == (made["id"], "robot")


def test_the_line_to_paste_leads_to_the_first_route_that_asks_who_calls(place: Path) -> None:
    config = config_pb2.Config()
    for source, public in (("public", True), ("*", False), ("api", False), ("late", False)):
        route = config.routes.add(allow_public_unauthenticated_access=public, prefix="/v1")
        setattr(route, "from", f"https://{source}.elsewhere.example")
    with open_store(place) as store:
        cluster = store.cluster("demo")
        store.add_config(cluster.id, config, digest="d", reason="test", now=NOW, expected=1)

    made = json.loads(type_in("service-account", "create", "robot", "--cluster", "demo", "--json"))

    assert made["url"] == "https://api.elsewhere.example/v1"
    assert "--cacert" not in made["curl"]  # not the console's authority, so the system's


@pytest.mark.usefixtures("place")
def test_a_list_names_every_account_and_shows_no_token() -> None:
    made = json.loads(
        type_in("service-account", "create", "robot", "--cluster", "demo", "--expires", "never", "--json")
    )
    type_in("service-account", "create", "ci", "--cluster", "demo", "--user-id", "u-1", "--description", "builds")

    text, listed = (
        type_in("service-account", "list", "--cluster", "demo"),
        type_in("service-account", "list", "--cluster", "demo", "--json"),
    )

    assert text.splitlines()[0].startswith("ci  user u-1  expires on 20")
    assert text.splitlines()[0].endswith(" UTC  builds")
    assert text.splitlines()[1] == "robot  user robot  never expires"
    assert [each["name"] for each in json.loads(listed)] == ["ci", "robot"]
    for said in (text, listed):
        assert made["jwt"].rpartition(".")[2] not in said


def test_an_expired_account_is_called_so(place: Path) -> None:
    """Authorize 5: its record says so to the replicas themselves, which need no bundle for it."""
    with open_store(place) as store:
        create_service_account(store, store.cluster("demo"), "old", now=NOW - timedelta(days=3650), expires="1d")

    assert "old  user old  EXPIRED on 2020-01-05 00:00 UTC" in type_in("service-account", "list", "--cluster", "demo")
    assert json.loads(type_in("service-account", "list", "--cluster", "demo", "--json"))[0]["expired"]


@pytest.mark.usefixtures("place")
def test_a_revoked_account_is_gone() -> None:
    type_in("service-account", "create", "robot", "--cluster", "demo")
    type_in("service-account", "create", "ci", "--cluster", "demo")

    said = type_in("service-account", "revoke", "robot", "--cluster", "demo")
    gone = json.loads(type_in("service-account", "revoke", "ci", "--cluster", "demo", "--json"))

    assert said.startswith("service account robot of cluster demo is revoked\n")
    assert "its token works until one does" in said
    assert gone["revoked"]["name"] == "ci"
    assert "there are no service accounts" in type_in("service-account", "list", "--cluster", "demo")


@pytest.mark.usefixtures("place")
@pytest.mark.parametrize("words", [("create", "robot"), ("list",), ("revoke", "robot")])
def test_an_unknown_cluster_is_named(words: tuple[str, ...]) -> None:
    assert "no cluster 'dmeo'; there are: demo" in refused("service-account", *words, "--cluster", "dmeo")
