"""Each row of the table of providers (authenticate 6.2, N-31): what we ask, in which words, and what we make of it."""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from joserfc.jwk import OKPKey

from pomerium_agent.errors import (
    GrantEnded,
    NotBelieved,
    ProviderRefused,
    ProviderUnavailable,
    SettingsError,
    Unsupported,
)
from pomerium_agent.idp import ProviderSettings, Token, open_provider
from pomerium_agent.idp.github import api_of
from pomerium_agent.idp.kinds import KINDS
from pomerium_agent.idp.signed import read_unverified, verify_signature
from pomerium_agent.settings import Secret
from tests.fakes.hostile_provider import LEAVE_OUT
from tests.unit.idp.scene import AUTHENTICATE, REDIRECT, Scene, place, query, scene

USUAL = "openid profile email offline_access"
PKCE = {"code_challenge": "ch", "code_challenge_method": "S256"}
TENANT = "11111111-2222-3333-4444-555555555555"


@dataclass(frozen=True, kw_only=True)
class Row:
    """What is special about one kind of provider that speaks OpenID Connect."""

    type: str
    path: str = ""
    scope: str = USUAL
    params: Mapping[str, str] = field(default_factory=dict)
    signs_out: bool = True
    settings: Mapping[str, Any] = field(default_factory=dict)

    def scene(self, **settings: Any) -> Scene:
        made = scene(self.type, self.path, **self.settings, **settings)
        if not self.signs_out:
            made.idp.document_changes["end_session_endpoint"] = LEAVE_OUT
        return made


ROWS = (
    Row(type="oidc"),
    Row(
        type="google",
        scope="openid profile email",
        params={"prompt": "select_account consent", "access_type": "offline"},
        signs_out=False,
    ),
    Row(type="azure", path=f"/{TENANT}/v2.0", params={"prompt": "select_account"}),
    Row(type="okta", path="/oauth2/default"),
    Row(type="ping", path="/as"),
    Row(type="onelogin", path="/oidc", scope="openid profile email groups offline_access"),
    Row(type="onelogin", path="/oidc/2", scope="openid profile email groups", settings={"scopes": ("ignored",)}),
    Row(type="auth0", path="/"),
    Row(type="cognito", path="/pool", scope="openid email profile"),
    Row(type="gitlab", scope="openid profile email"),
)


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.type}{row.path}")
async def test_a_provider_is_asked_in_its_own_words(row: Row) -> None:
    """N-31: authorization URL, token request, claims, refresh, revoke, sign-out."""
    async with row.scene().open() as here:
        idp, provider = here.idp, here.provider
        assert await provider.uses_pkce()
        url = await here.url()
        ada = await here.log_in()
        fresh = await here.refresh(ada)
        await provider.revoke(fresh.token)
        out = await provider.sign_out_url(id_token=ada.id_token, redirect_uri="https://app.example.com/")

    assert place(url) == f"{idp.issuer}/authorize"
    assert query(url) == {
        "client_id": "client",
        "redirect_uri": REDIRECT,
        "response_type": "code",
        "scope": row.scope,
        "state": "st",
        "nonce": "no",
        **PKCE,
        **row.params,
    }
    login, refresh = idp.of("/token")
    assert login.form == {
        "grant_type": "authorization_code",
        "code": "code",
        "redirect_uri": REDIRECT,
        "code_verifier": "ver",
    }
    assert refresh.form == {"grant_type": "refresh_token", "refresh_token": ada.token.refresh_token}
    assert login.basic == refresh.basic == ("client", idp.secret)
    assert (ada.claims["given_name"], ada.claims["email"], ada.claims["sub"]) == ("Ada", "ada@userinfo.example", "ada")
    assert ada.token.expires_at == here.clock.now() + timedelta(hours=1)
    assert fresh.token.access_token != ada.token.access_token
    assert fresh.claims["email"] == "ada@userinfo.example"
    expected = [{"token": fresh.token.refresh_token, "token_type_hint": "refresh_token"}]
    if row.type != "cognito":
        expected.append({"token": fresh.token.access_token, "token_type_hint": "access_token"})
    assert [asked.form for asked in idp.of("/revoke")] == expected
    revocation = f"{idp.origin}/oauth2/revoke" if row.type == "cognito" else f"{idp.issuer}/revoke"
    assert {f"{idp.origin}{asked.path}" for asked in idp.of("/revoke")} == {revocation}
    target, told = sign_out(row, idp.origin, idp.issuer, str(ada.id_token))
    assert (out is None) == (target is None)
    assert out is None or (place(out), query(out)) == (target, told)


