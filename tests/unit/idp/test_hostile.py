"""A provider that lies, stalls or breaks: what is believed, what ends a session, what has to wait (G-6, G-9)."""

import gzip
import json
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer
from joserfc.jwk import RSAKey

import pomerium_agent.idp.fetch as fetch
from pomerium_agent.errors import AgentError, GrantEnded, NotBelieved, ProviderRefused, ProviderUnavailable, Unsupported
from pomerium_agent.idp import ProviderSettings, open_provider
from pomerium_agent.idp.discovery import read_metadata
from pomerium_agent.idp.jwks import read_keys
from tests.fakes.clock import ManualClock
from tests.fakes.hostile_provider import KEYS, LEAVE_OUT, ROLLED
from tests.fakes.private_ca import PrivateCa
from tests.unit.idp.scene import Scene, scene

NOW = int(ManualClock().now().timestamp())


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"nonce": "another"}, "nonce"),
        ({"nonce": LEAVE_OUT}, "nonce"),
        ({"nonce": 7}, "nonce"),
        ({"aud": "another"}, "aud"),
        ({"aud": LEAVE_OUT}, "aud"),
        ({"aud": []}, "aud"),
        ({"aud": ["client", "another"]}, "azp"),
        ({"aud": ["client", "another"], "azp": "another"}, "azp"),
        ({"azp": "another"}, "azp"),
        ({"iss": "https://evil.example"}, "iss"),
        ({"iss": LEAVE_OUT}, "iss"),
        ({"sub": ""}, "sub"),
        ({"sub": LEAVE_OUT}, "sub"),
        ({"sub": 7}, "sub"),
        ({"sub": "a\nb"}, "sub"),
        ({"exp": NOW}, "expired"),
        ({"exp": LEAVE_OUT}, "never expires"),
        ({"exp": "soon"}, "exp"),
        ({"exp": True}, "exp"),
        ({"exp": 1e300}, "exp"),
        ({"iat": NOW + 61}, "future"),
        ({"iat": LEAVE_OUT}, "issued"),
        ({"iat": -1}, "iat"),
        ({"nbf": NOW + 61}, "future"),
        ({"at_hash": "AAAA"}, "at_hash"),
        ({"at_hash": 7}, "at_hash"),
        ({"events": {}}, "event"),
    ],
    ids=str,
)
async def test_an_id_token_with_wrong_claims_logs_nobody_in(changes: dict[str, Any], reason: str) -> None:
    """G-6, N-23, N-32."""
    async with scene().open() as here:
        here.idp.id_token_changes = changes
        with pytest.raises(NotBelieved, match=reason):
            await here.log_in()


@pytest.mark.parametrize(
    "changes",
    [
        {"iat": NOW + 60},
        {"nbf": NOW + 60},
        {"exp": NOW + 1},
        {"aud": ["client"]},
        {"aud": ["client", "another"], "azp": "client"},
        {"at_hash": LEAVE_OUT},
        {"exp": NOW + 10.5},
    ],
    ids=str,
)
async def test_what_is_unusual_but_allowed_is_believed(changes: dict[str, Any]) -> None:
    """Authenticate 10: 60 s for `iat` and `nbf`, none for `exp`."""
    async with scene().open() as here:
        here.idp.id_token_changes = changes

        assert (await here.log_in()).user_id == "ada"


@pytest.mark.filterwarnings("ignore:EdDSA is deprecated")  # by the library that signs here, not the one that verifies
@pytest.mark.parametrize("alg", ["RS256", "ES256", "EdDSA"])
async def test_the_algorithm_is_taken_from_what_the_provider_announces(alg: str) -> None:
    async with scene().open() as here:
        here.idp.alg, here.idp.key = alg, KEYS[alg]
        here.idp.id_token_changes["at_hash"] = LEAVE_OUT
        assert (await here.log_in()).user_id == "ada"
        here.idp.document_changes["id_token_signing_alg_values_supported"] = ["PS256"]
        here.clock.jump(3601)
        with pytest.raises(NotBelieved, match="alg"):
            await here.log_in()


