"""How much of an upstream a route may use at once, which endpoints it avoids, how long an answer may take."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator

import pytest

from tests.e2e.visitor import Reply, on_stage, route, settings, visit
from tests.e2e.world import eventually
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

JSON = [("Accept", "application/json")]
HTML = [("Accept", "text/html")]
ONE_WORKER = {"ENVOY_CONCURRENCY": "1"}  # each may have a connection, whatever the breaker says
ALONE = {"max_connections": 1, "max_pending_requests": 1}
FAILS_ONCE = {
    "consecutive_5xx": 1,
    "enforcing_consecutive_5xx": 100,
    "max_ejection_percent": 100,
    "interval": "3600s",  # whoever is put aside stays there for the whole test
    "base_ejection_time": "3600s",
    "max_ejection_time": "3600s",
}


async def never_ends() -> AsyncIterator[bytes]:
    """A body that begins; the visitor who sends it hangs up when it is answered."""
    yield b"so far"
    await asyncio.Event().wait()


async def test_breakers_break_ejected_endpoints_rest_and_no_answer_takes_longer_than_it_may() -> None:
    """R-18, R-27, routes 1.2 (73, 76), 1.7 (11, 12, 140): a route's breakers over those of the settings, by field."""
    async with serve_upstream("one") as one, serve_upstream("two") as two:
        wide = {"max_connections": 10, "max_pending_requests": 10}
        routes = (
            route("narrow.DOMAIN", name="narrow", to=one.url, timeout="0s"),
            route("wide.DOMAIN", to=one.url, timeout="0s", circuit_breaker_thresholds=wide),
            route(
                "half.DOMAIN",
                name="half",
                to=one.url,
                timeout="0s",
                circuit_breaker_thresholds={"max_pending_requests": 10},
            ),
            route(
                "checked.DOMAIN",
                path="/state",
                to=[one.url, two.url],
                prefix_rewrite="/healthz",
                outlier_detection=FAILS_ONCE,
            ),
            route("plain.DOMAIN", path="/state", to=[one.url, two.url], prefix_rewrite="/healthz"),
        )
        async with on_stage(
            *routes, settings=settings(circuit_breaker_thresholds=ALONE), environment=ONE_WORKER
        ) as stage:
            visitor = stage.visitor
            slow: list[asyncio.Task[Reply]] = []

            def begin(*hosts: str) -> None:
                slow.extend(asyncio.create_task(visitor.ask(f"{host}.DOMAIN", "/slow")) for host in hosts)

            async def connected() -> bool:
                return len(one.seen) == 3

            begin("narrow", "half", "wide")
            await eventually("one request of each route is at the upstream", connected)
            begin("narrow", "half", "half", "wide", "wide")

            async def as_many_as_may() -> bool:
                """Of each route one for each connection it may have; the others wait."""
                waiting = {f"cluster.{host}.upstream_rq_pending_active": n for host, n in (("narrow", 1), ("half", 2))}
                return len(one.seen) == 5 and await stage.envoy_stats(*waiting) == waiting

            await eventually("requests are at the upstream, or wait", as_many_as_may)
            refused = await visitor.ask("narrow.DOMAIN", headers=JSON)
            assert (refused.status, "overflow" in refused.said["statusText"]) == (503, True)
            assert (await visitor.ask("wide.DOMAIN")).status == 200
            for task in slow:
                task.cancel()

            two.healthy = False

            async def is_left_out() -> bool:
                return {(await visitor.ask("checked.DOMAIN", "/state")).status for _ in range(10)} == {200}

            await eventually("the endpoint that fails is left out", is_left_out)
            others = Counter([(await visitor.ask("plain.DOMAIN", "/state")).status for _ in range(20)])
            assert others == {200: 10, 503: 10}

            await stage.apply(*routes, settings=settings(timeout_write="1s", timeout_read="0.5s"))
            async with visit(stage.world, stage.replica) as another:  # open connections keep their old listener
                late = await another.ask("wide.DOMAIN", "/slow", headers=JSON)
                page = await another.ask("wide.DOMAIN", "/slow", headers=HTML)
                stalled = await another.ask("wide.DOMAIN", "/slow", method="POST", headers=JSON, data=never_ends())
            assert (late.status, late.said["statusText"]) == (504, "max_duration_timeout")
            assert (page.status, "The application took too long" in page.text) == (504, True)
            assert (stalled.status, stalled.said["statusText"]) == (408, "request_overall_timeout")
