"""Bearer tokens of others, on routes that read them: verified, and turned into ordinary sessions (authorize 4.2)."""

import asyncio
import json
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, TypeGuard
from weakref import WeakValueDictionary

import aiohttp

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.errors import BearerRejected, DatabrokerUnavailable, ProviderUnavailable, RecordNotFound
from pomerium_agent.handoff.proof import HEADER as PROOF
from pomerium_agent.handoff.proof import make_proof
from pomerium_agent.idp.fetch import fetch_json
from pomerium_agent.idp.jwks import JwksCache
from pomerium_agent.idp.signed import MAX_TOKEN
from pomerium_agent.pb.pomerium import session_pb2
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Health
from pomerium_agent.sessions.cluster import LocalCluster
from pomerium_agent.sessions.entries import SESSION
from pomerium_agent.sessions.handle import Handle
from pomerium_agent.sessions.identity import Resolved, resolve
from pomerium_agent.sessions.jwt import KUBERNETES_ISSUER, JwtProvider, check_audience, issuer_of, verify_jwt
from pomerium_agent.sessions.live import Sessions
from pomerium_agent.sessions.writing import WRITE_SECONDS, set_claims, write_session

ACCESS_TOKENS = uuid.UUID("0194f6f8-e760-76a0-8917-e28ac927a34d")
IDENTITY_TOKENS = uuid.UUID("0194f6f9-aec0-704e-bb4a-51054f17ad17")
JWTS = uuid.UUID("0195a000-a000-7000-8000-00000000a01a")
QUESTIONS = 32  # verifications under way at the authenticate service at one time


class BearerFormat(StrEnum):
    """What the bearer token of a route is taken for."""

    ACCESS_TOKEN = "idp_access_token"  # noqa: S105  # the name of a format
    IDENTITY_TOKEN = "idp_identity_token"  # noqa: S105
    JWT = "jwt"


@dataclass(frozen=True, slots=True, kw_only=True)
class BearerRule:
    """How one route reads bearers. `providers` are those it allows, for JWTs; the others ask `authenticate_url`."""

    format: BearerFormat
    idp_id: str = ""
    authenticate_url: str = ""
    providers: tuple[JwtProvider, ...] = ()
    cookie_expire: timedelta = timedelta(hours=14)
    audiences: tuple[str, ...] | None = None  # of which an access token must name one, here; None: any


def bearer_session_id(namespace: uuid.UUID, name: str, token: str) -> str:
    """The id of the session of a token; the same on every replica (databroker 13.1, D-45).

    `name` is an identity provider's id or name; without one the namespace is used directly.
    """
    return str(uuid.uuid5(uuid.uuid5(namespace, name) if name else namespace, token))