async def test_only_rs256_is_expected_of_a_provider_that_announces_nothing() -> None:
    """Authenticate 6.1."""
    async with scene().open() as here:
        here.idp.document_changes["id_token_signing_alg_values_supported"] = LEAVE_OUT
        assert (await here.log_in()).user_id == "ada"
        here.idp.alg, here.idp.key = "ES256", KEYS["ES256"]
        with pytest.raises(NotBelieved, match="alg"):
            await here.log_in()


@pytest.mark.parametrize("alg", ["none", "HS256"])
async def test_no_signature_and_shared_secrets_are_never_believed_though_announced(alg: str) -> None:
    async with scene().open() as here:
        here.idp.keys.append(KEYS["HS256"])
        here.idp.alg, here.idp.key = alg, KEYS["HS256"]
        with pytest.raises(NotBelieved, match="alg"):
            await here.log_in()


async def test_a_token_by_a_key_that_only_calls_itself_the_providers_is_not_believed() -> None:
    async with scene().open() as here:
        here.idp.key = ROLLED
        for header in ({}, {"kid": "rsa"}, {"kid": LEAVE_OUT}, {"jwk": ROLLED.as_dict(private=False)}):
            here.idp.header_changes = header
            with pytest.raises(NotBelieved, match="no key"):
                await here.log_in()


@pytest.mark.parametrize("typ", ["at+jwt", "application/at+jwt", "logout+jwt"])
async def test_other_kinds_of_tokens_are_no_id_tokens(typ: str) -> None:
    async with scene().open() as here:
        here.idp.header_changes["typ"] = typ
        with pytest.raises(NotBelieved, match="typ"):
            await here.log_in()


async def test_rolled_keys_are_fetched_but_not_at_anybodys_pace() -> None:
    async with scene().open() as here:
        await here.log_in()
        here.idp.key = ROLLED
        with pytest.raises(NotBelieved):
            await here.log_in()
        here.idp.keys.append(ROLLED)
        here.clock.jump(31)

        assert (await here.log_in()).user_id == "ada"
        assert len(here.idp.of("/keys")) == 2


async def test_known_keys_and_documents_work_through_a_long_outage_and_a_change_of_settings() -> None:
    """Architecture 7: ten minutes and more."""
    async with scene().open() as here:
        token = here.idp.token(exp=NOW + 10**6)
        await here.provider.verify_id_token(token)
        before = here.provider
        for path in ("openid-configuration", "/keys"):
            here.idp.fail(path, 503)
        for _ in range(20):
            here.clock.jump(700)
            assert (await here.provider.verify_id_token(token))["sub"] == "ada"
        here.settings = ProviderSettings(type="oidc", url=here.idp.issuer, client_id="client", scopes=("openid",))
        assert here.provider is not before
        assert (await here.provider.verify_id_token(token))["sub"] == "ada"
        here.idp.answers.clear()
        here.clock.jump(60)
        for path in ("openid-configuration", "/keys"):
            here.idp.fail(path, 200, {})  # a maintenance page in the form of JSON replaces nothing
        assert (await here.provider.verify_id_token(token))["sub"] == "ada"
        here.clock.jump(86_401)
        with pytest.raises(ProviderUnavailable):
            await here.provider.verify_id_token(token)


@pytest.mark.parametrize(
    "fresh", [("max-age=0", 60), ("public, max-age=1200", 1200), ("max-age=999999", 3600), ("", 600)]
)
async def test_documents_are_kept_as_long_as_they_say_within_bounds(fresh: tuple[str, int]) -> None:
    header, seconds = fresh
    async with scene().open() as here:
        here.idp.headers = {"Cache-Control": header} if header else {}
        await here.url()
        here.clock.jump(seconds - 1)
        await here.url()
        assert len(here.idp.of("openid-configuration")) == 1
        here.clock.jump(1)
        await here.url()
        assert len(here.idp.of("openid-configuration")) == 2