def sign_out(row: Row, origin: str, issuer: str, id_token: str) -> tuple[str | None, dict[str, str]]:
    """Where, and with which parameters."""
    app = "https://app.example.com/"
    if row.type == "auth0":
        return f"{origin}/v2/logout", {"client_id": "client", "returnTo": app}
    if row.type == "cognito":
        return f"{origin}/logout", {"client_id": "client", "logout_uri": f"{AUTHENTICATE}/.pomerium/signed_out"}
    if not row.signs_out:
        return None, {}
    return (
        f"{issuer}/logout",
        {"id_token_hint": id_token, "client_id": "client", "post_logout_redirect_uri": app},
    )


async def test_basic_comes_first_then_the_body_and_what_works_is_remembered() -> None:
    """Authenticate 6.1."""
    async with scene().open() as here:
        here.idp.accepts = ("body",)
        ada = await here.log_in()
        await here.refresh(ada)

        first, second, third = here.idp.of("/token")

    credentials = {"client_id": "client", "client_secret": here.idp.secret}
    assert first.basic is not None
    assert (first.form.get("client_secret"), second.basic, third.basic) == (None, None, None)
    assert credentials.items() <= second.form.items()
    assert credentials.items() <= third.form.items()


async def test_a_provider_that_says_how_is_asked_that_way_at_once() -> None:
    async with scene().open() as here:
        here.idp.document_changes["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
        await here.log_in()

        assert [asked.basic for asked in here.idp.of("/token")] == [None]


async def test_a_client_without_a_secret_only_says_its_name() -> None:
    async with scene(client_secret=Secret("")).open() as here:
        here.idp.accepts = ("public",)
        await here.log_in()

        (asked,) = here.idp.of("/token")

    assert (asked.basic, asked.form["client_id"], "client_secret" in asked.form) == (None, "client", False)


async def test_the_configuration_replaces_scopes_and_parameters_but_not_what_makes_a_login_ours() -> None:
    """Authenticate 6.1, 6.2."""
    asked = {"hd": "example.com", "state": "evil", "nonce": "evil", "redirect_uri": "evil", "code_challenge": "evil"}
    async with scene("google", scopes=("openid", "x"), request_params=asked).open() as here:
        url = query(await here.url())

    assert (url["scope"], url["hd"], url["state"], url["nonce"]) == ("openid x", "example.com", "st", "no")
    assert (url["redirect_uri"], url["code_challenge"]) == (REDIRECT, "ch")
    assert "prompt" not in url


@pytest.mark.parametrize(
    ("advertised", "used"),
    [(["S256"], True), (["plain", "S256"], True), (LEAVE_OUT, True), (["plain"], False), ([], False)],
    ids=str,
)
async def test_pkce_is_used_unless_the_provider_says_it_cannot(advertised: object, used: bool) -> None:
    """N-23: and never with the plain method."""
    async with scene().open() as here:
        here.idp.document_changes["code_challenge_methods_supported"] = advertised

        assert await here.provider.uses_pkce() is used
        assert "code_challenge" not in query(await here.url(code_challenge=""))


async def test_a_query_that_an_endpoint_brings_stays() -> None:
    async with scene().open() as here:
        for name in ("authorization_endpoint", "end_session_endpoint"):
            here.idp.document_changes[name] = f"{here.idp.origin}/x?tenant=a&p=b"
        out = await here.provider.sign_out_url(id_token="raw")
        assert query(await here.url())["tenant"] == "a"

    assert out is not None
    assert query(out)["p"] == "b"
    assert query(out)["post_logout_redirect_uri"] == f"{AUTHENTICATE}/.pomerium/signed_out"


async def test_googles_issuer_may_lack_its_scheme_and_nobody_elses() -> None:
    """Authenticate 6.2."""
    async with scene("google").open() as here:
        here.idp.id_token_changes["iss"] = here.idp.issuer.removeprefix("http://")
        assert (await here.log_in()).user_id == "ada"
    async with scene("gitlab").open() as here:
        here.idp.id_token_changes["iss"] = here.idp.issuer.removeprefix("http://")
        with pytest.raises(NotBelieved, match="iss"):
            await here.log_in()


# --- azure ----------------------------------------------------------------------------------------------


def stands_for(here: Scene, tenant: str = "{tenantid}") -> None:
    """The discovery document names that tenant in its issuer."""
    here.idp.document_changes["issuer"] = f"{here.idp.origin}/{tenant}/v2.0"


@pytest.mark.parametrize("path", ["/common/v2.0", "/organizations/v2.0"])
async def test_under_azures_url_for_all_a_token_must_be_of_the_tenant_it_names(path: str) -> None:
    """G-6, N-32."""
    async with scene("azure", path).open() as here:
        stands_for(here)
        of_tenant = f"{here.idp.origin}/{TENANT}/v2.0"
        here.idp.id_token_changes = {"iss": of_tenant, "tid": TENANT, "oid": "o-1"}
        assert (await here.log_in()).user_id == "o-1"
        for changes in (
            {"iss": of_tenant, "tid": "99999999-2222-3333-4444-555555555555"},
            {"iss": of_tenant},
            {"iss": f"{here.idp.origin}/{{tenantid}}/v2.0", "tid": "{tenantid}"},
            {"iss": f"{here.idp.origin}/common/v2.0", "tid": TENANT},
            {"iss": f"https://evil.example/{TENANT}/v2.0", "tid": TENANT},
            {"iss": f"{here.idp.origin}/../v2.0", "tid": ".."},
        ):
            here.idp.id_token_changes = changes
            with pytest.raises(NotBelieved):
                await here.log_in()


async def test_azures_document_may_not_stand_for_all_when_one_tenant_is_configured() -> None:
    async with scene("azure", f"/{TENANT}/v2.0").open() as here:
        stands_for(here)
        with pytest.raises(ProviderUnavailable, match="names another issuer"):
            await here.url()
    async with scene("azure", "/consumers/v2.0").open() as here:
        stands_for(here, "9188040d-6c67-4c5b-b112-36a304b66dad")
        assert await here.url()


async def test_azures_access_tokens_are_verified_as_jwts() -> None:
    """Authenticate 6.2, 8.7."""
    path = f"/{TENANT}/v2.0"
    async with scene("azure", path).open() as here:
        idp, provider = here.idp, here.provider
        for issuer in (f"https://sts.windows.net/{TENANT}/", f"{idp.origin}{path}"):
            token = idp.token(iss=issuer, aud="api://x", azp="another-client", scp="files.read")
            assert (await provider.verify_access_token(token))["sub"] == "ada"
        assert idp.of("/userinfo") == []
        for wrong in ({"iss": "https://sts.windows.net/other/"}, {"exp": 1}, {"sub": ""}):
            with pytest.raises(NotBelieved):
                await provider.verify_access_token(idp.token(**wrong))
        token = idp.token(scp="openid files.read")
        idp.access_tokens.add(token)
        assert (await provider.verify_access_token(token))["name"] == "Ada Lovelace"


async def test_under_azures_url_for_all_an_access_token_must_be_meant_for_us() -> None:
    async with scene("azure", "/common/v2.0").open() as here:
        stands_for(here)
        token = here.idp.token(iss=f"{here.idp.origin}/{TENANT}/v2.0", tid=TENANT, aud="api://x")
        with pytest.raises(Unsupported, match="idp_access_token_allowed_audiences"):
            await here.provider.verify_access_token(token)
    async with scene("azure", "/common/v2.0", access_token_audiences=("api://x",)).open() as here:
        stands_for(here)
        tenant = {"iss": f"{here.idp.origin}/{TENANT}/v2.0", "tid": TENANT}
        assert (await here.provider.verify_access_token(here.idp.token(**tenant, aud="api://x")))["sub"] == "ada"
        with pytest.raises(NotBelieved, match="aud"):
            await here.provider.verify_access_token(here.idp.token(**tenant, aud="api://y"))


async def test_under_azures_url_for_all_any_tenant_may_send_the_callback() -> None:
    """RFC 9207."""
    async with scene("azure", "/common/v2.0").open() as here:
        stands_for(here)
        await here.provider.check_callback_issuer(f"{here.idp.origin}/{TENANT}/v2.0")
        await here.provider.check_callback_issuer("")
        for issuer in (f"https://evil.example/{TENANT}/v2.0", f"{here.idp.origin}/other/v2.0", "x"):
            with pytest.raises(NotBelieved, match="iss"):
                await here.provider.check_callback_issuer(issuer)


# --- apple ----------------------------------------------------------------------------------------------


async def test_apple_has_fixed_places_and_everything_is_in_its_id_token() -> None:
    """Authenticate 6.2, G-6."""
    async with scene("apple").open() as here:
        idp, provider = here.idp, here.provider
        assert not await provider.uses_pkce()
        url = await here.url(code_challenge="")
        idp.id_token_changes["email_verified"] = "true"
        ada = await here.log_in()
        fresh = await here.refresh(ada)
        await provider.revoke(fresh.token)

        assert await provider.sign_out_url(id_token=ada.id_token) is None
        with pytest.raises(Unsupported):
            await provider.verify_access_token(ada.token.access_token)

    assert provider.kind.cross_site_post
    assert place(url) == f"{idp.origin}/auth/authorize"
    assert "scope=name%20email" in url
    assert query(url)["response_mode"] == "form_post"
    assert idp.of("openid-configuration") == []
    assert [asked.path for asked in idp.asked] == [
        "/auth/token",
        "/auth/keys",
        "/auth/token",
        "/auth/revoke",
        "/auth/revoke",
    ]
    assert all(asked.basic is None for asked in idp.asked)
    assert idp.of("/token")[0].form["client_secret"] == idp.secret
    assert ada.claims["email"] == fresh.claims["email"] == "ada@id-token.example"
    assert ada.claims["email_verified"] is True


@pytest.mark.parametrize("changes", [{"iss": "https://evil"}, {"aud": "other"}, {"exp": 1}, {"nonce": "old"}], ids=str)
async def test_apples_id_token_is_checked(changes: dict[str, Any]) -> None:
    """N-32."""
    async with scene("apple").open() as here:
        here.idp.id_token_changes = changes
        with pytest.raises(NotBelieved):
            await here.log_in()


# --- github ---------------------------------------------------------------------------------------------


def github(here: Scene, **user: Any) -> None:
    idp = here.idp
    profile = {
        "login": "ada",
        "id": 7,
        "node_id": "U_7",
        "name": "Ada",
        "avatar_url": "https://x/a.png",
        "html_url": "https://x/ada",
        "blog": "https://ada.example",
    }
    emails = [
        {"email": "old@x", "primary": False, "verified": True},
        {"email": "ada@x", "primary": True, "verified": True},
    ]
    idp.fail("/api/v3/user", 200, {**profile, **user})
    idp.fail("/api/v3/user/emails", 200, emails)
    idp.fail("/access_token", 200, {"access_token": "gho_1", "token_type": "bearer", "scope": "user:email"})
    idp.fail("/grant", 204, "")


async def test_github_is_asked_through_its_api() -> None:
    """Authenticate 6.2."""
    async with scene("github").open() as here:
        github(here)
        idp, provider = here.idp, here.provider
        url = await here.url(code_challenge="")
        ada = await here.log_in()
        fresh = await provider.refresh(ada.token, {})
        await provider.revoke(fresh.token)
        asked = {each.path: each for each in idp.asked}

        assert not await provider.uses_pkce()
        assert await provider.sign_out_url(id_token="") is None
        for call in (provider.verify_id_token("x"), provider.verify_logout_token("x")):
            with pytest.raises(Unsupported):
                await call

    assert place(url) == f"{idp.origin}/login/oauth/authorize"
    assert query(url) == {
        "client_id": "client",
        "redirect_uri": REDIRECT,
        "response_type": "code",
        "scope": "user:email read:org",
        "state": "st",
        "access_type": "offline",
    }
    now = int(here.clock.now().timestamp())
    assert ada.claims == {
        "sub": "U_7",
        "user": "ada",
        "preferred_username": "ada",
        "name": "Ada",
        "picture": "https://x/a.png",
        "profile": "https://x/ada",
        "website": "https://ada.example",
        "email": "ada@x",
        "email_verified": True,
        "iat": now,
        "nbf": now,
        "exp": now + 3600,
    }
    assert (ada.id_token, ada.token.access_token) == ("", "gho_1")
    assert ada.token.expires_at == datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=253_370_793_661)
    assert fresh.token.expires_at == here.clock.now() + timedelta(hours=1)
    assert asked["/login/oauth/access_token"].basic == ("client", idp.secret)
    assert asked["/api/v3/user"].authorization == "token gho_1"
    grant = asked["/api/v3/applications/client/grant"]
    assert (grant.method, grant.basic, json.loads(grant.body)) == (
        "DELETE",
        ("client", idp.secret),
        {"access_token": "gho_1"},
    )