class Bearers:
    """Finds or makes the session behind a bearer token.

    `shared_key` proves which cluster asks about one (N-48); `cluster` is the one around us, if there is one.
    """

    def __init__(
        self,
        *,
        sessions: Sessions,
        backend: Backend,
        http: aiohttp.ClientSession,
        clock: Clock,
        shared_key: bytes = b"",
        cluster: LocalCluster | None = None,
        health: Health | None = None,
    ) -> None:
        self._sessions = sessions
        self._backend = backend
        self._http = http
        self._shared_key = shared_key
        self._clock = clock
        self._cluster = cluster
        self._health = health
        self._jwks = JwksCache(http, clock)
        self._questions = asyncio.Semaphore(QUESTIONS)
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def find(self, token: str, rule: BearerRule) -> Resolved | None:
        """Who is behind the token; None when its session has expired, which is as good as none.

        Raises BearerRejected for an invalid token: nothing else may then be tried (A-9, A-10). Raises
        ProviderUnavailable and DatabrokerUnavailable when it cannot be found out.
        """
        if len(token) > MAX_TOKEN or not token.isascii():
            raise BearerRejected("the bearer token is too long or not ASCII")
        if rule.format is BearerFormat.JWT:
            return await self._jwt(token, rule)
        resolved = await self._of_provider(token, rule)
        if resolved is not None and rule.audiences is not None and rule.format is BearerFormat.ACCESS_TOKEN:
            entry = self._sessions.session(resolved.session_id)
            check_audience(token, entry.claims if entry is not None else {}, rule.audiences)
        return resolved

    async def _jwt(self, token: str, rule: BearerRule) -> Resolved | None:
        """Verified every time; the record is made anew when it has expired."""
        provider, claims = await self._verify(token, rule.providers)
        id = bearer_session_id(JWTS, provider.name, token)
        async with self._lock(id):
            resolved = await self._existing(id)
            if resolved is not None:
                return resolved
            session = self._session(id, claims, rule, user_id=f"{provider.name}/{claims['sub']}", idp_id=provider.name)
            ends = self._clock.now() + rule.cookie_expire
            if session.expires_at.ToDatetime(UTC) > ends:
                session.expires_at.FromDatetime(ends)
            return await self._write(session, claims)

    async def _verify(self, token: str, providers: tuple[JwtProvider, ...]) -> tuple[JwtProvider, dict[str, Any]]:
        """By the keys of whoever issued it; what nobody else here issued may be of the cluster around us."""
        others = tuple(provider for provider in providers if provider.issuer != KUBERNETES_ISSUER)
        local = next((provider for provider in providers if provider.issuer == KUBERNETES_ISSUER), None)
        if local is None or issuer_of(token) in {provider.issuer for provider in others}:
            return await verify_jwt(token, others, self._jwks, self._clock.now(), self._health)
        if self._cluster is None:
            raise ProviderUnavailable(f"{local.name}: this replica runs in no Kubernetes cluster")
        known = replace(local, issuer=await self._cluster.issuer(), jwks_url=self._cluster.jwks_url)
        return await verify_jwt(token, (known,), self._cluster.jwks, self._clock.now(), self._health)

    async def _of_provider(self, token: str, rule: BearerRule) -> Resolved | None:
        """Verified once: the record of a known token is used as it is, be it expired."""
        access = rule.format is BearerFormat.ACCESS_TOKEN
        id = bearer_session_id(ACCESS_TOKENS if access else IDENTITY_TOKENS, rule.idp_id, token)
        if self._sessions.session(id) is not None:
            return resolve(self._sessions, id, self._clock.now())
        async with self._lock(id):  # many requests may bring the same new token; one of them asks
            if await self._exists(id):
                return await self._existing(id)
            claims = await self._ask(token, rule, access=access)
            user_id = claims.get("oid") or claims.get("sub")
            if not _is_text(user_id) or not user_id:
                raise BearerRejected("the bearer token names no user")
            session = self._session(id, claims, rule, user_id=user_id, idp_id=rule.idp_id)
            if access:
                session.oauth_token.access_token, session.oauth_token.token_type = token, "Bearer"
                session.oauth_token.expires_at.CopyFrom(session.expires_at)
            else:
                session.id_token.raw = token
            return await self._write(session, claims)

    async def _ask(self, token: str, rule: BearerRule, *, access: bool) -> Mapping[str, Any]:
        """The claims, by the word of the authenticate service (authenticate 8.7)."""
        path, name = ("verify-access-token", "accessToken") if access else ("verify-identity-token", "identityToken")
        url = f"{rule.authenticate_url.rstrip('/')}/.pomerium/{path}"
        question = json.dumps({name: token, "identityProviderId": rule.idp_id}).encode()
        proof = make_proof(self._shared_key, f"/.pomerium/{path}", question, self._clock.now())
        async with self._questions:
            answer = await fetch_json(self._http, url, post=question, headers={PROOF: proof})
        claims = answer.get("claims")
        if answer.get("valid") is not True:
            raise BearerRejected("the authenticate service does not accept the bearer token")
        if not isinstance(claims, dict):
            raise BearerRejected("the authenticate service says nothing of the bearer token's owner")
        return claims

    def _session(
        self, id: str, claims: Mapping[str, Any], rule: BearerRule, *, user_id: str, idp_id: str
    ) -> session_pb2.Session:
        now = self._clock.now()
        audience = claims.get("aud")
        session = session_pb2.Session(
            id=id,
            user_id=user_id,
            idp_id=idp_id,
            refresh_disabled=True,
            audience=[name for name in (audience if isinstance(audience, list) else [audience]) if _is_text(name)],
        )
        session.issued_at.FromDatetime(_time(claims, "iat") or now)
        session.expires_at.FromDatetime(_time(claims, "exp") or now + rule.cookie_expire)
        session.accessed_at.FromDatetime(now)
        try:
            set_claims(session.claims, claims)
        except ValueError:
            raise BearerRejected("the claims of the bearer token cannot be kept") from None
        return session

    async def _write(self, session: session_pb2.Session, claims: Mapping[str, Any]) -> Resolved | None:
        """Write user and session together, and see to it that they are read from now on."""
        written = await write_session(self._backend, session, claims, keep_claims=False)
        hint = Handle(
            id=session.id,
            databroker_server_version=written.server_version,
            databroker_record_version=written.records[-1].version,
        )
        return await self._existing(session.id, hint)

    async def _exists(self, id: str) -> bool:
        """Also when another replica wrote it a moment ago."""
        if self._sessions.session(id) is not None:
            return True
        try:
            async with asyncio.timeout(WRITE_SECONDS):
                record = await self._backend.get(SESSION, id)
        except RecordNotFound:
            return False
        except TimeoutError:
            raise DatabrokerUnavailable(f"a session was not read within {WRITE_SECONDS:g} s") from None
        info = await self._backend.server_info()
        await self._sessions.ready_for(
            Handle(
                id=id, databroker_server_version=info.server_version, databroker_record_version=max(record.version, 1)
            )
        )
        return True

    async def _existing(self, id: str, hint: Handle | None = None) -> Resolved | None:
        await self._sessions.ready_for(hint or Handle(id=id))
        return resolve(self._sessions, id, self._clock.now())

    def _lock(self, id: str) -> asyncio.Lock:
        lock = self._locks.get(id)
        if lock is None:
            lock = self._locks[id] = asyncio.Lock()
        return lock


def _is_text(value: object) -> TypeGuard[str]:
    return isinstance(value, str) and value.isprintable()


def _time(claims: Mapping[str, Any], name: str) -> datetime | None:
    value = claims.get(name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        return datetime.fromtimestamp(value, UTC)
    except (ValueError, OverflowError, OSError):
        raise BearerRejected(f"the {name} of the bearer token is no time") from None
