"""Several endpoints behind one route, endpoints that fail, requests that take too long."""

import asyncio
from collections import Counter

import pytest

from pomerium_agent.demo.playground import free_port
from tests.e2e.visitor import Visitor, on_stage, route, settings
from tests.e2e.world import eventually
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CHECK = {
    "timeout": "1s",
    "interval": "0.1s",
    "no_traffic_interval": "0.1s",
    "unhealthy_threshold": 1,
    "healthy_threshold": 1,
    "http_health_check": {"path": "/healthz"},
}


async def shares(visitor: Visitor, host: str, requests: int) -> Counter[str]:
    """Which endpoint answered how many of the requests; a status where none did."""
    replies = [await visitor.ask(host) for _ in range(requests)]
    return Counter(str(reply.said["from"]) if reply.status == 200 else str(reply.status) for reply in replies)


async def test_endpoints_get_their_share_and_unhealthy_ones_get_nothing() -> None:
    """Routes 1.2 (3, 77 to 79), 3.3, 9.1, 9.5, A11, R-32: weights, policies, health checks, the panic threshold."""
    async with serve_upstream("one") as one, serve_upstream("two") as two:
        both = [one.url, two.url]
        weighted = [f"{one.url},10", f"{two.url},30"]
        routes = (
            route("plain.DOMAIN", to=both),
            route("weighted.DOMAIN", to=weighted),
            route("sticky.DOMAIN", to=both, load_balancing_policy="RING_HASH"),
            route("mag.DOMAIN", to=both, load_balancing_policy="LOAD_BALANCING_POLICY_MAGLEV"),
            route("least.DOMAIN", to=weighted, lb_policy="least_request"),
            route("random.DOMAIN", to=both, load_balancing_policy="random"),
            route("checked.DOMAIN", to=both, health_checks=[CHECK], healthy_panic_threshold=0),
            route("panics.DOMAIN", to=both, health_checks=[CHECK], healthy_panic_threshold=100),
        )
        async with on_stage(*routes) as stage:
            visitor = stage.visitor

            assert await shares(visitor, "plain.DOMAIN", 20) == {"one": 10, "two": 10}
            share = await shares(visitor, "weighted.DOMAIN", 40)
            assert abs(share["two"] - 30) <= 2, share
            for host in ("sticky.DOMAIN", "mag.DOMAIN"):
                assert len(await shares(visitor, host, 6)) == 1
            for host in ("least.DOMAIN", "random.DOMAIN"):
                assert (await shares(visitor, host, 6)).keys() <= {"one", "two"}

            assert {probe.host for probe in two.probes} == {two.address}
            assert await shares(visitor, "checked.DOMAIN", 10) == {"one": 5, "two": 5}
            two.healthy = False
            await settles(visitor, "checked.DOMAIN", {"one"})
            assert (await shares(visitor, "panics.DOMAIN", 10)).keys() == {"one", "two"}
            one.healthy = False
            await settles(visitor, "checked.DOMAIN", {"503"})
            assert (await visitor.ask("checked.DOMAIN", headers=[("Accept", "application/json")])).said[
                "statusText"
            ] == "no_healthy_upstream"
            two.healthy = True
            await settles(visitor, "checked.DOMAIN", {"two"})


async def settles(visitor: Visitor, host: str, answering: set[str]) -> None:
    async def settled() -> bool:
        return (await shares(visitor, host, 4)).keys() == answering

    await eventually(f"{host} is answered by {answering}", settled)


async def test_what_takes_too_long_ends_and_every_failure_is_said_in_the_words_of_the_client() -> None:
    """R-10, R-14, R-18, routes 1.2 (12, 43), 1.7 (11, 39), 6.1, 8.2."""
    gone = f"http://127.0.0.1:{free_port()}"
    async with serve_upstream() as upstream:
        to = {"to": upstream.url}
        routes = (
            route("default.DOMAIN", **to),
            route("short.DOMAIN", timeout="0.3s", **to),
            route("idle.DOMAIN", timeout="0s", idle_timeout="0.3s", **to),
            route("never.DOMAIN", timeout="0s", **to),
            route("gone.DOMAIN", to=gone),
        )
        whole = settings(default_upstream_timeout="1s", timeout_read="1s")
        async with on_stage(*routes, settings=whole) as stage:
            visitor = stage.visitor
            loop = asyncio.get_running_loop()

            async def slow(host: str) -> tuple[int, float]:
                began = loop.time()
                status = (await visitor.ask(host, "/slow")).status
                return status, loop.time() - began

            async def upload() -> int:
                async with visitor.connect() as line:
                    await line.send(
                        "POST /slow HTTP/1.1", f"Host: {visitor.name('never.DOMAIN')}", "Content-Length: 10"
                    )
                    return (await line.head())[0]

            uploaded, default, short, idle = await asyncio.gather(
                upload(), slow("default.DOMAIN"), slow("short.DOMAIN"), slow("idle.DOMAIN")
            )
            assert uploaded == 408
            assert (default[0], short[0], idle[0]) == (504, 504, 504)
            assert default[1] > 0.9
            assert max(short[1], idle[1]) < default[1]
            with pytest.raises(TimeoutError):  # ours: the route has none
                async with asyncio.timeout(1.5):
                    await visitor.ask("never.DOMAIN", "/slow")

            failures = {
                "gone.DOMAIN": (503, "The application does not answer", 14),
                "short.DOMAIN": (504, "took too long", 4),
                "nobody.DOMAIN": (404, "Nothing here", 5),
            }
            for host, (status, words, code) in failures.items():
                page = await visitor.ask(host, "/slow", headers=[("Accept", "text/html,application/json;q=0.9")])
                assert (page.status, page.headers["content-type"]) == (status, "text/html; charset=UTF-8")
                assert words.lower() in page.text.lower()
                assert page.headers["x-request-id"] in page.text

                for kind in ("application/json", "text/plain"):
                    reply = await visitor.ask(host, "/slow", headers=[("Accept", f"image/png, {kind};q=0.5")])
                    assert (reply.status, reply.headers["content-type"]) == (status, f"{kind}; charset=UTF-8")
                    assert reply.said["status"] == status
                    assert reply.said["requestId"] == reply.headers["x-request-id"]

                call = [("Content-Type", "application/grpc+proto"), ("TE", "trailers")]
                reply = await visitor.ask(host, "/slow", method="POST", headers=call)
                assert (reply.status, reply.headers["grpc-status"]) == (200, str(code))
                for each in (page, reply):
                    assert each.headers["x-frame-options"] == "SAMEORIGIN"
