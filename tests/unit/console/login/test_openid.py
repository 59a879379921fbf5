"""The console as the OpenID Connect provider of clusters with `idp_provider: hosted` (authenticate 5.4).

The client is the one that replicas have.
"""

import asyncio
import base64
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, quote, urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from joserfc import jws
from joserfc.jwk import ECKey, OctKey, OKPKey

from pomerium_agent.console.login.grants import ACCESS_LIFE, ASK_AGAIN
from pomerium_agent.errors import GrantEnded, ProviderUnavailable
from pomerium_agent.handoff.keys import hosted_client_key
from pomerium_agent.idp import Identity, Provider, ProviderSettings, open_provider
from pomerium_agent.idp.signed import sign
from tests.fakes.login_stage import ADA, Browser, Stage, Tenant, login_stage

AUTH = "https://auth.wiki.example.com"
CALLBACK = f"{AUTH}/oauth2/callback"
VERIFIER = "v" * 43
CHALLENGE = base64.urlsafe_b64encode(hashlib.sha256(VERIFIER.encode()).digest()).rstrip(b"=").decode()


@dataclass(frozen=True, kw_only=True)
class Client:
    """A replica of the wiki as a client of the console."""

    stage: Stage
    provider: Provider

    @property
    def issuer(self) -> str:
        return self.stage.base

    async def code(self, browser: Browser | None = None) -> str:
        """What a browser brings back."""
        url = await self.provider.authorization_url(
            redirect_uri=CALLBACK, state="state", nonce="nonce", code_challenge=CHALLENGE
        )
        answer = await (browser or self.stage.browser()).go(url)
        landed = parse_qs(urlsplit(answer.leads_to).query)
        assert answer.leads_to.startswith(CALLBACK), answer.text
        assert landed["state"] == ["state"]
        await self.provider.check_callback_issuer(landed["iss"][0])
        return landed["code"][0]

    async def exchange(self, code: str, *, verifier: str = VERIFIER, redirect_uri: str = CALLBACK) -> Identity:
        return await self.provider.exchange(code, redirect_uri=redirect_uri, nonce="nonce", code_verifier=verifier)

    async def ask(self, request: str) -> int:
        """The status of a refusal, which starts no login."""
        answer = await self.stage.browser().ask(f"{self.issuer}/oidc/authorize?request={quote(request)}")
        assert not answer.leads_to
        return answer.status

    async def post(self, path: str, **fields: str) -> tuple[int, dict[str, Any]]:
        async with self.stage.http.post(f"{self.issuer}{path}", data=fields) as response:
            return response.status, await response.json() if response.content_length else {}

    def assertion(self, *, tenant: Tenant | None = None, **claims: Any) -> dict[str, str]:
        now = int(self.stage.now.timestamp())
        usual = {
            "iss": AUTH,
            "sub": AUTH,
            "aud": f"{self.issuer}/oidc/token",
            "jti": "one",
            "iat": now,
            "exp": now + 300,
        }
        key = key_of(tenant or self.stage.wiki)
        signed = sign({"alg": "EdDSA", "typ": "JWT"}, {**usual, **claims}, key)
        kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        return {"client_assertion_type": kind, "client_assertion": signed}

    def request(self, *, tenant: Tenant | None = None, **claims: Any) -> str:
        return sign_request(key_of(tenant or self.stage.wiki), self.request_claims(**claims))

    def request_claims(self, **claims: Any) -> dict[str, Any]:
        now = int(self.stage.now.timestamp())
        return {
            "iss": AUTH,
            "aud": self.issuer,
            "iat": now,
            "exp": now + 300,
            "client_id": AUTH,
            "response_type": "code",
            "redirect_uri": CALLBACK,
            "scope": "openid email",
            "state": "s",
            "nonce": "n",
            "code_challenge": CHALLENGE,
            "code_challenge_method": "S256",
            **claims,
        }


def key_of(tenant: Tenant) -> OKPKey:
    return private_key(hosted_client_key(tenant.secret).private_bytes_raw())


