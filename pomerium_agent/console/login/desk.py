"""What every page of the login has at hand, and one request with what was found out about it."""

import asyncio
import hmac
import uuid
from collections import OrderedDict
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from hashlib import sha256
from urllib.parse import parse_qsl

import aiohttp
from aiohttp import hdrs, web

from pomerium_agent.console.login.grants import Grants
from pomerium_agent.console.login.keys import LoginKeys
from pomerium_agent.console.login.limits import Budget, ShortMemory
from pomerium_agent.console.login.sessions import Session, Sessions
from pomerium_agent.console.login.settings import LoginSettings
from pomerium_agent.console.login.tables import hash_of
from pomerium_agent.console.login.tenants import Tenants
from pomerium_agent.console.store import Store
from pomerium_agent.errors import HandoffRejected
from pomerium_agent.handoff.box import close_box, decode, encode_raw, open_box
from pomerium_agent.handoff.query import parameters_of
from pomerium_agent.idp import Provider, Providers
from pomerium_agent.runtime.clock import Clock

MAX_BODY = 64 * 1024
MAX_LOCKS = 10_000
ROUND_TRIP_SECONDS = 900  # that somebody may take at the provider, or before the question who may know them
CODE_SECONDS = 60  # that a code of ours waits for its replica
PER_MINUTE = 300  # questions of one address: a whole office may be behind it
PER_MINUTE_OF_REPLICA = 3000  # of one address, to what only replicas ask: one of them asks for everybody signed in
PER_MINUTE_OF_CLUSTER = 3000


@dataclass(frozen=True, slots=True, kw_only=True)
class RoundTrip:
    """A login at the provider that is under way, begun by one browser."""

    browser: bytes  # a hash of its cookie
    provider_id: str
    nonce: str = field(repr=False)
    verifier: str = field(repr=False)
    return_to: str = field(repr=False)  # path and query


@dataclass(frozen=True, slots=True, kw_only=True)
class Code:
    """An authorization code of ours, waiting for its replica; or one that was used, with what it brought."""

    client_id: str
    redirect_uri: str
    challenge: str
    visit: str
    scope: str
    nonce: str
    grant_id: str
    used: bool = False


class Desk:
    """One for the life of the console."""

    def __init__(self, store: Store, http: aiohttp.ClientSession, clock: Clock) -> None:
        self.store = store
        self.clock = clock
        self.sessions = Sessions(store.database)
        self.grants = Grants(store.database)
        self.tenants = Tenants(store)
        self.round_trips: ShortMemory[RoundTrip] = ShortMemory(clock, seconds=ROUND_TRIP_SECONDS)
        # What was in time when it came stays so while its browser is at the provider, or reads a question of ours.
        self.in_time: ShortMemory[bool] = ShortMemory(clock, seconds=ROUND_TRIP_SECONDS)
        self.codes: ShortMemory[Code] = ShortMemory(clock, seconds=CODE_SECONDS)
        self.by_address = Budget(clock, per_minute=PER_MINUTE)
        self.by_replica = Budget(clock, per_minute=PER_MINUTE_OF_REPLICA)
        self.by_cluster = Budget(clock, per_minute=PER_MINUTE_OF_CLUSTER)
        self._providers = Providers(http, clock)
        self._locks: OrderedDict[bytes, asyncio.Lock] = OrderedDict()
        self._box_key = store.database.seal.subkey("sealed words of the login")
        self._form_key = store.database.seal.subkey("forms of the login")

    def provider(self, settings: LoginSettings) -> Provider:
        return self._providers.get(settings.provider)

    def lock(self, session: bytes) -> asyncio.Lock:
        """Two tabs must not refresh the same tokens at once."""
        lock = self._locks.setdefault(session, asyncio.Lock())
        self._locks.move_to_end(session)
        while len(self._locks) > MAX_LOCKS and not next(iter(self._locks.values())).locked():
            self._locks.popitem(last=False)
        return lock

    def close_word(self, text: str, purpose: str) -> str:
        """A text that comes back to us through a browser, unread and unchanged."""
        return encode_raw(close_box(self._box_key, text.encode(), bound_to=purpose.encode()))

    def open_word(self, word: str, purpose: str) -> str:
        """Raises HandoffRejected when it is not ours, or was meant for something else."""
        return open_box(self._box_key, decode(word), bound_to=purpose.encode()).decode()

    def form_token(self, session: Session, about: str) -> str:
        """What a form of ours carries, so that nobody else's form does the same."""
        return encode_raw(hmac.digest(self._form_key, session.id + about.encode(errors="surrogatepass"), sha256))

    def checks_form(self, session: Session, about: str, token: str) -> bool:
        return hmac.compare_digest(self.form_token(session, about).encode(), token.encode(errors="replace"))


