"""Tokens of others, and tokens for others, through a real Envoy: JWTs, Kubernetes, Google's serverless platforms."""

import asyncio
import time
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt

from pomerium_agent.pb.pomerium import config_pb2
from tests.e2e.gate import Gate, bearer, open_gate
from tests.e2e.visitor import on_stage, settings
from tests.e2e.world import eventually
from tests.fakes.google import EMAIL, Google
from tests.fakes.session_records import account, directory_user, session, user
from tests.fakes.token_issuer import TokenIssuer
from tests.fakes.upstream import Upstream, serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

JWT = config_pb2.BEARER_TOKEN_FORMAT_JWT
PEOPLE = (
    session("s1", "ada"),
    user("ada", "ada@example.com"),
    directory_user("ada", email="ada@example.com", group_ids=["engineers", "a,b", "100%", "größe"]),
    session("s2", "nobody"),
)
PRETENDED = {
    "Impersonate-User": "root",
    "Impersonate-Group": "system:masters",
    "Impersonate-Uid": "0",
    "Impersonate-Extra-Scopes": "all",
    "X-Pomerium-Impersonate-Groups": "system:masters",
}


def route(name: str, to: str = "UPSTREAM", **fields: Any) -> config_pb2.Route:
    made = config_pb2.Route(id=name, to=[to], **fields)
    setattr(made, "from", f"http://{name}.test")
    return made


def handle(id: str) -> str:
    """For the header X-Pomerium-Authorization, which leaves Authorization to others."""
    return bearer(id).removeprefix("Bearer Pomerium-")


# --- JWTs of other providers ------------------------------------------------------------------------


def trusting(issuer: TokenIssuer, other: TokenIssuer) -> config_pb2.Settings:
    providers = {
        "ci": config_pb2.IdentityProvider(issuer=issuer.url, audiences=["pomerium"]),
        "other": config_pb2.IdentityProvider(issuer=other.url, audiences=["pomerium"], jwks_url=f"{other.url}/keys"),
    }
    return config_pb2.Settings(identity_providers=providers, jwt_claims_headers={"X-Who": "email"})


ANY_PROVIDER = route("any", bearer_token_format=JWT, allow_any_authenticated_user=True, pass_identity_headers=True)
ONLY_CI = route("ci", bearer_token_format=JWT, identity_providers=["ci"], allow_any_authenticated_user=True)
PLAIN = route("plain", allow_any_authenticated_user=True)


async def ask(gate: Gate, host: str, token: str, **headers: str) -> int:
    return (await gate.get(host, authorization=f"Bearer {token}", accept="application/json", **headers)).status


async def test_a_workload_gets_in_by_the_jwt_of_another_provider() -> None:
    """A-9, routes 1.2 (70), 1.7 (188): found by discovery or by its own URL; the token goes on to the upstream."""
    async with (
        TokenIssuer().serve() as ci,
        TokenIssuer().serve() as other,
        open_gate(ANY_PROVIDER, settings=trusting(ci, other)) as gate,
    ):
        token = ci.token(email="job@example.com")
        answer = await gate.get("any.test", authorization=f"Bearer {token}")
        again = await gate.get("any.test", authorization=f"bearer {token}")
        elliptic = await ask(gate, "any.test", other.token(key=other.ec, alg="ES256"))

    assert answer.seen["authorization"] == f"Bearer {token}"
    assert answer.seen["x-who"] == "job@example.com"
    assert (answer.status, again.status, elliptic) == (200, 200, 200)
    assert (ci.asked, other.asked) == (["/.well-known/openid-configuration", "/keys"], ["/keys"])


async def test_no_other_token_lets_anybody_in_and_no_session_helps() -> None:
    """A-9, A-10, routes 1.2 (70, 95): 403 for each, also beside a handle that would do by itself."""
    async with (
        TokenIssuer().serve() as ci,
        TokenIssuer().serve() as other,
        open_gate(ANY_PROVIDER, ONLY_CI, settings=trusting(ci, other), records=PEOPLE) as gate,
    ):
        bad = {
            "audience": ci.token(aud="somebody"),
            "issuer": ci.token(iss="https://stranger.example.com"),
            "issuer of another key": ci.token(iss=other.url, key=ci.ec, alg="ES256"),
            "expired": ci.token(exp=int(time.time()) - 1),
            "not yet": ci.token(nbf=int(time.time()) + 3600),
            "no subject": ci.token(sub=""),
            "none": ci.unsigned(),
            "HS256": ci.by_public_key(),
            "garbage": "garbage",
            "ours": f"Pomerium-{handle('s1')}",
        }
        found = {
            name: await ask(gate, "any.test", token, x_pomerium_authorization=handle("s1"))
            for name, token in bad.items()
        }
        not_on_the_list = await ask(gate, "ci.test", other.token())
        on_the_list = await ask(gate, "ci.test", ci.token())
        handle_alone = (await gate.get("any.test", x_pomerium_authorization=handle("s1"))).status

    assert found == dict.fromkeys(bad, 403)
    assert (not_on_the_list, on_the_list, handle_alone) == (403, 200, 200)


