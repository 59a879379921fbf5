"""The pages that tell visitors who they are to us, and nobody else (authenticate 8.3, N-43)."""

import base64
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pomerium_agent.idp import ProviderSettings
from pomerium_agent.idp.naming import with_id
from pomerium_agent.sessions.handle import Handle, sign_handle
from pomerium_agent.settings import Secret
from tests.fakes import session_records as records
from tests.unit.authenticate.stage import APP, AUTH, AUTH_COOKIE, KEY, SESSION_COOKIE, Scene, scene

ACCOUNT, USER, JWT = (f"https://{APP}/.pomerium/{name}" for name in ("", "user", "jwt"))
SECRETS = ("access-secret", "refresh-secret", "id-header.id-claims.id-signature", "id-claims")


async def populate(stage: Scene) -> None:
    await stage.store.put(
        [
            records.session(
                "s",
                "ada",
                idp_id=stage.idp_id,
                token=SECRETS[0],
                refresh=SECRETS[1],
                id_token=SECRETS[2],
                claims={"at_hash": ["hash"], "dept": ["<i>eng</i>"], "upstream_token": ["claim-secret"]},
            ),
            records.user("ada", "ada@example.com", name="Ada <Lovelace>"),
            records.session("grace-s", "grace", idp_id=stage.idp_id),
            records.user("grace", "grace@example.com"),
            records.session("as-grace", "ada", as_session="grace-s", idp_id=stage.idp_id),
            records.session("as-nobody", "ada", as_session="gone", idp_id=stage.idp_id),
        ]
    )


def handle(stage: Scene, id: str = "s", **more: Any) -> str:
    return sign_handle(Handle(id=id, **{"idp_id": stage.idp_id, **more}), KEY)


def assertion(**claims: Any) -> str:
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).rstrip(b"=").decode()
    return f"e30.{payload}.c2ln"


async def test_the_account_page_says_who_it_is_and_holds_no_token(tmp_path: Path) -> None:
    """N-33, N-43."""
    async with scene(tmp_path) as stage:
        await populate(stage)
        stage.browser.jar[APP, "/", SESSION_COOKIE] = handle(stage)
        page = await stage.browser.get(ACCOUNT)

        assert page.status == 200
        assert page.headers["Cache-Control"] == "no-store"
        assert "frame-ancestors 'none'" in page.headers["Content-Security-Policy"]
        assert "Ada &lt;Lovelace&gt;" in page.text
        assert "ada@example.com" in page.text
        assert "&lt;i&gt;eng" in page.text
        for secret in (*SECRETS, "claim-secret", handle(stage), handle(stage).rpartition(".")[2]):
            assert secret not in page.text


@pytest.mark.parametrize("host", [APP, AUTH])
async def test_nobody_sees_anything_of_anybody(tmp_path: Path, host: str) -> None:
    """N-43: no cookie, one that is forged, of another provider, of somebody gone, or of another place."""
    async with scene(tmp_path) as stage:
        await populate(stage)
        forged = sign_handle(Handle(id="s", idp_id=stage.idp_id), bytes(32))
        for token in ("", forged, handle(stage, idp_id="other") if host == APP else "", handle(stage, "gone")):
            for name in (SESSION_COOKIE, AUTH_COOKIE):
                stage.browser.jar[host, "/", name] = token
            page = await stage.browser.get(f"https://{host}/.pomerium/")
            assert (page.status, page.headers["Cache-Control"]) == (200, "no-store")
            assert "You are not signed in" in page.text
            assert "ada" not in page.text
        assert (await stage.browser.get("https://evil.example/.pomerium/")).status == 404


async def test_whoever_stands_for_somebody_else_sees_that(tmp_path: Path) -> None:
    """8.3: the session that is stood for is shown, and never a mixture."""
    async with scene(tmp_path) as stage:
        await populate(stage)
        stage.browser.jar[APP, "/", SESSION_COOKIE] = handle(stage, "as-grace")
        page = await stage.browser.get(ACCOUNT)
        assert "You are impersonating this person" in page.text
        assert "grace@example.com" in page.text
        assert "ada@example.com" not in page.text

        stage.browser.jar[APP, "/", SESSION_COOKIE] = handle(stage, "as-nobody")
        page = await stage.browser.get(ACCOUNT)
        assert "@example.com" not in page.text


