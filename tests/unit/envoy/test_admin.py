"""Envoy's admin socket, from the client's side."""

import asyncio
from pathlib import Path

import pytest

from pomerium_agent.envoy.admin import open_admin
from pomerium_agent.errors import EnvoyUnavailable


async def test_who_asks_when_nobody_listens_any_more_hears_that_envoy_is_not_there(tmp_path: Path) -> None:
    """Z-25, zero link 14: with another shared secret all that serves begins anew, and a telemetry request may come."""
    async with open_admin(tmp_path / "none.sock") as admin:
        pass

    with pytest.raises(EnvoyUnavailable):
        await admin.stats()


async def test_bytes_that_are_no_text_do_not_hide_what_envoy_counts(tmp_path: Path) -> None:
    """Zero link 14: one odd name must not end whoever asks."""
    body = b'# TYPE a gauge\na{n="\xff"} 1\n'

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    async with (
        await asyncio.start_unix_server(answer, tmp_path / "admin.sock"),
        open_admin(tmp_path / "admin.sock") as admin,
    ):
        assert await admin.stats() == '# TYPE a gauge\na{n="\N{REPLACEMENT CHARACTER}"} 1\n'
