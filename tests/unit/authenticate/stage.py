"""The pages of one replica on a unix socket, everything behind them, and browsers that keep cookies as browsers do."""

import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import aiohttp
from aiohttp import web
from aiohttp.test_utils import TestServer
from yarl import URL

from pomerium_agent.authenticate import Desk, Site, open_server_key, serve_pages
from pomerium_agent.config.login import Flow, Login
from pomerium_agent.databroker.backend import Written
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.errors import DatabrokerUnavailable, RecordNotFound
from pomerium_agent.handoff import nonce
from pomerium_agent.handoff.hpke import public_bytes
from pomerium_agent.handoff.keys import hpke_key
from pomerium_agent.handoff.sealed import Version, lifetime, open_query, read_sealed, seal_query
from pomerium_agent.handoff.sign_in import SignIn, stateful_url, stateless_url
from pomerium_agent.idp import Providers, ProviderSettings
from pomerium_agent.idp.naming import with_id
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Record, unpack
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.sessions.entries import SESSION, USER
from pomerium_agent.sessions.handle import Handle, parse_handle
from pomerium_agent.sessions.live import open_sessions
from pomerium_agent.settings import Secret
from tests.fakes.clock import ManualClock
from tests.fakes.hostile_provider import HostileProvider

KEY = bytes(range(32))
OTHER_KEY = bytes(range(32, 64))
AUTH = "auth.example.com"
APP, WIKI = "app.example.com", "wiki.example.com"
WANTED = f"https://{APP}/reports?year=2030&q=a+b"
SESSION_COOKIE, AUTH_COOKIE = "_pomerium", "_pomerium_authenticate"
LOGIN_COOKIE = nonce.cookie_name(SESSION_COOKIE)


class Store(MemoryBackend):
    """A store that can stop taking sessions, or stop answering."""

    def __init__(self, clock: Clock) -> None:
        super().__init__(clock)
        self.refuses_writes = False
        self.away = False
        self.puts: list[Sequence[Record]] = []

    async def put(self, records: Sequence[Record]) -> Written:
        if self.refuses_writes:
            raise DatabrokerUnavailable("the store is away")
        self.puts.append(records)
        return await super().put(records)

    async def get(self, type: str, id: str) -> Record:
        if self.away:
            raise DatabrokerUnavailable("the store is away")
        return await super().get(type, id)

    async def lease(self, name: str, holder: str, ttl: timedelta) -> bool:
        if self.away:
            raise DatabrokerUnavailable("the store is away")
        return await super().lease(name, holder, ttl)

    async def session(self, id: str) -> session_pb2.Session:
        message = unpack((await self.get(SESSION, id)).data, session_pb2.Session)
        assert message is not None
        return message

    async def user(self, id: str) -> user_pb2.User | None:
        try:
            return unpack((await self.get(USER, id)).data, user_pb2.User)
        except RecordNotFound:
            return None

    async def count(self) -> int:
        return (await self.query(SESSION, limit=0)).total_count


