"""What fails between a replica and its database: nothing acknowledged is lost, nothing happens twice, readers catch up.

Every server here is real, and so is what happens to it. V1 to V4, D-13, D-20, D-32, D-34; architecture 7.
"""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import pytest
from structlog.testing import capture_logs

from pomerium_agent.databroker import Backend, Reset, follow, open_databroker
from pomerium_agent.databroker.postgres import open_postgres
from pomerium_agent.databroker.postgres.write import BEGIN
from pomerium_agent.demo.postgres import run_postgres
from pomerium_agent.errors import DatabrokerUnavailable
from pomerium_agent.records import Cursor
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from tests.contract.stores import current_ids, end, origin, so_far, struct
from tests.fakes.postgres import Database, Postgres, open_postgres_server
from tests.fakes.tcp_proxy import open_proxy

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

BACK = 60.0  # seconds within which everything works again
TYPE = "x"


@dataclass(slots=True)
class Journal:
    """What a writer was told."""

    attempts: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)  # id: version
    more: asyncio.Event = field(default_factory=asyncio.Event)

    async def write(self, backend: Backend, id: str) -> None:
        """Put one record, again and again until it is acknowledged."""
        async with asyncio.timeout(BACK):
            while id not in self.acknowledged:
                self.attempts[id] = self.attempts.get(id, 0) + 1
                try:
                    self.acknowledged[id] = (await backend.put([struct(TYPE, id)])).records[0].version
                    self.more.set()
                except DatabrokerUnavailable:
                    await asyncio.sleep(0.02)

    async def check(self, backend: Backend, since: Cursor) -> None:
        """The database has all that was acknowledged, under its version, and no change that nobody asked for."""
        assert set(await current_ids(backend, TYPE)) == set(self.acknowledged)
        changes = await so_far(backend, since, TYPE)
        by_version = {change.version: change.id for change in changes}
        assert len(by_version) == len(changes)
        for id, version in self.acknowledged.items():
            assert by_version[version] == id
            assert 1 <= sum(change.id == id for change in changes) <= self.attempts[id]


async def keep_copy(backend: Backend, last: str) -> set[str]:
    """Follow, as every part of the agent does, over all interruptions, until the record `last` is there."""
    contents: set[str] = set()
    after: Cursor | None = None
    async with asyncio.timeout(2 * BACK):
        while last not in contents:
            try:
                async for change in follow(backend, TYPE, after=after):
                    if isinstance(change, Reset):
                        contents = {record.id for record in change.records}
                    elif change.record.deleted:
                        contents.discard(change.record.id)
                    else:
                        contents.add(change.record.id)
                    after = change.cursor
                    if last in contents:
                        break
            except DatabrokerUnavailable:
                await asyncio.sleep(0.02)
    return contents


async def until_back(backend: Backend) -> None:
    async with asyncio.timeout(BACK):
        while True:
            try:
                await backend.server_info()
            except DatabrokerUnavailable:
                await asyncio.sleep(0.02)
            else:
                return


@asynccontextmanager
async def under_load(backend: Backend) -> AsyncIterator[Journal]:
    """Write and follow while the block does its worst; afterwards everything must hold."""
    journal, going = Journal(), True
    since = await origin(backend)
    await journal.write(backend, "first")

    async def write() -> None:
        number = 0
        while going:
            await journal.write(backend, f"w{number}")
            number += 1
        await journal.write(backend, "last")

    async with asyncio.TaskGroup() as group:
        copying = group.create_task(keep_copy(backend, "last"))
        group.create_task(write())
        await asyncio.sleep(0.2)
        yield journal
        seen = len(journal.acknowledged)
        async with asyncio.timeout(BACK):
            while len(journal.acknowledged) < seen + 20:
                journal.more.clear()
                await journal.more.wait()
        going = False
    await journal.check(backend, since)
    assert copying.result() == set(journal.acknowledged)


async def test_a_server_that_crashes_and_comes_back() -> None:
    with capture_logs() as logs, open_postgres_server() as postgres:
        async with (
            postgres.database() as database,
            open_postgres(database.url, SystemClock(), Health()) as backend,
            under_load(backend),
        ):
            for _ in range(3):
                await asyncio.to_thread(postgres.server.stop, "immediate")
                await asyncio.sleep(0.3)
                await asyncio.to_thread(postgres.server.start)
                await until_back(backend)
                await asyncio.sleep(0.2)

    said = [log for log in logs if log["log_level"] == "warning"]
    assert any("reason" in log and "database" in str(log["reason"]) for log in said)
    assert not any("Traceback" in str(log) for log in logs)


