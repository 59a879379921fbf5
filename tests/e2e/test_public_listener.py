"""What the listener makes of a request before any route sees it, how settings change that live, and the access log."""

import asyncio

import pytest

from tests.e2e.visitor import Visitor, on_stage, route, settings, visit
from tests.e2e.world import eventually
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


async def test_odd_paths_and_headers_are_handled_as_the_settings_say() -> None:
    """R-14, routes 1.7 (13, 61, 70, 73, 107, 184 to 187), 7.3: normalisation, slashes, underscores, sizes.

    Each setting is live without a restart.
    """
    async with serve_upstream() as upstream:
        app = route("app.DOMAIN", to=upstream.url)

        async def arrives(visitor: Visitor, path: str, *headers: tuple[str, str]) -> str:
            """The path as the upstream saw it, or the status of a refusal."""
            reply = await visitor.ask("app.DOMAIN", path, headers=headers)
            return upstream.last.path if reply.status == 200 else str(reply.status)

        async with on_stage(app) as stage:
            envoy = (await stage.replica.pids())["envoy"]
            paths = {
                "/a//b///c?d=//e": "/a/b/c?d=//e",
                "/a/./b/../c": "/a/c",
                "/a%2Fb": "400",
                "/a%5cb": "400",
                "/%41%7e%20": "/A~%20",
            }
            assert {path: await arrives(stage.visitor, path) for path in paths} == paths
            assert await arrives(stage.visitor, "/", ("a_b", "c")) == "400"
            assert await arrives(stage.visitor, "/big", ("X-Big", "x" * 100_000)) == "/big"
            assert await arrives(stage.visitor, "/big", ("X-Big", "x" * 140_000)) == "431"
            assert await arrives(stage.visitor, "/many", *((f"X-{n}", "y") for n in range(900))) == "/many"
            assert await arrives(stage.visitor, "/many", *((f"X-{n}", "y") for n in range(1100))) == "431"

            await stage.apply(
                app,
                settings=settings(
                    normalize_path=False,
                    merge_slashes=False,
                    path_with_escaped_slashes_action="keep_unchanged",
                    headers_with_underscores_action="allow",
                ),
            )
            async with visit(stage.world, stage.replica) as visitor:  # open connections keep their old listener
                paths = {path: path for path in ("/a//b", "/a/./b/../c", "/a%2Fb")}
                assert {path: await arrives(visitor, path) for path in paths} == paths
                assert await arrives(visitor, "/", ("a_b", "c")) == "/"
                assert upstream.last.values("a_b") == ["c"]

            forward = settings(
                path_with_escaped_slashes_action="unescape_and_forward",
                headers_with_underscores_action="drop_header",
                skip_xff_append=True,
            )
            await stage.apply(app, settings=forward)
            async with visit(stage.world, stage.replica) as visitor:
                assert await arrives(visitor, "/a%2Fb") == "/a/b"
                assert await arrives(visitor, "/", ("a_b", "c"), ("X-Forwarded-For", "203.0.113.7")) == "/"
                assert upstream.last.values("a_b") == []
                assert upstream.last.values("x-forwarded-for") == ["203.0.113.7"]

            away = settings(path_with_escaped_slashes_action="unescape_and_redirect", codec_type="http1")
            await stage.apply(app, settings=away)
            async with visit(stage.world, stage.replica) as visitor:
                moved = await visitor.ask("app.DOMAIN", "/a%2Fb?c")
                here = f"//{visitor.name('app.DOMAIN')}"
                assert (moved.status, moved.headers["location"]) == (307, f"{here}/a/b?c")
                sly = await visitor.ask("app.DOMAIN", "/%2Fevil.example/x")
                assert sly.headers["location"].startswith(f"{here}/"), sly
                async with visitor.connect(alpn="h2") as line:
                    assert line.protocol is None
            await stage.apply(
                app, settings=settings(path_with_escaped_slashes_action="unescape_and_redirect", merge_slashes=False)
            )
            async with visit(stage.world, stage.replica) as visitor:
                sly = await visitor.ask("app.DOMAIN", "/%2Fevil.example/x")
                assert sly.headers["location"].startswith(f"{here}/"), sly

            await stage.apply(
                app, settings=settings(use_proxy_protocol=True, xff_num_trusted_hops=1, timeout_idle="0.5s")
            )
            host = f"Host: {stage.visitor.name('app.DOMAIN')}"
            async with stage.visitor.connect(preamble=b"PROXY TCP4 203.0.113.9 198.51.100.1 4711 443\r\n") as line:
                status, *_ = await line.ask("GET / HTTP/1.1", host, "X-Forwarded-For: 192.0.2.1, 192.0.2.2")
                assert status == 200
                assert line.protocol == "http/1.1"
                assert await line.reader.read() == b""  # closed when idle for long enough
            assert upstream.last.values("x-forwarded-for") == ["192.0.2.1, 192.0.2.2,203.0.113.9"]
            assert upstream.last.values("x-envoy-external-address") == ["192.0.2.2"]  # by the one hop that is trusted
            assert (await stage.replica.pids())["envoy"] == envoy


