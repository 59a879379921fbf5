"""How the agent reaches identity providers and Google: whom it trusts, and through which proxy it goes."""

import asyncio
import base64
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pomerium_agent.agent.outside import open_outside
from pomerium_agent.errors import ProviderUnavailable
from pomerium_agent.idp.fetch import fetch_json
from tests.fakes.authority import issue_for_loopback
from tests.fakes.raw_server import serve_raw


async def test_the_roots_of_this_machine_are_trusted_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    issued = issue_for_loopback()
    context = issued.server_context(tmp_path)

    async def answer(request: web.Request) -> web.Response:
        return web.json_response({"here": True})

    app = web.Application()
    app.router.add_get("/", answer)
    server = TestServer(app, host="127.0.0.1", scheme="https")
    await server.start_server(ssl=context)
    url = str(server.make_url("/"))
    try:
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.crt"))
        async with open_outside() as http:
            assert await fetch_json(http, url) == {"here": True}
        (tmp_path / "other.crt").write_bytes(issue_for_loopback().authority)
        monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "other.crt"))
        async with open_outside() as http:
            with pytest.raises(ProviderUnavailable, match="Certificate"):
                await fetch_json(http, url)
    finally:
        await server.close()


async def test_providers_are_asked_through_the_proxy_and_the_metadata_server_is_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R-28, zero link 1: what plain HTTP is for is on this machine or next to it."""
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 502 No\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()

    async with serve_raw(proxy) as port:
        for name in ("HTTP_PROXY", "HTTPS_PROXY"):
            monkeypatch.setenv(name, f"http://grace:pw@127.0.0.1:{port}")
        monkeypatch.delenv("SSL_CERT_FILE", raising=False)
        async with open_outside() as http:
            with pytest.raises(ProviderUnavailable):
                await fetch_json(http, "https://idp.example.com/keys")
            with pytest.raises(aiohttp.ClientConnectorDNSError):
                await http.get("http://metadata.invalid/")

    (head,) = asked
    assert head.startswith(b"CONNECT idp.example.com:443 HTTP/1.1")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"grace:pw") in head