async def test_a_server_that_is_away_for_half_a_minute() -> None:
    """V2: however often it was tried in vain, it is found soon after it came back, and the health check says so."""
    health = Health()
    with capture_logs() as logs, open_postgres_server() as postgres:
        async with (
            postgres.database() as database,
            open_databroker(Latest[str | None](database.url), SystemClock(), health) as backend,
            under_load(backend),
        ):
            await asyncio.to_thread(postgres.server.stop)
            await asyncio.sleep(30)
            assert "database" in health.reports[Check.STORAGE].error
            await asyncio.to_thread(postgres.server.start)
            await until_back(backend)
            async with asyncio.timeout(BACK):
                async for report in health.follow():
                    if report.check == Check.STORAGE and report.healthy:
                        break

    assert [log["event"] for log in logs].count("database out of reach") == 1
    assert [log["event"] for log in logs].count("database reached") >= 1


async def test_a_standby_takes_over() -> None:
    """A connection string with both; what was acknowledged is on the standby, since commits wait for it."""
    with open_postgres_server() as postgres:
        standby = await asyncio.to_thread(postgres.server.standby)
        try:
            async with postgres.database() as database:
                async with database.connect() as connection:
                    await connection.execute("alter system set synchronous_standby_names = '*'")
                    await connection.execute("select pg_reload_conf()")
                both = (
                    f"{database.url},127.0.0.1:{standby.port}".replace(f"/{database.name},", ",") + f"/{database.name}"
                )
                async with open_postgres(both, SystemClock(), Health()) as backend:
                    assert await backend.lease("job", "one", timedelta(hours=1))
                    async with under_load(backend):
                        await asyncio.to_thread(postgres.server.stop, "immediate")
                        await asyncio.to_thread(standby.promote)
                        await until_back(backend)
                    assert not await backend.lease("job", "two", timedelta(hours=1))
                    assert await backend.lease("job", "one", timedelta(hours=1))
                async with Database(standby, database.name).connect() as connection:
                    await connection.execute("drop schema pomerium cascade")
                await asyncio.to_thread(postgres.server.start)
                async with database.connect() as connection:
                    await connection.execute("alter system reset synchronous_standby_names")
                    await connection.execute("select pg_reload_conf()")
        finally:
            await asyncio.to_thread(standby.remove)


async def test_connections_that_are_cut_at_any_moment(postgres: Postgres) -> None:
    async with (
        postgres.database() as database,
        open_proxy(postgres.server.port) as proxy,
        open_postgres(at(database, proxy.port), SystemClock(), Health()) as backend,
        under_load(backend),
    ):
        for round in range(40):
            await asyncio.sleep(0.005 * (round % 7))
            proxy.cut()


@pytest.mark.parametrize("stored", [False, True])
async def test_a_commit_whose_answer_is_lost_is_not_called_done(postgres: Postgres, stored: bool) -> None:
    """D-34: the caller hears that it does not know; and it happened once or not at all."""
    async with (
        postgres.database() as database,
        open_proxy(postgres.server.port) as proxy,
        open_postgres(at(database, proxy.port), SystemClock(), Health()) as backend,
        open_postgres(database.url, SystemClock(), Health()) as other,
    ):
        await other.put([struct(TYPE, "before")])
        cursor = await end(other)
        if stored:
            proxy.cut_after = b"commit\0"
        else:
            proxy.cut_before = b"commit\0"
        with pytest.raises(DatabrokerUnavailable):
            await backend.put([struct(TYPE, "1"), struct(TYPE, "2")])

        assert proxy.cuts == 1
        await until_back(backend)
        for replica in (backend, other):
            await replica.put([struct(TYPE, "3")])
        assert [c.id for c in await so_far(other, cursor)] == [*(["1", "2"] if stored else []), "3", "3"]