@dataclass(frozen=True, kw_only=True)
class Asked:
    """One request. `settings` and `keys` are what they are for the whole of it."""

    request: web.Request = field(repr=False)
    desk: Desk = field(repr=False)
    settings: LoginSettings
    keys: LoginKeys
    now: datetime
    id: str = field(default_factory=lambda: uuid.uuid4().hex)

    @cached_property
    def path(self) -> str:
        return self.target.partition("?")[0]

    @cached_property
    def target(self) -> str:
        """Path and query as they came."""
        return self.request.raw_path.partition("#")[0]

    @cached_property
    def query(self) -> str:
        return self.target.partition("?")[2]

    @cached_property
    def parameters(self) -> dict[str, str]:
        """Of the query alone (N-21). Raises HandoffRejected where one is not text."""
        return parameters_of(self.query)

    @cached_property
    def address(self) -> str:
        """The visitor's, by the word of the proxies that the operator has named and of nobody else."""
        listed = ",".join(self.request.headers.getall("X-Forwarded-For", ())).split(",")
        hops = [hop.strip() for hop in listed if hop.strip()]
        if self.settings.proxies and len(hops) >= self.settings.proxies:
            return hops[-self.settings.proxies][:64]
        return self.request.remote or ""

    @property
    def provider(self) -> Provider:
        return self.desk.provider(self.settings)

    @property
    def wants_json(self) -> bool:
        return self.request.headers.get(hdrs.ACCEPT, "") == "application/json"

    @property
    def by_script(self) -> bool:
        return self.request.headers.get("X-Requested-With", "").lower() == "xmlhttprequest"

    @property
    def from_here(self) -> bool:
        """Whether a page of ours sent this, as far as the browser says (authenticate 2.3)."""
        site = self.request.headers.get("Sec-Fetch-Site")
        if site is not None:
            return site in ("same-origin", "none")
        origin = self.request.headers.get(hdrs.ORIGIN)
        return origin is None or origin == self.settings.public_url

    def cookie(self, name: str) -> str:
        return self.request.cookies.get(name, "")[:512]

    async def body(self) -> bytes:
        """At most 64 KiB. Raises HandoffRejected for more."""
        found = await self.request.content.read(MAX_BODY + 1)
        while len(found) <= MAX_BODY and not self.request.content.at_eof():
            found += await self.request.content.read(MAX_BODY + 1)
        if len(found) > MAX_BODY:
            raise HandoffRejected("the request is too large")
        return found

    async def form(self) -> dict[str, str]:
        """The fields of a posted form; one that is there twice is refused (RFC 6749 3.2)."""
        try:
            pairs = parse_qsl((await self.body()).decode(), keep_blank_values=True, max_num_fields=100)
        except ValueError:
            raise HandoffRejected("the form cannot be read") from None
        if len(dict(pairs)) != len(pairs):
            raise HandoffRejected("a field of the form is there twice")
        return dict(pairs)

    def in_time_key(self, session: Session) -> str:
        return f"{session.id.hex()} {hash_of(self.target).hex()}"