@pytest.mark.parametrize(
    "changes",
    [
        {"issuer": "https://another.example"},
        {"issuer": LEAVE_OUT},
        {"token_endpoint": LEAVE_OUT},
        {"token_endpoint": 7},
        {"authorization_endpoint": "javascript:alert(1)"},
        {"authorization_endpoint": "http://elsewhere.example/authorize"},
        {"userinfo_endpoint": "https://name:secret@elsewhere.example/"},
        {"jwks_uri": LEAVE_OUT},
    ],
    ids=str,
)
async def test_a_document_that_cannot_be_right_is_not_used(changes: dict[str, Any]) -> None:
    async with scene().open() as here:
        here.idp.document_changes = changes
        with pytest.raises(ProviderUnavailable) as raised:
            await here.url()

    assert "secret" not in str(raised.value)


@pytest.mark.parametrize(
    ("changes", "error"),
    [
        ({"sub": "grace"}, NotBelieved),
        ({"sub": LEAVE_OUT}, NotBelieved),
        ({"sub": None}, NotBelieved),
        ({"iss": "https://evil.example", "aud": "x", "exp": 1, "nonce": "x"}, None),
    ],
    ids=str,
)
async def test_userinfo_is_about_the_same_person_and_has_no_say_in_the_token(
    changes: dict[str, Any], error: type[Exception] | None
) -> None:
    """N-32."""
    async with scene().open() as here:
        here.idp.userinfo_changes = changes
        if error is not None:
            with pytest.raises(error, match="sub"):
                await here.log_in()
        else:
            claims = (await here.log_in()).claims
            assert (claims["iss"], claims["aud"], claims["nonce"]) == (here.idp.issuer, "client", "no")


async def test_userinfo_comes_in_the_usual_types() -> None:
    """Authenticate 6.1."""
    async with scene().open() as here:
        here.idp.id_token_changes |= {"email": "old@x", "email_verified": True}
        here.idp.userinfo_changes = {"email": LEAVE_OUT, "mail": "ada@x", "phone_number_verified": "True"}
        claims = (await here.log_in()).claims

    assert (claims["email"], claims["phone_number_verified"]) == ("ada@x", True)
    assert "email_verified" not in claims  # it was said of another address


async def test_signed_userinfo_is_verified() -> None:
    async with scene().open() as here:
        said: dict[str, Any] = {}

        async def answer(_: web.Request) -> web.Response:
            return web.Response(text=here.idp.token(**said), content_type="application/jwt")

        here.idp.answers["/userinfo"] = answer
        assert (await here.log_in()).claims["email"] == "ada@id-token.example"
        for wrong in ({"aud": "another"}, {"iss": "https://evil"}, {"sub": "grace"}):
            said = wrong
            with pytest.raises(NotBelieved):
                await here.log_in()
        here.idp.answers["/userinfo"] = lambda _: _text("a.b.c", "application/jwt")
        with pytest.raises(NotBelieved):
            await here.log_in()


async def test_a_provider_without_userinfo_works() -> None:
    """Login, refresh, and nothing that only userinfo can tell."""
    async with scene().open() as here:
        here.idp.document_changes["userinfo_endpoint"] = LEAVE_OUT
        ada = await here.log_in()
        fresh = await here.refresh(ada)
        assert await here.provider.userinfo("any") == {}
        with pytest.raises(Unsupported):
            await here.provider.verify_access_token(ada.token.access_token)

    assert ada.claims["email"] == fresh.claims["email"] == "ada@id-token.example"


# --- refresh --------------------------------------------------------------------------------------------


async def test_a_refresh_without_an_id_token_still_brings_claims() -> None:
    """Authenticate 6.1: and the refresh token stays when no other comes."""
    async with scene().open() as here:
        ada = await here.log_in()
        here.idp.token_changes = {"id_token": LEAVE_OUT, "refresh_token": LEAVE_OUT, "expires_in": "60"}
        fresh = await here.refresh(ada)
        here.idp.userinfo_changes["sub"] = "grace"
        with pytest.raises(NotBelieved, match="sub"):
            await here.refresh(ada)

    assert (fresh.id_token, fresh.id_token_claims) == ("", {})
    assert fresh.claims == {"email": "ada@userinfo.example", "name": "Ada Lovelace", "groups": ["eng"]}
    assert fresh.token.refresh_token == ada.token.refresh_token
    assert fresh.token.expires_at is not None
    assert (fresh.token.expires_at - here.clock.now()).total_seconds() == 60


