"""What an upstream sees of a public request, and what a visitor sees of its answer."""

import hashlib
import io
from pathlib import Path

import pytest

from tests.e2e.visitor import Stage, on_stage, route, settings, visit
from tests.fakes.upstream import Seen, Upstream, serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


SET_ON_REQUESTS = {
    "X-Static": "100%",
    "X-Dollar": "$$1",
    "X-Agent": 'via ${pomerium.request.headers["User-Agent"]}',
    "X-Nobody": '<${pomerium.request.headers["X-Absent"]}>',
    "X-Token": "${pomerium.access_token}",
    "X-Gone": "set",
}
FORGED = [
    ("X-Pomerium-Jwt-Assertion", "forged"),
    ("X-Pomerium-Jwt-Assertion-For", "forged"),
    ("X-Pomerium-Claim-Groups", "forged"),
    ("X-Mail", "forged"),
    ("X-Pomerium-Reproxy-Policy", "forged"),
    ("X-Pomerium-Reproxy-Policy-Hmac", "forged"),
    ("X-Pomerium-Authorization", "forged"),
    ("X-Static", "forged"),
    ("X-Token", "forged"),
    ("X-Gone", "forged"),
    ("Cookie", "a=1; _session=secret; b=2"),
    ("User-Agent", "tests"),
    ("X-Forwarded-For", "203.0.113.7"),
    ("X-Forwarded-Proto", "gopher"),
    ("X-Mixed-CASE", "kept"),
]
REWRITES = [
    {"header": "Location", "prefix": "http://inside/", "value": "https://outside/"},
    {"header": "X-Whole", "value": "new"},
    {"header": "Set-Cookie", "prefix": "a=", "value": "b="},
    {"header": "X-Absent", "value": "never"},
]
SET_ON_RESPONSES = {"X-Frame-Options": "DENY", "X-Note": "100% %REQ(x-asked)% %NOPE%", "x-own": "yes"}
ANSWERED = [
    ("Location", "http://inside/x"),
    ("X-Whole", "old"),
    ("X-Frame-Options", "ALLOW"),
    ("X-Mixed-CASE", "kept"),
    ("Set-Cookie", "a=1"),
    ("Set-Cookie", "c=2"),
    ("Server", "secret/1.0"),
]


async def test_requests_and_answers_are_changed_on_their_way_as_the_route_says(tmp_path: Path) -> None:
    """R-11, R-12, R-13, routes 1.2 (3, 22 to 24, 29 to 31, 40, 41, 50 to 53),
    1.7 (16, 63, 69), 4.2, 5, authorize 24, A3, A14, A15, A17.
    """
    socket = Path(tmp_path, "u")
    async with serve_upstream() as upstream, serve_upstream(path=socket) as over_socket:
        upstream.response_headers = ANSWERED
        routes = (*rewritten(upstream, socket), *dressed(upstream))
        whole = settings(cookie_name="_session", jwt_claims_headers={"X-Mail": "email"}, pass_identity_headers=True)
        async with on_stage(*routes, settings=whole) as stage:
            await paths_and_hosts_are_rewritten(stage, upstream, over_socket)
            await requests_arrive_clean(stage, upstream)
            await responses_leave_dressed(stage, upstream)

            await stage.apply(*routes, settings=settings(set_response_headers={"X-Note": "100% ok", "X-All": "1"}))
            reply = await stage.visitor.ask("app.DOMAIN")
            assert (reply.headers["x-note"], reply.headers["x-all"]) == ("100%  %NOPE%", "1")
            assert "strict-transport-security" not in reply.headers
            async with visit(stage.world, stage.replica) as another:  # open connections keep their old listener
                missing = await another.ask("nobody.DOMAIN")
            assert (missing.status, missing.headers["x-note"]) == (404, "100% ok")