@dataclass(slots=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    cookies: list[str]  # Set-Cookie headers
    text: str

    @property
    def location(self) -> str:
        return self.headers["Location"]

    @property
    def query(self) -> dict[str, str]:
        """Of the redirect."""
        return {
            name: values[0] for name, values in parse_qs(urlsplit(self.location).query, keep_blank_values=True).items()
        }

    def sets(self, name: str) -> bool:
        return any(cookie.startswith(f"{name}=") for cookie in self.cookies)


@dataclass
class Browser:
    """Cookies by host, path and name. It sends them as they are, and only where they belong."""

    http: aiohttp.ClientSession
    jar: dict[tuple[str, str, str], str] = field(default_factory=dict)

    async def get(self, url: str, *, method: str = "GET", data: object = None, **headers: str) -> Answer:
        """What one request brings; redirects are not followed."""
        parts = urlsplit(url)
        assert parts.scheme == "https", url
        given = {name.replace("_", "-"): value for name, value in headers.items()}
        path = parts.path or "/"
        cookies = [
            f"{name}={value}"
            for (host, at, name), value in self.jar.items()
            if host == parts.netloc and path.startswith(at)
        ]
        if cookies:
            given["Cookie"] = "; ".join(cookies)
        target = URL(url.replace("https://", "http://", 1), encoded=True)
        async with self.http.request(method, target, data=data, headers=given, allow_redirects=False) as response:
            answer = Answer(
                response.status, response.headers, response.headers.getall("Set-Cookie", []), await response.text()
            )
        for cookie in answer.cookies:
            self._keep(parts.netloc, cookie)
        return answer

    def cookie(self, host: str, name: str) -> str:
        """Empty when there is none."""
        return next((value for (at, _, known), value in self.jar.items() if (at, known) == (host, name)), "")

    def handle(self, host: str, name: str = SESSION_COOKIE) -> Handle:
        handle = parse_handle(self.cookie(host, name), (KEY,))
        assert handle is not None
        return handle

    def begins(self, host: str, key: bytes = KEY) -> str:
        """The callback of a login that begins here, as authorization sets it up."""
        cookie = self.cookie(host, LOGIN_COOKIE) or nonce.new_cookie()
        self.jar[host, "/", LOGIN_COOKIE] = cookie
        return nonce.callback_url(key, cookie, host)

    def _keep(self, host: str, cookie: str) -> None:
        first, *attributes = cookie.split("; ")
        name, _, value = first.partition("=")
        said = {part.partition("=")[0]: part.partition("=")[2] for part in attributes}
        assert "Secure" in said
        assert not name.startswith("__Host-") or (said["Path"] == "/" and "Domain" not in said)
        key = (host, said.get("Path", "/"), name)
        if said.get("Max-Age") == "0":
            self.jar.pop(key, None)
        else:
            self.jar[key] = value


@dataclass
class Scene:
    """One replica. `idp` is its provider in the stateful flow, `server` the key of the hosted service otherwise."""

    clock: ManualClock
    store: Store
    desk: Desk
    site: Latest[Site]
    browser: Browser
    socket: Path
    idp: HostileProvider

    def another_browser(self) -> Browser:
        return Browser(self.browser.http)

    @property
    def idp_id(self) -> str:
        return self.site.value.login.provider.id

    def change_login(self, **changes: object) -> None:
        site = self.site.value
        self.site.set(replace(site, login=replace(site.login, **changes)))  # type: ignore[arg-type]

    # --- the flow of our own login pages ---------------------------------------------------------

    def sign_in_url(
        self, browser: Browser | None = None, *, wanted: str = WANTED, key: bytes = KEY, **more: object
    ) -> str:
        """Where authorization sends a browser that wants a page."""
        given = {
            "redirect_uri": wanted,
            "idp_id": self.idp_id,
            "callback_uri": (browser or self.browser).begins(urlsplit(wanted).netloc),
            **more,
        }
        asked = SignIn(**given)  # type: ignore[arg-type]
        return stateful_url(f"https://{AUTH}", asked, shared_secret=key, now=self.clock.now())

    async def at_provider(self, url: str, browser: Browser | None = None) -> str:
        """Follow a sign-in to the provider, who agrees; the callback with which the browser returns."""
        answer = await (browser or self.browser).get(url)
        assert answer.status == 302, answer.text
        assert answer.location.startswith(f"{self.idp.origin}/authorize"), answer.location
        self.idp.nonce = answer.query["nonce"]
        self.idp.codes.add("code")
        return f"https://{AUTH}/oauth2/callback?code=code&state={answer.query['state']}"

    async def to_callback(self, url: str, browser: Browser | None = None) -> str:
        """A whole login up to the callback on the route's host, which is not asked yet."""
        who = browser or self.browser
        back = await who.get(await self.at_provider(url, who))
        assert back.status == 302, back.text
        over = await who.get(back.location)
        assert over.status == 302, over.text
        return over.location

    # --- the hosted flow -------------------------------------------------------------------------

    def hosted_url(self, browser: Browser | None = None, *, wanted: str = WANTED, **more: object) -> str:
        given = {
            "redirect_uri": wanted,
            "idp_id": self.idp_id,
            "callback_uri": (browser or self.browser).begins(urlsplit(wanted).netloc),
            **more,
        }
        return stateless_url(
            "https://login.example.net",
            SignIn(**given),  # type: ignore[arg-type]
            shared_secret=KEY,
            server_key=public_bytes(SERVER),
            now=self.clock.now(),
            version="0.1 linux/x86_64 ",
            request_uuid="u",
        )

    def hosted_answer(
        self,
        url: str,
        profile: str,
        *,
        sealed_by: bytes = b"",
        version: Version = Version.V2,
        changes: Mapping[str, str] | None = None,
    ) -> str:
        """What the hosted service sends the browser back with: §4.2 step 5, played with our own functions."""
        asked = read_sealed(urlsplit(url).query)
        assert asked is not None
        inner = open_query(asked, SERVER)
        base, _, query = inner["pomerium_callback_uri"].partition("?")
        sent = {name: values[0] for name, values in parse_qs(query).items()}
        sent |= {
            "pomerium_redirect_uri": inner["pomerium_redirect_uri"],
            "pomerium_identity_profile": profile,
            "pomerium_version": "server",
            **({"pomerium_programmatic": "true"} if "pomerium_programmatic" in inner else {}),
            **dict(lifetime(self.clock.now())),
            **(changes or {}),
        }
        sender = hpke_key(sealed_by) if sealed_by else SERVER
        return f"{base}?{seal_query(sent.items(), sender=sender, receiver=asked.sender, version=version)}"


SERVER = hpke_key(bytes(range(64, 96)))


@asynccontextmanager
async def scene(
    tmp_path: Path,
    *,
    flow: Flow = Flow.STATEFUL,
    mixed_cluster: bool = False,
    login: Mapping[str, object] | None = None,
) -> AsyncIterator[Scene]:
    clock = ManualClock()
    store = Store(clock)
    path = tmp_path / "s"
    sock = socket.socket(socket.AF_UNIX)
    sock.bind(str(path))
    sock.listen()
    async with (
        HostileProvider(clock).serve() as idp,
        aiohttp.ClientSession() as outside,
        aiohttp.ClientSession(
            connector=aiohttp.UnixConnector(str(path)),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(20),
            max_line_size=1 << 17,
            max_field_size=1 << 17,
        ) as inside,
        open_sessions(store, clock, Health()) as sessions,
    ):
        settings = with_id(
            ProviderSettings(
                type="oidc",
                url=idp.issuer,
                client_id=idp.client_id,
                client_secret=Secret(idp.secret),
                authenticate_url=f"https://{AUTH}",
            )
        )
        known = Login(
            flow=flow,
            authenticate_url=f"https://{AUTH}" if flow is Flow.STATEFUL else "https://login.example.net",
            internal_url=f"https://{AUTH}",
            provider=settings,
        )
        site = Latest(
            Site(
                login=replace(known, **(login or {})),  # type: ignore[arg-type]
                shared_key=KEY,
                hosts=frozenset({APP, WIKI}),
                wildcards=("*.apps.example.com",),
                authenticate_hosts=frozenset({AUTH}) if flow is Flow.STATEFUL else frozenset(),
                providers={settings.id: settings},
                idps_of_host={APP: frozenset({settings.id}), WIKI: frozenset({settings.id})},
            )
        )
        async with open_server_key(site, outside, clock, Health()) as server_key:
            desk = Desk(
                site=site,
                sessions=sessions,
                backend=store,
                http=outside,
                clock=clock,
                providers=Providers(outside, clock),
                server_key=server_key,
                mixed_cluster=mixed_cluster,
            )
            async with serve_pages(sock, keys=Latest(()), desk=desk):
                yield Scene(clock, store, desk, site, Browser(inside), path, idp)


@dataclass
class KeyServer:
    """Where the hosted service publishes its key. `answers` is what it says: bytes, or a status."""

    url: str = ""
    answers: bytes | int = b""
    asked: int = 0
    headers: dict[str, str] = field(default_factory=lambda: {"Cache-Control": "max-age=60"})


@asynccontextmanager
async def key_server(key: bytes = b"") -> AsyncIterator[KeyServer]:
    said = KeyServer(answers=key or public_bytes(SERVER))

    async def answer(_: web.Request) -> web.Response:
        said.asked += 1
        if isinstance(said.answers, int):
            return web.Response(status=said.answers)
        return web.Response(body=said.answers, headers=said.headers)

    app = web.Application()
    app.router.add_get("/.well-known/pomerium/hpke-public-key", answer)
    async with TestServer(app, host="127.0.0.1") as server:
        said.url = str(server.make_url("")).rstrip("/")
        yield said


@asynccontextmanager
async def hosted(
    tmp_path: Path, *, mixed_cluster: bool = False, **login: object
) -> AsyncIterator[tuple[Scene, KeyServer]]:
    """A replica in the hosted flow, with the service's key on loopback."""
    async with (
        key_server() as server,
        scene(
            tmp_path, flow=Flow.STATELESS, mixed_cluster=mixed_cluster, login={"internal_url": server.url, **login}
        ) as stage,
    ):
        yield stage, server
