"""What visitors and upstreams see of the rules of the data plane, through the real Envoy."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from pomerium_agent.authorize import serve_authorize
from pomerium_agent.config.action import DirectResponse, Redirect, Unavailable
from pomerium_agent.config.snapshot import Address, HeaderRewrite, Route
from tests.e2e.gate import listening
from tests.e2e.world import eventually
from tests.fakes.echo import Echo, serving_echo
from tests.fakes.golden import resources_of
from tests.fakes.snapshots import forward, prefix, route, snapshot
from tests.fakes.static_envoy import StaticEnvoy, running_envoy

pytestmark = pytest.mark.e2e


@dataclass(slots=True)
class Door:
    """A visitor in front of Envoy."""

    client: aiohttp.ClientSession
    envoy: StaticEnvoy

    async def ask(
        self, path: str | URL = "/", host: str = "app.example.com", headers: Any = (), method: str = "GET"
    ) -> tuple[int, Any, str]:
        """Status, headers and body of the answer; redirects are not followed."""
        sent = [("Host", host), *(headers.items() if isinstance(headers, dict) else headers)]
        async with self.client.request(method, path, headers=sent, allow_redirects=False) as answer:
            return answer.status, answer.headers, await answer.text()


@asynccontextmanager
async def door(routes: list[Route], directory: Path, port: int, **settings: Any) -> AsyncIterator[Door]:
    """Envoy with these routes on plain HTTP; nobody answers for the agent."""
    address = Address(host="127.0.0.1", port=port)
    resources = resources_of(snapshot(routes, insecure_server=True, address=address, **settings), str(directory))
    async with (
        running_envoy(resources, directory) as envoy,
        aiohttp.ClientSession(f"http://127.0.0.1:{port}", timeout=aiohttp.ClientTimeout(20)) as client,
    ):
        yield Door(client, envoy)


def public(echo: Echo, **changes: Any) -> Route:
    action = changes.pop("action", None) or forward(echo.url)
    return route(public=True, action=action, **changes)


async def test_a_public_route_needs_the_agent_for_nothing(tmp_path: Path, free_port: Callable[[], int]) -> None:
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        status, headers, body = await visitor.ask("/a?b=c")

    assert (status, body) == (200, "from upstream")
    assert echo.seen[-1][:2] == ("GET", "/a?b=c")
    assert headers["server"] == "envoy"
    assert headers["x-request-id"]


async def test_a_route_that_is_not_public_is_closed_while_nobody_decides(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """R-9, R-18: fail closed, and say so in the visitor's own language."""
    async with serving_echo() as echo, door([route(action=forward(echo.url))], tmp_path, free_port()) as visitor:
        page = await visitor.ask(headers={"accept": "text/html,*/*;q=0.8"})
        data = await visitor.ask(headers={"accept": "application/json"})
        grpc = await visitor.ask(headers={"content-type": "application/grpc"}, method="POST")

    assert not echo.seen
    assert page[0] == data[0] == 503
    assert "Access cannot be checked" in page[2]
    assert '"statusText":"ext_authz_error"' in data[2]
    assert grpc[1]["grpc-status"] == "14"