@pytest.mark.parametrize(
    ("emails", "expected"),
    [
        ([{"email": "a@x", "primary": True, "verified": False}], None),
        ([{"email": "a@x", "primary": False, "verified": True}], None),
        ([7, None, {}], None),
        ([{"email": "a@x", "primary": True, "verified": True}], "a@x"),
    ],
)
async def test_only_a_verified_primary_address_of_github_counts(emails: object, expected: str | None) -> None:
    async with scene("github").open() as here:
        github(here)
        here.idp.fail("/user/emails", 200, emails)
        here.idp.answers = dict(reversed(here.idp.answers.items()))

        assert (await here.log_in()).claims.get("email") == expected


async def test_github_without_node_id_or_addresses_still_says_who_it_is() -> None:
    async with scene("github").open() as here:
        github(here, node_id=None)
        here.idp.fail("/api/v3/user/emails", 404)

        ada = await here.log_in()

    assert (ada.user_id, "email" in ada.claims) == ("7", False)


@pytest.mark.parametrize(
    ("path", "status", "body", "headers", "error"),
    [
        ("/access_token", 200, {"error": "bad_verification_code"}, {}, GrantEnded),
        ("/access_token", 200, {"error": "incorrect_client_credentials"}, {}, ProviderRefused),
        ("/access_token", 200, {"error": 7}, {}, ProviderUnavailable),
        ("/access_token", 502, "", {}, ProviderUnavailable),
        ("/api/v3/user", 401, {}, {}, GrantEnded),
        ("/api/v3/user", 403, {}, {}, ProviderRefused),
        ("/api/v3/user", 403, {}, {"X-RateLimit-Remaining": "0"}, ProviderUnavailable),
        ("/api/v3/user", 429, {}, {}, ProviderUnavailable),
        ("/api/v3/user", 200, {"login": "ada"}, {}, NotBelieved),
        ("/api/v3/user", 200, "<html>", {}, ProviderUnavailable),
        ("/api/v3/user/emails", 200, {}, {}, ProviderUnavailable),
        ("/api/v3/user/emails", 400, {}, {}, ProviderRefused),
    ],
    ids=str,
)
async def test_githubs_refusals_are_told_apart(
    path: str, status: int, body: object, headers: dict[str, str], error: type[Exception]
) -> None:
    async with scene("github").open() as here:
        github(here)
        here.idp.fail(path, status, body, **headers)
        with pytest.raises(error) as raised:
            await here.log_in()

    assert type(raised.value) is error
    assert "gho_1" not in str(raised.value)


