"""Who gets in, through a real Envoy: service accounts, strangers, the denied, and what upstreams are told."""

import asyncio
import json
from datetime import UTC, datetime

import grpc
import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from joserfc import jwt
from joserfc.jwk import KeySet
from structlog.testing import capture_logs

from pomerium_agent.authorize.login import SignInLinks
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record
from pomerium_agent.runtime.latest import Latest
from tests.e2e.gate import bearer, open_gate
from tests.e2e.world import eventually
from tests.fakes.private_ca import PrivateCa
from tests.fakes.session_records import account, directory_user, session, user
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CA = PrivateCa("clients").base64
BROWSER = "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"


def route(name: str, **fields: object) -> config_pb2.Route:
    made = config_pb2.Route(id=name, to=["UPSTREAM"], **fields)  # type: ignore[arg-type]  # whatever a route has
    setattr(made, "from", f"http://{name}.test")
    return made


def policy(text: str, **fields: object) -> config_pb2.Policy:
    return config_pb2.Policy(source_ppl=text, **fields)  # type: ignore[arg-type]  # whatever a policy has


PRIVATE = route("private", allow_any_authenticated_user=True, pass_identity_headers=True)
ENGINEERS = route(
    "team",
    policies=[
        policy(
            "allow: {and: [{groups: {has: engineers}}]}",
            id="p1",
            explanation="Only **engineers** may see this.",
            remediation="Ask [help](https://help.test/) for the group.",
        )
    ],
    show_error_details=True,
)


async def test_a_service_account_gets_in_and_a_stranger_is_sent_to_log_in() -> None:
    """A-5, A-7, A-13, A-15, routes 1.7 (7, 8): 302 in a browser, 401 for a program; over plain HTTP, on that port."""
    async with open_gate(PRIVATE, records=[account("robot", "ci@example.com")]) as gate:
        known = await gate.get("private.test", authorization=bearer("robot"))
        browser = await gate.get("private.test", "/a?b=c", accept=BROWSER)
        program = await gate.get("private.test", accept="application/json")
        forged = await gate.get("private.test", authorization=bearer("robot")[:-2], accept="application/json")

    assert known.status == 200
    assert browser.status == 302
    assert "/.pomerium/sign_in?" in browser.headers["location"]
    assert "private.test" in browser.headers["location"]
    assert (program.status, "error" in program.text) == (401, True)
    assert forged.status == 401


async def test_while_nobody_can_sign_in_a_stranger_reads_why_and_not_that_we_are_silent() -> None:
    """N-11, authorize 23: of all 503s only Envoy's own become its page; the hosted service's key is not there yet."""
    key: Latest[bytes | None] = Latest(None)
    people = [account("robot", "ci@example.com")]
    async with open_gate(PRIVATE, records=people, sign_in_url=SignInLinks(key, "test")) as gate:
        told = await gate.get("private.test", accept=BROWSER)
        known = await gate.get("private.test", authorization=bearer("robot"))
        key.set(X25519PrivateKey.generate().public_key().public_bytes_raw())
        after = await gate.get("private.test", accept=BROWSER)

    assert (told.status, told.headers["retry-after"]) == (503, "5")
    assert "the service that signs people in cannot be reached" in told.text
    assert known.status == 200
    assert (after.status, "sign_in?k=" in after.headers["location"]) == (302, True)


async def test_the_denied_see_a_page_with_reason_and_remedy_and_others_only_that_they_are_denied() -> None:
    """A-14, A-17, routes 1.2 (27, 59): traces only where the route shows them, and only in HTML."""
    people = [session("s1", "ada"), user("ada", "ada@example.com"), directory_user("ada", group_ids=["sales"])]
    async with open_gate(ENGINEERS, records=people) as gate:
        page = await gate.get("team.test", accept=BROWSER, x_pomerium_authorization=bearer("s1")[16:])
        program = await gate.get("team.test", accept="application/json", x_pomerium_authorization=bearer("s1")[16:])

    assert page.status == 403
    assert "<strong>engineers</strong>" in page.text
    assert 'href="https://help.test/"' in page.text
    assert page.headers["x-request-id"] in page.text
    assert program.status == 403
    assert "engineers" not in program.text


