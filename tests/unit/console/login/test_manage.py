"""Setting up the login at the console: what is kept, what bundles are told, and who hears of it."""

import asyncio
import json
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from pomerium_agent.config.compile import compile_snapshot
from pomerium_agent.config.login import Flow
from pomerium_agent.config.snapshot import ConfigSnapshot
from pomerium_agent.console.bundle import build_bundle, build_records
from pomerium_agent.console.clusters import create_cluster, publish
from pomerium_agent.console.control import poke
from pomerium_agent.console.login.keys import IN_FLIGHT, LEAD
from pomerium_agent.console.login.limits import Budget, ShortMemory
from pomerium_agent.console.login.manage import (
    describe_login,
    drop_old_keys,
    rotate_key,
    set_login,
    unset_login,
)
from pomerium_agent.console.login.offer import Offer
from pomerium_agent.console.login.settings import LoginSettings, checked_settings
from pomerium_agent.console.store import Cluster, Store, open_store
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import config_pb2, connect_pb2
from pomerium_agent.settings import Secret
from tests.fakes.clock import ManualClock
from tests.fakes.console import NOW, visited_console
from tests.unit.console.typed import refused, type_in

LOGIN = "https://login.example.com"
GIVEN: Mapping[str, Any] = {
    "provider": "oidc",
    "url": "https://idp.example.com",
    "client_id": "console",
    "client_secret": Secret("hunter2"),
    "public_url": LOGIN,
}
SETTINGS = checked_settings(**GIVEN)


def cluster_with(store: Store, name: str, **settings: Any) -> Cluster:
    cluster = create_cluster(store, name, now=NOW).cluster
    publish(store, cluster, config_pb2.Config(settings=config_pb2.Settings(**settings)), reason="test", now=NOW)
    return store.cluster(name)


def snapshot_of(store: Store, cluster: Cluster) -> ConfigSnapshot:
    """What a replica makes of the bundle it would fetch now."""
    bundle = build_bundle(
        store.config(cluster.id).config,
        store.certificate(cluster.id),
        version=store.cluster(cluster.id).version,
        modified_at=NOW,
        login=store.logins.offer(),
    )
    assert bundle.digest == store.config(cluster.id).digest  # so that status knows what is in force
    snapshot, faults = compile_snapshot(bundle.records, now=NOW, secret=bytes(32))
    assert faults == ()
    return snapshot


def test_a_cluster_that_names_nobody_is_logged_in_by_the_console(tmp_path: Path) -> None:
    """Authenticate 11: an explicit field of the bundle, and the key that replicas pin (N-11)."""
    with open_store(tmp_path) as store:
        cluster = cluster_with(store, "open")
        changed = set_login(store, checked_settings(**GIVEN, internal_url="https://console.internal:8700"), NOW)
        login = snapshot_of(store, cluster).settings.login
        keys = store.logins.keys().names

    assert [each.version for each in changed] == [cluster.version + 1]
    assert (login.flow, login.authenticate_url) == (Flow.STATELESS, LOGIN)
    assert login.internal_url == "https://console.internal:8700"
    assert login.server_keys == keys
    assert len(keys) == 1


@pytest.mark.parametrize(
    "own",
    [
        {"authenticate_service_url": "https://auth.example.com"},
        {"idp_provider": "google"},
        {"idp_provider": "hosted", "authenticate_service_url": "https://auth.example.com"},
    ],
)
def test_a_cluster_that_names_somebody_keeps_them(tmp_path: Path, own: dict[str, str]) -> None:
    with open_store(tmp_path) as store:
        cluster = cluster_with(store, "own", **own)
        changed = set_login(store, SETTINGS, NOW)
        snapshot = snapshot_of(store, cluster)

    assert changed == ()
    assert snapshot.settings.login.server_keys == ()
    assert snapshot.settings.login.authenticate_url != LOGIN


def test_no_configuration_brings_keys_of_its_own_beside_the_consoles() -> None:
    """Whoever writes a file does not choose whom replicas believe."""
    config = config_pb2.Config(settings=config_pb2.Settings(console_login_keys=["A" * 43]))

    records = build_records(config, None, Offer(public_url=LOGIN, keys=("B" * 43,)))
    snapshot, _ = compile_snapshot(records, now=NOW)

    assert snapshot.settings.login.server_keys == ("B" * 43,)


