"""Signing in for a cluster, sealed: what a replica asks, what a browser goes through, what comes back."""

import base64
import json
import random
import string
from functools import cache
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from pomerium_agent.console.login.keys import IN_FLIGHT, LEAD
from pomerium_agent.console.login.manage import drop_old_keys, rotate_key
from pomerium_agent.console.login.tenants import Tenant, build_tenant
from pomerium_agent.console.store import Cluster
from pomerium_agent.handoff.box import encode_raw
from pomerium_agent.handoff.hpke import public_bytes
from pomerium_agent.handoff.keys import etag_of, hpke_key
from pomerium_agent.handoff.sealed import Version, lifetime, read_sealed, seal_query
from tests.fakes.console import NOW
from tests.fakes.login_stage import ADA, GRACE, LOGIN, Stage, config, login_stage, with_outer


async def refused(stage: Stage, url: str) -> int:
    """The status of a refusal that starts no login at the provider."""
    answer = await stage.browser().ask(url)
    assert not answer.leads_to
    return answer.status


@pytest.mark.parametrize("version", Version)
async def test_a_cluster_without_a_provider_learns_who_somebody_is(tmp_path: Path, version: Version) -> None:
    """Authenticate 4.2, 4.3, N-7, N-46: the id is echoed, the answer has the version of the question."""
    async with login_stage(tmp_path) as stage:
        url, inner = await stage.sign_in(stage.wiki, stage.browser(), version=version)

    parts = urlsplit(url)
    profile = json.loads(inner["pomerium_identity_profile"])
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == "https://app.wiki.example.com/.pomerium/callback/"
    assert {pair.partition("=")[0] for pair in parts.query.split("&")} == set(version.value)
    assert inner["pomerium_redirect_uri"] == "https://app.wiki.example.com/page?a=b"
    assert int(inner["pomerium_expiry"]) - int(inner["pomerium_issued"]) == 300_000
    assert set(profile) == {"providerId", "claims"}
    assert profile["providerId"] == "idp-1"
    assert (profile["claims"]["email"], profile["claims"]["groups"]) == ("ada@example.com", ["eng"])
    assert not {"aud", "nonce", "at_hash", "exp"} & set(profile["claims"])  # those were meant for the console


async def test_the_query_of_the_callback_comes_back_sealed(tmp_path: Path) -> None:
    """Authenticate 3.7, 10: a login nonce travels in it; parameters of ours in it change nothing."""
    callback = "https://app.wiki.example.com:8443/.pomerium/callback/?pomerium_login_nonce=n&pomerium_redirect_uri=x"
    async with login_stage(tmp_path) as stage:
        url, inner = await stage.sign_in(stage.wiki, stage.browser(), pomerium_callback_uri=callback)

    assert url.startswith("https://app.wiki.example.com:8443/.pomerium/callback/?k=")
    assert inner["pomerium_login_nonce"] == "n"
    assert inner["pomerium_redirect_uri"] == "https://app.wiki.example.com/page?a=b"


async def test_what_stands_beside_the_seal_changes_nothing(tmp_path: Path) -> None:
    """G-1, N-8."""
    evil = {
        "pomerium_callback_uri": "https://evil.example/.pomerium/callback/",
        "pomerium_redirect_uri": "https://evil.example/",
        "pomerium_programmatic": "true",
    }
    async with login_stage(tmp_path) as stage:
        key = await stage.server_key()
        answer = await stage.browser().go(with_outer(stage.wiki.ask(key, stage.now), **evil))
        inner = stage.wiki.read(answer.leads_to, (key,), stage.now)

    assert answer.leads_to.startswith("https://app.wiki.example.com/.pomerium/callback/?k=")
    assert "evil" not in answer.leads_to
    assert inner["pomerium_redirect_uri"] == "https://app.wiki.example.com/page?a=b"
    assert "pomerium_programmatic" not in inner