async def test_a_member_of_the_group_gets_in() -> None:
    """Routes 1.2 (27)."""
    people = [session("s1", "ada"), user("ada", "ada@example.com"), directory_user("ada", group_ids=["engineers"])]
    async with open_gate(ENGINEERS, records=people) as gate:
        answer = await gate.get("team.test", x_pomerium_authorization=bearer("s1")[16:])

    assert answer.status == 200


async def test_the_upstream_sees_no_header_that_a_client_made_up_and_no_credential_of_ours() -> None:
    """A-19, R-11: the table of authorize 24."""
    settings = config_pb2.Settings(jwt_claims_headers={"X-Pomerium-Claim-Email": "email"})
    people = [session("s1", "ada"), user("ada", "ada@example.com")]
    token = bearer("s1")
    async with open_gate(PRIVATE, settings=settings, records=people) as gate:
        seen = (
            await gate.get(
                "private.test",
                authorization=token,
                X_Pomerium_Claim_Email="root@example.com",
                X_Pomerium_Claim_Groups="admins",
                X_Pomerium_Jwt_Assertion="forged",
                cookie="_pomerium=garbage; theme=dark",
            )
        ).seen

    assert seen["x-pomerium-claim-email"] == "ada@example.com"
    assert "x-pomerium-claim-groups" not in seen
    assert seen["x-pomerium-jwt-assertion"] != "forged"
    assert seen["cookie"] == "theme=dark"
    assert token not in str(seen)


async def test_on_a_public_route_a_made_up_claim_never_arrives() -> None:
    """R-11, routes 1.2 (11): nobody was asked, so nothing is known."""
    settings = config_pb2.Settings(jwt_claims_headers={"X-Pomerium-Claim-Email": "email"})
    public = route("open", allow_public_unauthenticated_access=True, pass_identity_headers=True)
    async with open_gate(public, settings=settings) as gate:
        seen = (await gate.get("open.test", X_Pomerium_Claim_Email="root@example.com")).seen

    assert "x-pomerium-claim-email" not in seen


async def test_the_assertion_verifies_with_the_published_keys_and_says_who_it_is() -> None:
    """A-21, A-23: checked by another library, from the JWKS URL."""
    people = [
        session("s1", "ada", claims={"name": ["Ada"]}),
        user("ada", "ada@example.com"),
        directory_user("ada", group_ids=["engineers"]),
    ]
    async with open_gate(PRIVATE, records=people) as gate:
        answer = await gate.get("private.test", authorization=bearer("s1"))
        keys = KeySet.import_key_set(
            json.loads((await gate.get("private.test", "/.well-known/pomerium/jwks.json")).text)
        )

    token = jwt.decode(answer.seen["x-pomerium-jwt-assertion"], keys, algorithms=["ES256"])
    claims = token.claims
    assert token.header["kid"] == keys.as_dict()["keys"][0]["kid"]
    assert (claims["iss"], claims["aud"]) == ("private.test", "private.test")
    assert (claims["sub"], claims["user"], claims["email"]) == ("ada", "ada", "ada@example.com")
    assert (claims["groups"], claims["sid"], claims["name"]) == (["engineers"], "s1", "Ada")
    assert claims["exp"] - claims["iat"] == 300


async def test_a_deleted_session_is_out_at_its_next_request() -> None:
    """A-32: revocation is as fast as the change log; how fast that is, the bench measures."""
    async with open_gate(PRIVATE, records=[session("s1", "ada"), user("ada", "ada@example.com")]) as gate:
        assert (await gate.get("private.test", authorization=bearer("s1"))).status == 200
        gone = Record(type=session("s1").type, id="s1", deleted_at=datetime.now(UTC))

        await gate.backend.put([gone])

        async def out() -> bool:
            return (await gate.get("private.test", authorization=bearer("s1"))).status == 401

        await eventually("the session is out", out)