async def test_every_request_leaves_one_line_in_the_log() -> None:
    """R-24, routes 1.7 (3, 4, 114), 8.3: the fields that were asked for; health checks leave none.

    Queries are there only when wanted; and the agent says as much as the settings let it.
    """
    async with serve_upstream() as upstream:
        routes = (
            route("app.DOMAIN", name="app", to=upstream.url),
            settings(**{"from": "https://private.DOMAIN", "to": upstream.url, "allow_any_authenticated_user": True}),
            route("app.DOMAIN", name="tea", path="/said", response={"status": 418, "body": "tea"}),
        )
        async with on_stage(*routes) as stage:
            name = stage.visitor.name("app.DOMAIN")
            agent = [("User-Agent", 'a "quoted" one\\'), ("Referer", "https://x.example/from?token=secret")]
            answered = await stage.visitor.ask("app.DOMAIN", "/page?token=secret", headers=agent)
            await stage.visitor.ask("app.DOMAIN", "/said", method="POST", data=b"12345")
            await stage.visitor.ask("nobody.DOMAIN", "/none")
            await stage.visitor.statuses("app.DOMAIN", "/ping", "/healthz")

            wanted = [
                "path",
                "query",
                "ip",
                "cluster-stat-name",
                "headers.X-Tenant",
                "response-code",
                "client-certificate",
            ]
            await stage.apply(*routes, settings=settings(access_log_fields=wanted))
            async with visit(stage.world, stage.replica) as another:  # open connections keep their old listener
                await another.ask("app.DOMAIN", "/chosen?q=1", headers=[("X-Tenant", "ada")])
            page, said, none, chosen = await stage.access_log(4)

            # Above info there is no access log, and Envoy itself says less; no process is restarted for it.
            envoy = (await stage.replica.pids())["envoy"]
            await stage.apply(*routes, settings=settings(proxy_log_level="error"))
            async with visit(stage.world, stage.replica) as another:
                await another.ask("app.DOMAIN", "/unseen")
            await asyncio.sleep(1.2)  # Envoy writes its log once a second
            assert len(await stage.access_log(4)) == 4

            async def decisions() -> int:
                return (await asyncio.to_thread(stage.replica.running.log.read_text)).count('"authorize check"')

            async def decided() -> bool:
                return await decisions() == 1

            assert (await stage.visitor.ask("private.DOMAIN")).status in (302, 503)
            await eventually("the decision is in the log", decided)
            await stage.apply(*routes, settings=settings(log_level="error", proxy_log_level="error"))
            assert (await stage.visitor.ask("private.DOMAIN")).status in (302, 503)
            await stage.apply(*routes, settings=settings(log_level="info", proxy_log_level="error"))
            assert await decisions() == 1  # of the second nothing was written
            assert (await stage.replica.pids())["envoy"] == envoy

    assert "secret" not in str(page)
    assert (page["event"], page["service"], page["level"]) == ("http-request", "envoy", "info")
    shown = ("method", "authority", "path", "referer", "user-agent", "response-code", "response-code-details")
    assert [page[field] for field in shown] == [
        "GET",
        name,
        "/page",
        "https://x.example/from",
        'a "quoted" one\\',
        200,
        "via_upstream",
    ]
    assert page["request-id"] == answered.headers["x-request-id"]
    assert page["size"] == len(answered.text)
    assert page["upstream-cluster"].startswith("open-")
    assert page["forwarded-for"]
    assert page["duration"] >= 0
    assert (said["method"], said["response-code"], said["response-code-details"]) == ("POST", 418, "direct_response")
    assert not said["upstream-cluster"]
    assert (none["response-code"], none["response-code-details"]) == (404, "route_not_found")
    expected = {
        "path": "/chosen",
        "query": "q=1",
        "ip": "127.0.0.1",
        "cluster-stat-name": "app",
        "headers.X-Tenant": "ada",
        "response-code": 200,
        "client-certificate": None,
    }
    assert {field: chosen[field] for field in expected} == expected
    assert "user-agent" not in chosen
