"""Connections with TLS, and who is believed (11.1): a real server with a certificate of a private authority."""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlencode

import pytest

from pomerium_agent.databroker.postgres import open_postgres
from pomerium_agent.errors import DatabrokerUnavailable, SettingsError
from pomerium_agent.runtime.clock import SystemClock
from pomerium_agent.runtime.health import Health
from tests.fakes.postgres import Postgres, open_postgres_server
from tests.fakes.private_ca import PrivateCa

OURS = PrivateCa("ours")


@pytest.fixture(scope="module")
def with_tls() -> Iterator[Postgres]:
    """A server that has a certificate for `localhost`, and takes TLS only."""
    with open_postgres_server() as postgres:
        data = postgres.server.data
        issued = OURS.issue("localhost")
        for name, text in (("server.crt", issued.certificate), ("server.key", issued.key)):
            file = data / name
            file.write_bytes(text)
            file.chmod(0o600)
            os.chown(file, data.stat().st_uid, data.stat().st_gid)
        (data / "pg_hba.conf").write_text("hostssl all all 127.0.0.1/32 trust\n")
        postgres.server.stop()
        with (data / "postgresql.conf").open("a") as settings:
            settings.write("ssl = on\n")
        try:
            postgres.server.start()
        except SettingsError as error:
            if "SSL is not supported" not in str(error):
                raise
            pytest.skip("this PostgreSQL was built without TLS; install the package postgresql of your system")
        yield postgres


async def reached(postgres: Postgres, host: str, **parameters: str) -> str:
    """Empty when the database can be used; else what is said of why not."""
    async with postgres.database() as database:
        url = f"{database.url.replace('127.0.0.1', host)}?{urlencode(parameters)}"
        async with open_postgres(url, SystemClock(), Health()) as backend:
            try:
                await backend.server_info()
            except DatabrokerUnavailable as error:
                return str(error)
    return ""


@pytest.mark.parametrize(
    ("mode", "authority", "host", "refused"),
    [
        ("verify-full", "ours", "localhost", ""),
        ("verify-full", "ours", "127.0.0.1", "not valid for '127.0.0.1'"),
        ("verify-full", "theirs", "localhost", "certificate verify failed"),
        ("verify-full", "missing", "localhost", "sslrootcert: the file"),
        ("verify-full", "system", "localhost", "certificate verify failed"),
        ("verify-ca", "ours", "127.0.0.1", ""),
        ("verify-ca", "theirs", "127.0.0.1", "certificate verify failed"),
        ("require", "", "127.0.0.1", ""),
        ("prefer", "", "127.0.0.1", ""),
        ("disable", "", "127.0.0.1", "no encryption"),
    ],
)
async def test_sslmode_says_who_is_believed(
    with_tls: Postgres, tmp_path: Path, mode: str, authority: str, host: str, refused: str
) -> None:
    await asyncio.to_thread((tmp_path / "ours").write_bytes, OURS.pem)
    await asyncio.to_thread((tmp_path / "theirs").write_bytes, PrivateCa("theirs").pem)
    file = authority if authority == "system" else str(tmp_path / authority)

    said = await reached(with_tls, host, sslmode=mode, **({"sslrootcert": file} if authority else {}))

    assert refused in said
    assert bool(refused) == bool(said)
