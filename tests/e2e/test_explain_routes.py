"""`explain` finds the route that the real Envoy takes (routes 3.2 to 3.6)."""

import asyncio
import itertools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from pomerium_agent.authorize.ask import explain_request, read_hypothetical
from pomerium_agent.config.action import DirectResponse
from pomerium_agent.config.snapshot import Address, ConfigSnapshot, EscapedSlashes, Route
from pomerium_agent.config.source import Match, MatchKind
from tests.fakes.golden import resources_of
from tests.fakes.people import NOON
from tests.fakes.snapshots import route, snapshot
from tests.fakes.static_envoy import running_envoy

pytestmark = pytest.mark.e2e

HOSTS = (
    "docs.example.com",
    "DOCS.example.com",
    "docs.example.com:8443",
    "docs.example.com:9000",
    "a.example.com",
    "a.example.com:9000",
    "a.z.example.com",
    "A.Z.Example.com:444",
    "a-b.example.com",
    "example.com",
    "login.example.com",
    "nobody.example.org",
)
PATHS = (
    "/",
    "/exact",
    "/exact/",
    "/exact?q=/v1/x",
    "/v1/x",
    "/v1/x/y",
    "/admin",
    "/Admin",
    "/administrator",
    "/a/../admin",
    "/a/b/../../admin/./x",
    "/%2e%2E/admin",
    "/a/%2e%2e/admin",
    "//admin",
    "/a/..//admin",
    "/..",
    "/admin/..",
    "/admin/.",
    "/%61dmin",
    *(f"/p%{ord(c):02x}" for c in "Zz09-._~!$&'()*+,;=:@[]|^<"),
    "/a\\..\\admin",
    "/a%2fadmin",
    "/a/..%5Cadmin",
    "/a/..%2fadmin",
    "/ping",
    "/.pomerium",
    "/.pomeriumx",
    "/a/../.pomerium/x",
    "/.well-known/pomerium/y",
    "/oauth2/callback",
    "/robots.txt",
    "/x;y=1/../admin",
    "/caf%C3%A9",
)


def said(id: str, url: str, kind: MatchKind = MatchKind.PREFIX, value: str = "/") -> Route:
    return route(id, url, DirectResponse(status=200, body=f"route {id}"), match=Match(kind, value), public=True)


ROUTES = [
    said("path", "https://docs.example.com", MatchKind.PATH, "/exact"),
    said("regex", "https://docs.example.com", MatchKind.REGEX, "/v[0-9]/[a-z]+"),
    said("admin", "https://docs.example.com", MatchKind.PREFIX, "/admin"),
    said("cafe", "https://docs.example.com", MatchKind.REGEX, "/caf.*"),
    said("docs-8443", "https://docs.example.com:8443"),
    said("plain", "https://docs.example.com", MatchKind.REGEX, "/p[^%]"),
    said("narrow", "https://*.z.example.com"),
    said("wide-9000", "https://*.example.com:9000"),
    said("dash", "https://a-*.example.com"),
    said("wide-admin", "https://*.example.com", MatchKind.PREFIX, "/admin"),
    said("wide", "https://*.example.com"),
]


async def answered(port: int, host: str, path: str) -> str:
    """What Envoy makes of a request that no client library has tidied."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nAccept: text/plain\r\n\r\n".encode())
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
        length = re.search("content-length: ([0-9]+)", head)
        body = (await reader.readexactly(int(length[1]))).decode() if length else ""
    finally:
        writer.close()  # Envoy itself would linger for a second
    status = head.split(" ", 2)[1]
    # Nobody stands behind our own pages here, so they are what cannot be reached.
    return body if body.startswith("route ") else {"503": "own"}.get(status, status)


def explained(config: ConfigSnapshot, host: str, path: str) -> str:
    told = explain_request(config, read_hypothetical({"url": f"http://{host}{path}"}, NOON))
    if told["route"] is not None:
        return f"route {told['route']['id']}"
    return str(told["status"]) if told["status"] in (400, 404) else "own"


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"match_any_incoming_port": False},
        {"escaped_slashes": EscapedSlashes.UNESCAPE_AND_FORWARD, "hosts_of_authenticate": ("login.example.com",)},
        {"escaped_slashes": EscapedSlashes.KEEP_UNCHANGED, "merge_slashes": False},
        {"escaped_slashes": EscapedSlashes.UNESCAPE_AND_FORWARD, "normalize_path": False},
    ],
    ids=str,
)
async def test_explain_finds_the_route_that_envoy_takes(
    tmp_path: Path, free_port: Callable[[], int], settings: dict[str, Any]
) -> None:
    address = Address(host="127.0.0.1", port=(port := free_port()))
    config = snapshot(ROUTES, insecure_server=True, address=address, **settings)

    async with running_envoy(resources_of(config, str(tmp_path)), tmp_path):
        asked = list(itertools.product(HOSTS, PATHS))
        found = {pair: await answered(port, *pair) for pair in asked}

    expected = {pair: explained(config, *pair) for pair in asked}
    assert {pair: (found[pair], expected[pair]) for pair in asked if found[pair] != expected[pair]} == {}
