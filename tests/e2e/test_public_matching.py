"""Which route a request to a public host takes, and what routes answer that need no upstream."""

import pytest

from tests.e2e.visitor import Visitor, answer, on_stage, route, settings
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

MIB = 1024 * 1024


async def said(visitor: Visitor, host: str, path: str = "/") -> str:
    """The body of a 200; the status of anything else."""
    reply = await visitor.ask(host, path)
    return reply.text if reply.status == 200 else str(reply.status)


async def test_hosts_and_paths_are_matched_in_their_order_whatever_the_order_of_the_file() -> None:
    """R-6, R-7, R-8, routes 1.2 (2, 7, 8, 9, 61, 62), 1.7 (118), 3.2 to 3.6, A2, A8, A12."""
    routes = (
        route("*.apps.DOMAIN", response=answer("wild")),
        route("*.z.apps.DOMAIN", response=answer("wilder")),
        route("a-*.DOMAIN", response=answer("inside")),
        route("one.apps.DOMAIN", path="/only", response=answer("one")),
        route("api.DOMAIN", response=answer("bare")),
        route("api.DOMAIN", prefix="/v1/", response=answer("prefix")),
        route("api.DOMAIN", prefix="/v1/long", response=answer("longer prefix")),
        route("api.DOMAIN", regex="^/v[0-9]+/users/.*$", response=answer("regex")),
        route("api.DOMAIN", regex="/v[0-9]/users/a.*", regex_priority_order=7, response=answer("regex first")),
        route("api.DOMAIN", path="/v1/status", response=answer("path")),
        route("alt.DOMAIN", response=answer("default port")),
        route("alt.DOMAIN:8443", response=answer("8443")),
        route("claims.DOMAIN", prefix="/.pomerium", response=answer("mine")),
        route("claims.DOMAIN", path="/ping", response=answer("mine")),
        route("claims.DOMAIN", prefix="/.pomeriumx", response=answer("theirs")),
        route("UPPER.DOMAIN", response=answer("upper")),
    )
    async with on_stage(*routes) as stage:
        visitor = stage.visitor

        # Exact path, then regex by priority, then the longer prefix, then the rest.
        by_path = {
            "/v1/status": "path",
            "/v1/status?x=y": "path",
            "/v1/status/": "prefix",
            "/v2/users/ada": "regex first",
            "/v2/users/bob": "regex",
            "/x/v2/users/bob": "bare",  # the whole path must match
            "/v1/longer": "longer prefix",
            "/v1/": "prefix",
            "/v1": "bare",
            "/": "bare",
        }
        assert {path: await said(visitor, "api.DOMAIN", path) for path in by_path} == by_path

        # A wildcard matches dots too, the longer one first; a host of its own hides both.
        by_host = {
            "x.apps.DOMAIN": "wild",
            "x.y.apps.DOMAIN": "wild",
            "x.z.apps.DOMAIN": "wilder",
            "x.apps.DOMAIN:1234": "wild",
            "a-b.DOMAIN": "inside",
            "apps.DOMAIN": "404",
            "one.apps.DOMAIN": "404",
            "alt.DOMAIN": "default port",
            "alt.DOMAIN:443": "default port",
            "alt.DOMAIN:9999": "default port",
            "alt.DOMAIN:8443": "8443",
            "ALT.DOMAIN:8443": "8443",
            "upper.DOMAIN": "upper",
            "nobody.DOMAIN": "404",
            "example.org": "404",
        }
        assert {host: await said(visitor, host) for host in by_host} == by_host
        assert await said(visitor, "one.apps.DOMAIN", "/only") == "one"

        # The agent's own pages come first on every host, whoever claims their paths.
        for host in ("api.DOMAIN", "claims.DOMAIN", "x.apps.DOMAIN", "example.org"):
            assert await visitor.statuses(host, "/ping", "/healthz") == [200, 200]
            keys = (await visitor.ask(host, "/.well-known/pomerium/jwks.json")).said["keys"]
            assert [(key["kty"], key["crv"], "d" in key) for key in keys] == [("EC", "P-256", False)]
            discovery = (await visitor.ask(host, "/.well-known/pomerium")).said
            assert discovery["jwks_uri"] == f"https://{visitor.name(host)}/.well-known/pomerium/jwks.json"
            page = await visitor.ask(host, "/.pomerium/")
            expected = 404 if host == "example.org" else 200  # which no route of this cluster names
            assert (page.status, page.headers["x-pomerium-intercepted-response"]) == (expected, "true")
        assert await said(visitor, "claims.DOMAIN", "/.pomeriumx") == "theirs"

        # With the flag off, only the default port is the host's (routes 3.2).
        await stage.apply(*routes, settings=settings(runtime_flags={"match_any_incoming_port": False}))
        narrow = by_host | {"alt.DOMAIN:9999": "404", "x.apps.DOMAIN:1234": "404", "x.apps.DOMAIN:443": "wild"}
        assert {host: await said(visitor, host) for host in narrow} == narrow


