"""What the console keeps: sealed, hashed, private, and never half of it."""

import base64
import shutil
import sqlite3
import threading
from datetime import UTC, datetime
from pathlib import Path

import pytest

from pomerium_agent.console.clusters import create_cluster, rotate_token, set_storage
from pomerium_agent.console.store import Conflict, NoSuchCluster, open_store
from pomerium_agent.errors import SettingsError
from pomerium_agent.pb.pomerium import config_pb2

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def everything_on_disk(data_dir: Path) -> bytes:
    return b"".join(path.read_bytes() for path in sorted(data_dir.iterdir()) if path.is_file())


def test_no_secret_can_be_read_from_the_disk(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        made = create_cluster(store, "demo", now=NOW, storage="postgres://ada:hunter2@db/agents")
        secrets = store.secrets(made.cluster.id)
        certificate = store.certificate(made.cluster.id)
        config = config_pb2.Config(settings=config_pb2.Settings(idp_client_secret="squirrel"))
        store.add_config(made.cluster.id, config, digest="d", reason="test", now=NOW, expected=1)

    found = everything_on_disk(tmp_path)

    assert certificate is not None
    assert b"hunter2" not in found
    assert b"squirrel" not in found
    assert b"PRIVATE KEY" not in found
    assert made.token.encode() not in found
    for secret in (secrets.shared_secret, secrets.pseudonymization_key):
        assert secret not in found
        assert base64.b64encode(secret) not in found


def test_what_was_sealed_comes_back(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW, storage="postgres://ada:hunter2@db/agents").cluster
        before = store.secrets(cluster.id)

    with open_store(tmp_path, create=False) as store:
        assert store.secrets(cluster.id) == before
        assert len(before.shared_secret) == 32
        assert before.storage == "postgres://ada:hunter2@db/agents"


def test_only_the_owner_may_look(tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    data_dir.mkdir(mode=0o755)

    with open_store(data_dir) as store:
        create_cluster(store, "demo", now=NOW)

        assert data_dir.stat().st_mode & 0o777 == 0o700
        for name in ("console.db", "console.db-wal", "console.key"):
            assert (data_dir / name).stat().st_mode & 0o777 == 0o600


def test_secrets_do_not_show_in_a_repr(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        made = create_cluster(store, "demo", now=NOW, storage="postgres://ada:hunter2@db/agents")

        shown = repr(made) + repr(store.secrets(made.cluster.id)) + repr(store.certificate(made.cluster.id))

    assert "hunter2" not in shown
    assert "PRIVATE" not in shown
    assert str(made.token) not in shown


def test_a_token_opens_its_cluster_and_only_until_it_is_rotated(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        made = create_cluster(store, "demo", now=NOW)

        new = rotate_token(store, made.cluster)

        assert store.rotations.open(made.token, NOW) is None
        found = store.rotations.open(new, NOW)
        assert found is not None
        assert (found.cluster_id, found.generation) == (made.cluster.id, made.cluster.generation + 1)


def test_a_token_is_one_word_of_256_random_bits(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        tokens = {str(create_cluster(store, f"demo{n}", now=NOW).token) for n in range(5)}

    assert len(tokens) == 5
    assert all(len(base64.urlsafe_b64decode(token.removeprefix("pct_") + "=")) == 32 for token in tokens)


def test_the_database_is_useless_without_its_key_file(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        create_cluster(store, "demo", now=NOW)
    (tmp_path / "console.key").unlink()

    with pytest.raises(SettingsError, match=r"console\.key is missing"), open_store(tmp_path):
        pass


def test_the_key_file_of_another_console_is_found_out_at_once(tmp_path: Path) -> None:
    for name in ("one", "other"):
        with open_store(tmp_path / name) as store:
            create_cluster(store, "demo", now=NOW)
    shutil.copy(tmp_path / "other" / "console.key", tmp_path / "one" / "console.key")

    with pytest.raises(SettingsError, match="does not belong to this database"), open_store(tmp_path / "one"):
        pass


def test_a_damaged_key_file_is_named(tmp_path: Path) -> None:
    with open_store(tmp_path):
        pass
    (tmp_path / "console.key").write_text("abc\n")

    with pytest.raises(SettingsError, match=r"console\.key is damaged"), open_store(tmp_path):
        pass


def test_a_database_of_a_newer_console_is_left_alone(tmp_path: Path) -> None:
    with open_store(tmp_path):
        pass
    with sqlite3.connect(tmp_path / "console.db") as connection:
        connection.execute("PRAGMA user_version = 999")
    connection.close()

    with pytest.raises(SettingsError, match="newer version of the console"), open_store(tmp_path):
        pass


def test_a_verb_does_not_make_a_console_where_there_is_none(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="holds no console"), open_store(tmp_path / "typo", create=False):
        pass

    assert not (tmp_path / "typo").exists()


def test_two_who_change_the_same_version_do_not_overwrite_each_other(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        config = config_pb2.Config(name="mine")
        store.add_config(cluster.id, config, digest="mine", reason="mine", now=NOW, expected=1)

        with pytest.raises(Conflict):
            store.add_config(cluster.id, config_pb2.Config(), digest="x", reason="theirs", now=NOW, expected=1)

        assert store.config(cluster.id).reason == "mine"
        assert store.cluster("demo").version == 2


def test_old_versions_are_forgotten_and_the_newest_never(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        for version in range(1, 60):
            store.add_config(
                cluster.id, config_pb2.Config(), digest=f"d{version}", reason="test", now=NOW, expected=version
            )

        assert store.config(cluster.id).version == 60
        assert len(store.versions_of_digests(cluster.id)) == 50


def test_a_new_storage_is_a_new_bootstrap(tmp_path: Path) -> None:
    """Z-21 begins here."""
    with open_store(tmp_path) as store:
        cluster = create_cluster(store, "demo", now=NOW).cluster
        before = store.secrets(cluster.id)

        set_storage(store, cluster, "file:///var/lib/records")

        assert store.cluster("demo").bootstrap_version == cluster.bootstrap_version + 1
        assert store.secrets(cluster.id).storage == "file:///var/lib/records"
        assert store.secrets(cluster.id).shared_secret == before.shared_secret


def test_a_storage_that_no_replica_understands_is_refused(tmp_path: Path) -> None:
    with open_store(tmp_path) as store, pytest.raises(SettingsError, match="--storage") as refused:
        create_cluster(store, "demo", now=NOW, storage="mysql://ada:hunter2@db/agents")

    assert "hunter2" not in str(refused.value)


def test_names_and_domains_are_taken_once(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        create_cluster(store, "demo", now=NOW, domain="demo.example.com")

        with pytest.raises(SettingsError, match="the name 'Demo'"):
            create_cluster(store, "Demo", now=NOW)
        with pytest.raises(SettingsError, match=r"the domain demo\.example\.com"):
            create_cluster(store, "other", now=NOW, domain="demo.example.com")


def test_an_unknown_cluster_is_answered_with_those_there_are(tmp_path: Path) -> None:
    with open_store(tmp_path) as store:
        create_cluster(store, "demo", now=NOW)

        with pytest.raises(NoSuchCluster, match=r"no cluster 'dmeo'; there are: demo"):
            store.cluster("dmeo")


def test_closing_waits_for_who_is_still_writing_in_another_thread(tmp_path: Path) -> None:
    """A cancelled task leaves its thread behind; SQLite would crash if its connection were gone."""
    inside, finish, closed = (threading.Event() for _ in range(3))
    with open_store(tmp_path) as store:
        database = store.database

        def write() -> None:
            with database.write() as connection:
                inside.set()
                finish.wait(5)
                connection.execute("INSERT INTO meta VALUES ('late', 'kept')")

        def close() -> None:
            database.close()
            closed.set()

        threads = [threading.Thread(target=each) for each in (write, close)]
        threads[0].start()
        inside.wait(5)
        threads[1].start()

        assert not closed.wait(0.1)
        finish.set()
        for thread in threads:
            thread.join(5)

    with open_store(tmp_path) as store:
        assert store.fact("late") == "kept"
