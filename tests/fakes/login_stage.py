"""A console that logs people in, the people, their browsers, and two clusters that ask it, over real HTTP."""

import html
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urljoin, urlsplit

import aiohttp
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from yarl import URL

from pomerium_agent.console.clusters import create_cluster, publish
from pomerium_agent.console.login import manage
from pomerium_agent.console.login.settings import LoginSettings, checked_settings
from pomerium_agent.console.server import Console, serve_console
from pomerium_agent.console.store import Cluster
from pomerium_agent.demo.provider import DevClient, DevProvider, DevUser, serve_dev_provider
from pomerium_agent.handoff.keys import hpke_key
from pomerium_agent.handoff.sealed import Version, check_lifetime, lifetime, open_query, read_sealed, seal_query
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.settings import Secret
from tests.fakes.clock import ManualClock
from tests.fakes.console import serve_options

LOGIN = "https://login.example.com"
ADA = DevUser(email="ada@example.com", password=Secret("engine"), name="Ada Lovelace", groups=("eng",))
GRACE = DevUser(email="grace@example.com", password=Secret("compiler"), name="Grace Hopper")
STEPS = 20


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a server said, and whether that leads on by itself."""

    url: str
    status: int
    text: str
    headers: Mapping[str, str]
    leads_to: str

    @property
    def form(self) -> "Form":
        found = Form()
        found.feed(self.text)
        return found


class Browser:
    """Cookies by host, as a browser keeps them, and what somebody with an account types in."""

    def __init__(self, http: aiohttp.ClientSession, console: str, user: DevUser = ADA) -> None:
        self.http = http
        self.user = user
        self._console = console  # where LOGIN is served in fact, and perhaps by its own name
        self.cookies: dict[str, dict[str, str]] = {}
        self.seen: list[str] = []

    async def ask(
        self, url: str, *, form: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """One request; nothing is followed."""
        parts = urlsplit(url)
        jar = self.cookies.setdefault(parts.netloc, {})
        there = url.replace(LOGIN, self._console, 1) if url.startswith(LOGIN) else url
        given = {"Host": parts.netloc, "Cookie": "; ".join(f"{name}={value}" for name, value in jar.items())}
        self.seen.append(url)
        async with self.http.request(
            "GET" if form is None else "POST",
            URL(there, encoded=True),
            data=form,
            headers={**given, **(headers or {})},
            allow_redirects=False,
        ) as response:
            for line in response.headers.getall("Set-Cookie", ()):
                name, _, rest = line.partition("=")
                value = rest.partition(";")[0]
                jar.pop(name, None)
                if value and "Max-Age=0" not in line:
                    jar[name] = value
            target = response.headers.get("Location") or response.headers.get("Refresh", "").partition("url=")[2]
            return Answer(
                url=url,
                status=response.status,
                text=await response.text(),
                headers=dict(response.headers),
                leads_to=urljoin(url, target) if target else "",
            )

    async def go(self, url: str, *, until: str = "https://", consent: str = "continue") -> Answer:
        """Follow, log in and agree until a page stands still, or a URL begins with `until` that is not LOGIN's."""
        answer = await self.ask(url)
        for _ in range(STEPS):
            if answer.leads_to:
                if answer.leads_to.startswith(until) and not answer.leads_to.startswith((LOGIN, self._console)):
                    return answer
                answer = await self.ask(answer.leads_to)
                continue
            form = answer.form
            if "password" in form.asked:
                fields = {"email": self.user.email, "password": str(self.user.password)}
            elif "choice" in form.values:
                fields = {**form.values, "choice": consent}
            else:
                return answer
            answer = await self.ask(urljoin(answer.url, form.action or ""), form=fields)
        raise AssertionError(f"still on the way after {STEPS} steps: {self.seen[-3:]}")