async def test_an_unknown_sender_is_refused_before_any_login(tmp_path: Path) -> None:
    """N-45, G-2: also for a browser that is signed in."""
    async with login_stage(tmp_path) as stage:
        key, browser = await stage.server_key(), stage.browser()
        await stage.sign_in(stage.wiki, browser)
        stranger = seal_query(
            [("pomerium_redirect_uri", "https://app.wiki.example.com/"), *lifetime(stage.now)],
            sender=X25519PrivateKey.generate(),
            receiver=key,
        )
        url = f"{LOGIN}/.pomerium/sign_in?{stranger}"

        assert await refused(stage, url) == 403
        assert (await browser.ask(url)).status == 403


async def test_a_sender_key_alone_proves_nothing(tmp_path: Path) -> None:
    """N-6: a query that somebody else sealed, under a cluster's name."""
    async with login_stage(tmp_path) as stage:
        mine = X25519PrivateKey.generate()
        url = stage.wiki.ask(await stage.server_key(), stage.now)
        forged = seal_query([("a", "b")], sender=mine, receiver=await stage.server_key())
        k = url.partition("k=")[2].partition("&")[0]
        q = forged.partition("q=")[2]

        assert await refused(stage, f"{LOGIN}/.pomerium/sign_in?k={k}&q={q}") == 400


@pytest.mark.parametrize("passed", [-400, 400])
async def test_a_question_too_old_or_from_the_future_is_refused(tmp_path: Path, passed: int) -> None:
    """N-45, G-5."""
    async with login_stage(tmp_path) as stage:
        url = stage.wiki.ask(await stage.server_key(), stage.now)
        stage.clock.jump(passed)

        assert await refused(stage, url) == 400


async def test_a_question_without_times_is_refused(tmp_path: Path) -> None:
    """N-4."""
    async with login_stage(tmp_path) as stage:
        url = stage.wiki.ask(await stage.server_key(), stage.now, pomerium_expiry="soon")

        assert await refused(stage, url) == 400


async def test_who_takes_long_at_the_provider_signs_in_all_the_same(tmp_path: Path) -> None:
    """The time of a question counts when it comes, not when its visitor is back."""
    async with login_stage(tmp_path) as stage:
        key, browser = await stage.server_key(), stage.browser()
        sent = await browser.ask(stage.wiki.ask(key, stage.now))
        stage.clock.jump(420)

        answer = await browser.go(sent.leads_to)

        assert stage.wiki.read(answer.leads_to, (key,), stage.now)["pomerium_identity_profile"]


@pytest.mark.parametrize(
    "inner",
    [
        {"pomerium_redirect_uri": "https://evil.example/"},
        {"pomerium_redirect_uri": "https://app.shop.example.com/"},  # of another cluster
        {"pomerium_redirect_uri": "http://app.wiki.example.com/"},
        {"pomerium_redirect_uri": "https://app.wiki.example.com@evil.example/"},
        {"pomerium_redirect_uri": "https://evil.example\\@app.wiki.example.com/"},
        {"pomerium_redirect_uri": "//app.wiki.example.com/"},
        {"pomerium_redirect_uri": "javascript:alert(1)"},
        {"pomerium_redirect_uri": ""},
        {"pomerium_redirect_uri": "http://localhost:9/"},  # without asking for a program
        {"pomerium_callback_uri": "https://evil.example/.pomerium/callback/"},
        {"pomerium_callback_uri": "https://app.wiki.example.com/elsewhere"},
        {"pomerium_callback_uri": "https://app.wiki.example.com/.pomerium/callback/../../x"},
        {"pomerium_callback_uri": "http://app.wiki.example.com/.pomerium/callback/"},
        {"pomerium_programmatic": "true", "pomerium_redirect_uri": "http://localhost:9/"},  # callback beside it
        {
            "pomerium_programmatic": "true",
            "pomerium_callback_uri": "https://app.wiki.example.com/.pomerium/callback/",
            "pomerium_redirect_uri": "http://localhost.evil.example/",
        },
    ],
)
async def test_nobody_is_led_out_of_the_cluster(tmp_path: Path, inner: dict[str, Any]) -> None:
    """N-45, G-2, N-42."""
    async with login_stage(tmp_path) as stage:
        assert await refused(stage, stage.wiki.ask(await stage.server_key(), stage.now, **inner)) == 400


