"""A real PostgreSQL for tests: one server for each process of a test run, one database for each test.

    with_server = the fixture `postgres`             (tests/conftest.py)
    async with postgres.database() as database: …     database.url, database.connect()

A database that was given back is emptied and used again, since making one takes longer than most tests.
"""

import itertools
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import asyncpg
import pytest

from pomerium_agent.demo.postgres import PostgresServer, find_programs, run_postgres
from pomerium_agent.errors import SettingsError
from tests.fakes.clock import ManualClock

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

EMPTY = "drop schema if exists pomerium cascade"
# A `now()` that is found before PostgreSQL's own by connections that look into this schema first.
BY_HAND = """
    create schema if not exists by_hand;
    create or replace function by_hand.now() returns timestamptz language sql volatile
        as $$ select pg_catalog.pg_read_file('{file}')::timestamptz $$;
"""


class DatabaseClock(ManualClock):
    """A ManualClock that a database goes by, too: `now()` in its connections is what this clock says."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self._file = file
        self.jump(0)

    def jump(self, seconds: float) -> None:
        super().jump(seconds)
        self._file.write_text(self.now().isoformat())


@dataclass(frozen=True, slots=True)
class Database:
    """One database: empty, with nothing of ours in it yet."""

    server: PostgresServer
    name: str

    @property
    def url(self) -> str:
        return self.server.url(self.name)

    @asynccontextmanager
    async def connect(self) -> AsyncIterator[Connection]:
        """A raw connection, as a program of somebody else would have it."""
        connection: Connection = await asyncpg.connect(self.url)
        try:
            yield connection
        finally:
            connection.terminate()

    def clock_by_hand(self) -> tuple[DatabaseClock, str]:
        """A clock, and a connection string with which the database goes by that clock."""
        clock = DatabaseClock(self.server.directory / f"{self.name}.clock")
        return clock, f"{self.url}?options=-c%20search_path%3Dby_hand,pg_catalog,public"


@dataclass(slots=True)
class Postgres:
    """A server and the databases in it that nobody uses now."""

    server: PostgresServer
    _free: list[str] = field(default_factory=list)
    _numbers: Iterator[int] = field(default_factory=itertools.count)

    @asynccontextmanager
    async def database(self) -> AsyncIterator[Database]:
        """A database for one test."""
        name = self._free.pop() if self._free else await self._create()
        database = Database(self.server, name)
        yield database
        async with database.connect() as connection:
            await connection.execute(EMPTY)
        self._free.append(name)

    async def _create(self) -> str:
        name = f"test_{next(self._numbers)}"
        async with Database(self.server, "postgres").connect() as connection:
            await connection.execute(f"create database {name}")
        async with Database(self.server, name).connect() as connection:
            await connection.execute(BY_HAND.format(file=self.server.directory / f"{name}.clock"))
        return name


def skip_without_postgres() -> None:
    """Skip the test, and say what to install."""
    try:
        find_programs()
    except SettingsError as error:
        pytest.skip(str(error))


@contextmanager
def open_postgres_server(options: Mapping[str, str] | None = None) -> Iterator[Postgres]:
    """A server with its databases, until the block ends."""
    skip_without_postgres()
    with run_postgres(options=options) as server:
        yield Postgres(server)