async def test_on_the_authenticate_host_a_service_account_is_nobody(tmp_path: Path) -> None:
    async with scene(tmp_path) as stage:
        await stage.store.put([records.account("robot", "robot"), records.user("robot", "robot@example.com")])
        token = sign_handle(Handle(id="robot", user_id="robot"), KEY)
        stage.browser.jar[AUTH, "/", AUTH_COOKIE] = stage.browser.jar[APP, "/", SESSION_COOKIE] = token
        assert "robot@example.com" not in (await stage.browser.get(f"https://{AUTH}/.pomerium/")).text
        assert "robot@example.com" in (await stage.browser.get(ACCOUNT)).text


async def test_user_data_are_the_claims_of_the_assertion_without_our_own(tmp_path: Path) -> None:
    """8.3."""
    async with scene(tmp_path) as stage:
        said = assertion(iss="i", aud="a", exp=1, iat=2, jti="j", sub="ada", email="a@b.c", groups=["g"])
        answer = await stage.browser.get(USER, x_pomerium_jwt_assertion=said)
        assert json.loads(answer.text) == {"sub": "ada", "email": "a@b.c", "groups": ["g"]}
        assert answer.headers["Cache-Control"] == "no-store"
        head = await stage.browser.get(USER, method="HEAD", x_pomerium_jwt_assertion=said)
        assert (head.status, head.text) == (200, "")


@pytest.mark.parametrize("said", ["", "x", "x.y", "x.y.z", "..", "a.W10.c", "a.e30.c", "é", "a." + "W" * 9000 + ".b"])
async def test_without_somebody_in_the_assertion_there_is_nothing(tmp_path: Path, said: str) -> None:
    async with scene(tmp_path, login={"assertion_endpoint": True}) as stage:
        for url in (USER, JWT):
            for accept in ("application/json", "text/html"):
                answer = await stage.browser.get(url, x_pomerium_jwt_assertion=said, Accept=accept)
                assert answer.status == 404
                assert answer.headers["Content-Type"].startswith(accept)


async def test_the_assertion_itself_is_shown_only_where_that_is_wanted(tmp_path: Path) -> None:
    """2.1: off by default."""
    async with scene(tmp_path) as stage:
        said = assertion(sub="ada")
        assert (await stage.browser.get(JWT, x_pomerium_jwt_assertion=said)).status == 404
        stage.change_login(assertion_endpoint=True)
        answer = await stage.browser.get(JWT, x_pomerium_jwt_assertion=said)
        assert (answer.status, answer.text) == (200, said)
        assert (answer.headers["Content-Type"], answer.headers["Cache-Control"]) == ("application/jwt", "no-store")


async def test_methods_and_slashes(tmp_path: Path) -> None:
    """2.1."""
    async with scene(tmp_path) as stage:
        for url in (ACCOUNT, USER, JWT, f"https://{APP}/.pomerium/signed_out"):
            for method in ("POST", "PUT", "DELETE", "PATCH"):
                assert (await stage.browser.get(url, method=method)).status == 405, (url, method)
        bare = await stage.browser.get(ACCOUNT.rstrip("/"))
        assert (bare.status, bare.location) == (301, "/.pomerium/")
        assert (await stage.browser.get(ACCOUNT, method="HEAD")).status == 200
        for path in ("//user", "/user/", "/USER", "/./user/..", "/%2e%2e/user"):
            assert (await stage.browser.get(f"https://{APP}/.pomerium{path}")).status == 404, path


async def test_a_session_of_a_hosts_own_provider_counts_there_whatever_the_port(tmp_path: Path) -> None:
    """A-6: for the page, and for the program that asks where to sign in."""
    async with scene(tmp_path) as stage:
        await populate(stage)
        own = with_id(ProviderSettings(type="oidc", url="https://o.example", client_id="o", client_secret=Secret("s")))
        stage.site.set(replace(stage.site.value, provider_of_host={APP: own}, providers={own.id: own}))
        host = f"{APP}:8443"
        stage.browser.jar[host, "/", SESSION_COOKIE] = handle(stage, idp_id=own.id)
        assert "ada@example.com" in (await stage.browser.get(f"https://{host}/.pomerium/")).text
        url = f"https://{host}/.pomerium/api/v1/login?pomerium_redirect_uri=http%3A%2F%2Flocalhost%3A1%2F"
        assert f"pomerium_idp_id={own.id}" in (await stage.browser.get(url)).text