async def test_a_grpc_client_is_told_permission_denied() -> None:
    """A-14."""
    denied = route("rpc", policies=[policy("allow: {and: [{reject: true}]}")])
    async with open_gate(denied) as gate:
        options = [("grpc.default_authority", "rpc.test")]
        async with grpc.aio.insecure_channel(f"127.0.0.1:{gate.port}", options=options) as channel:
            call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary("/test.Service/Method")
            with pytest.raises(grpc.aio.AioRpcError) as raised:
                await call(b"", timeout=10)

    assert raised.value.code() is grpc.StatusCode.PERMISSION_DENIED


async def test_a_deny_wins_over_everything() -> None:
    """P-6: through the whole chain."""
    both = route(
        "both",
        allow_any_authenticated_user=True,
        policies=[policy("deny: {or: [{http_path: {starts_with: /admin}}]}")],
    )
    async with open_gate(both, records=[account("robot", "ci")]) as gate:
        fine = await gate.get("both.test", "/x", authorization=bearer("robot"))
        denied = await gate.get("both.test", "/admin/x", authorization=bearer("robot"))

    assert (fine.status, denied.status) == (200, 403)


@pytest.mark.parametrize(
    ("sent", "status", "upstream"),
    [
        ("/pub/x", 200, "/pub/x"),
        ("/%70ub/x?/secret", 200, "/pub/x?/secret"),
        ("//pub//x", 200, "/pub/x"),
        ("/secret/../pub/x", 200, "/pub/x"),
        ("/pub%2525/%2e%2e/pub/%c3%a9", 200, "/pub/%c3%a9"),
        ("/pub/../secret", 403, ""),
        ("/pub/%2E%2e/secret", 403, ""),
        ("/pub\\..\\secret", 403, ""),
        ("/pub/;/../../secret", 403, ""),
        ("/PUB/x", 403, ""),
        ("/secret?/pub/", 403, ""),
        ("/pub/%zz", 400, ""),
        ("/pub/%c0%ae", 400, ""),
        ("/pub%2f..%2fsecret", 400, ""),
        ("/pub/%00", 400, ""),
    ],
)
async def test_a_policy_and_the_upstream_read_the_same_path(sent: str, status: int, upstream: str) -> None:
    """P-16: normalised and decoded; where decoding fails nobody can say what an upstream reads."""
    below = route("paths", policies=[policy("allow: {and: [{http_path: {starts_with: /pub/}}]}")])
    async with open_gate(below) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write(f"GET {sent} HTTP/1.1\r\nHost: paths.test\r\nConnection: close\r\n\r\n".encode())
        answer = (await reader.read()).decode()
        writer.close()

    assert int(answer.split()[1]) == status
    assert not upstream or json.loads(answer.partition("\r\n\r\n")[2])["path"] == upstream


async def test_where_certificates_are_asked_for_nobody_gets_in_without_one() -> None:
    """A-18, P-20: there is none without TLS, and 495 comes before everything else."""
    of_its_own = route("own", allow_any_authenticated_user=True, tls_downstream_client_ca=CA)
    public = route("open", allow_public_unauthenticated_access=True, tls_downstream_client_ca=CA)
    async with open_gate(PRIVATE, of_its_own, public, records=[account("robot", "ci")]) as gate:
        statuses = [
            (await gate.get(f"{host}.test", authorization=bearer("robot"))).status
            for host in ("private", "own", "open")
        ]

    assert statuses == [200, 495, 495]


async def test_a_session_in_the_second_of_two_cookie_lines_is_found() -> None:
    """A-4: HTTP/1.1 clients may send several."""
    cookie = bearer("robot").removeprefix("Bearer Pomerium-")
    lines = ("GET / HTTP/1.1", "Host: private.test", "Cookie: theme=dark", f"Cookie: _pomerium={cookie}; a=b")
    async with open_gate(PRIVATE, records=[account("robot", "ci")]) as gate:
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
        writer.write("\r\n".join((*lines, "Connection: close", "", "")).encode())
        answer = (await reader.read()).decode()
        writer.close()

    assert answer.startswith("HTTP/1.1 200")
    assert '"cookie": "theme=dark; a=b"' in answer


