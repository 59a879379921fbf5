"""A certified OpenID Connect provider (npm `oidc-provider`), run by tests, and a browser for its pages."""

import asyncio
import json
import os
import shutil
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import aiohttp
import pytest

HERE = Path(__file__).parents[1] / "oidc"
START_SECONDS = 30.0
STEPS = 20  # pages and redirects that one way through the provider may take


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcUser:
    """Somebody with an account; `login` is also their `sub`."""

    login: str
    password: str
    email: str
    name: str
    groups: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcClient:
    """A client as it is registered at the provider; it must use PKCE."""

    id: str = "agent"
    secret: str = "correct horse battery staple / +%&"
    redirect_uris: tuple[str, ...]
    post_logout_redirect_uris: tuple[str, ...] = ()
    backchannel_logout_uri: str = ""
    auth_method: str = "client_secret_basic"
    id_token_alg: str = "RS256"

    def metadata(self) -> dict[str, Any]:
        logout = {"backchannel_logout_uri": self.backchannel_logout_uri, "backchannel_logout_session_required": True}
        return {
            "client_id": self.id,
            "client_secret": self.secret,
            "redirect_uris": self.redirect_uris,
            "post_logout_redirect_uris": self.post_logout_redirect_uris,
            "grant_types": ["authorization_code", "refresh_token"],
            "response_types": ["code"],
            "token_endpoint_auth_method": self.auth_method,
            "id_token_signed_response_alg": self.id_token_alg,
            **(logout if self.backchannel_logout_uri else {}),
        }


ADA = OidcUser(login="ada", password="engine", email="ada@example.com", name="Ada Lovelace", groups=("eng", "ops"))
GRACE = OidcUser(login="grace", password="compiler", email="grace@example.com", name="Grace Hopper")


@dataclass(frozen=True, slots=True, kw_only=True)
class OidcProvider:
    """A provider that runs."""

    issuer: str
    users: tuple[OidcUser, ...]
    clients: tuple[OidcClient, ...]
    log: list[str] = field(default_factory=list)  # what it wrote to standard error

    def user(self, login: str) -> OidcUser:
        return next(user for user in self.users if user.login == login)


def why_not() -> str:
    """Why the provider cannot be started here, and what to do; empty when it can."""
    if shutil.which("node") is None:
        return "the certified OpenID Connect provider needs Node: install node and npm, then run `make oidc`"
    if not (HERE / "node_modules" / "oidc-provider").is_dir():
        return "the certified OpenID Connect provider is not installed: run `make oidc`"
    return ""


needs_oidc_provider = pytest.mark.skipif(bool(why_not()), reason=why_not() or "it is there")


@asynccontextmanager
async def run_oidc_provider(
    clients: Sequence[OidcClient],
    *,
    users: Sequence[OidcUser] = (ADA, GRACE),
    lifetimes: Mapping[str, int] | None = None,
    ca: Path | None = None,
) -> AsyncIterator[OidcProvider]:
    """Run the provider on a free loopback port until the block ends.

    `lifetimes`: seconds by kind (`AccessToken`, `IdToken`, `RefreshToken`). `ca`: whom it trusts, beyond the public
    authorities, when it tells clients of logouts.
    """
    said = {
        "accounts": [
            {
                "login": user.login,
                "password": user.password,
                "email": user.email,
                "name": user.name,
                "groups": user.groups,
            }
            for user in users
        ],
        "clients": [client.metadata() for client in clients],
        "lifetimes": dict(lifetimes or {}),
    }
    process = await asyncio.create_subprocess_exec(
        "node",
        str(HERE / "provider.mjs"),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **({"NODE_EXTRA_CA_CERTS": str(ca)} if ca else {})},
    )
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    log: list[str] = []
    reading = asyncio.create_task(_read(process.stderr, log))
    try:
        process.stdin.write(json.dumps(said).encode() + b"\n")
        async with asyncio.timeout(START_SECONDS):
            await process.stdin.drain()
            line = await process.stdout.readline()
        assert line, "\n".join(log) or "the provider ended at once"
        yield OidcProvider(issuer=json.loads(line)["issuer"], users=tuple(users), clients=tuple(clients), log=log)
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(5):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()
        await reading


async def _read(stream: asyncio.StreamReader, log: list[str]) -> None:
    while line := await stream.readline():
        log.append(line.decode().rstrip())


class Browser:
    """Somebody's browser, without scripts: it keeps cookies, follows redirects and fills in the first form it sees."""

    def __init__(self, http: aiohttp.ClientSession) -> None:
        """`http` needs a cookie jar that keeps cookies of IP addresses: `CookieJar(unsafe=True)`."""
        self._http = http
        self.visited: list[str] = []

    async def log_in(self, url: str, user: OidcUser, *, until: str) -> str:
        """Log in and consent, and return the URL under `until` that the provider sends the browser to."""
        return await self.go(url, until=until, fill={"login": user.login, "password": user.password})

    async def go(self, url: str, *, until: str, fill: Mapping[str, str] | None = None) -> str:
        """Follow the provider's pages to a redirect whose URL begins with `until`, which is not fetched."""
        form: dict[str, str] | None = None
        for _ in range(STEPS):
            if url.startswith(until):
                return url
            method = "GET" if form is None else "POST"
            self.visited.append(url)
            async with self._http.request(method, url, data=form, allow_redirects=False) as response:
                text = await response.text()
                if response.status in (302, 303):
                    url, form = urljoin(url, response.headers["Location"]), None
                    continue
                assert response.status == 200, f"{response.status} from {url}: {text[:500]}"
            page = _Form()
            page.feed(text)
            assert page.action is not None, f"no form at {url}: {text[:500]}"
            given = {name: (fill or {})[name] for name in page.asked if name in (fill or {})}
            url, form = urljoin(url, page.action), {**page.values, **given}
        raise AssertionError(f"no redirect to {until} after {STEPS} steps")


class _Form(HTMLParser):
    """The first form of a page; its button may stand outside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.values: dict[str, str] = {}
        self.asked: list[str] = []
        self._pressed = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: value or "" for name, value in attrs}
        name = given.get("name", "")
        if tag == "form" and self.action is None:
            self.action = given.get("action", "")
        elif tag == "input" and name:
            if given.get("type") == "hidden":
                self.values[name] = given.get("value", "")
            else:
                self.asked.append(name)
        elif tag == "button" and name and not self._pressed:
            self._pressed = True
            self.values[name] = given.get("value", "")