def rewritten(upstream: Upstream, socket: Path) -> tuple[str, ...]:
    """Routes that rewrite paths and hosts."""
    to = {"to": upstream.url}
    base = {"to": f"{upstream.url}/base/"}
    by_path = {
        "host_path_regex_rewrite_pattern": "^/tenant/([a-z]+)/.*$",
        "host_path_regex_rewrite_substitution": r"\1.internal",
    }
    return (
        route("docs.DOMAIN", prefix="/manual", prefix_rewrite="/m", **to),
        route("docs.DOMAIN", prefix="/gone/", prefix_rewrite="/", **to),
        route(
            "docs.DOMAIN",
            regex="^/v[0-9]+/.*$",
            regex_rewrite_pattern="^/v([0-9]+)/(.*)$",
            regex_rewrite_substitution=r"/\2/of/\1",
            **to,
        ),
        route("base.DOMAIN", **base),
        route("text.DOMAIN", to=f"{upstream.url}/any"),
        route("both.DOMAIN", prefix="/x", prefix_rewrite="/won", **base),
        route("local.DOMAIN", to=f"http://localhost:{upstream.port}"),
        route("named.DOMAIN", to=f"http://app.localhost:{upstream.port}"),  # a name that needs no server to resolve
        route("keep.DOMAIN", preserve_host_header=True, **to),
        route("fixed.DOMAIN", host_rewrite="legacy.internal:8080", preserve_host_header=True, **to),
        route("header.DOMAIN", host_rewrite_header="X-Tenant", **to),
        route("path.DOMAIN", **by_path, **to),
        route("bare.DOMAIN", remove_request_headers=["X-Forwarded-Host"], **to),
        route("sock.DOMAIN", to=f"unix://{socket}"),
    )


async def paths_and_hosts_are_rewritten(stage: Stage, upstream: Upstream, over_socket: Upstream) -> None:
    """Routes 4.2, A3, A14, A15."""

    async def asked(host: str, path: str = "/", *headers: tuple[str, str]) -> Seen:
        reply = await stage.visitor.ask(host, path, headers=headers)
        assert reply.status == 200
        return upstream.last

    paths = {
        ("docs.DOMAIN", "/manual/1?q=r"): "/m/1?q=r",
        ("docs.DOMAIN", "/gone/a"): "/a",
        ("docs.DOMAIN", "/v12/a/b?q"): "/a/b/of/12?q",
        ("base.DOMAIN", "/"): "/base/",
        ("base.DOMAIN", "/foo?q"): "/base/foo?q",
        ("text.DOMAIN", "/foo"): "/anyfoo",
        ("both.DOMAIN", "/x/y"): "/won/y",
        ("local.DOMAIN", "/%C3%BC?a=%2F"): "/%C3%BC?a=%2F",
    }
    assert {asking: (await asked(*asking)).path for asking in paths} == paths

    # By default an upstream is called by its own name, and told the visitor's.
    seen = await asked("base.DOMAIN", "/", ("X-Forwarded-Host", "evil"))
    name = stage.visitor.name
    assert (seen.host, seen.values("x-forwarded-host")) == (upstream.address, [f"evil,{name('base.DOMAIN')}"])
    assert (await asked("local.DOMAIN")).host == f"localhost:{upstream.port}"
    assert (await asked("named.DOMAIN")).host == f"app.localhost:{upstream.port}"
    kept = await asked("keep.DOMAIN:8443")
    assert (kept.host, kept.values("x-forwarded-host")) == (name("keep.DOMAIN:8443"), [])
    assert (await asked("fixed.DOMAIN")).host == "legacy.internal:8080"
    assert (await asked("header.DOMAIN", "/", ("X-Tenant", "ada.internal"))).host == "ada.internal"
    assert (await asked("path.DOMAIN", "/tenant/grace/x?y=z")).host == "grace.internal"
    assert (await asked("bare.DOMAIN", "/", ("X-Forwarded-Host", "evil"))).values("x-forwarded-host") == []

    for method in ("HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"):
        assert (await stage.visitor.ask("base.DOMAIN", method=method)).status == 200
        assert upstream.last.method == method
    much = bytes(range(256)) * 20_000
    reply = await stage.visitor.ask("base.DOMAIN", method="POST", data=io.BytesIO(much))
    assert reply.said["received"] == hashlib.sha256(much).hexdigest()

    reply = await stage.visitor.ask("sock.DOMAIN", "/over/a?socket")
    assert (reply.said["path"], over_socket.last.path) == ("/over/a?socket", "/over/a?socket")