def test_githubs_api_is_elsewhere_for_enterprises() -> None:
    assert api_of("https://github.com") == "https://api.github.com"
    assert api_of("https://octocorp.ghe.com") == "https://api.octocorp.ghe.com"
    assert api_of("https://git.example.com") == "https://git.example.com/api/v3"


# --- hosted ---------------------------------------------------------------------------------------------


async def test_the_hosted_service_is_asked_by_signed_requests() -> None:
    """Authenticate 5.4."""
    async with scene("hosted", client_id="", client_secret=Secret("")).open() as here:
        idp, provider = here.idp, here.provider
        idp.client_id, idp.accepts = AUTHENTICATE, ("assertion",)
        url = await here.url()
        ada = await here.log_in()
        fresh = await here.refresh(ada)
        await provider.revoke(fresh.token)

    assert provider.kind.own_confirm
    assert (place(url), list(query(url))) == (f"{idp.issuer}/authorize", ["request"])
    header, _ = read_unverified(query(url)["request"])
    key = OKPKey.import_key(header["jwk"])
    request = verify_signature(query(url)["request"], [key], ["EdDSA"])
    now = int(here.clock.now().timestamp())
    assert (header["alg"], header["typ"], sorted(header["jwk"])) == ("EdDSA", "JWT", ["crv", "kty", "x"])
    assert request is not None
    assert request.pop("pomerium_version")
    assert request == {
        "response_type": "code",
        "client_id": AUTHENTICATE,
        "redirect_uri": REDIRECT,
        "scope": USUAL,
        "state": "st",
        "nonce": "no",
        **PKCE,
        "iss": AUTHENTICATE,
        "aud": idp.issuer,
        "iat": now,
        "exp": now + 300,
    }
    seen = set()
    for asked in (*idp.of("/token"), *idp.of("/revoke")):
        assert asked.basic is None
        assert "client_secret" not in asked.form
        assert asked.form["client_assertion_type"] == "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
        claims = verify_signature(asked.form["client_assertion"], [key], ["EdDSA"])
        assert claims is not None
        assert (claims["iss"], claims["sub"], claims["exp"]) == (AUTHENTICATE, AUTHENTICATE, now + 300)
        assert claims["aud"] == [f"{idp.issuer}/{asked.path.rpartition('/')[2]}"]
        seen.add(claims["jti"])
    assert len(seen) == 4
    assert fresh.token.refresh_token