async def test_a_cookie_beside_a_jwt_is_a_bad_request() -> None:
    """A-9: whoever it is, it is not both."""
    async with (
        TokenIssuer().serve() as ci,
        TokenIssuer().serve() as other,
        open_gate(ANY_PROVIDER, PLAIN, settings=trusting(ci, other), records=PEOPLE) as gate,
    ):
        cookie = f"_pomerium={handle('s1')}"
        both = await ask(gate, "any.test", ci.token(), cookie=cookie)
        elsewhere = await ask(gate, "plain.test", ci.token(), cookie=cookie)
        another = await ask(gate, "any.test", ci.token(), cookie="theme=dark")

    assert (both, elsewhere, another) == (400, 200, 200)


async def test_a_provider_that_cannot_be_asked_is_a_failure_and_not_a_refusal() -> None:
    """Authorize 23, A-2."""
    async with TokenIssuer().serve() as other:
        gone = TokenIssuer()
        async with gone.serve():
            token = gone.token()
        async with open_gate(ANY_PROVIDER, settings=trusting(gone, other)) as gate:
            assert await ask(gate, "any.test", token) == 503
            assert await ask(gate, "any.test", other.token()) == 200


async def test_a_replica_takes_them_as_the_console_published_it() -> None:
    """A-9, A-26: from a configuration file to the whole agent."""
    async with TokenIssuer().serve() as ci, serve_upstream() as api:
        providers = {"ci": {"issuer": ci.url, "audiences": ["pomerium"]}}
        fields = {
            "from": "https://k8s.DOMAIN",
            "to": api.url,
            "bearer_token_format": "jwt",
            "kubernetes_service_account_token": "k8s-token",
            "allow_any_authenticated_user": True,
        }
        async with on_stage(settings(**fields), settings=settings(identity_providers=providers)) as stage:
            token = ci.token(email="job@example.com", groups=["builders"])
            good = await stage.visitor.ask("k8s.DOMAIN", headers=[("Authorization", f"Bearer {token}")])
            bad = await stage.visitor.ask("k8s.DOMAIN", headers=[("Authorization", f"Bearer {ci.token(aud='x')}")])

    assert (good.status, bad.status) == (200, 403)
    assert api.last.values("authorization") == ["Bearer k8s-token"]
    assert api.last.values("impersonate-user") == ["job@example.com"]
    assert api.last.values("impersonate-group") == ["builders"]


# --- Kubernetes ---------------------------------------------------------------------------------------


def kubernetes(upstream: Upstream, **fields: Any) -> config_pb2.Route:
    given = {"kubernetes_service_account_token": "k8s-token\n", "allow_any_authenticated_user": True}
    return route("k8s", upstream.url, **(given | fields))


async def test_kubernetes_is_asked_as_the_user_with_each_group_on_a_line_of_its_own() -> None:
    """A13, A-26, R-19, routes 1.2 (26): by stock Envoy; nothing that a client pretends arrives."""
    async with serve_upstream() as api, open_gate(kubernetes(api), records=PEOPLE) as gate:
        given = {name.replace("-", "_"): value for name, value in PRETENDED.items()}
        for _ in range(2):  # the second answer is a remembered one
            answer = await gate.get("k8s.test", authorization=bearer("s1"), **given)
            assert answer.status == 200

    for seen in api.seen:
        assert seen.values("authorization") == ["Bearer k8s-token"]
        assert seen.values("impersonate-user") == ["ada@example.com"]
        groups = [group.encode("latin-1").decode() for group in seen.values("impersonate-group")]
        assert groups == ["engineers", "a,b", "100%", "größe"]
        others = [name for name, _ in seen.headers if "impersonate" in name.lower()]
        assert {name.lower() for name in others} == {"impersonate-user", "impersonate-group"}
    assert len(api.seen) == 2


async def test_how_we_tell_envoy_of_groups_is_no_word_for_a_client() -> None:
    """R-11: on no route at all."""
    async with open_gate(PLAIN, records=PEOPLE) as gate:
        seen = (await gate.get("plain.test", authorization=bearer("s1"), X_Pomerium_Impersonate_Groups="x")).seen

    assert "x-pomerium-impersonate-groups" not in seen