async def test_a_check_without_an_end_is_given_up_and_lets_nobody_in(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """A-2, R-9, routes 1.7 (99): after the configured time; what waits for its answer is told to stop."""
    stopped: list[bytes] = []

    async def never(request: bytes) -> bytes:
        try:
            await asyncio.Event().wait()
        finally:
            stopped.append(request)
        return b""

    settings = {"grpc_client_timeout": timedelta(seconds=0.3)}
    async with (
        serve_authorize(listening(tmp_path / "authorize.sock"), never),
        serving_echo() as echo,
        door([route(action=forward(echo.url))], tmp_path, free_port(), **settings) as visitor,
    ):
        page = await visitor.ask(headers={"accept": "text/html"})
        data = await visitor.ask(headers={"accept": "application/json"})

        async def both_stopped() -> bool:
            return len(stopped) == 2

        await eventually("nothing waits any more", both_stopped)

    assert not echo.seen
    assert page[0] == data[0] == 503
    assert "Access cannot be checked" in page[2]
    assert '"statusText":"ext_authz_error"' in data[2]


async def test_headers_have_their_precedence(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """R-11, R-12, routes 5."""
    settings = {"jwt_claims_headers": {"X-Email": "email"}}
    sent = {
        "X-Pomerium-Jwt-Assertion": "forged",
        "X-Pomerium-Claim-Groups": "admin",
        "X-Email": "boss@example.com",
        "X-Pomerium-Reproxy-Policy": "x",
        "X-Pomerium-Set-Cookie": "x",
        "X-Gone": "from client",
        "X-Static": "from client",
        "Authorization": "from client",
        "User-Agent": "tests",
    }
    set_headers = {
        "X-Static": "100%",
        "X-Agent": 'via ${pomerium.request.headers["User-Agent"]}',
        "X-Missing": '<${pomerium.request.headers["X-Nobody"]}>',
        "Authorization": '${pomerium.request.headers["X-Nobody"]}',
        "X-Gone": "set",
    }

    async with serving_echo() as echo:
        asked = public(echo, set_request_headers=set_headers, remove_request_headers=("x-gone",))
        async with door([asked], tmp_path, free_port(), **settings) as visitor:
            await visitor.ask(headers=sent)
        seen = echo.last_headers()

    for name in ("x-pomerium-jwt-assertion", "x-pomerium-claim-groups", "x-email", "x-gone"):
        assert name not in seen
    for name in ("x-pomerium-reproxy-policy", "x-pomerium-set-cookie"):
        assert name not in seen
    assert seen["x-static"] == ["100%"]
    assert seen["x-agent"] == ["via tests"]
    assert seen["x-missing"] == ["<>"]
    assert seen["authorization"] == [""]  # what the client sent does not stand in for what we do not have


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["_pomerium=secret"], None),
        (["a=1; _pomerium=secret; b=2"], ["a=1; b=2"]),
        (["_pomerium=secret; b=2"], ["b=2"]),
        (["a=1; _pomerium=secret"], ["a=1"]),
        (["a=1, _pomerium=secret; b=2"], ["a=1; b=2"]),
        (["_pomerium=one; a=1; _pomerium=two"], ["a=1"]),
        (["_pomerium_csrf=x; my_pomerium=y"], ["_pomerium_csrf=x; my_pomerium=y"]),
        (["a=b=_pomerium; c"], ["a=b=_pomerium; c"]),
        (["a=1", "_pomerium=secret; b=2"], ["a=1", "b=2"]),
    ],
)
async def test_the_session_cookie_stays_with_us(
    lines: list[str], expected: list[str] | None, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """R-11."""
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        await visitor.ask(headers=[("Cookie", line) for line in lines])

    seen = echo.last_headers().get("cookie")
    assert "secret" not in str(seen)
    assert seen in (expected, expected and [", ".join(expected)], expected and ["; ".join(expected)])


@pytest.mark.parametrize(
    ("sent", "passes"),
    [
        ("Pomerium abc", False),
        ("Bearer Pomerium-abc", False),
        ("bearer Pomerium-abc", False),
        ("Bearer abc", True),
        ("Basic abc", True),
    ],
)
async def test_credentials_for_us_stay_with_us(
    sent: str, passes: bool, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """R-11, authorize 24."""
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        await visitor.ask(headers={"Authorization": sent})

    assert echo.last_headers().get("authorization") == ([sent] if passes else None)


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        (["Basic abc", "Pomerium secret"], ["Basic abc"]),
        (["Pomerium secret", "Basic abc"], ["Basic abc"]),
        (["Basic abc, Pomerium secret"], ["Basic abc"]),
        (["Pomerium secret,bearer Pomerium-secret"], None),
        (['Digest username="Pomerium", realm="x"'], ['Digest username="Pomerium", realm="x"']),
    ],
)
async def test_credentials_for_us_stay_with_us_in_whatever_company(
    lines: list[str], left: list[str] | None, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """R-11, authorize 24: Envoy joins lines with a comma, and so may a client."""
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        await visitor.ask(headers=[("Authorization", line) for line in lines])

    assert echo.last_headers().get("authorization") == left


@pytest.mark.parametrize(
    ("query", "left"),
    [
        ("?pomerium_session=secret", ""),
        ("?a=b&pomerium_session=secret&c=d%20", "?a=b&c=d%20"),
        ("?pomerium%5fsession=secret&a", "?a"),
        ("?%70%6F%6d%65%72%69%75%6d_session=secret;x&pomerium_session=secret", ""),
        ("?a=b&&Pomerium_session=x&pomerium_sessions=y&=pomerium_session", None),
        ("?a=?pomerium_session=x&b=pomerium%5Fsession=x", None),
        ("", None),
    ],
)
async def test_a_session_in_the_query_stays_with_us(
    query: str, left: str | None, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """R-11, authorize 24: however it is spelled, also where nobody is asked."""
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        await visitor.ask(URL(f"/a{query}", encoded=True))

    assert echo.seen[-1][1] == f"/a{query if left is None else left}"


@pytest.mark.parametrize("sent", ["abc", ""])
async def test_our_own_authorization_header_stays_with_us(
    sent: str, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """R-11, authorize 24."""
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        await visitor.ask(headers={"X-Pomerium-Authorization": sent, "Authorization": "Basic abc"})

    assert "x-pomerium-authorization" not in echo.last_headers()
    assert echo.last_headers()["authorization"] == ["Basic abc"]


@pytest.mark.parametrize("lines", [["a=1", "b=2"], ["a=1", ""], ["a=1", "b=2", "c=3"]])
async def test_several_cookie_lines_become_one(lines: list[str], tmp_path: Path, free_port: Callable[[], int]) -> None:
    """A-4."""
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        await visitor.ask(headers=[("Cookie", line) for line in lines])

    assert echo.last_headers()["cookie"] == ["; ".join(lines).rstrip()]


async def test_nobody_pretends_to_be_another_to_kubernetes_and_other_upstreams_are_told_all(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Routes 5, step 2."""
    pretending = {
        "Impersonate-User": "root",
        "Impersonate-Group": "system:masters",
        "Impersonate-Uid": "0",
        "Impersonate-Extra-Scopes": "all",
        "X-Else": "kept",
    }
    async with serving_echo() as echo:
        kubernetes = public(echo, kubernetes=True)
        other = route("o", "https://other.example.com", forward(echo.url), public=True)
        async with door([kubernetes, other], tmp_path, free_port()) as visitor:
            await visitor.ask(headers=pretending)
            seen = echo.last_headers()
            await visitor.ask(host="other.example.com", headers=pretending)
            seen_by_other = echo.last_headers()

    assert {name for name in seen if name.startswith("impersonate-")} == set()
    assert seen["x-else"] == ["kept"]
    assert {name.lower() for name in pretending} <= seen_by_other.keys()


@pytest.mark.parametrize(
    ("headers", "kind"),
    [
        ({"accept": "*/*"}, "text/html"),
        ({"accept": "text/html,application/json"}, "text/html"),
        ({"accept": "text/html;q=0.5,application/json"}, "application/json"),
        ({"accept": "application/json"}, "application/json"),
        ({"accept": "APPLICATION/JSON , text/plain, */*"}, "application/json"),
        ({"accept": "application/json;q=0.5,text/plain"}, "text/plain"),
        ({"accept": "application/json,text/plain;q=2"}, "text/plain"),
        ({"accept": "application/jsonx,text/plain"}, "text/plain"),
        ({"accept": "image/avif,image/*,*/*;q=0.8"}, "text/html"),
        ({"accept": "application/json", "content-type": "application/grpc-web"}, "application/grpc+json"),
        ({"accept": "text/htmlx,text/plain"}, "text/plain"),
        ({"accept": "text/html", "content-type": "application/grpc-web"}, "application/grpc+json"),
        ({"content-type": "Application/GRPC-Web"}, "application/grpc+json"),
    ],
)
async def test_errors_are_in_the_language_of_the_client(
    headers: dict[str, str], kind: str, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """R-18; whether the script that reads what the client wants runs or is skipped."""
    gone = route(public=True, action=forward("http://127.0.0.1:1"))
    async with door([gone], tmp_path, free_port()) as visitor:
        _, answer, _ = await visitor.ask(headers=headers)

    assert answer["content-type"].partition(";")[0] == kind


async def test_response_headers_are_ours_then_rewritten(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """R-12, R-13, routes 5."""
    rewrites = (
        HeaderRewrite(header="Location", value="https://app.example.com/", prefix="http://inside/"),
        HeaderRewrite(header="X-Whole", value="new"),
        HeaderRewrite(header="Set-Cookie", value="b=", prefix="a="),
        HeaderRewrite(header="X-Absent", value="never"),
    )
    async with serving_echo() as echo:
        echo.response_headers = [
            ("Location", "http://inside/x"),
            ("X-Whole", "old"),
            ("X-Frame-Options", "ALLOW"),
            ("Set-Cookie", "a=1"),
            ("Set-Cookie", "c=2"),
        ]
        asked = public(echo, set_response_headers={"X-Note": "100% ok"}, rewrite_response_headers=rewrites)
        quiet = route(
            "q", "https://quiet.example.com", forward(echo.url), public=True, set_response_headers={"disable": ""}
        )
        async with door([asked, quiet], tmp_path, free_port()) as visitor:
            _, headers, _ = await visitor.ask()
            _, untouched, _ = await visitor.ask(host="quiet.example.com")

    assert headers["location"] == "https://app.example.com/x"
    assert headers["x-whole"] == "new"
    assert headers["x-frame-options"] == "SAMEORIGIN"
    assert headers["x-note"] == "100% ok"
    assert headers.getall("set-cookie") == ["b=1", "c=2"]
    assert "x-absent" not in headers
    assert untouched["x-frame-options"] == "ALLOW"
    assert "strict-transport-security" not in untouched


async def test_routes_match_in_order_and_answers_are_what_was_configured(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    routes = [
        route(
            "moved",
            match=prefix("/old"),
            action=Redirect(host="new.example.com", code=308, strip_query=True),
            public=True,
        ),
        route("said", match=prefix("/said"), action=DirectResponse(status=418, body="100% tea"), public=True),
        route("aside", match=prefix("/aside"), action=Unavailable(fault_id="00c0ffee")),
        route("wild", "https://*.example.com", DirectResponse(status=200, body="wild"), public=True),
    ]
    async with door(routes, tmp_path, free_port()) as visitor:
        moved = await visitor.ask("/old/x?y")
        said = await visitor.ask("/said")
        aside = await visitor.ask("/aside")
        missing = await visitor.ask("/none")
        wild = await visitor.ask(host="any.example.com:8443")
        upper = await visitor.ask("/said", host="APP.Example.com")
        nowhere = await visitor.ask(host="example.org", headers={"accept": "text/plain"})

    assert (moved[0], moved[1]["location"]) == (308, "http://new.example.com/old/x")
    assert (said[0], said[2]) == (418, "100% tea")
    assert aside[0] == 503
    assert "00c0ffee" in aside[2]
    assert missing[0] == 404  # a host of its own hides the wildcard (routes 3.6)
    assert "Nothing here" in missing[2]
    assert (wild[0], wild[2]) == (200, "wild")
    assert upper[0] == 418
    assert (nowhere[0], nowhere[1]["content-type"]) == (404, "text/plain; charset=UTF-8")
    for _, headers, _ in (moved, said, aside, missing, nowhere):
        assert headers["x-frame-options"] == "SAMEORIGIN"


@pytest.mark.parametrize("host", ["a.z.example.com", "a.Z.example.com", "A.z.EXAMPLE.com:8443"])
async def test_no_spelling_of_a_host_leads_past_a_closed_wildcard_to_an_open_one(
    host: str, tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """Routes 3.6: hosts have no case, so neither have the expressions that stand for them."""
    async with serving_echo() as echo:
        routes = [
            route("closed", "https://*.z.example.com", forward(echo.url)),
            public(echo, id="open", url="https://*.example.com"),
        ]
        async with door(routes, tmp_path, free_port()) as visitor:
            status, _, _ = await visitor.ask(host=host)

    assert status == 503
    assert not echo.seen


async def test_nobody_steers_envoy_by_header_not_even_from_a_private_address(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """R-11: behind a load balancer every visitor has a private address, which Envoy would trust."""
    sent = {
        "x-envoy-upstream-alt-stat-name": "steered",
        "x-envoy-upstream-rq-timeout-ms": "1",
        "x-envoy-retry-on": "5xx",
        "x-envoy-max-retries": "50",
        "x-envoy-decorator-operation": "steered",
        "x-envoy-force-trace": "true",
    }
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        status, _, _ = await visitor.ask(headers=sent)
        stats = await visitor.envoy.ask_admin("/stats?filter=steered")

    seen = echo.last_headers()
    assert status == 200
    assert seen["x-envoy-expected-rq-timeout-ms"] == ["30000"]
    assert not sent.keys() & seen.keys()
    assert stats.strip() == ""


async def test_paths_and_hosts_are_rewritten(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Routes 4.2."""
    async with serving_echo() as echo:
        routes = [
            public(echo, id="a", match=prefix("/manual"), action=forward(echo.url, prefix_rewrite="/m")),
            public(echo, id="b", match=prefix("/base"), action=forward(f"{echo.url}/anything")),
            public(
                echo,
                id="c",
                match=prefix("/re"),
                action=forward(echo.url, regex_rewrite="^/re/(.*)$", regex_substitution=r"/\1/end"),
            ),
        ]
        async with door(routes, tmp_path, free_port()) as visitor:
            for path in ("/manual/1?q", "/base2", "/re/x"):
                await visitor.ask(path)

    assert [path for _, path, _ in echo.seen] == ["/m/1?q", "/anything2", "/x/end"]
    assert echo.last_headers()["host"] == [f"127.0.0.1:{echo.port}"]
    assert echo.last_headers()["x-forwarded-host"] == ["app.example.com"]


async def test_an_upgrade_that_is_not_allowed_is_refused(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """Routes 6.2."""
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Key": "x", "Sec-WebSocket-Version": "13"}
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        status, _, _ = await visitor.ask(headers=upgrade)

    assert status == 403
    assert not echo.seen


async def test_an_upstream_that_is_not_there_is_told_apart(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """R-18."""
    gone = route(public=True, action=forward(f"http://127.0.0.1:{free_port()}"))
    async with door([gone], tmp_path, free_port()) as visitor:
        status, headers, page = await visitor.ask(headers={"accept": "text/html"})
        _, _, data = await visitor.ask(headers={"accept": "text/html;q=0.5, application/json"})
        _, grpc, _ = await visitor.ask(headers={"content-type": "application/grpc+proto"}, method="POST")

    assert status == 503
    assert "The application does not answer" in page
    assert "100%" not in page.replace("width:100%", "").replace("min-height:100vh", "")
    assert headers["x-request-id"] in page
    assert '"status":503' in data
    assert grpc["grpc-status"] == "14"


async def test_what_the_listener_rejects_it_rejects_before_anything_else(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """R-14."""
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        underscore = await visitor.ask(headers={"a_b": "c"})
        slash = await visitor.ask("/a%2Fb")

    assert (underscore[0], slash[0]) == (400, 400)
    assert not echo.seen


async def test_internal_paths_belong_to_the_agent_on_every_host(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """R-8: without an agent nobody answers for them, least of all an upstream."""
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        mine = [await visitor.ask(path) for path in ("/ping", "/.pomerium", "/.pomerium/x", "/.well-known/pomerium/y")]
        theirs = await visitor.ask("/.pomeriumx")
        unknown_host = await visitor.ask("/healthz", host="nobody.example.org")

    assert [answer[0] for answer in (*mine, unknown_host)] == [503] * 5
    assert theirs[0] == 200
    assert [path for _, path, _ in echo.seen] == ["/.pomeriumx"]


async def test_every_request_is_a_line_of_json_without_its_query(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """R-24."""
    sent = {"Referer": "https://example.com/from?token=secret", "User-Agent": 'a "quoted" one\\'}
    async with serving_echo() as echo, door([public(echo)], tmp_path, free_port()) as visitor:
        await visitor.ask("/page?token=secret", headers=sent)
        await visitor.ask("/ping")

    [line] = visitor.envoy.access_log()
    assert "secret" not in str(line)
    assert (line["path"], line["referer"]) == ("/page", "https://example.com/from")
    assert line["user-agent"] == sent["User-Agent"]
    assert (line["event"], line["level"], line["service"]) == ("http-request", "info", "envoy")
    assert (line["response-code"], line["upstream-cluster"], line["size"]) == (200, "open-r1", 13)
    assert set(line) >= {"time", "method", "authority", "forwarded-for", "request-id", "duration"}
    assert "ping" not in visitor.envoy.out.read_text()


async def test_plain_http_goes_to_https_on_the_same_path(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """R-25."""
    redirect = Address(host="127.0.0.1", port=free_port())
    address = Address(host="127.0.0.1", port=free_port())
    resources = resources_of(snapshot([route()], address=address, http_redirect=redirect), str(tmp_path))

    async with running_envoy(resources, tmp_path), aiohttp.ClientSession() as client:
        url = f"http://127.0.0.1:{redirect.port}/a?b"
        async with client.get(url, headers={"Host": "app.example.com:80"}, allow_redirects=False) as answer:
            assert (answer.status, answer.headers["location"]) == (301, "https://app.example.com/a?b")