async def test_a_refresh_token_of_the_hosted_service_is_kept_when_no_other_comes() -> None:
    """Authenticate 5.4: what the original drops."""
    async with scene("hosted", client_id="", client_secret=Secret("")).open() as here:
        here.idp.client_id, here.idp.accepts = AUTHENTICATE, ("assertion",)
        ada = await here.log_in()
        here.idp.token_changes["refresh_token"] = LEAVE_OUT
        fresh = await here.refresh(ada)
        here.idp.fail("/token", 400, {"error": "invalid_grant"})
        with pytest.raises(GrantEnded):
            await here.refresh(fresh)

    assert fresh.token.refresh_token == ada.token.refresh_token != ""


async def test_the_hosted_service_needs_the_key_of_the_cluster() -> None:
    """V-8: the seed of the vectors has the public key of the vectors."""
    seed = bytes.fromhex("8ea4c301d15b52eeea2b99c20f4d656194b2154f5b844461019ec6ccb6baac30")
    async with scene("hosted", client_id="").open() as here:
        url = await open_provider(here.settings, here.http, here.clock, client_key=seed).authorization_url(
            redirect_uri=REDIRECT, state="s", nonce="n"
        )
        with pytest.raises(SettingsError, match="shared_secret"):
            open_provider(here.settings, here.http, here.clock)

    public = read_unverified(query(url)["request"])[0]["jwk"]["x"]
    expected = bytes.fromhex("1fbc093b04155f4dc764f1360758bce134e33321d6b3de1fb3e02b304624dc87")
    assert public == base64.urlsafe_b64encode(expected).rstrip(b"=").decode()