@pytest.mark.parametrize("redirect", ["http://localhost:9/done", "http://127.0.0.1:9/", "http://[::1]:9/"])
async def test_a_program_may_be_told_on_loopback(tmp_path: Path, redirect: str) -> None:
    """Authenticate 8.6, N-42."""
    async with login_stage(tmp_path) as stage:
        _, inner = await stage.sign_in(
            stage.wiki,
            stage.browser(),
            pomerium_programmatic="true",
            pomerium_redirect_uri=redirect,
            pomerium_callback_uri="https://app.wiki.example.com/.pomerium/callback/",
        )

    assert (inner["pomerium_programmatic"], inner["pomerium_redirect_uri"]) == ("true", redirect)


def test_a_wildcard_route_has_the_hosts_below_it_and_no_others() -> None:
    """Authenticate 11, "redirect policy"."""
    made, anybody = _tenant("*.apps.example.com"), _tenant("*")

    assert made.serves("https://one.apps.example.com:8443/x")
    for url in ("https://apps.example.com/", "https://.apps.example.com/", "https://x.apps.example.com.evil.example/"):
        assert not made.serves(url)
    assert not anybody.serves("https://evil.example/")


@given(st.text(max_size=200))
def test_no_text_is_taken_for_a_url_of_the_cluster(text: str) -> None:
    """Whatever is accepted is https on the one host there is, also as others read it."""
    tenant = _tenant()
    for url in (text, f"https://app.wiki.example.com{text}", f"https://{text}"):
        if tenant.serves(url):
            parts = urlsplit(url)
            assert (parts.scheme, (parts.hostname or "").lower()) == ("https", "app.wiki.example.com")
            assert "\\" not in url


@cache
def _tenant(host: str = "app.wiki.example.com") -> Tenant:
    cluster = Cluster(
        id="one",
        name="one",
        organization_id="",
        domain="one.example.com",
        generation=1,
        bootstrap_version=1,
        version=1,
        accounts_version=0,
        accounts_changed_at=None,
        created_at=NOW,
    )
    return build_tenant(cluster, bytes(32), config(host))


@pytest.mark.parametrize("damage", ["k", "q", "both", "low", "large", "bomb"])
async def test_what_cannot_be_opened_is_refused_without_detail(tmp_path: Path, damage: str) -> None:
    """N-6, N-9: damaged, of low order, over 16 KiB, or growing beyond 64 KiB."""
    async with login_stage(tmp_path) as stage:
        key = await stage.server_key()
        url = stage.wiki.ask(key, stage.now)
        k, q = url.partition("k=")[2].partition("&q=")[::2]
        if damage == "low":
            q = base64.urlsafe_b64encode(bytes(120)).decode().rstrip("=")
        elif damage == "bomb":
            url = stage.wiki.ask(key, stage.now, pomerium_version="x" * 1_000_000)
            k, q = url.partition("k=")[2].partition("&q=")[::2]
            assert len(q) < 4096
        elif damage == "large":
            url = stage.wiki.ask(key, stage.now, version=Version.V2, pomerium_version=noise(14_000))
            k, q = url.partition("k=")[2].partition("&q=")[::2]
            assert len(q) > 16 * 1024
        elif damage == "both":
            k, q = "", ""
        else:
            k, q = ("!" + k[1:], q) if damage == "k" else (k, "AAAA" + q[4:])
        answer = await stage.browser().ask(f"{LOGIN}/.pomerium/sign_in?k={k}&q={q}")

    assert answer.status == 400
    assert not answer.leads_to
    assert "seal" not in answer.text.split("</style>")[1]