@pytest.mark.parametrize("changes", [{"sub": "grace"}, {"nonce": "of another login"}, {"aud": "another"}], ids=str)
async def test_a_refreshed_id_token_is_about_the_same_person_and_login(changes: dict[str, Any]) -> None:
    async with scene().open() as here:
        ada = await here.log_in()
        here.idp.id_token_changes = changes
        with pytest.raises(NotBelieved):
            await here.refresh(ada)


async def test_a_refresh_is_not_lost_because_something_else_is_away() -> None:
    """A provider that replaces refresh tokens takes the old one no more: what it gave must be kept."""
    async with scene().open() as here:
        ada = await here.log_in()
        here.idp.fail("/userinfo", 503)
        fresh = await here.refresh(ada)
        assert fresh.token.refresh_token not in ("", ada.token.refresh_token)
        assert (fresh.claims["email"], fresh.id_token != "") == ("ada@id-token.example", True)

        here.idp.key = ROLLED
        here.idp.fail("/keys", 503)
        here.clock.jump(31)
        again = await here.refresh(fresh)
        assert again.token.refresh_token not in ("", fresh.token.refresh_token)
        assert (again.id_token, dict(again.claims)) == ("", {})


async def test_a_refresh_says_whom_it_is_about() -> None:
    async with scene().open() as here:
        ada = await here.log_in()
        asked = len(here.idp.asked)
        with pytest.raises(NotBelieved):
            await here.provider.refresh(ada.token, {})
        assert len(here.idp.asked) == asked


def _garbage(here: Scene) -> None:
    here.idp.fail("/token", 200, "<html>maintenance</html>")


def _deep(here: Scene) -> None:
    here.idp.fail("/token", 200, "[" * 100_000)


def _huge(here: Scene) -> None:
    here.idp.fail("/token", 200, {"access_token": "a", "more": "x" * (fetch.MAX_BYTES + 1)})


def _bomb(here: Scene) -> None:
    async def answer(_: web.Request) -> web.Response:
        body = gzip.compress(b'{"access_token": "a"}' + b" " * (64 * fetch.MAX_BYTES))
        return web.Response(body=body, headers={"Content-Encoding": "gzip"}, content_type="application/json")

    here.idp.answers["/token"] = answer