def test_a_later_version_of_a_file_is_told_too_and_the_end_as_well(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        set_login(store, SETTINGS, NOW)
        cluster = cluster_with(store, "later")
        told = snapshot_of(store, cluster).settings.login.authenticate_url
        unset_login(store, NOW)
        after = snapshot_of(store, cluster).settings.login.authenticate_url
        with pytest.raises(SettingsError, match="logs nobody in yet"):
            unset_login(store, NOW)

    assert (told, after) == (LOGIN, "https://authenticate.pomerium.app")


def test_the_key_outlives_other_settings(tmp_path: Path) -> None:
    """Authenticate 11: one long-lived key per console, and not one that follows from a cluster's secret."""
    with open_store(tmp_path) as store:
        set_login(store, SETTINGS, NOW)
        before = store.logins.keys().names
        unset_login(store, NOW)
        set_login(store, checked_settings(**{**GIVEN, "client_id": "other"}), NOW)

        assert store.logins.keys().names == before
    with open_store(tmp_path) as store:
        assert store.logins.keys().names == before


def test_secrets_are_sealed_at_rest(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        set_login(store, SETTINGS, NOW)
        key = store.logins.keys().keys[0].private.private_bytes_raw()
        store.logins.signing_key()
        read = store.logins.settings()

    stored = b"".join(path.read_bytes() for path in tmp_path.glob("console.db*"))
    assert b"hunter2" not in stored
    assert key not in stored
    assert b"PRIVATE KEY" not in stored
    assert read == SETTINGS
    assert "hunter2" not in repr(read)


def test_a_rotation_is_one_at_a_time(tmp_path: Path) -> None:
    """Authenticate 11, "key"."""
    with open_store(tmp_path) as store:
        cluster = cluster_with(store, "open")
        set_login(store, SETTINGS, NOW)
        first = store.logins.keys().names
        key, changed = rotate_key(store, NOW)
        both = snapshot_of(store, cluster).settings.login.server_keys
        with pytest.raises(SettingsError, match="a rotation is under way"):
            rotate_key(store, NOW + LEAD - timedelta(seconds=1))
        too_soon = drop_old_keys(store, NOW + LEAD + IN_FLIGHT - timedelta(seconds=1))
        dropped = drop_old_keys(store, NOW + LEAD + IN_FLIGHT)
        one = snapshot_of(store, cluster).settings.login.server_keys

    assert [each.name for each in changed] == ["open"]
    assert both == (*first, key.name)
    assert (too_soon, [each.name for each in dropped]) == ((), ["open"])
    assert one == (key.name,)


async def test_replicas_hear_of_it_at_once_and_of_the_end_of_an_old_key(tmp_path: Path) -> None:
    clock = ManualClock()
    async with visited_console(tmp_path, clock=clock) as visit, visit.subscribed(await visit.bearer()) as call:
        store = visit.console.store

        async def told() -> int:
            await asyncio.to_thread(poke, tmp_path, visit.cluster.id)
            return await heard()

        async def heard() -> int:
            async with asyncio.timeout(5):
                message = await call.read()
            assert isinstance(message, connect_pb2.Message)
            return int(message.config_updated.changeset_version)

        set_login(store, SETTINGS, clock.now())
        first = await told()
        rotate_key(store, clock.now())
        second = await told()
        await clock.until_sleeping(4)
        clock.jump((LEAD + IN_FLIGHT).total_seconds())
        await clock.advance(60)
        third = await heard()

    assert (first, second, third) == (2, 3, 4)


# --- the verbs --------------------------------------------------------------------------------------


def words(tmp_path: Path, *more: str) -> tuple[str, ...]:
    (tmp_path / "secret").write_text("hunter2\n")
    given = ("--provider", "oidc", "--url", "https://idp.example.com", "--client-id", "console")
    return ("login", "set", *given, "--client-secret-file", str(tmp_path / "secret"), "--public-url", LOGIN, *more)


def test_the_verbs_say_what_is_set_and_never_a_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POMERIUM_CONSOLE_DATA", str(tmp_path / "data"))
    type_in("cluster", "create", "demo")

    said = type_in(*words(tmp_path, "--scope", "openid", "--scope", "email"))
    shown, found = type_in("login", "show"), json.loads(type_in("login", "show", "--json"))
    rotated = type_in("login", "rotate-key")
    tokens = type_in("login", "pass-tokens", "--cluster", "demo")
    after = json.loads(type_in("login", "show", "--json"))
    off = type_in("login", "pass-tokens", "--cluster", "demo", "--off")
    ended = type_in("login", "unset")

    assert f"{LOGIN}/oauth2/callback" in said
    assert "cluster demo has a new version" in said
    assert "no console is serving" in said
    assert found["scopes"] == ["openid", "email"]
    assert found["clusters"] == [{"name": "demo", "logs_in_here": True, "gets_tokens": False}]
    assert [key["state"] for key in after["keys"]] == ["current", "next"]
    assert after["clusters"][0]["gets_tokens"]
    assert "logs in here" in shown
    assert "in use from" in rotated
    assert "never a refresh token" in tokens
    assert "no tokens" in off
    assert "logs nobody in any more" in ended
    assert "hunter2" not in "".join((said, shown, json.dumps(found), rotated, tokens, ended))


def test_before_it_is_set_there_is_nothing_to_show(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, pytest.raises(SettingsError, match="console login set"):
        describe_login(store, NOW)


def test_a_secret_file_that_is_none_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POMERIUM_CONSOLE_DATA", str(tmp_path / "data"))
    typed = list(words(tmp_path))
    (tmp_path / "secret").write_text(" \n")

    for file in (tmp_path / "secret", tmp_path / "none"):
        typed[typed.index("--client-secret-file") + 1] = str(file)
        assert "--client-secret-file" in refused(*typed)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"provider": "hosted"}, "--provider"),
        ({"provider": "nobody"}, "idp_provider"),
        ({"url": ""}, "idp_provider_url"),
        ({"url": "http://idp.example.com"}, "idp_provider_url"),
        ({"client_id": ""}, "idp_client_id"),
        ({"public_url": "http://login.example.com"}, "--public-url"),
        ({"public_url": "https://login.example.com/path"}, "--public-url"),
        ({"public_url": "login.example.com"}, "--public-url"),
        ({"public_url": "https://a@login.example.com"}, "--public-url"),
        ({"public_url": "https://login.example.com:x"}, "--public-url"),
        ({"internal_url": "http://console.internal"}, "--internal-url"),
        ({"proxies": -1}, "--proxies"),
    ],
)
def test_what_cannot_work_is_refused_by_name(wrong: dict[str, Any], named: str) -> None:
    with pytest.raises(SettingsError, match=named):
        checked_settings(**{**GIVEN, **wrong})


def test_settings_come_back_as_they_were() -> None:
    full = checked_settings(
        **{**GIVEN, "public_url": "https://LOGIN.example.com:443/"}, scopes=("openid",), internal_url=LOGIN, proxies=2
    )

    assert full.public_url == LOGIN
    assert LoginSettings.from_bytes(full.to_bytes()) == full


# --- budgets ----------------------------------------------------------------------------------------


def test_a_budget_fills_up_again_and_forgets_who_was_not_heard_of() -> None:
    clock = ManualClock()
    budget = Budget(clock, per_minute=2, callers=2)

    assert [budget.take("a") for _ in range(3)] == [True, True, False]
    clock.jump(30)
    assert [budget.take("a") for _ in range(2)] == [True, False]
    assert [budget.take(name) for name in ("b", "c", "a")] == [True, True, True]


def test_a_short_memory_forgets_by_itself() -> None:
    clock = ManualClock()
    memory: ShortMemory[int] = ShortMemory(clock, seconds=10, size=2)
    for number, name in enumerate("abc"):
        memory.put(name, number)

    assert [memory.get(name) for name in "abc"] == [None, 1, 2]
    assert (memory.pop("b"), memory.pop("b")) == (1, None)
    clock.jump(10)
    assert memory.get("c") is None
