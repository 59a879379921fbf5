"""Connections to the database: host by host, pooled, every wait bounded, every failure in our own words."""

import asyncio
import os
import ssl
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from typing import TypeAlias
from urllib.parse import urlencode

import asyncpg
from asyncpg.connect_utils import SessionAttribute

from pomerium_agent.databroker.postgres.connection import ConnectionString
from pomerium_agent.errors import AgentError, DatabrokerUnavailable, InvalidRequest

Connection: TypeAlias = "asyncpg.Connection[asyncpg.Record]"

CALL_SECONDS = 30.0  # what one call of a backend may take, waiting for a connection and for other writers included
ROLLBACK_SECONDS = 2.0
RELEASE_SECONDS = 2.0
TLS_FILES = ("sslrootcert", "sslcert", "sslkey", "sslcrl")

# What is wrong with the values that a caller gave, and not with the database (SQLSTATE class 22, and NOT NULL).
_BAD_VALUES = ("22", "23502")


class Link:
    """A pool of connections to whichever of the hosts can be written to."""

    def __init__(self, target: ConnectionString) -> None:
        self._target = target
        self._pool: asyncpg.Pool[asyncpg.Record] | None = None
        self._closed = False

    async def connect(self) -> Connection:
        """A connection of its own, outside the pool, to the first host that answers and can be written to.

        Raises DatabrokerUnavailable that says of every host why not.
        """
        refused: list[str] = []
        for host, port in self._target.hosts or ((None, None),):
            try:
                with translated():
                    async with asyncio.timeout(self._target.connect_seconds):
                        return await self._connect_to(host, port)
            except DatabrokerUnavailable as error:
                refused.append(f"{host}:{port}: {error}" if host else str(error))
        raise DatabrokerUnavailable("; ".join(refused))

    async def _connect_to(self, host: str | None, port: int | None) -> Connection:
        target = self._target
        tls = dict(target.tls)
        await asyncio.to_thread(_check_files, tls)
        context: ssl.SSLContext | None = None
        if tls.get("sslrootcert") == "system":
            context = await asyncio.to_thread(ssl.create_default_context)
            tls = {}
        connection: Connection = await asyncpg.connect(
            f"postgresql:///?{urlencode(tls)}" if tls else None,
            host=host,
            port=port,
            user=target.user,
            password=None if target.password is None else str(target.password),  # it wants no subclass of str
            database=target.database,
            passfile=target.passfile,
            ssl=context,
            target_session_attrs=SessionAttribute(target.target),
            server_settings=dict(target.settings),
            timeout=target.connect_seconds,
        )
        return connection

    @asynccontextmanager
    async def session(self, seconds: float = CALL_SECONDS) -> AsyncIterator[Connection]:
        """A connection from the pool for at most `seconds`; one on which anything went wrong is not used again."""
        try:
            with translated():
                async with asyncio.timeout(seconds), self._acquired() as connection:
                    yield connection
        except DatabrokerUnavailable:
            if self._closed:
                raise DatabrokerUnavailable("the databroker was closed") from None
            raise

    @asynccontextmanager
    async def _acquired(self) -> AsyncIterator[Connection]:
        pool = await self._opened()
        connection = await pool.acquire()
        try:
            yield connection  # type: ignore[misc]  # a proxy with all the methods of a connection
        except AgentError:
            raise
        except BaseException:
            # What the server makes of it we cannot know; it rolls back when it sees that we are gone.
            with suppress(asyncpg.InterfaceError):  # closed meanwhile
                connection.terminate()
            raise
        finally:
            with suppress(asyncpg.InterfaceError, OSError):
                await pool.release(connection, timeout=RELEASE_SECONDS)

    @asynccontextmanager
    async def transaction(self, begin: str, seconds: float = CALL_SECONDS) -> AsyncIterator[Connection]:
        """Everything in the block or nothing of it. `begin` begins the transaction, in one round trip."""
        async with self.session(seconds) as connection:
            await connection.execute(begin)
            try:
                yield connection
            except AgentError:
                try:
                    async with asyncio.timeout(ROLLBACK_SECONDS):
                        await connection.execute("rollback")
                except (asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                    connection.terminate()
                raise
            await connection.execute("commit")

    async def close(self) -> None:
        """End every connection at once; nobody waits for an answer any more."""
        self._closed = True
        self.drop()

    def drop(self) -> None:
        """Give up every connection there is: nobody answers on them. The next call makes a new one."""
        pool, self._pool = self._pool, None
        if pool is not None:
            with suppress(asyncpg.InterfaceError):  # it was being opened
                pool.terminate()

    async def _opened(self) -> "asyncpg.Pool[asyncpg.Record]":
        if self._closed:
            raise DatabrokerUnavailable("the databroker was closed")
        if self._pool is None:
            self._pool = asyncpg.create_pool(
                min_size=0,
                max_size=self._target.max_connections,
                connect=self._connect_for_pool,
                reset=_leave_as_is,
            )
        pool = self._pool
        await pool
        return pool

    async def _connect_for_pool(self, *_: object, **__: object) -> Connection:
        return await self.connect()


def _check_files(tls: Mapping[str, str]) -> None:
    """The driver would only say that there is no such file, and not which."""
    for key in TLS_FILES:
        file = tls.get(key, "system")
        if file != "system" and not os.access(file, os.R_OK):
            raise DatabrokerUnavailable(f"{key}: the file {file} is not there or cannot be read")


async def _leave_as_is(_: object) -> None:
    """Nothing we do outlives a transaction, so there is nothing to reset between two uses."""


@contextmanager
def translated() -> Iterator[None]:
    """Errors of the driver as ours: DatabrokerUnavailable, or InvalidRequest for values that cannot be stored.

    What the server says in a word of its own is kept, details are not: those may quote what was to be stored.
    """
    try:
        yield
    except asyncpg.PostgresError as error:
        code = str(error.sqlstate or "")
        if code.startswith(_BAD_VALUES):
            raise InvalidRequest(f"the database cannot store this value (SQLSTATE {code})") from error
        said = str(error.args[0]) if error.args else type(error).__name__
        raise DatabrokerUnavailable(f"the database refuses: {said}") from error
    except (asyncpg.exceptions.DataError, UnicodeError) as error:
        raise InvalidRequest("the database cannot store this value") from error
    except (asyncpg.InterfaceError, asyncpg.InternalClientError) as error:
        raise DatabrokerUnavailable(f"the database cannot be used: {error}") from error
    except TimeoutError as error:
        raise DatabrokerUnavailable("the database does not answer in time") from error
    except OSError as error:
        raise DatabrokerUnavailable(f"the database cannot be reached: {error.strerror or error}") from error
