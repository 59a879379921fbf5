"""Bearer tokens of others: verified against real servers on loopback, and turned into sessions."""

import asyncio
import json
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from hypothesis import given, settings
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import ECKey, Key, OctKey, OKPKey, RSAKey

from pomerium_agent.errors import BearerRejected, DatabrokerUnavailable, ProviderUnavailable
from pomerium_agent.handoff.proof import HEADER, check_proof
from pomerium_agent.idp.jwks import JwksCache
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import unpack
from pomerium_agent.runtime.health import Health
from pomerium_agent.sessions.bearer import BearerFormat, BearerRule, Bearers, bearer_session_id
from pomerium_agent.sessions.entries import SESSION, USER
from pomerium_agent.sessions.identity import Resolved
from pomerium_agent.sessions.jwt import JwtProvider, verify_jwt
from pomerium_agent.sessions.live import Sessions
from tests.fakes import session_records as people
from tests.fakes.session_records import NOW
from tests.unit.sessions.stage import Stage

KEY = bytes(range(32))
TIME = int(NOW.timestamp())
RSA = RSAKey.generate_key(2048, {"kid": "rsa"})
EC = ECKey.generate_key("P-256", {"kid": "ec"})
ED = OKPKey.generate_key("Ed25519", {"kid": "ed"})
SECRET = OctKey.generate_key(256, {"kid": "oct"})