# --- settings -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"type": "", "client_id": "c"}, "idp_provider"),
        ({"type": "facebook", "client_id": "c"}, "idp_provider"),
        ({"type": "oidc", "client_id": "c"}, "idp_provider_url"),
        ({"type": "okta", "client_id": "c"}, "idp_provider_url"),
        ({"type": "oidc", "client_id": "c", "url": "http://idp.example.com"}, "idp_provider_url"),
        ({"type": "oidc", "client_id": "c", "url": "https://["}, "idp_provider_url"),
        ({"type": "oidc", "client_id": "c", "url": "https://a:b@idp.example.com"}, "idp_provider_url"),
        ({"type": "google"}, "idp_client_id"),
        ({"type": "github"}, "idp_client_id"),
    ],
    ids=str,
)
async def test_settings_that_cannot_work_are_named(settings: dict[str, Any], named: str) -> None:
    async with scene().open() as here:
        with pytest.raises(SettingsError, match=named):
            here.providers.get(ProviderSettings(**settings))
        assert len(here.providers) == 0


@pytest.mark.parametrize("kind", [kind for kind in KINDS.values() if kind.issuer], ids=lambda kind: kind.name)
async def test_a_provider_with_a_home_needs_no_url(kind: Any) -> None:
    async with scene().open() as here:
        provider = here.providers.get(ProviderSettings(type=kind.name, client_id="c"))

    assert provider.name == f"{kind.name} ({kind.issuer})"


async def test_a_token_that_nobody_can_send_is_refused_here() -> None:
    async with scene().open() as here:
        for bad in ("", "a b", "a\r\nX: y", "é", "x" * 20_000):
            with pytest.raises(GrantEnded):
                await here.provider.verify_access_token(bad)
        with pytest.raises(GrantEnded):
            await here.provider.refresh(Token(access_token=Secret("a")), {"sub": "ada"})
        assert here.idp.of("/userinfo") == here.idp.of("/token") == []