def private_key(seed: bytes) -> OKPKey:
    made = Ed25519PrivateKey.from_private_bytes(seed)
    return OKPKey.import_key(made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


def sign_request(key: OKPKey, claims: Mapping[str, Any]) -> str:
    return sign({"alg": "EdDSA", "typ": "JWT", "jwk": key.as_dict(private=False)}, dict(claims), key)


def client_of(stage: Stage) -> Client:
    stage.configure(
        stage.wiki, authenticate_service_url=AUTH, idp_provider="hosted", idp_provider_url=stage.settings.public_url
    )
    settings = ProviderSettings(type="hosted", url=stage.settings.public_url, client_id=AUTH, authenticate_url=AUTH)
    seed = hosted_client_key(stage.wiki.secret).private_bytes_raw()
    return Client(stage=stage, provider=open_provider(settings, stage.http, stage.clock, client_key=seed))


async def test_a_cluster_logs_people_in_with_the_console_as_its_provider(tmp_path: Path) -> None:
    """Authenticate 5.4, by the client that replicas have: signed request, PKCE, assertion, ID token, userinfo."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        assert await client.provider.uses_pkce()

        identity = await client.exchange(await client.code())
        userinfo = await client.provider.userinfo(identity.token.access_token)

    assert (identity.claims["email"], identity.claims["groups"]) == (ADA.email, ["eng"])
    assert identity.id_token_claims["aud"] == AUTH
    assert identity.id_token_claims["nonce"] == "nonce"
    assert userinfo["sub"] == identity.id_token_claims["sub"] == ADA.claims()["sub"]
    assert identity.token.refresh_token


async def test_a_refresh_brings_the_next_token_and_asks_the_real_provider(tmp_path: Path) -> None:
    """Claims are fresh; the tokens of the real provider stay at the console."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        first = await client.exchange(await client.code())
        stage.clock.jump(ACCESS_LIFE.total_seconds() + 1)
        with pytest.raises(GrantEnded):
            await client.provider.userinfo(first.token.access_token)

        second = await client.provider.refresh(first.token, first.id_token_claims)
        third = await client.provider.refresh(second.token, second.id_token_claims)

    tokens = [identity.token.refresh_token for identity in (first, second, third)]
    assert len(set(tokens)) == 3
    assert third.claims["email"] == ADA.email


async def test_a_refresh_token_that_comes_again_ends_the_grant_for_everybody(tmp_path: Path) -> None:
    """Reuse detection: also one that was replaced twice, and for the tokens that came of it."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        first = await client.exchange(await client.code())
        second = await client.provider.refresh(first.token, first.id_token_claims)
        third = await client.provider.refresh(second.token, second.id_token_claims)

        with pytest.raises(GrantEnded):
            await client.provider.refresh(first.token, first.id_token_claims)
        with pytest.raises(GrantEnded):
            await client.provider.refresh(third.token, third.id_token_claims)
        with pytest.raises(GrantEnded):
            await client.provider.userinfo(third.token.access_token)


async def test_a_replica_that_never_heard_the_answer_may_ask_again_for_a_minute(tmp_path: Path) -> None:
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        first = await client.exchange(await client.code())
        lost = await client.provider.refresh(first.token, first.id_token_claims)
        stage.clock.jump(ASK_AGAIN.total_seconds() - 1)

        heard = await client.provider.refresh(first.token, first.id_token_claims)
        stage.clock.jump(ASK_AGAIN.total_seconds())

        with pytest.raises(GrantEnded):
            await client.provider.refresh(first.token, first.id_token_claims)
        assert lost.token.refresh_token != heard.token.refresh_token


async def test_while_the_real_provider_is_away_nothing_is_used_up(tmp_path: Path) -> None:
    """G-9: the replica keeps its session, and tries again."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        identity = await client.exchange(await client.code())
        before = stage.console.store.database.read("SELECT * FROM login_grant")
        await stage.running.aclose()
        stage.clock.jump(120)

        with pytest.raises(ProviderUnavailable):
            await client.provider.refresh(identity.token, identity.id_token_claims)

        assert [tuple(row) for row in stage.console.store.database.read("SELECT * FROM login_grant")] == [
            tuple(row) for row in before
        ]


async def test_a_code_works_once_and_a_second_use_takes_back_what_it_brought(tmp_path: Path) -> None:
    """RFC 6749 4.1.2."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        code = await client.code()
        identity = await client.exchange(code)

        with pytest.raises(GrantEnded):
            await client.exchange(code)
        with pytest.raises(GrantEnded):
            await client.provider.userinfo(identity.token.access_token)


@pytest.mark.parametrize("wrong", ["verifier", "redirect", "late"])
async def test_a_code_is_for_who_began_only(tmp_path: Path, wrong: str) -> None:
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        code = await client.code()
        if wrong == "late":
            stage.clock.jump(61)

        with pytest.raises(GrantEnded):
            await client.exchange(
                code,
                verifier="w" * 43 if wrong == "verifier" else VERIFIER,
                redirect_uri=f"{CALLBACK}x" if wrong == "redirect" else CALLBACK,
            )


async def test_a_code_of_one_cluster_is_nothing_to_another(tmp_path: Path) -> None:
    """N-46."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        other = "https://auth.shop.example.com"
        stage.configure(stage.shop, authenticate_service_url=other, idp_provider="hosted")
        code = await client.code()

        status, said = await client.post(
            "/oidc/token",
            **client.assertion(tenant=stage.shop, iss=other, sub=other),
            grant_type="authorization_code",
            code=code,
            redirect_uri=CALLBACK,
            code_verifier=VERIFIER,
        )

    assert (status, said) == (400, {"error": "invalid_grant"})


async def test_an_assertion_works_once(tmp_path: Path) -> None:
    """RFC 7523 3: the id of an assertion is remembered until it has expired."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        same = client.assertion()

        first = await client.post("/oidc/token", **same, grant_type="refresh_token", refresh_token="x")
        second = await client.post("/oidc/token", **same, grant_type="refresh_token", refresh_token="x")

    assert first == (400, {"error": "invalid_grant"})
    assert second == (401, {"error": "invalid_client"})


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "https://elsewhere.example/token"},
        {"iss": "https://auth.shop.example.com"},
        {"sub": "https://auth.shop.example.com"},
        {"exp": 1},
        {"exp": 2**33},
        {"iat": 2**32},
        {"jti": ""},
        {"jti": 7},
    ],
)
async def test_an_assertion_that_is_not_right_in_everything_is_refused(tmp_path: Path, claims: dict[str, Any]) -> None:
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)

        answer = await client.post("/oidc/token", **client.assertion(**claims), grant_type="refresh_token")

    assert answer == (401, {"error": "invalid_client"})


async def test_nobody_signs_for_another_cluster(tmp_path: Path) -> None:
    """N-45: the key decides who asks, and it may ask for its own cluster only."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        stranger = private_key(bytes(32))

        unknown = await client.ask(sign_request(stranger, client.request_claims()))
        other = await client.ask(client.request(tenant=stage.shop))
        borrowed = await client.ask(
            sign({"alg": "EdDSA", "jwk": key_of(stage.wiki).as_dict(private=False)}, client.request_claims(), stranger)
        )
        assertion = await client.post("/oidc/token", **client.assertion(tenant=stage.shop), grant_type="refresh_token")

    assert (unknown, other, borrowed) == (403, 400, 403)
    assert assertion[0] == 401


@pytest.mark.parametrize("how", ["none", "HS256", "ES256", "garbage", "nothing"])
async def test_a_request_is_signed_by_the_clusters_own_key_or_nothing(tmp_path: Path, how: str) -> None:
    """Algorithms are pinned: no `none`, no shared secret, no other curve."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        public, payload = key_of(stage.wiki).as_dict(private=False), json.dumps(client.request_claims()).encode()
        match how:
            case "none":
                head = base64.urlsafe_b64encode(json.dumps({"alg": "none", "jwk": public}).encode()).rstrip(b"=")
                body = base64.urlsafe_b64encode(payload).rstrip(b"=")
                request = f"{head.decode()}.{body.decode()}."
            case "HS256":
                key = OctKey.import_key(hosted_client_key(stage.wiki.secret).public_key().public_bytes_raw())
                request = jws.serialize_compact({"alg": "HS256", "jwk": public}, payload, key, algorithms=["HS256"])
            case "ES256":
                request = jws.serialize_compact(
                    {"alg": "ES256", "jwk": public}, payload, ECKey.generate_key("P-256"), algorithms=["ES256"]
                )
            case "garbage":
                request = "a.b.c"
            case _:
                request = ""

        assert await client.ask(request) in (400, 403)


@pytest.mark.parametrize(
    "claims",
    [
        {"redirect_uri": "https://evil.example/oauth2/callback"},
        {"redirect_uri": f"{AUTH}/oauth2/callback/"},
        {"redirect_uri": f"{AUTH}.evil.example/oauth2/callback"},
        {"client_id": "https://auth.shop.example.com"},
        {"response_type": "token"},
        {"scope": "email"},
        {"state": ""},
        {"code_challenge": ""},
        {"code_challenge_method": "plain"},
        {"aud": "https://elsewhere.example"},
        {"exp": 1},
        {"scope": ["openid"]},
    ],
)
async def test_what_a_request_may_ask_is_pinned(tmp_path: Path, claims: dict[str, Any]) -> None:
    """N-45, and no code without PKCE."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)

        assert await client.ask(client.request(**claims)) == 400


async def test_parameters_beside_the_request_are_not_read(tmp_path: Path) -> None:
    """RFC 9101 6.3."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        url = f"{client.issuer}/oidc/authorize?request={client.request()}&redirect_uri=https://evil.example/&state=evil"

        answer = await stage.browser().go(url)

    assert answer.leads_to.startswith(f"{CALLBACK}?code=")
    assert "state=s&" in answer.leads_to


async def test_who_signs_out_takes_the_clusters_tokens_with_them(tmp_path: Path) -> None:
    """RP-initiated logout asks first, and leads back only to the cluster that asks."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client, browser = client_of(stage), stage.browser()
        identity = await client.exchange(await client.code(browser))
        back = f"{AUTH}/.pomerium/signed_out"
        url = await client.provider.sign_out_url(id_token=identity.id_token, redirect_uri=back)
        assert url is not None

        page = await browser.ask(url)
        still = await client.provider.userinfo(identity.token.access_token)
        assert page.form.action is not None
        done = await browser.ask(f"{client.issuer}{page.form.action}", form=page.form.values)
        end = await browser.go(done.leads_to)

        assert still["email"] == ADA.email
        assert end.leads_to == back
        with pytest.raises(GrantEnded):
            await client.provider.refresh(identity.token, identity.id_token_claims)
        with pytest.raises(GrantEnded):
            await client.provider.userinfo(identity.token.access_token)


async def test_a_sign_out_leads_nowhere_else(tmp_path: Path) -> None:
    """N-41: neither without an ID token of ours, nor to somebody else's place."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        identity = await client.exchange(await client.code())
        evil = await client.provider.sign_out_url(id_token=identity.id_token, redirect_uri="https://evil.example/")
        bare = await client.provider.sign_out_url(id_token="", redirect_uri=f"{AUTH}/.pomerium/signed_out")

        for url in (evil, bare):
            assert url is not None
            assert (await stage.browser().ask(url)).leads_to == f"{client.issuer}/.pomerium/signed_out"


async def test_tokens_can_be_given_back(tmp_path: Path) -> None:
    """RFC 7009, by the client that holds them."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        identity = await client.exchange(await client.code())

        await client.provider.revoke(identity.token)

        with pytest.raises(GrantEnded):
            await client.provider.refresh(identity.token, identity.id_token_claims)


async def test_a_form_with_a_field_twice_and_a_grant_of_another_kind_are_refused(tmp_path: Path) -> None:
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        kind = await client.post("/oidc/token", **client.assertion(), grant_type="password")
        body = b"grant_type=refresh_token&grant_type=authorization_code"
        async with stage.http.post(f"{client.issuer}/oidc/token", data=body) as response:
            twice = response.status

    assert kind == (400, {"error": "unsupported_grant_type"})
    assert twice == 401


async def test_two_refreshes_at_once_ask_the_real_provider_once(tmp_path: Path) -> None:
    """Its refresh tokens rotate too: the second would look stolen."""
    async with login_stage(tmp_path, by_address=True) as stage:
        client = client_of(stage)
        browser = stage.browser()
        first = await client.exchange(await client.code(browser))
        other = await client.exchange(await client.code(browser))
        stage.clock.jump(3600)

        identities = await asyncio.gather(
            *(client.provider.refresh(each.token, each.id_token_claims) for each in (first, other))
        )

    assert [identity.claims["email"] for identity in identities] == [ADA.email] * 2
