"""How this machine reaches the outside: whom it trusts, and through which proxy it goes."""

import asyncio
import base64
from pathlib import Path

import pytest

from pomerium_agent.errors import ControlPlaneUnavailable, SettingsError
from pomerium_agent.runtime.health import Health
from pomerium_agent.settings import Endpoint
from pomerium_agent.zero.connect import ConnectStream
from pomerium_agent.zero.egress import proxy_url, tls_context, trusted_roots
from tests.fakes.authority import issue_for_loopback
from tests.fakes.clock import ManualClock
from tests.fakes.control_plane import PATIENCE, FakeControlPlane, serve_control_plane
from tests.fakes.raw_server import serve_raw
from tests.unit.zero.wire import IDENTITY, open_api


def test_the_file_that_is_named_is_trusted_and_nothing_else(tmp_path: Path) -> None:
    authority = issue_for_loopback().authority
    (tmp_path / "ca.pem").write_bytes(authority)

    roots = trusted_roots({"SSL_CERT_FILE": str(tmp_path / "ca.pem")})

    assert roots == authority
    assert tls_context(roots).cert_store_stats()["x509_ca"] == 1


def test_without_a_name_there_are_roots_all_the_same() -> None:
    assert b"BEGIN CERTIFICATE" in trusted_roots({})


@pytest.mark.parametrize(
    "content", ["", "no certificates", "-----BEGIN CERTIFICATE-----\nAA==\n-----END CERTIFICATE-----\n"]
)
def test_a_file_without_certificates_is_refused(content: str) -> None:
    with pytest.raises(SettingsError, match="check SSL_CERT_FILE"):
        tls_context(content.encode())


@pytest.mark.parametrize(
    ("environ", "scheme", "host", "expected"),
    [
        ({}, "https", "a.example.com", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https", "a.example.com", "http://proxy:3128"),
        ({"https_proxy": "proxy:3128"}, "https", "a.example.com", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "http", "a.example.com", None),
        ({"ALL_PROXY": "http://proxy:3128"}, "http", "a.example.com", "http://proxy:3128"),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "example.com"}, "https", "a.example.com", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "a.example.com:443"}, "https", "a.example.com", None),
        ({"HTTPS_PROXY": "http://proxy:3128", "NO_PROXY": "*"}, "https", "a.example.com", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https", "localhost", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https", "127.0.0.53", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https", "::1", None),
        ({"HTTPS_PROXY": "http://proxy:3128"}, "https", "10.0.0.1", "http://proxy:3128"),
    ],
)
def test_the_proxy_is_the_one_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], scheme: str, host: str, expected: str | None
) -> None:
    """Zero link 1: as Go reads them, so nothing on this machine is asked through a proxy."""
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert proxy_url(scheme, host, 443) == expected


async def test_http_goes_through_the_proxy_with_its_credentials(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Zero link 1; and no credentials from ~/.netrc go to anybody."""
    (tmp_path / ".netrc").write_text("machine console.example.com login ada password secret\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    asked: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        asked.append(await reader.readuntil(b"\r\n\r\n"))
        body = b'{"error":"through the proxy"}'
        head = f"HTTP/1.1 500 No\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        writer.write(head.encode() + body)
        await writer.drain()

    plane = FakeControlPlane()
    plane.http_url = "http://console.example.com"
    async with open_api(plane) as api, serve_raw(proxy) as port:
        monkeypatch.setenv("HTTP_PROXY", f"http://grace:pw@127.0.0.1:{port}")
        with pytest.raises(ControlPlaneUnavailable, match="through the proxy"):
            await api.bootstrap()

    (head,) = asked
    assert head.startswith(b"POST http://console.example.com/v1/exchangeToken HTTP/1.1")
    assert b"Proxy-Authorization: Basic " + base64.b64encode(b"grace:pw") in head
    assert b"\r\nAuthorization" not in head


async def test_grpc_goes_through_the_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Zero link 1: also when the variable is written in capitals."""
    asked: asyncio.Future[bytes] = asyncio.get_running_loop().create_future()

    async def proxy(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        if not asked.done():
            asked.set_result(head)

    clock = ManualClock()
    async with serve_control_plane() as plane, open_api(plane, clock=clock) as api, serve_raw(proxy) as port:
        endpoint = Endpoint(url="", tls=True, host="connect.example.com", port=443)
        monkeypatch.setenv("HTTPS_PROXY", f"http://127.0.0.1:{port}")
        roots = issue_for_loopback().authority
        stream = ConnectStream(endpoint, IDENTITY, roots, api.tokens, health=Health(), clock=clock)
        task = asyncio.create_task(stream.run())
        async with asyncio.timeout(PATIENCE):
            head = await asked
        task.cancel()
        await asyncio.wait([task])

    assert head.startswith(b"CONNECT connect.example.com:443 HTTP/1.")