def _cut(here: Scene) -> None:
    async def answer(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Length": "100"})
        await response.prepare(request)
        assert request.transport is not None
        request.transport.abort()
        return response

    here.idp.answers["/token"] = answer


TEMPORARY: dict[str, Callable[[Scene], None]] = {
    "408": lambda here: here.idp.fail("/token", 408),
    "429": lambda here: here.idp.fail("/token", 429),
    "500": lambda here: here.idp.fail("/token", 500, {"error": "invalid_grant"}),
    "503": lambda here: here.idp.fail("/token", 503),
    "a bare 403": lambda here: here.idp.fail("/token", 403, "<html>blocked</html>"),
    "a bare 404": lambda here: here.idp.fail("/token", 404, ""),
    "temporarily_unavailable": lambda here: here.idp.fail("/token", 400, {"error": "temporarily_unavailable"}),
    "a redirect": lambda here: here.idp.fail("/token", 307, "", Location="/token2"),
    "garbage": _garbage,
    "deep JSON": _deep,
    "a huge answer": _huge,
    "a bomb": _bomb,
    "a cut connection": _cut,
    "a list": lambda here: here.idp.fail("/token", 200, []),
}


@pytest.mark.parametrize("name", TEMPORARY)
async def test_trouble_at_the_provider_is_temporary(name: str) -> None:
    """N-36, G-9."""
    async with scene().open() as here:
        ada = await here.log_in()
        TEMPORARY[name](here)
        with pytest.raises(ProviderUnavailable) as raised:
            await here.refresh(ada)

    assert "oidc" in str(raised.value) or here.idp.origin in str(raised.value)


async def test_a_provider_that_stalls_or_is_gone_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    """N-36: timeouts and refused connections."""
    monkeypatch.setattr(fetch, "FETCH_SECONDS", 0.2)
    async with scene().open() as here:
        ada = await here.log_in()
        here.idp.stall("/token")
        with pytest.raises(ProviderUnavailable, match="TimeoutError"):
            await here.refresh(ada)
        here.settings = ProviderSettings(type="oidc", url="http://127.0.0.1:1", client_id="client")
        with pytest.raises(ProviderUnavailable, match="cannot reach"):
            await here.url()


@pytest.mark.parametrize(
    ("status", "code", "error"),
    [
        (400, "invalid_grant", GrantEnded),
        (200, "invalid_grant", GrantEnded),
        (401, "invalid_client", ProviderRefused),
        (400, "unauthorized_client", ProviderRefused),
        (400, "invalid_scope", ProviderRefused),
    ],
)
async def test_a_clear_no_is_not_retried_and_what_ended_is_told_apart(
    status: int, code: str, error: type[AgentError]
) -> None:
    """N-36, authenticate 7.3."""
    async with scene().open() as here:
        ada = await here.log_in()
        here.idp.fail("/token", status, {"error": code, "error_description": str(ada.token.refresh_token)})
        with pytest.raises(error) as raised:
            await here.refresh(ada)

    assert type(raised.value) is error
    assert "oidc" in str(raised.value)
    assert code in str(raised.value)


async def test_a_code_that_is_over_is_not_tried_again_in_another_way() -> None:
    """Whoever says `invalid_grant` knew who asked; the secret is not sent a second time."""
    async with scene().open() as here:
        with pytest.raises(GrantEnded):
            await here.provider.exchange("over", redirect_uri="r", nonce="n")

        assert len(here.idp.of("/token")) == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"access_token": LEAVE_OUT},
        {"access_token": ""},
        {"access_token": "a b"},
        {"access_token": "a\r\nX: y"},
        {"access_token": 7},
        {"token_type": "mac"},
        {"id_token": LEAVE_OUT},
        {"id_token": "a.b.c"},
    ],
    ids=str,
)
async def test_an_answer_without_usable_tokens_is_not_believed(changes: dict[str, Any]) -> None:
    async with scene().open() as here:
        here.idp.token_changes = changes
        with pytest.raises(NotBelieved):
            await here.log_in()


@pytest.mark.parametrize("expires_in", [LEAVE_OUT, 0, -5, "never", True, None, []], ids=str)
async def test_an_access_token_may_come_without_an_end(expires_in: object) -> None:
    async with scene().open() as here:
        here.idp.token_changes["expires_in"] = expires_in

        assert (await here.log_in()).token.expires_at is None


async def test_an_access_token_that_ended_is_told_apart() -> None:
    async with scene().open() as here:
        ada = await here.log_in()
        here.idp.access_tokens.clear()
        with pytest.raises(GrantEnded):
            await here.provider.userinfo(ada.token.access_token)
        here.idp.fail("/userinfo", 403)
        with pytest.raises(ProviderRefused):
            await here.provider.userinfo(ada.token.access_token)


async def test_no_error_tells_a_secret() -> None:
    """N-33: whatever the provider echoes."""
    async with scene().open() as here:
        ada = await here.log_in()
        secrets = [
            here.idp.secret,
            "the-code",
            *map(str, (ada.id_token, ada.token.access_token, ada.token.refresh_token)),
        ]
        texts = [repr(ada), repr(ada.token), repr(here.settings)]
        echoes: list[Callable[[], Any]] = [
            lambda: here.provider.exchange("the-code", redirect_uri="r", nonce="n"),
            lambda: here.provider.refresh(ada.token, ada.id_token_claims),
            lambda: here.provider.revoke(ada.token),
            lambda: here.provider.verify_id_token(ada.id_token + "x"),
            lambda: here.provider.verify_id_token(ada.id_token, nonce="n"),
            lambda: here.provider.verify_logout_token(ada.id_token),
        ]
        said = " ".join(secrets)
        for status in (200, 302, 400, 401, 500):
            for body in ({"error": said}, {"error": "invalid_grant", "error_description": said}, said):
                for path in ("/token", "/revoke"):
                    here.idp.fail(path, status, body, Location=f"https://x/?{secrets[1]}")
                for call in echoes:
                    try:
                        await call()
                    except AgentError as error:
                        texts.append(f"{error} {error!r} {error.__cause__!r} {error.__context__!r}")

    assert len(texts) > 50
    assert [text for text in texts for secret in secrets if secret in text] == []