async def test_without_a_user_the_token_goes_nowhere() -> None:
    """A-26: a user without an email is denied, and so is everybody where the route is open."""
    async with serve_upstream() as api:
        public = kubernetes(api, allow_any_authenticated_user=False, allow_public_unauthenticated_access=True)
        async with open_gate(kubernetes(api), records=PEOPLE) as gate:
            nameless = (await gate.get("k8s.test", authorization=bearer("s2"))).status
            kubectl = await gate.get("k8s.test", user_agent="kubectl/v1 kubernetes/abc", accept="application/json")
        async with open_gate(public, records=PEOPLE) as gate:
            stranger = (await gate.get("k8s.test", Impersonate_User="root")).status
            known = (await gate.get("k8s.test", authorization=bearer("s1"))).status

    assert (nameless, stranger, known) == (403, 403, 200)
    assert (kubectl.status, '"kind":"Status"' in kubectl.text.replace(" ", "")) == (401, True)
    assert [seen.values("impersonate-user") for seen in api.seen] == [["ada@example.com"]]


async def test_nobody_has_a_proxy_on_the_way_take_the_user_off() -> None:
    """A-26: what `Connection` names, proxies remove; on an upgraded connection Envoy passes it on."""
    lines = (
        "GET /exec HTTP/1.1",
        "Host: k8s.test",
        f"X-Pomerium-Authorization: {handle('s1')}",
        "Connection: Upgrade, Impersonate-User, Impersonate-Group",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    async with serve_upstream() as api, open_gate(kubernetes(api), records=PEOPLE) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write("\r\n".join((*lines, "", "")).encode())
        head = await reader.readuntil(b"\r\n\r\n")
        writer.close()

    assert head.startswith(b"HTTP/1.1 101")
    assert [value.lower() for value in api.last.values("connection")] == ["upgrade"]
    assert api.last.values("impersonate-user") == ["ada@example.com"]


async def test_the_token_may_come_from_a_file(tmp_path: Path) -> None:
    """Routes 1.2 (64)."""
    (tmp_path / "token").write_text("from-file\r\n")
    async with serve_upstream() as api:
        of_file = kubernetes(
            api,
            kubernetes_service_account_token="",
            kubernetes_service_account_token_file=str(tmp_path / "token"),
        )
        async with open_gate(of_file, records=PEOPLE) as gate:
            assert (await gate.get("k8s.test", authorization=bearer("s1"))).status == 200

    assert api.last.values("authorization") == ["Bearer from-file"]


# --- Google -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("configured", [True, False], ids=["service account", "metadata server"])
async def test_a_serverless_upstream_is_shown_who_we_are(configured: bool) -> None:
    """Authorize 16, A-19, routes 1.2 (42), 1.7 (55): and not what a client says, also where all may come in."""
    async with Google().serve() as google:
        given = config_pb2.Settings()
        if configured:
            given.google_cloud_serverless_authentication_service_account = google.key_file
        run = route("run", enable_google_cloud_serverless_authentication=True, allow_public_unauthenticated_access=True)
        async with open_gate(run, settings=given, metadata=google.url) as gate:
            seen = (await gate.get("run.test", X_Serverless_Authorization="Bearer forged")).seen
            second = (await gate.get("run.test")).seen

    token = seen["x-serverless-authorization"].removeprefix("Bearer ")
    claims = jwt.decode(token, google.key, algorithms=["RS256"]).claims
    assert claims["aud"] == "https://127.0.0.1"
    assert (claims["email"] == EMAIL) is configured
    assert second["x-serverless-authorization"] == seen["x-serverless-authorization"]
    assert google.asked == ["https://127.0.0.1"]


async def test_without_a_token_the_request_goes_on_without_one() -> None:
    """Authorize 16: and what a client made up is taken off."""
    async with Google().serve() as google:
        google.status = 500
        run = route("run", enable_google_cloud_serverless_authentication=True, allow_any_authenticated_user=True)
        async with open_gate(run, metadata=google.url, records=[account("robot", "ci")]) as gate:
            answer = await gate.get(
                "run.test", authorization=bearer("robot"), X_Serverless_Authorization="Bearer forged"
            )
            google.status = 200

            async def shown() -> bool:
                seen = (await gate.get("run.test", authorization=bearer("robot"))).seen
                return "x-serverless-authorization" in seen

            await eventually("the token is there", shown)

    assert answer.status == 200
    assert "x-serverless-authorization" not in answer.seen
