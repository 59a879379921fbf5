"""Our own PostgreSQL for demo and tests: where its programs come from, and that nothing of it is left behind."""

from pathlib import Path

import pytest

from pomerium_agent.demo.postgres import WHEEL, find_programs, run_postgres
from pomerium_agent.errors import SettingsError
from tests.fakes.postgres import Database, skip_without_postgres


def test_the_directory_that_is_named_comes_first(tmp_path: Path) -> None:
    for name in ("initdb", "postgres"):
        (tmp_path / name).touch()

    assert find_programs({"PG_BIN": str(tmp_path), "PATH": "/usr/bin"}) == tmp_path


def test_without_programs_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == WHEEL else pytest.fail(name))

    for environ in ({"PATH": ""}, {"PG_BIN": str(tmp_path)}):
        with pytest.raises(SettingsError, match=r"postgresql.*demo-postgres.*PG_BIN"):
            find_programs(environ)


async def test_a_password_lets_in_who_has_it() -> None:
    skip_without_postgres()
    with run_postgres(password="it's a: secret/€") as server:
        async with Database(server, "postgres").connect() as connection:
            assert await connection.fetchval("select current_user") == "pomerium"
        directory = server.directory

    assert not directory.exists()