def test_keys_that_are_weak_or_endless_stand_aside() -> None:
    good = KEYS["RS256"].as_dict(private=False)
    with warnings.catch_warnings(action="ignore"):
        weak = RSAKey.generate_key(1024).as_dict(private=False)
    endless = {**good, "n": "A" * 20_000}

    assert len(read_keys({"keys": [weak, endless, good, {**good, "use": "enc"}]})) == 1


def test_an_issuer_with_tls_has_no_endpoint_without() -> None:
    """Nobody from outside sends our secrets to something on this machine."""
    document = {name: "https://idp.example.com/x" for name in ("authorization_endpoint", "token_endpoint", "jwks_uri")}
    assert read_metadata(document, "https://idp.example.com").token_endpoint
    with pytest.raises(ProviderUnavailable, match="not https"):
        read_metadata({**document, "token_endpoint": "http://127.0.0.1/x"}, "https://idp.example.com")


# --- where questions go -------------------------------------------------------------------------------


async def test_redirects_are_followed_for_documents_on_the_same_host_only_and_not_for_ever() -> None:
    async with scene(path="/idp").open() as here:
        for target, reached in (
            ("/moved/openid-configuration2", True),
            ("https://elsewhere.example/x", False),
            (f"http://localhost:{here.idp.origin.rpartition(':')[2]}/x", False),
            ("/idp/.well-known/openid-configuration", False),
            ("", False),
        ):
            here.idp.answers.clear()
            here.idp.fail("/openid-configuration", 302, "", Location=target)
            here.idp.fail("/openid-configuration2", 200, here.idp._document())
            provider = open_provider(here.settings, here.http, here.clock)
            count = len(here.idp.asked)
            if reached:
                await provider.uses_pkce()
            else:
                with pytest.raises(ProviderUnavailable, match="302"):
                    await provider.uses_pkce()
            assert len(here.idp.asked) - count <= 1 + fetch.MAX_REDIRECTS


async def test_tokens_are_never_sent_after_a_redirect() -> None:
    async with scene().open() as here:
        ada = await here.log_in()
        for path in ("/userinfo", "/token", "/revoke"):
            here.idp.fail(path, 307, "", Location="/elsewhere")
        for call in (
            here.provider.userinfo(ada.token.access_token),
            here.provider.refresh(ada.token, ada.id_token_claims),
            here.provider.revoke(ada.token),
        ):
            with pytest.raises(ProviderUnavailable, match="307"):
                await call

        assert here.idp.of("/elsewhere") == []


async def test_a_provider_with_a_certificate_that_nobody_vouches_for_is_not_asked(tmp_path: Path) -> None:
    context = PrivateCa("nobody").issue("127.0.0.1").server_context(tmp_path)
    server = TestServer(web.Application(), host="127.0.0.1", scheme="https")
    await server.start_server(ssl=context)
    try:
        async with aiohttp.ClientSession() as http:
            settings = ProviderSettings(type="oidc", url=f"https://127.0.0.1:{server.port}", client_id="c")
            with pytest.raises(ProviderUnavailable, match="Certificate"):
                await open_provider(settings, http, ManualClock()).uses_pkce()
    finally:
        await server.close()


async def test_a_callback_of_another_provider_is_noticed() -> None:
    """RFC 9207."""
    async with scene().open() as here:
        await here.provider.check_callback_issuer("")
        await here.provider.check_callback_issuer(here.idp.issuer)
        with pytest.raises(NotBelieved, match="iss"):
            await here.provider.check_callback_issuer("https://evil.example")
        here.idp.document_changes["authorization_response_iss_parameter_supported"] = True
        here.clock.jump(3601)
        with pytest.raises(NotBelieved, match="iss"):
            await here.provider.check_callback_issuer("")


# --- tokens that others bring ---------------------------------------------------------------------------