class Provider:
    """An identity provider and an authenticate service in one, on loopback."""

    def __init__(self) -> None:
        self.keys: list[dict[str, Any]] = [dict(key.as_dict(private=False)) for key in (RSA, EC, ED)]
        self.document: dict[str, Any] = {}
        self.answer: object = {"valid": False}
        self.status = 200
        self.asked: list[tuple[str, Any]] = []
        self.proofs: list[tuple[str, str, bytes]] = []  # header, path, body
        self.url = ""

    @asynccontextmanager
    async def serve(self) -> AsyncIterator[None]:
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        async with TestServer(app, host="127.0.0.1") as server:
            self.url = str(server.make_url("")).rstrip("/")
            self.document = {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
            yield

    async def _handle(self, request: web.Request) -> web.Response:
        body = await request.json() if request.can_read_body else None
        self.asked.append((request.path, body))
        self.proofs.append((request.headers.get(HEADER, ""), request.path, await request.read()))
        answers = {"/keys": {"keys": self.keys}, "/.well-known/openid-configuration": self.document}
        answer = answers.get(request.path, self.answer)
        text = answer if isinstance(answer, str) else json.dumps(answer)
        return web.Response(status=self.status, text=text, content_type="application/json")

    def count(self, path: str) -> int:
        return sum(asked == path for asked, _ in self.asked)


class Scene(Stage):
    """Everything a bearer meets."""

    def __init__(self) -> None:
        super().__init__()
        self.provider = Provider()
        self.health = Health()
        self.copy: Sessions
        self.bearers: Bearers
        self.http: aiohttp.ClientSession

    @asynccontextmanager
    async def open(self) -> AsyncIterator["Scene"]:
        async with self.provider.serve(), aiohttp.ClientSession() as self.http, self.sessions() as self.copy:
            self.bearers = Bearers(
                sessions=self.copy,
                backend=self.backend,
                http=self.http,
                clock=self.clock,
                shared_key=KEY,
                health=self.health,
            )
            yield self

    def rule(self, **changes: Any) -> BearerRule:
        issuer = JwtProvider(name="workloads", issuer=self.provider.url, audiences=("pomerium", "other"))
        return BearerRule(**{"format": BearerFormat.JWT, "providers": (issuer,), **changes})

    def token(self, key: Key = RSA, alg: str = "RS256", header: dict[str, Any] | None = None, **claims: Any) -> str:
        payload = {"iss": self.provider.url, "sub": "job", "aud": "pomerium", "exp": TIME + 600, **claims}
        payload = {name: value for name, value in payload.items() if value is not ...}
        full = {"alg": alg, "kid": key.kid, **(header or {})}
        registry = jws.JWSRegistry(algorithms=[alg], strict_check_header=False)
        return jwt.encode(full, payload, key, registry=registry)

    async def find(self, token: str, **changes: Any) -> Resolved | None:
        return await self.bearers.find(token, self.rule(**changes))

    async def stored(self, id: str) -> session_pb2.Session:
        session = unpack((await self.backend.get(SESSION, id)).data, session_pb2.Session)
        assert session is not None
        return session

    async def stored_user(self, id: str) -> user_pb2.User:
        user = unpack((await self.backend.get(USER, id)).data, user_pb2.User)
        assert user is not None
        return user


def test_session_ids_are_those_of_every_other_replica() -> None:
    """D-45, authorize 4.2: chains of UUIDv5."""
    namespace = uuid.UUID("0195a000-a000-7000-8000-00000000a01a")

    id = bearer_session_id(namespace, "github", "token")

    assert id == str(uuid.uuid5(uuid.uuid5(namespace, "github"), "token"))
    assert bearer_session_id(namespace, "", "token") == str(uuid.uuid5(namespace, "token"))


async def test_a_workloads_jwt_becomes_a_session() -> None:
    """A-9."""
    async with Scene().open() as scene:
        token = scene.token(email="job@x", groups=["a"], nested={"k": 1}, iat=TIME - 5)
        found = await scene.find(token)
        assert found is not None
        session = await scene.stored(found.session_id)
        user = await scene.stored_user("workloads/job")

    assert found.session_id == bearer_session_id(uuid.UUID("0195a000-a000-7000-8000-00000000a01a"), "workloads", token)
    assert (found.user_id, found.email) == ("workloads/job", "job@x")
    assert found.identity.claims["nested.k"] == (1,)
    assert (found.access_token, found.id_token) == ("", "")
    assert (session.idp_id, session.refresh_disabled, list(session.audience)) == ("workloads", True, ["pomerium"])
    assert (session.issued_at.seconds, session.expires_at.seconds) == (TIME - 5, TIME + 600)
    assert token not in str(session)
    assert user.email == "job@x"


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # by the library that signs here, not the one that verifies
@pytest.mark.parametrize(("key", "alg"), [(RSA, "RS256"), (EC, "ES256"), (ED, "EdDSA")])
async def test_the_usual_algorithms_are_accepted(key: Key, alg: str) -> None:
    async with Scene().open() as scene:
        assert await scene.find(scene.token(key, alg)) is not None


@pytest.mark.parametrize(
    "claims",
    [
        {"iss": "https://stranger"},
        {"iss": ...},
        {"iss": 1},
        {"aud": "somebody"},
        {"aud": ...},
        {"aud": []},
        {"aud": [1]},
        {"sub": ...},
        {"sub": ""},
        {"sub": 1},
        {"sub": "a\nb"},
        {"exp": TIME},
        {"exp": "soon"},
        {"exp": True},
        {"exp": 1e300},
        {"nbf": TIME + 61},
        {"iat": "then"},
    ],
    ids=str,
)
async def test_a_token_with_wrong_claims_is_rejected(claims: dict[str, Any]) -> None:
    """A-9."""
    async with Scene().open() as scene:
        if "iat" in claims:
            assert await scene.find(scene.token(**claims)) is not None  # `iat` only dates the session
        else:
            with pytest.raises(BearerRejected):
                await scene.find(scene.token(**claims))


async def test_tokens_signed_in_another_way_or_by_another_are_rejected() -> None:
    """A-9: never HS*, never none, never a key that is not the provider's."""
    other = RSAKey.generate_key(2048, {"kid": "rsa"})
    async with Scene().open() as scene:
        good = scene.token()
        scene.provider.keys.append(dict(SECRET.as_dict(private=True)))
        bad = [
            scene.token(SECRET, "HS256"),
            scene.token(other),
            scene.token(RSA, "RS512"),
            scene.token(RSA, header={"kid": "ec"}),
            scene.token(RSA, header={"kid": "nobody's"}),
            "a.b.c",
            good[:-10] + "AAAAAAAAAA",
            good.rpartition(".")[0] + ".",
            "",
            "garbage",
            "é",
            "x" * 20_000,
            "[" * 15_000,
        ]
        for token in bad:
            with pytest.raises(BearerRejected) as rejected:
                await scene.find(token)
            assert not token or token not in str(rejected.value)
        assert await scene.find(good) is not None


async def test_a_route_may_allow_some_providers_only() -> None:
    async with Scene().open() as scene:
        with pytest.raises(BearerRejected, match="no provider"):
            await scene.find(scene.token(), providers=())


async def test_expiry_is_capped_and_an_expired_record_is_made_again() -> None:
    """Authorize 4.2: at now + cookie_expire."""
    async with Scene().open() as scene:
        token = scene.token(exp=TIME + 86_400)
        first = await scene.find(token, cookie_expire=timedelta(hours=1))
        scene.clock.jump(3601)
        second = await scene.find(token, cookie_expire=timedelta(hours=1))

    assert first is not None
    assert second is not None
    assert first.session_id == second.session_id
    assert (first.valid_until, second.valid_until) == (TIME + 3600, TIME + 7201)


async def test_a_jwt_is_verified_every_time() -> None:
    async with Scene().open() as scene:
        token = scene.token()
        await scene.find(token)
        scene.clock.jump(601)
        with pytest.raises(BearerRejected, match="expired"):
            await scene.find(token)


async def test_keys_are_fetched_once_and_again_when_they_roll() -> None:
    new = RSAKey.generate_key(2048, {"kid": "new"})
    async with Scene().open() as scene:
        await asyncio.gather(*(scene.find(scene.token(jti=str(number))) for number in range(5)))
        assert scene.provider.count("/keys") == 1
        scene.provider.keys.append(dict(new.as_dict(private=False)))
        for _ in range(3):
            with pytest.raises(BearerRejected):
                await scene.find(scene.token(new))
        assert scene.provider.count("/keys") == 1
        scene.clock.jump(31)
        assert await scene.find(scene.token(new)) is not None
        assert scene.provider.count("/keys") == 2


async def test_keys_stay_in_use_while_the_provider_is_away_but_not_for_ever() -> None:
    """Architecture 7; `identity-provider.<name>` of zero link 13.2."""
    check = "identity-provider.workloads"
    async with Scene().open() as scene:
        await scene.find(scene.token())
        scene.provider.status = 500
        scene.clock.jump(700)
        assert await scene.find(scene.token(exp=TIME + 10**6)) is not None
        with pytest.raises(ProviderUnavailable, match="answered 500"):
            await scene.find(scene.token(exp=TIME + 10**6, header={"kid": "unknown"}))
        assert scene.health.reports[check].healthy  # anybody may name a key that nobody knows
        scene.clock.jump(86_400)
        with pytest.raises(ProviderUnavailable):
            await scene.find(scene.token(exp=TIME + 10**6))
        assert "answered 500" in scene.health.reports[check].error
        scene.provider.status = 200
        scene.clock.jump(60)
        await scene.find(scene.token(exp=TIME + 10**6))
        assert scene.health.reports[check].healthy


async def test_a_provider_that_cannot_be_asked_is_an_outage_and_not_a_rejection() -> None:
    for change in ({"issuer": "https://somebody.else"}, {"jwks_uri": None}, {"jwks_uri": "http://example.com/keys"}):
        async with Scene().open() as scene:
            scene.provider.document.update(change)
            with pytest.raises(ProviderUnavailable):
                await scene.find(scene.token())


async def test_keys_that_cannot_be_read_stand_aside() -> None:
    async with Scene().open() as scene:
        junk: list[Any] = [7, {}, {"kty": "RSA"}, {"kty": "EC", "crv": "x", "x": "!", "y": 1}, {"kty": ["RSA"]}]
        scene.provider.keys = [*junk, *scene.provider.keys]
        assert await scene.find(scene.token()) is not None


async def test_a_token_without_a_key_id_is_tried_with_every_key() -> None:
    async with Scene().open() as scene:
        assert await scene.find(scene.token(EC, "ES256", header={"kid": ""})) is not None


# --- tokens of the identity provider ------------------------------------------------------------------


def access(scene: Scene, **changes: Any) -> dict[str, Any]:
    return {
        "format": BearerFormat.ACCESS_TOKEN,
        "idp_id": "idp",
        "authenticate_url": scene.provider.url,
        **changes,
    }


async def test_an_access_token_is_verified_once_and_kept_in_its_session() -> None:
    """A-9, authenticate 8.7."""
    async with Scene().open() as scene:
        scene.provider.answer = {
            "valid": True,
            "claims": {"sub": "u", "oid": "o", "email": "o@x", "name": "O", "exp": TIME + 60, "aud": ["a", "b"]},
        }
        found = await scene.find("opaque", **access(scene))
        again = await scene.find("opaque", **access(scene))
        assert found is not None
        assert again is not None
        session = await scene.stored(found.session_id)

    expected = bearer_session_id(uuid.UUID("0194f6f8-e760-76a0-8917-e28ac927a34d"), "idp", "opaque")
    assert found.session_id == again.session_id == expected
    assert scene.provider.asked == [
        ("/.pomerium/verify-access-token", {"accessToken": "opaque", "identityProviderId": "idp"})
    ]
    assert (found.user_id, found.email, found.access_token) == ("o", "o@x", "opaque")
    assert (session.oauth_token.token_type, session.refresh_disabled, session.idp_id) == ("Bearer", True, "idp")
    assert session.oauth_token.expires_at == session.expires_at
    assert list(session.audience) == ["a", "b"]


async def test_an_identity_token_likewise() -> None:
    async with Scene().open() as scene:
        scene.provider.answer = {"valid": True, "claims": {"sub": "u"}}
        found = await scene.find("raw", **access(scene, format=BearerFormat.IDENTITY_TOKEN))

    assert found is not None
    assert found.session_id == bearer_session_id(uuid.UUID("0194f6f9-aec0-704e-bb4a-51054f17ad17"), "idp", "raw")
    assert found.id_token == "raw"
    assert found.valid_until == TIME + 14 * 3600
    assert scene.provider.asked == [
        ("/.pomerium/verify-identity-token", {"identityToken": "raw", "identityProviderId": "idp"})
    ]


async def test_who_asks_about_a_token_proves_to_be_of_the_cluster() -> None:
    """N-48."""
    async with Scene().open() as scene:
        scene.provider.answer = {"valid": True, "claims": {"sub": "ada"}}
        await scene.find("opaque", format=BearerFormat.ACCESS_TOKEN, authenticate_url=scene.provider.url)

        [(proof, path, body)] = scene.provider.proofs
        check_proof(KEY, proof, path, body, scene.clock.now())


async def test_an_expired_session_of_an_access_token_is_nobody_and_not_asked_about_again() -> None:
    """Authorize 4.2."""
    async with Scene().open() as scene:
        scene.provider.answer = {"valid": True, "claims": {"sub": "u", "exp": TIME + 60}}
        await scene.find("opaque", **access(scene))
        scene.clock.jump(61)

        assert await scene.find("opaque", **access(scene)) is None
        assert len(scene.provider.asked) == 1


@pytest.mark.parametrize(
    ("said", "written", "allowed", "lets_in"),
    [
        ({"aud": "a"}, {}, ("a", "b"), True),
        ({"aud": ["x", "b"]}, {}, ("a", "b"), True),
        ({"aud": "x"}, {"aud": "a"}, ("a",), False),  # the provider's word comes first
        ({}, {"aud": ["a"]}, ("a",), True),
        ({}, {"aud": "x"}, ("a",), False),
        ({}, {"aud": ...}, ("a",), False),
        ({}, {"aud": {"a": "a"}}, ("a",), False),
        ({}, {"aud": "a"}, (), False),
        ({}, {"aud": "x"}, None, True),
    ],
)
async def test_a_route_takes_access_tokens_for_its_audiences_alone(
    said: dict[str, Any], written: dict[str, Any], allowed: tuple[str, ...] | None, lets_in: bool
) -> None:
    """Routes 1.2 (69): also when the token is known already, from a route that lists none."""
    async with Scene().open() as scene:
        scene.provider.answer = {"valid": True, "claims": {"sub": "u", **said}}
        token = scene.token(**written)
        assert await scene.find(token, **access(scene)) is not None
        if lets_in:
            assert await scene.find(token, **access(scene, audiences=allowed)) is not None
        else:
            with pytest.raises(BearerRejected, match="aud"):
                await scene.find(token, **access(scene, audiences=allowed))


async def test_an_opaque_access_token_of_which_nobody_says_whom_it_is_for_is_for_no_route_that_asks() -> None:
    async with Scene().open() as scene:
        scene.provider.answer = {"valid": True, "claims": {"sub": "u"}}
        with pytest.raises(BearerRejected):
            await scene.find("opaque", **access(scene, audiences=("a",)))


@pytest.mark.parametrize(
    ("answer", "error"),
    [
        ({"valid": False}, BearerRejected),
        ({"valid": False, "claims": {"sub": "u"}}, BearerRejected),
        ({"valid": "true", "claims": {"sub": "u"}}, BearerRejected),
        ({"valid": True}, BearerRejected),
        ({"valid": True, "claims": {}}, BearerRejected),
        ({"valid": True, "claims": {"sub": 5}}, BearerRejected),
        ({"valid": True, "claims": {"sub": "u", "exp": 1e18}}, BearerRejected),
        ({"valid": True, "claims": {"sub": "u", "x": [10**400]}}, BearerRejected),
        ({"valid": True, "claims": {"sub": "u", "x": "\ud800"}}, BearerRejected),
        ({}, BearerRejected),
        ([], ProviderUnavailable),
        ("no json", ProviderUnavailable),
        ("[" * 100_000, ProviderUnavailable),
        ("x" * (1024 * 1024 + 1), ProviderUnavailable),
    ],
    ids=lambda value: str(value)[:40] if not isinstance(value, type) else value.__name__,
)
async def test_only_a_clear_yes_is_a_yes(answer: object, error: type[Exception]) -> None:
    """A-9, A-10; the token is never quoted."""
    async with Scene().open() as scene:
        scene.provider.answer = answer
        with pytest.raises(error) as raised:
            await scene.find("tell-nobody", **access(scene))

    assert "tell-nobody" not in str(raised.value)


async def test_an_authenticate_service_that_is_away_or_not_https_is_an_outage() -> None:
    """Authorize 23."""
    async with Scene().open() as scene:
        for url in ("http://127.0.0.1:1", "http://example.com", "ftp://x", "", "https://[", "nonsense"):
            with pytest.raises(ProviderUnavailable):
                await scene.find("opaque", **access(scene, authenticate_url=url))
        scene.provider.status = 503
        with pytest.raises(ProviderUnavailable, match="answered 503"):
            await scene.find("opaque", **access(scene))


async def test_many_requests_with_one_new_token_ask_once() -> None:
    async with Scene().open() as scene:
        scene.provider.answer = {"valid": True, "claims": {"sub": "u"}}
        found = await asyncio.gather(*(scene.find("opaque", **access(scene)) for _ in range(20)))

    assert len(scene.provider.asked) == 1
    assert {resolved.session_id for resolved in found if resolved} == {found[0].session_id if found[0] else None}


async def test_a_session_that_another_replica_made_is_used_even_before_the_log_tells_of_it() -> None:
    async with Scene().open() as scene:
        scene.backend.lag()
        id = bearer_session_id(uuid.UUID("0194f6f8-e760-76a0-8917-e28ac927a34d"), "idp", "opaque")
        await scene.put(people.session(id, "u"))
        found = await scene.find("opaque", **access(scene))

    assert found is not None
    assert found.user_id == "u"
    assert scene.provider.asked == []


async def test_a_person_who_also_logs_in_keeps_what_their_record_has() -> None:
    async with Scene().open() as scene:
        await scene.put(people.user("u", "old@x", name="Name", claims={"team": ["a"]}))
        scene.provider.answer = {"valid": True, "claims": {"sub": "u", "email": "new@x"}}
        await scene.find("opaque", **access(scene))
        user = await scene.stored_user("u")

    assert (user.email, user.name) == ("new@x", "Name")
    assert list(user.claims) == ["team"]


async def test_a_store_that_is_away_is_an_outage() -> None:
    """A-8."""
    async with Scene().open() as scene:
        scene.provider.answer = {"valid": True, "claims": {"sub": "u"}}
        scene.backend.cut()
        with pytest.raises(DatabrokerUnavailable):
            await scene.find("opaque", **access(scene))


@settings(deadline=None)
@given(st.text(max_size=200) | st.from_regex(r"[A-Za-z0-9_\-]{0,60}(\.[A-Za-z0-9_\-]{0,60}){2}", fullmatch=True))
async def test_no_text_makes_the_verification_raise_anything_else(token: str) -> None:
    stage = Stage()
    provider = JwtProvider(name="p", issuer="https://p", audiences=("a",))
    async with aiohttp.ClientSession() as http:
        with pytest.raises(BearerRejected):
            await verify_jwt(token, [provider], JwksCache(http, stage.clock), NOW)
