"""A backup of the console: taken while it is in use, and good for a new start elsewhere."""

import shutil
import stat
from pathlib import Path

import pytest

from pomerium_agent.console.store import open_store
from pomerium_agent.errors import SettingsError
from tests.unit.console.typed import refused, type_in


@pytest.fixture(autouse=True)
def _own_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POMERIUM_CONSOLE_DATA", str(tmp_path / "data"))


def test_a_copy_and_the_key_make_a_console_elsewhere(tmp_path: Path) -> None:
    type_in("cluster", "create", "demo")
    with open_store(tmp_path / "data", create=False):  # as a console that runs
        said = type_in("backup", str(tmp_path / "copy.db"))
    assert str(tmp_path / "data/console.key") in said

    restored = tmp_path / "restored"
    restored.mkdir(mode=0o700)
    shutil.copy(tmp_path / "copy.db", restored / "console.db")
    with pytest.raises(SettingsError, match=r"console\.key"), open_store(restored, create=False):
        pass
    shutil.copy(tmp_path / "data/console.key", restored)
    with open_store(restored, create=False) as store:
        cluster = store.cluster("demo")
        assert store.secrets(cluster.id)


def test_the_copy_is_one_file_for_its_owner_and_replaces_the_one_before(tmp_path: Path) -> None:
    type_in("cluster", "create", "demo")
    (tmp_path / "out").mkdir()
    target = tmp_path / "out/copy.db"
    target.write_text("of yesterday")
    target.chmod(0o644)

    type_in("backup", str(target))

    assert [path.name for path in target.parent.iterdir()] == ["copy.db"]
    assert stat.S_IMODE(target.stat().st_mode) == 0o600
    assert target.read_bytes().startswith(b"SQLite format 3")


@pytest.mark.parametrize(("place", "says"), [("", "is a directory"), ("none/copy.db", "cannot be written")])
def test_a_place_that_cannot_be(place: str, says: str, tmp_path: Path) -> None:
    type_in("cluster", "create", "demo")

    assert says in refused("backup", str(tmp_path / place))


def test_a_copy_beside_the_database_is_none(tmp_path: Path) -> None:
    type_in("cluster", "create", "demo")

    assert "another disk" in refused("backup", str(tmp_path / "data/copy.db"))