async def test_a_writer_that_is_killed_leaves_whole_writes_only(postgres: Postgres) -> None:
    """V4: three records in each, all or none; and what it was told is there."""
    script = """
import asyncio, sys
from pomerium_agent.databroker.postgres import open_postgres
from pomerium_agent.records import Payload, Record
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.health import Health
async def main():
    async with open_postgres(sys.argv[1], SystemClock(), Health()) as backend:
        number = 0
        while True:
            await backend.put([Record(type="x", id=f"{number}-{part}", data=Payload()) for part in "abc"])
            print("stored", number, flush=True)
            number += 1
asyncio.run(main())
"""
    async with postgres.database() as database, open_postgres(database.url, SystemClock(), Health()) as backend:
        for _ in range(3):
            await backend.clear()
            writer = await asyncio.create_subprocess_exec(
                sys.executable, "-c", script, database.url, stdout=asyncio.subprocess.PIPE, env=dict(os.environ)
            )
            assert writer.stdout is not None
            told = -1
            async with asyncio.timeout(BACK):
                while told < 10:
                    line = (await writer.stdout.readline()).split()
                    told = int(line[1]) if line[:1] == [b"stored"] else told
            writer.kill()
            rest = await writer.stdout.read()
            await writer.wait()
            numbers = [int(line.split()[1]) for line in rest.splitlines() if line.startswith(b"stored")]
            told = max([told, *numbers])

            await backend.put([struct("y", "the lock is free again")])
            ids = await current_ids(backend, TYPE)
            wrote = len(ids) // 3
            assert sorted(ids) == sorted(f"{number}-{part}" for number in range(wrote) for part in "abc")
            assert told + 1 <= wrote <= told + 2


async def test_a_writer_that_hangs_does_not_keep_the_others_for_ever(postgres: Postgres) -> None:
    """The server ends its transaction."""
    async with (
        postgres.database() as database,
        open_postgres(database.url, SystemClock(), Health()) as backend,
        database.connect() as hung,
    ):
        await hung.execute(BEGIN)

        await backend.put([struct(TYPE, "1")])

        assert await current_ids(backend) == ["1"]


async def test_a_server_that_does_not_answer_any_more() -> None:
    """Frozen: every wait ends, readers and callers are told, and go on when it does."""
    health = Health()
    with open_postgres_server() as postgres:
        async with postgres.database() as database, open_postgres(database.url, SystemClock(), health) as backend:
            cursor = await end(backend)

            async def read() -> None:
                with pytest.raises(DatabrokerUnavailable):
                    await anext(backend.changes(cursor))

            async with asyncio.timeout(BACK), asyncio.TaskGroup() as group:
                reading = group.create_task(read())
                await asyncio.sleep(0.1)
                postgres.server.pause()
                try:
                    with pytest.raises(DatabrokerUnavailable):
                        await backend.put([struct(TYPE, "1")])
                    await reading
                    assert health.reports[Check.STORAGE].error
                finally:
                    postgres.server.resume()
            await until_back(backend)
            await backend.put([struct(TYPE, "2")])
            assert "2" in await current_ids(backend)
            assert health.reports[Check.STORAGE].healthy


async def test_a_database_that_is_not_there_at_the_start_is_waited_for() -> None:
    """Z-65: no error, no end; each call says what is wrong, and later it works."""
    health = Health()
    with open_postgres_server() as postgres:
        async with postgres.database() as database:
            await asyncio.to_thread(postgres.server.stop)
            async with open_databroker(Latest[str | None](database.url), SystemClock(), health) as backend:
                with pytest.raises(DatabrokerUnavailable, match="cannot be reached"):
                    await backend.server_info()
                assert "cannot be reached" in health.reports[Check.STORAGE].error
                await asyncio.to_thread(postgres.server.start)
                await until_back(backend)
                await backend.put([struct(TYPE, "1")])
                assert health.reports[Check.STORAGE].healthy
                assert health.reports[Check.STORAGE].attributes == {"backend": "postgres"}


async def test_a_wrong_password_is_said_without_the_password(tmp_path: Path) -> None:
    """11.1; the right one may come from a file."""
    passfile = tmp_path / "pass"
    await asyncio.to_thread(passfile.write_text, "127.0.0.1:*:*:pomerium:right one\n")
    passfile.chmod(0o600)
    health = Health()
    with run_postgres(password="right one") as server:
        async with open_postgres(server.url(), SystemClock(), Health()) as backend:
            await backend.put([struct(TYPE, "1")])
        filed = f"{server.url().replace(':right%20one', '')}?passfile={quote(str(passfile))}"
        async with open_postgres(filed, SystemClock(), Health()) as backend:
            assert await current_ids(backend) == ["1"]
        wrong = server.url().replace("right%20one", "hunter2")
        with capture_logs() as logs:
            async with open_databroker(Latest[str | None](wrong), SystemClock(), health) as backend:
                with pytest.raises(DatabrokerUnavailable, match="password") as refused:
                    await backend.server_info()
        for said in (str(refused.value), str(logs), str(health.reports)):
            assert "hunter2" not in said


def at(database: Database, port: int) -> str:
    """The database through a proxy on `port`."""
    return database.url.replace(f":{database.server.port}/", f":{port}/")