def dressed(upstream: Upstream) -> tuple[str, ...]:
    """Routes that set, remove and rewrite headers."""
    return (
        route(
            "app.DOMAIN",
            to=upstream.url,
            set_request_headers=SET_ON_REQUESTS,
            remove_request_headers=["x-gone", "Host", "X-Absent"],
            pass_identity_headers=True,
            set_response_headers=SET_ON_RESPONSES,
            rewrite_response_headers=REWRITES,
        ),
        route("quiet.DOMAIN", to=upstream.url, set_response_headers={"disable": "true"}),
    )


async def requests_arrive_clean(stage: Stage, upstream: Upstream) -> None:
    """What is configured reaches the upstream; what is ours does not, nor what was forged."""
    await stage.visitor.ask("app.DOMAIN", headers=FORGED)
    seen = upstream.last
    spelled = [name for name, _ in seen.headers]

    assert seen.values("x-static") == ["100%"]
    assert seen.values("x-dollar") == ["$1"]
    assert seen.values("x-agent") == ["via tests"]
    assert seen.values("x-nobody") == ["<>"]
    assert seen.values("x-token") == [""]  # nobody signed in; what the visitor sent does not stand in for it
    assert seen.values("cookie") == ["a=1; b=2"]
    assert seen.values("x-gone") == []
    # The route tells who calls, so the agent is asked about it, and says that it is nobody.
    assert [name for name in spelled if name.lower().startswith("x-pomerium-")] == ["X-Pomerium-Jwt-Assertion"]
    [assertion] = seen.values("x-pomerium-jwt-assertion")
    assert assertion.count(".") == 2
    assert not any(seen.values("x-mail"))
    [forwarded] = seen.values("x-forwarded-for")
    assert forwarded.startswith("203.0.113.7,")  # and ours; Envoy writes its own address for loopback
    assert seen.values("x-forwarded-proto") == ["https"]
    assert len(seen.values("x-request-id")) == 1
    assert "X-Mixed-CASE" in spelled  # HTTP/1 in, HTTP/1 out

    credentials = {
        "Pomerium abc": [],
        "Bearer Pomerium-abc": [],
        "Bearer abc": ["Bearer abc"],
        "Basic YTpi": ["Basic YTpi"],
    }
    for sent, passes in credentials.items():
        await stage.visitor.ask("app.DOMAIN", headers=[("Authorization", sent)])
        assert upstream.last.values("authorization") == passes, sent
    cookies = {"_session=secret": [], "_sessions=x; my_session=y": ["_sessions=x; my_session=y"]}
    for sent, left in cookies.items():
        await stage.visitor.ask("app.DOMAIN", headers=[("Cookie", sent)])
        assert upstream.last.values("cookie") == left, sent


async def responses_leave_dressed(stage: Stage, upstream: Upstream) -> None:
    """Set over what the upstream said, then rewritten; or left alone."""
    reply = await stage.visitor.ask("app.DOMAIN", headers=[("X-Asked", "what")])

    assert reply.headers["location"] == "https://outside/x"
    assert reply.headers["x-whole"] == "new"
    assert "x-absent" not in reply.headers
    assert reply.headers.getall("set-cookie") == ["b=1", "c=2"]
    assert reply.headers.getall("x-frame-options") == ["DENY"]
    assert reply.headers["x-note"] == "100% what %NOPE%"
    assert reply.headers["x-own"] == "yes"
    assert reply.headers["x-xss-protection"] == "1; mode=block"
    assert "strict-transport-security" in reply.headers
    assert "X-Mixed-CASE" in list(reply.headers)
    assert reply.headers["server"] == "envoy"
    assert reply.headers["x-request-id"] == upstream.last.values("x-request-id")[0]

    untouched = await stage.visitor.ask("quiet.DOMAIN")
    assert untouched.headers.getall("x-frame-options") == ["ALLOW"]
    assert "strict-transport-security" not in untouched.headers
