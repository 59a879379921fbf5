"""Which paths of the console belong to the login, on which hosts, and what is said there about whom."""

import json
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from structlog.testing import capture_logs

from pomerium_agent.console.login import desk
from pomerium_agent.console.login.manage import unset_login
from pomerium_agent.console.login.sessions import Sessions
from pomerium_agent.handoff.proof import HEADER, make_proof
from pomerium_agent.handoff.signed import signed_url
from tests.fakes.console import visited_console
from tests.fakes.login_stage import ADA, LOGIN, Stage, login_stage

SIGN_OUT = f"{LOGIN}/.pomerium/sign_out"


async def get(stage: Stage, path: str, *, host: str = "login.example.com", method: str = "GET") -> tuple[int, str]:
    async with stage.http.request(method, f"{stage.base}{path}", headers={"Host": host}, allow_redirects=False) as got:
        return got.status, (await got.read()).decode(errors="replace")


async def test_without_login_the_console_has_no_such_paths(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        base = visit.console.cluster_api.removesuffix("/cluster/v1")
        async with visit.http.get(f"{base}/.pomerium/sign_in") as answer:
            assert answer.status == 404


async def test_the_login_is_on_its_host_only(tmp_path: Path) -> None:
    """Cookies and links are of one host; replicas may ask by another name, for what is said to replicas."""
    async with login_stage(tmp_path, internal_url="https://console.internal:8700") as stage:
        key = "/.well-known/pomerium/hpke-public-key"
        assert (await get(stage, "/.pomerium/", host="evil.example"))[0] == 421
        assert (await get(stage, key, host="evil.example"))[0] == 421
        assert (await get(stage, key, host="console.internal:8700"))[0] == 200
        assert (await get(stage, key, host="LOGIN.example.com:443"))[0] == 200
        assert (await get(stage, "/.pomerium/", host="console.internal:8700"))[0] == 421
        assert (await get(stage, "/cluster/v1/bundles", host="evil.example"))[0] == 401  # the API is everywhere


async def test_methods_are_what_they_are(tmp_path: Path) -> None:
    async with login_stage(tmp_path) as stage:
        assert (await get(stage, "/.pomerium/sign_in", method="DELETE"))[0] == 405
        assert (await get(stage, "/oidc/token"))[0] == 405
        assert (await get(stage, "/robots.txt")) == (200, "User-agent: *\nDisallow: /\n")
        assert (await get(stage, "/"))[0] == 302


async def test_the_console_says_where_things_are(tmp_path: Path) -> None:
    """Authenticate 2.1."""
    async with login_stage(tmp_path) as stage:
        said = json.loads((await get(stage, "/.well-known/pomerium"))[1])
        discovered = json.loads((await get(stage, "/.well-known/openid-configuration"))[1])
        keys = json.loads((await get(stage, "/.well-known/pomerium/jwks.json"))[1])["keys"]

    assert said["issuer"] == f"{LOGIN}/"
    assert said["authentication_callback_endpoint"] == f"{LOGIN}/oauth2/callback"
    assert discovered["issuer"] == LOGIN
    assert [(key["alg"], "d" in key) for key in keys] == [("ES256", False)]


async def test_after_unset_nobody_is_signed_in_any_more(tmp_path: Path) -> None:
    async with login_stage(tmp_path) as stage:
        await stage.sign_in(stage.wiki, stage.browser())
        unset_login(stage.console.store, stage.now)

        assert (await get(stage, "/.pomerium/"))[0] == 404
        assert stage.console.store.database.read("SELECT * FROM login_session") == []


# --- who am I, and the way out ----------------------------------------------------------------------


async def test_the_account_page_shows_its_own_visitor_and_no_tokens(tmp_path: Path) -> None:
    """N-43."""
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        before = await browser.ask(f"{LOGIN}/.pomerium/")
        await stage.sign_in(stage.wiki, browser)
        after = await browser.ask(f"{LOGIN}/.pomerium/")
        stranger = await stage.browser().ask(f"{LOGIN}/.pomerium/")

    assert ADA.email not in before.text
    assert ADA.email in after.text
    assert "eyJ" not in after.text
    assert ADA.email not in stranger.text
    assert after.headers["Cache-Control"] == "no-store"


async def test_signing_out_asks_first_and_ends_the_session(tmp_path: Path) -> None:
    """N-41, G-8: neither a link nor somebody else's form signs anybody out."""
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        await stage.sign_in(stage.wiki, browser)
        asked = await browser.ask(SIGN_OUT)
        forged = await browser.ask(SIGN_OUT, form={})
        cross = await browser.ask(SIGN_OUT, form=asked.form.values, headers={"Sec-Fetch-Site": "cross-site"})
        still = await browser.ask(f"{LOGIN}/.pomerium/")
        done = await browser.go((await browser.ask(SIGN_OUT, form=asked.form.values)).leads_to)
        after = await browser.ask(f"{LOGIN}/.pomerium/")
        key = await stage.server_key()
        again = await browser.ask(stage.wiki.ask(key, stage.now))
        at_provider = await browser.ask(again.leads_to)

    assert (asked.status, forged.status, cross.status) == (200, 400, 400)
    assert ADA.email in still.text
    assert "signed out" in done.text
    assert ADA.email not in after.text
    assert "password" in at_provider.form.asked  # signed out there, too


async def test_a_cluster_leads_its_visitors_on_after_the_sign_out(tmp_path: Path) -> None:
    """N-41: by its signature, and to its own hosts only."""
    async with login_stage(tmp_path) as stage:

        async def landed(url: str, key: bytes) -> str:
            browser = stage.browser()
            await stage.sign_in(stage.wiki, browser)
            page = await browser.ask(signed_url(SIGN_OUT, [("pomerium_redirect_uri", url)], key, stage.now))
            done = await browser.ask(SIGN_OUT, form=page.form.values)
            return (await browser.go(done.leads_to)).leads_to

        own = "https://app.wiki.example.com/bye"
        assert await landed(own, stage.wiki.secret) == own
        assert await landed("https://evil.example/", stage.wiki.secret) == ""
        assert await landed(own, stage.shop.secret) == ""
        assert await landed(own, bytes(32)) == ""

        unsigned = await stage.browser().ask(f"{SIGN_OUT}?pomerium_redirect_uri={own}")
        assert unsigned.leads_to == f"{LOGIN}/.pomerium/signed_out"


# --- tokens that programs bring ---------------------------------------------------------------------


async def verify(
    stage: Stage, kind: str, said: dict[str, Any], secret: bytes | None, **options: Any
) -> tuple[int, Any]:
    path = f"/.pomerium/verify-{kind}-token"
    raw = json.dumps(said).encode()
    proof = make_proof(secret, options.get("path", path), options.get("body", raw), stage.now) if secret else ""
    headers = {"Host": "login.example.com", HEADER: proof}
    async with stage.http.post(f"{stage.base}{path}", data=raw, headers=headers) as answer:
        return answer.status, await answer.json()


async def access_token(stage: Stage) -> tuple[str, str]:
    """The tokens of somebody at the real provider."""
    await stage.sign_in(stage.wiki, stage.browser())
    rows = stage.console.store.database.read("SELECT id FROM login_session")
    session = Sessions(stage.console.store.database).get(rows[0]["id"], stage.now)
    assert session is not None
    return str(session.identity.token.access_token), str(session.identity.id_token)


async def test_replicas_ask_about_tokens_with_a_proof_of_their_cluster(tmp_path: Path) -> None:
    """N-48, authenticate 8.7."""
    async with login_stage(tmp_path) as stage:
        access, identity = await access_token(stage)
        right = await verify(stage, "access", {"accessToken": access, "identityProviderId": "x"}, stage.shop.secret)
        named = await verify(stage, "identity", {"identityToken": identity}, stage.shop.secret)
        wrong = await verify(stage, "access", {"accessToken": "nobody's"}, stage.shop.secret)
        forged = await verify(stage, "identity", {"identityToken": identity[:-4] + "AAAA"}, stage.shop.secret)
        shape = await verify(stage, "access", {"token": access}, stage.shop.secret)

    assert (right[0], right[1]["valid"], right[1]["claims"]["email"]) == (200, True, ADA.email)
    assert (named[0], named[1]["claims"]["email"]) == (200, ADA.email)
    assert wrong == forged == (200, {"valid": False})
    assert shape[0] == 400


@pytest.mark.parametrize("how", ["none", "stranger", "path", "body", "old"])
async def test_without_a_proof_nobody_is_answered(tmp_path: Path, how: str) -> None:
    """N-48."""
    async with login_stage(tmp_path) as stage:
        options: dict[str, Any] = {"path": "/other"} if how == "path" else {"body": b"{}"} if how == "body" else {}
        secret = {"none": None, "stranger": bytes(32)}.get(how, stage.wiki.secret)
        if how == "old":
            raw = json.dumps({"accessToken": "x"}).encode()
            proof = make_proof(stage.wiki.secret, "/.pomerium/verify-access-token", raw, stage.now)
            stage.clock.jump(61)
            headers = {"Host": "login.example.com", HEADER: proof}
            async with stage.http.post(
                f"{stage.base}/.pomerium/verify-access-token", data=raw, headers=headers
            ) as answer:
                status = answer.status
        else:
            status, _ = await verify(stage, "access", {"accessToken": "x"}, secret, **options)

    assert status == 401


async def test_a_cluster_has_a_budget_and_another_one_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """N-48."""
    monkeypatch.setattr(desk, "PER_MINUTE_OF_CLUSTER", 3)
    async with login_stage(tmp_path) as stage:
        statuses = [(await verify(stage, "access", {}, stage.wiki.secret))[0] for _ in range(4)]
        other, _ = await verify(stage, "access", {}, stage.shop.secret)

    assert statuses == [400] * 3 + [429]
    assert other == 400


async def test_a_replica_may_ask_more_often_than_a_visitor_and_takes_nothing_from_them(tmp_path: Path) -> None:
    """It asks for everybody who is signed in; visitors behind its address have a budget of their own."""
    async with login_stage(tmp_path) as stage:
        statuses = {(await verify(stage, "access", {}, None))[0] for _ in range(desk.PER_MINUTE + 1)}
        visitor, _ = await get(stage, "/.pomerium/")

    assert (statuses, visitor) == ({401}, 200)


async def test_a_body_has_a_bound(tmp_path: Path) -> None:
    async with login_stage(tmp_path) as stage:
        status, _ = await verify(stage, "access", {"accessToken": "x" * 70_000}, stage.wiki.secret)

    assert status == 400


@pytest.mark.parametrize(
    ("proxies", "given", "address"),
    [
        (0, "192.0.2.1", "127.0.0.1"),
        (1, "10.0.0.1, 192.0.2.1", "192.0.2.1"),
        (2, "10.0.0.1, 192.0.2.1, 192.0.2.9", "192.0.2.1"),
        (2, "192.0.2.9", "127.0.0.1"),
        (1, "", "127.0.0.1"),
    ],
)
async def test_a_visitors_address_is_taken_from_proxies_that_were_named(
    tmp_path: Path, proxies: int, given: str, address: str
) -> None:
    """What a visitor says of their own address is never believed."""
    async with login_stage(tmp_path, proxies=proxies) as stage:
        with capture_logs() as logs:
            await stage.browser().ask(f"{LOGIN}/.pomerium/sign_in", headers={"X-Forwarded-For": given})

    assert [entry["ip"] for entry in logs if entry["event"] == "sign in refused"] == [address]


async def test_a_damaged_request_is_answered_like_any_other(tmp_path: Path) -> None:
    async with login_stage(tmp_path) as stage, aiohttp.ClientSession() as http:
        headers = {"Host": "login.example.com", "Cookie": "__Host-pomerium_console_session=%ff; a=b=c"}
        async with http.get(f"{stage.base}/.pomerium/sign_in?k=%ff&q=%ff", headers=headers) as answer:
            assert answer.status == 400