async def test_an_access_token_must_be_meant_for_an_allowed_audience() -> None:
    """Authenticate 8.7."""
    async with scene(access_token_audiences=("api", "api2")).open() as here:
        idp, provider = here.idp, here.provider
        for aud in ("api", ["x", "api2"]):
            token = idp.token(aud=aud)
            idp.access_tokens.add(token)
            assert (await provider.verify_access_token(token))["sub"] == "ada"
        for token in (idp.token(aud="x"), idp.token(aud="api", exp=1), idp.token(aud="api", iss="x"), "opaque"):
            idp.access_tokens.add(token)
            with pytest.raises(NotBelieved):
                await provider.verify_access_token(token)
        idp.userinfo_changes["aud"] = "api"
        assert (await provider.verify_access_token("opaque"))["name"] == "Ada Lovelace"
        with pytest.raises(GrantEnded):
            await provider.verify_access_token("unknown")
    async with scene(access_token_audiences=()).open() as here:
        here.idp.access_tokens.add("opaque")
        with pytest.raises(NotBelieved):
            await here.provider.verify_access_token("opaque")


LOGOUT: dict[str, Any] = {"http://schemas.openid.net/event/backchannel-logout": {}}


def logout_token(here: Scene, **changes: Any) -> str:
    usual = {"events": LOGOUT, "jti": "j", "sid": "s", "email": LEAVE_OUT, "given_name": LEAVE_OUT, "exp": NOW + 60}
    return here.idp.token(**{**usual, **changes})


async def test_a_logout_token_says_who_is_logged_out() -> None:
    """Back-Channel Logout 2.4, 2.6."""
    async with scene().open() as here:
        for typ in (LEAVE_OUT, "JWT", "logout+jwt"):
            here.idp.header_changes["typ"] = typ
            told = await here.provider.verify_logout_token(logout_token(here, exp=LEAVE_OUT))
            assert (told.subject, told.sid, told.id, told.issuer) == ("ada", "s", "j", here.idp.issuer)
        assert told.issued_at == here.clock.now()
        assert (await here.provider.verify_logout_token(logout_token(here, sub=LEAVE_OUT))).subject == ""


@pytest.mark.parametrize(
    "changes",
    [
        {"events": LEAVE_OUT},
        {"events": {}},
        {"events": {"http://schemas.openid.net/event/backchannel-logout": "yes"}},
        {"events": []},
        {"nonce": "n"},
        {"jti": LEAVE_OUT},
        {"sid": LEAVE_OUT, "sub": LEAVE_OUT},
        {"sid": 7},
        {"iat": LEAVE_OUT},
        {"iat": NOW - 301},
        {"iat": NOW + 61},
        {"exp": NOW},
        {"aud": "another"},
        {"iss": "https://evil.example"},
    ],
    ids=str,
)
async def test_a_logout_token_with_wrong_claims_logs_nobody_out(changes: dict[str, Any]) -> None:
    async with scene().open() as here:
        with pytest.raises(NotBelieved):
            await here.provider.verify_logout_token(logout_token(here, **changes))
        here.idp.header_changes["typ"] = "at+jwt"
        with pytest.raises(NotBelieved, match="typ"):
            await here.provider.verify_logout_token(logout_token(here))


async def test_revocation_is_asked_for_where_it_can_be_and_its_refusal_is_told() -> None:
    async with scene().open() as here:
        ada = await here.log_in()
        here.idp.fail("/revoke", 400, {"error": "unsupported_token_type"})
        with pytest.raises(ProviderRefused):
            await here.provider.revoke(ada.token)
        assert [asked.form["token_type_hint"] for asked in here.idp.of("/revoke")] == ["refresh_token", "access_token"]
        here.idp.fail("/revoke", 200, "")
        await here.provider.revoke(ada.token)
    async with scene().open() as here:
        here.idp.document_changes["revocation_endpoint"] = LEAVE_OUT
        await here.provider.revoke(ada.token)
        assert here.idp.of("/revoke") == []


async def _text(text: str, content_type: str) -> web.Response:
    return web.Response(text=text, content_type=content_type)


def test_documents_are_json() -> None:
    with pytest.raises(ProviderUnavailable, match="no JSON object"):
        fetch.Answer(url="u", status=200, body=json.dumps([1]).encode()).json()