async def test_no_credential_is_in_the_log_though_all_headers_are() -> None:
    """A-34, W10, routes 1.7 (115): Envoy tells of the path with its query as of one more header.

    And pages tell of where they were.
    """
    secret = bearer("robot").removeprefix("Bearer Pomerium-")
    settings = config_pb2.Settings(authorize_log_fields=config_pb2.Settings.StringList(values=["headers", "query"]))
    asked = f"/a?b=c&pomerium_session={secret}"
    async with open_gate(PRIVATE, settings=settings, records=[account("robot", "ci")]) as gate:
        with capture_logs() as logs:
            for _ in range(2):
                known = await gate.get("private.test", asked, referer=f"https://private.test{asked}")
            denied = await gate.get("private.test", f"{asked}x", accept="application/json")
        kept = gate.checker.denials.find(denied.headers["x-request-id"])

    lines = [each for each in logs if each["event"] == "authorize check"]
    assert (known.status, denied.status, len(lines)) == (200, 401, 3)
    assert lines[0]["headers"][":path"] == "/a?b=c&pomerium_session=[redacted]"
    assert lines[0]["headers"]["Referer"] == "https://private.test/a?b=c&pomerium_session=[redacted]"
    assert secret not in str(logs)
    assert kept is not None
    assert secret not in str(kept)


async def test_nobody_has_a_proxy_on_the_way_take_off_who_it_is() -> None:
    """A-19: what `Connection` names, proxies remove; on an upgraded connection Envoy passes it on."""
    lines = (
        "GET / HTTP/1.1",
        "Host: socket.test",
        f"X-Pomerium-Authorization: {bearer('robot').removeprefix('Bearer Pomerium-')}",
        "Connection: Upgrade",
        "Connection: X-Pomerium-Jwt-Assertion",
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
    )
    async with serve_upstream() as api:
        sockets = config_pb2.Route(
            id="socket",
            to=[api.url],
            allow_websockets=True,
            allow_any_authenticated_user=True,
            pass_identity_headers=True,
        )
        setattr(sockets, "from", "http://socket.test")
        async with open_gate(sockets, records=[account("robot", "ci")]) as gate:
            reader, writer = await asyncio.open_connection("127.0.0.1", gate.port)
            writer.write("\r\n".join((*lines, "", "")).encode())
            head = await reader.readuntil(b"\r\n\r\n")
            writer.close()

    assert head.startswith(b"HTTP/1.1 101")
    assert [value.lower() for value in api.last.values("connection")] == ["upgrade"]
    assert api.last.values("x-pomerium-jwt-assertion")


# What may stand between two separators of a cookie header; SECRET is a session that counts.
PIECES = ("_pomerium=SECRET", "a=1", " a=1", "", " ", "_pomerium", "_pomerium_csrf=x", "x_pomerium=y", '"q=_pomerium="')
ODD = ("\t_pomerium =SECRET", "b=\u00fc", "c=1, _pomerium=SECRET", "_pomerium x=SECRET", "_pomerium==")


async def test_the_answer_takes_the_cookie_off_as_the_script_does() -> None:
    """Authorize 24: on a public route nothing but the script does it."""
    token = bearer("robot")
    secret = token.removeprefix("Bearer Pomerium-")
    pairs = [f"{one};{two}" for one in (*PIECES, *ODD) for two in (*PIECES, *ODD)]
    lines = [line.replace("SECRET", secret) for line in (*PIECES, *ODD, *pairs, "a=1;; _pomerium=SECRET ; b=2; c")]
    public = route("public", allow_public_unauthenticated_access=True)
    async with open_gate(PRIVATE, public, records=[account("robot", "ci")]) as gate:
        for line in lines:
            by_script = await gate.get("public.test", cookie=line, authorization=token)
            for _ in range(3):  # anew, from memory, and by the short way
                by_answer = await gate.get("private.test", cookie=line, authorization=token)
                assert by_answer.status == 200, line
                assert by_answer.seen.get("cookie") == by_script.seen.get("cookie"), line
            assert secret not in str(by_script.seen)
