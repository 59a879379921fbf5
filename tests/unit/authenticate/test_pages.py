"""The agent's own pages, served on a kept socket and asked by a real client (R-8, zero link 7 and 16.1)."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from pomerium_agent.authenticate import serve_pages
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.jwk import public_jwk

# The key derived from the token `secret` (zero link 7).
KEY = ec.derive_private_key(0xCE963B17A71008FCDBB480B8734F7A4C66FD40CF1EE09AFBA095D76DA5DE8F63, ec.SECP256R1())
KID = "4d89524fe7a1c1eb8618a95db3caf7ff5a2eea50d492956fec2e29cf639475b5"
X = "Updh1NrcvM-SoOxnvLThdJxrWEyLULtZZ6hzMgTgCZ0"
Y = "BVSVfRspj9YxoPaP0H9m8b2C_Db57mvW9Nh3r8GeWEw"


def listen(path: Path) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    return sock


@asynccontextmanager
async def visitor(path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    connector = aiohttp.UnixConnector(str(path))
    async with aiohttp.ClientSession(
        "http://wiki.example.com", connector=connector, timeout=aiohttp.ClientTimeout(20)
    ) as session:
        yield session


@asynccontextmanager
async def pages(tmp_path: Path) -> AsyncIterator[aiohttp.ClientSession]:
    path = tmp_path / "s"
    async with serve_pages(listen(path), keys=Latest((public_jwk(KEY),))), visitor(path) as session:
        yield session


@pytest.mark.parametrize("path", ["/ping", "/healthz"])
async def test_health_is_plain_and_short(tmp_path: Path, path: str) -> None:
    async with pages(tmp_path) as web:
        got, head, posted = await web.get(path), await web.head(path), await web.post(path)

        assert (got.status, got.content_type, await got.text()) == (200, "text/plain", "OK\n")
        assert (head.status, await head.text()) == (200, "")
        assert posted.status == 405


async def test_the_key_is_published_as_the_reachability_check_wants_it(tmp_path: Path) -> None:
    """Z-63 (16.1): the exact content type, and our kid. A-23."""
    async with pages(tmp_path) as web:
        got = await web.get("/.well-known/pomerium/jwks.json", headers={"accept": "application/json"})

        assert got.status == 200
        assert got.headers["content-type"] == "application/json"
        assert json.loads(await got.read()) == {
            "keys": [{"kty": "EC", "crv": "P-256", "x": X, "y": Y, "kid": KID, "use": "sig", "alg": "ES256"}]
        }
        assert got.headers["access-control-allow-origin"] == "*"
        assert got.headers["cache-control"] == "max-age=60"


async def test_a_known_key_set_is_not_sent_again(tmp_path: Path) -> None:
    async with pages(tmp_path) as web:
        first = await web.get("/.well-known/pomerium/jwks.json")
        second = await web.get("/.well-known/pomerium/jwks.json", headers={"if-none-match": first.headers["etag"]})
        other = await web.get("/.well-known/pomerium/jwks.json", headers={"if-none-match": '"other"'})

        assert (second.status, await second.read()) == (304, b"")
        assert other.status == 200


@pytest.mark.parametrize("path", ["/.well-known/pomerium", "/.well-known/pomerium/"])
async def test_each_host_says_who_it_is(tmp_path: Path, path: str) -> None:
    async with pages(tmp_path) as web:
        got = await web.get(path)

        assert got.headers["content-type"] == "application/json"
        assert await got.json() == {
            "issuer": "https://wiki.example.com/",
            "jwks_uri": "https://wiki.example.com/.well-known/pomerium/jwks.json",
        }


@pytest.mark.parametrize("path", ["/.pomerium", "/.pomerium/", "/.pomerium/sign_out", "/"])
async def test_what_is_not_there_yet_says_so(tmp_path: Path, path: str) -> None:
    async with pages(tmp_path) as web:
        page = await web.get(path, headers={"accept": "text/html"})
        data = await web.post(path, headers={"accept": "application/json"})

        assert (page.status, page.content_type) == (404, "text/html")
        assert "no page of the login service" in await page.text()
        assert data.status == 404
        assert "no page of the login service" in (await data.json())["error"]


@pytest.mark.parametrize("path", ["/ping", "/nothing", "/.well-known/pomerium/jwks.json"])
async def test_the_server_does_not_say_what_it_runs_on(tmp_path: Path, path: str) -> None:
    async with pages(tmp_path) as web:
        got = await web.get(path)

        assert "server" not in got.headers


async def test_callers_between_two_agents_wait_for_the_next_one(tmp_path: Path) -> None:
    path = tmp_path / "s"
    kept = listen(path)

    async with serve_pages(kept.dup(), keys=Latest((public_jwk(KEY),))), visitor(path) as web:
        assert (await web.get("/ping")).status == 200
    async with visitor(path) as web, asyncio.TaskGroup() as tasks:
        waiting = tasks.create_task(web.get("/ping"))
        async with serve_pages(kept.dup(), keys=Latest((public_jwk(KEY),))):
            assert (await waiting).status == 200
    kept.close()

    assert path.exists()


@pytest.mark.parametrize("key", [KEY, KEY.public_key(), {"kty": "EC", "crv": "P-256", "x": X, "y": Y, "d": "private"}])
def test_a_key_in_any_form_has_the_same_public_half(
    key: ec.EllipticCurvePrivateKey | ec.EllipticCurvePublicKey | dict[str, str],
) -> None:
    """N-44."""
    jwk = public_jwk(key)

    assert jwk["kid"] == KID
    assert jwk.keys() == {"kty", "crv", "x", "y", "kid", "use", "alg"}


@pytest.mark.parametrize("key", [ec.generate_private_key(ec.SECP384R1()), {"kty": "RSA"}])
def test_a_key_that_es256_cannot_use_is_refused(key: ec.EllipticCurvePrivateKey | dict[str, str]) -> None:
    with pytest.raises(ValueError, match="P-256"):
        public_jwk(key)