class Form(HTMLParser):
    """The first form of a page."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.values: dict[str, str] = {}
        self.asked: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = {name: html.unescape(value or "") for name, value in attrs}
        if tag == "form" and self.action is None:
            self.action = given.get("action", "")
        elif tag == "input" and given.get("type") == "hidden":
            self.values[given.get("name", "")] = given.get("value", "")
        elif tag == "input":
            self.asked.append(given.get("name", ""))
        elif tag == "button" and given.get("name"):
            self.values.setdefault(given["name"], given.get("value", ""))


@dataclass(frozen=True, kw_only=True)
class Tenant:
    """A cluster, as its replicas are towards the console."""

    cluster: Cluster
    secret: bytes
    host: str

    @property
    def key(self) -> X25519PrivateKey:
        return hpke_key(self.secret)

    def ask(self, server_key: bytes, now: datetime, *, version: Version = Version.V2, **inner: str) -> str:
        """The URL of a sign-in, sealed as a replica seals it; `inner` parameters replace the usual ones."""
        usual = {
            "pomerium_redirect_uri": f"https://{self.host}/page?a=b",
            "pomerium_idp_id": "idp-1",
            "pomerium_version": "v0.0 linux/amd64 ",
            "pomerium_request_uuid": "11111111-1111-4111-8111-111111111111",
            **dict(lifetime(now)),
        }
        parameters = {**usual, **inner}
        query = seal_query(parameters.items(), sender=self.key, receiver=server_key, version=version)
        return f"{LOGIN}/.pomerium/sign_in?{query}"

    def read(self, url: str, server_keys: tuple[bytes, ...], now: datetime) -> dict[str, str]:
        """What a callback brings, with the checks of a replica (authenticate 4.4, steps 1 to 3)."""
        sealed = read_sealed(urlsplit(url).query)
        assert sealed is not None
        assert sealed.sender in server_keys
        inner = open_query(sealed, self.key)
        check_lifetime(inner, now)
        return inner


@dataclass(kw_only=True)
class Stage:
    """The console, the provider behind it, and two clusters."""

    console: Console
    provider: DevProvider
    settings: LoginSettings
    clock: ManualClock
    http: aiohttp.ClientSession
    wiki: Tenant
    shop: Tenant
    running: AsyncExitStack  # the provider; closed, it is away

    @property
    def base(self) -> str:
        return self.console.cluster_api.removesuffix("/cluster/v1")

    @property
    def now(self) -> datetime:
        return self.clock.now()

    def browser(self, user: DevUser = ADA) -> Browser:
        return Browser(self.http, self.base, user)

    async def server_key(self) -> bytes:
        """As a replica fetches it."""
        path = f"{self.base}/.well-known/pomerium/hpke-public-key"
        async with self.http.get(path, headers={"Host": "login.example.com"}) as response:
            assert response.status == 200
            return await response.read()

    async def sign_in(self, tenant: Tenant, browser: Browser, **options: Any) -> tuple[str, dict[str, str]]:
        """A whole sign-in: the callback URL, and what is in it."""
        key = await self.server_key()
        answer = await browser.go(tenant.ask(key, self.now, **options))
        assert answer.leads_to, answer.text
        return answer.leads_to, tenant.read(answer.leads_to, (key,), self.now)

    def configure(self, tenant: Tenant, **settings: Any) -> None:
        """A new configuration of a cluster, with its one route."""
        store = self.console.store
        changed = config(tenant.host, **settings)
        publish(store, store.cluster(tenant.cluster.id), changed, reason="test", now=self.now)


def config(host: str, **settings: Any) -> config_pb2.Config:
    """One route, and settings."""
    made = config_pb2.Config(settings=config_pb2.Settings(**settings))
    made.routes.add(id=host, to=["http://127.0.0.1:9"], **{"from": f"https://{host}"})
    return made


@asynccontextmanager
async def login_stage(tmp_path: Path, *, by_address: bool = False, **options: Any) -> AsyncIterator[Stage]:
    """Everything on loopback, at the time of a clock that tests move.

    `by_address`: the console is known by its address, so that clients of any kind can reach it. `options`: more of
    its login settings.
    """
    clock = ManualClock(datetime.now(UTC).replace(microsecond=0))
    async with (
        AsyncExitStack() as running,
        serve_console(serve_options(tmp_path), clock=clock) as console,
        aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=20),
            max_line_size=64 * 1024,
            max_field_size=64 * 1024,
        ) as http,
    ):
        public = console.cluster_api.removesuffix("/cluster/v1") if by_address else LOGIN
        client = DevClient(
            id="console",
            secret=Secret("a secret / +%"),
            redirect_uris=(f"{public}/oauth2/callback",),
            post_logout_redirect_uris=(f"{public}/.pomerium/signed_out",),
        )
        provider = await running.enter_async_context(
            serve_dev_provider(users=(ADA, GRACE), clients=(client,), clock=clock)
        )
        tenants = []
        for name in ("wiki", "shop"):
            host = f"app.{name}.example.com"
            cluster = create_cluster(console.store, name, now=clock.now(), domain=f"{name}.example.com").cluster
            secret = console.store.secrets(cluster.id).shared_secret
            publish(console.store, cluster, config(host), reason="test", now=clock.now())
            tenants.append(Tenant(cluster=cluster, secret=secret, host=host))
        settings = checked_settings(
            provider="oidc",
            url=provider.issuer,
            client_id=client.id,
            client_secret=client.secret,
            public_url=public,
            **options,
        )
        manage.set_login(console.store, settings, clock.now())
        yield Stage(
            console=console,
            provider=provider,
            settings=settings,
            clock=clock,
            http=http,
            wiki=tenants[0],
            shop=tenants[1],
            running=running,
        )


def with_outer(url: str, **parameters: str) -> str:
    return f"{url}&{urlencode(parameters)}"


def query_of(url: str) -> dict[str, str]:
    return {name: values[0] for name, values in parse_qs(urlsplit(url).query).items()}