async def test_redirects_and_fixed_answers_are_as_configured() -> None:
    """Routes 1.2 (34, 41, 62), 1.3, A7, A8, R-12, R-13; redirect wins over response, response over `to`."""
    whole = "x" * MIB
    async with serve_upstream() as upstream:
        routes = (
            route("old.DOMAIN", redirect={"host_redirect": "new.DOMAIN", "response_code": 308, "strip_query": True}),
            route("to.DOMAIN", prefix="/path", redirect={"path_redirect": "/there?a=b", "prefix_rewrite": "/no"}),
            route("to.DOMAIN", prefix="/pre", redirect={"prefix_rewrite": "/post", "response_code": 302}),
            route("to.DOMAIN", prefix="/port", redirect={"port_redirect": 8443, "response_code": 303}),
            route("to.DOMAIN", prefix="/scheme", redirect={"scheme_redirect": "http", "response_code": 307}),
            route("to.DOMAIN", prefix="/secure", redirect={"https_redirect": True, "scheme_redirect": "ftp"}),
            route(
                "all.DOMAIN", redirect={"path_redirect": "/won"}, response=answer("lost"), to=upstream.url, prefix="/r"
            ),
            route("all.DOMAIN", response=answer("won"), to=upstream.url),
            route("said.DOMAIN", path="/tea", response=answer("100% tea %REQ(host)%", 418)),
            route("said.DOMAIN", path="/empty", response={"status": 204}),
            route("said.DOMAIN", path="/whole", response=answer(whole)),
            route("said.DOMAIN", path="/own", set_response_headers={"X-Frame-Options": "DENY"}, response=answer("own")),
        )
        async with on_stage(*routes) as stage:
            visitor, domain = stage.visitor, stage.visitor.domain

            async def sent_to(host: str, path: str) -> tuple[int, str]:
                reply = await visitor.ask(host, path)
                return reply.status, reply.headers["location"].replace(domain, "DOMAIN")

            assert await sent_to("old.DOMAIN", "/a/b?c=d") == (308, "https://new.DOMAIN/a/b")
            assert await sent_to("to.DOMAIN", "/path/x") == (301, "https://to.DOMAIN/there?a=b")
            assert await sent_to("to.DOMAIN", "/pre/x?y=z") == (302, "https://to.DOMAIN/post/x?y=z")
            assert await sent_to("to.DOMAIN", "/port") == (303, "https://to.DOMAIN:8443/port")
            assert await sent_to("to.DOMAIN", "/scheme") == (307, "http://to.DOMAIN/scheme")
            assert await sent_to("to.DOMAIN:444", "/secure") == (301, "https://to.DOMAIN:444/secure")
            assert await sent_to("all.DOMAIN", "/r") == (301, "https://all.DOMAIN/won")
            assert (await visitor.ask("all.DOMAIN")).text == "won"

            tea = await visitor.ask("said.DOMAIN", "/tea")
            assert (tea.status, tea.text) == (418, "100% tea %REQ(host)%")
            empty = await visitor.ask("said.DOMAIN", "/empty")
            assert (empty.status, empty.text) == (204, "")
            assert (await visitor.ask("said.DOMAIN", "/whole")).text == whole
            own = await visitor.ask("said.DOMAIN", "/own")
            assert own.headers.getall("x-frame-options") == ["DENY"]
            for reply in (tea, empty, await visitor.ask("said.DOMAIN", "/nothing"), await visitor.ask("old.DOMAIN")):
                assert reply.headers["x-frame-options"] == "SAMEORIGIN"
                assert reply.headers["strict-transport-security"].startswith("max-age=31536000")
        assert upstream.seen == []