def noise(length: int) -> str:
    """Text that does not compress, and the same each time."""
    return "".join(random.Random(1).choices(string.ascii_letters + string.digits + "-_", k=length * 3 // 2))


async def test_a_long_question_below_the_bound_is_answered(tmp_path: Path) -> None:
    """The bound is 16 KiB, and not what a server takes by default."""
    async with login_stage(tmp_path) as stage:
        long = f"https://app.wiki.example.com/?{noise(7_000)}"
        _, inner = await stage.sign_in(stage.wiki, stage.browser(), pomerium_redirect_uri=long)

    assert inner["pomerium_redirect_uri"] == long


async def test_one_login_serves_two_clusters_which_ask_by_themselves(tmp_path: Path) -> None:
    """N-46: the second cluster asks for consent of its own; the provider is not asked again."""
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        await stage.sign_in(stage.wiki, browser)
        browser.seen.clear()

        key = await stage.server_key()
        question = await browser.ask(stage.shop.ask(key, stage.now))
        asked = question.text
        _, inner = await stage.sign_in(stage.shop, browser, pomerium_idp_id="idp-shop")

        visits = stage.console.store.database.read("SELECT DISTINCT session, cluster_id, idp_id FROM login_visit")

    assert question.status == 200
    assert "shop" in asked
    assert "shop.example.com" in asked
    assert not any(url.startswith(stage.provider.issuer) for url in browser.seen)
    assert json.loads(inner["pomerium_identity_profile"])["providerId"] == "idp-shop"
    assert {(row["cluster_id"], row["idp_id"]) for row in visits} == {
        (stage.wiki.cluster.id, "idp-1"),
        (stage.shop.cluster.id, "idp-shop"),
    }


async def test_consent_is_asked_once_and_kept(tmp_path: Path) -> None:
    """N-46: neither a second browser of the same person nor a new login asks again; another person is asked."""
    async with login_stage(tmp_path) as stage:
        await stage.sign_in(stage.wiki, stage.browser())
        key = await stage.server_key()
        again, other = stage.browser(), stage.browser(GRACE)

        known = await again.go(stage.wiki.ask(key, stage.now), consent="cancel")
        asked = await other.go(stage.wiki.ask(key, stage.now), consent="cancel")

    assert known.leads_to.startswith("https://app.wiki.example.com/.pomerium/callback/")
    assert asked.status == 403


async def test_only_our_own_form_gives_consent(tmp_path: Path) -> None:
    """CSRF: neither a form from elsewhere nor the token of another question."""
    async with login_stage(tmp_path) as stage:
        key, browser = await stage.server_key(), stage.browser()
        await stage.sign_in(stage.wiki, browser)
        url = stage.shop.ask(key, stage.now)
        form = (await browser.ask(url)).form
        other = (await browser.ask(stage.shop.ask(key, stage.now, pomerium_idp_id="x"))).form

        bare = await browser.ask(url, form={"choice": "continue"})
        swapped = await browser.ask(url, form={**other.values, "choice": "continue"})
        cross = await browser.ask(
            url, form={**form.values, "choice": "continue"}, headers={"Sec-Fetch-Site": "cross-site"}
        )
        foreign = await browser.ask(
            url, form={**form.values, "choice": "continue"}, headers={"Origin": "https://evil.example"}
        )
        ours = await browser.ask(url, form={**form.values, "choice": "continue"}, headers={"Origin": LOGIN})

    assert [answer.status for answer in (bare, swapped, cross, foreign)] == [400] * 4
    assert ours.leads_to.startswith("https://app.shop.example.com/.pomerium/callback/")


async def test_tokens_are_passed_only_to_who_asked_for_them_and_never_a_refresh_token(tmp_path: Path) -> None:
    """N-47."""
    async with login_stage(tmp_path) as stage:
        _, without = await stage.sign_in(stage.wiki, stage.browser())
        stage.console.store.logins.set_tokens(stage.wiki.cluster.id, passed=True)
        url = stage.wiki.ask(await stage.server_key(), stage.now)
        asked_again = await stage.browser().go(url, consent="cancel")
        _, inner = await stage.sign_in(stage.wiki, stage.browser())

    profile = json.loads(inner["pomerium_identity_profile"])
    token = json.loads(base64.b64decode(profile["oauthToken"]))
    assert "oauthToken" not in without["pomerium_identity_profile"]
    assert set(token) == {"access_token", "token_type", "expiry", "expires_in"}
    assert base64.b64decode(profile["idToken"]).count(b".") == 2
    assert "refresh" not in inner["pomerium_identity_profile"]
    assert asked_again.status == 403  # they had agreed to less


async def test_what_happened_is_written_down_without_tokens(tmp_path: Path) -> None:
    """Authenticate 11, "audit"; N-33."""
    async with login_stage(tmp_path) as stage:
        with capture_logs() as logs:
            await stage.sign_in(stage.wiki, stage.browser())

    begun = next(entry for entry in logs if entry["event"] == "sign in request")
    done = next(entry for entry in logs if entry["event"] == "sign in complete")
    assert begun["ip"] == "127.0.0.1"
    assert begun["request_uuid"] == "11111111-1111-4111-8111-111111111111"
    assert begun["version"] == "v0.0 linux/amd64 "
    assert (done["email"], done["domain"]) == (ADA.email, "app.wiki.example.com")
    assert done["uid"].startswith("dev-")
    assert len(done["public_key"]) == 43
    assert "eyJ" not in json.dumps(logs, default=str)


async def test_each_address_has_a_budget(tmp_path: Path) -> None:
    """Authenticate 11, "limits"."""
    async with login_stage(tmp_path) as stage:
        browser = stage.browser()
        statuses = [(await browser.ask(f"{LOGIN}/.pomerium/sign_in")).status for _ in range(301)]
        stage.clock.jump(60)
        later = (await browser.ask(f"{LOGIN}/.pomerium/sign_in")).status

    assert statuses == [400] * 300 + [429]
    assert later == 400


# --- keys -----------------------------------------------------------------------------------------


async def test_a_new_key_is_pinned_first_then_published_and_the_old_one_answers_to_the_end(tmp_path: Path) -> None:
    """Authenticate 11, "key": bundles list current and next; sign-ins in flight end well."""
    async with login_stage(tmp_path) as stage:
        store = stage.console.store
        old = await stage.server_key()
        new, _ = rotate_key(store, stage.now)
        pinned = store.logins.keys().names
        before = await stage.server_key()

        stage.clock.jump(LEAD.total_seconds() - 1)
        in_flight, browser = stage.wiki.ask(old, stage.now), stage.browser()
        stage.clock.jump(2)
        after = await stage.server_key()
        answer = (await browser.go(in_flight)).leads_to
        stage.clock.jump(IN_FLIGHT.total_seconds())
        changed = drop_old_keys(store, stage.now)
        over = await stage.browser().ask(stage.wiki.ask(old, stage.now))

    assert pinned == (encode_raw(old), new.name)
    assert (before, after) == (old, new.public)
    assert sender_of(answer) == new.public  # the published one: replicas look again
    assert {cluster.name for cluster in changed} == {"wiki", "shop"}
    assert over.status == 400


async def test_a_leaked_key_is_gone_at_once(tmp_path: Path) -> None:
    async with login_stage(tmp_path) as stage:
        old = await stage.server_key()
        key, _ = rotate_key(stage.console.store, stage.now, at_once=True)

        assert await stage.server_key() == key.public
        assert stage.console.store.logins.keys().names == (key.name,)
        assert await refused(stage, stage.wiki.ask(old, stage.now)) == 400


async def test_the_published_key_is_32_bytes_with_a_tag(tmp_path: Path) -> None:
    """N-10."""
    async with login_stage(tmp_path) as stage:
        path, host = f"{stage.base}/.well-known/pomerium/hpke-public-key", {"Host": "login.example.com"}
        async with stage.http.get(path, headers=host) as response:
            body, headers = await response.read(), response.headers
            said = (response.content_type, headers["Cache-Control"], headers["Content-Length"])
        async with stage.http.get(path, headers={**host, "If-None-Match": headers["ETag"]}) as known:
            status = known.status

    assert len(body) == 32
    assert said == ("application/octet-stream", "max-age=60", "32")
    assert headers["Access-Control-Allow-Origin"] == "*"
    assert status == 304


def sender_of(url: str) -> bytes:
    sealed = read_sealed(urlsplit(url).query)
    assert sealed is not None
    return sealed.sender


def test_the_tag_is_the_known_one() -> None:
    """V-2."""
    assert etag_of(public_bytes(hpke_key(bytes(range(32))))) == "f43ba1ff9111bea5"
