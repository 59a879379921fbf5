"""Requests beyond a limit are answered 429: of a route, by address, by user or together, and of the login's pages.

Ours, no part of the specification. Limits fill so slowly here that nothing depends on how long a test takes.
"""

import pytest

from pomerium_agent.pb.pomerium import config_pb2
from tests.e2e.gate import bearer, open_gate
from tests.e2e.visitor import Reply, Visitor, on_stage, route, settings, visit
from tests.fakes.session_records import account
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

ADA, BOB = "198.51.100.1", "198.51.100.2"
FEW = {"requests": 2, "per": "24h"}


def from_address(address: str, **headers: str) -> list[tuple[str, str]]:
    """Headers of a request that a load balancer passes on."""
    return [("X-Forwarded-For", address), *headers.items()]


async def test_a_route_answers_each_address_so_often_and_the_others_as_ever() -> None:
    """Routes 1.2 (28), 1.7 (70): to browsers, to programs and by Envoy's counters, under the id of the route.

    A broken limit troubles its own route and no other.
    """
    async with serve_upstream() as upstream:
        routes = (
            route("few.DOMAIN", id="few", to=upstream.url, rate_limit=FEW),
            route("together.DOMAIN", to=upstream.url, rate_limit={**FEW, "burst": 3, "key": "route"}),
            route("said.DOMAIN", response={"status": 200, "body": "said"}, rate_limit={**FEW, "burst": 1}),
            route("free.DOMAIN", to=upstream.url),
        )
        async with on_stage(*routes, settings=settings(xff_num_trusted_hops=1)) as stage:
            ask = stage.visitor.ask

            async def statuses(host: str, *addresses: str) -> list[int]:
                return [(await ask(host, headers=from_address(address))).status for address in addresses]

            assert await statuses("few.DOMAIN", ADA, ADA, ADA, BOB, BOB, BOB) == [200, 200, 429, 200, 200, 429]
            assert len(upstream.seen) == 4
            assert await statuses("together.DOMAIN", ADA, BOB, ADA, BOB) == [200, 200, 200, 429]
            assert await statuses("said.DOMAIN", ADA, ADA, BOB) == [200, 429, 200]
            assert await statuses("free.DOMAIN", *[ADA] * 5) == [200] * 5
            # Of what a client makes up, only what the trusted hop has seen counts; an IPv6 network is one address.
            assert await statuses("few.DOMAIN", f"192.0.2.1, {ADA}", "2001:db8::1") == [429, 200]
            assert await statuses("few.DOMAIN", "2001:db8::ffff:2", "2001:db8::3", "2001:db8:0:1::1") == [200, 429, 200]

            page = await ask("few.DOMAIN", headers=from_address(ADA, Accept="text/html"))
            program = await ask("few.DOMAIN", headers=from_address(ADA, Accept="application/json"))
            counted = "route_limit.few.http_local_rate_limit.rate_limited"
            assert await stage.envoy_stats(counted) == {counted: 6}

            broken = route("few.DOMAIN", id="few", to=upstream.url, rate_limit={"requests": 0})
            await stage.apply(
                broken, *routes[1:], settings=settings(xff_num_trusted_hops=1), options=("--allow-faulty",)
            )
            assert await statuses("free.DOMAIN", ADA) == [200]
            [fault] = await stage.faults()
    for reply in (page, program):
        assert (reply.status, reply.headers["retry-after"]) == (429, "43200")
    assert "Too many requests" in page.text
    assert page.headers["content-type"] == "text/html; charset=UTF-8"
    assert program.said["status"] == 429
    assert "rate_limit" in str(fault)
    assert fault["route_id"] == "few"


async def test_pages_of_logging_in_answer_each_address_so_often() -> None:
    """On all hosts together, however the path is spelled; what only shows something is not counted."""
    async with serve_upstream() as upstream:
        app = route("app.DOMAIN", to=upstream.url)
        limited = settings(xff_num_trusted_hops=1, login_rate_limit={**FEW, "burst": 4})
        async with on_stage(app, settings=limited) as stage:

            async def ask(visitor: Visitor, path: str, address: str, host: str = "app.DOMAIN") -> Reply:
                return await visitor.ask(host, path, headers=from_address(address))

            async def refused(visitor: Visitor, *paths: str, address: str = ADA) -> list[bool]:
                return [(await ask(visitor, path, address)).status == 429 for path in paths]

            free = ("/", "/oauth2/callback?code=x", "/.pomerium/user", "/.pomerium/routes", "/.well-known/pomerium")
            tried = ("/.pomerium/callback/?code=x", "/.pomerium/sign_in?x", "/.pomerium/%73ign_in")
            assert not any(await refused(stage.visitor, *free * 3))
            assert await refused(stage.visitor, *tried) == [False] * 3
            assert (await ask(stage.visitor, "/.pomerium/callback/", ADA, "other.DOMAIN")).status != 429
            assert await refused(stage.visitor, *tried, "/.pomerium/api/v1/login") == [True] * 4
            assert (await ask(stage.visitor, "/.pomerium/callback/", ADA, "other.DOMAIN")).status == 429
            assert not any(await refused(stage.visitor, *free))
            assert not any(await refused(stage.visitor, *tried, address=BOB))
            counted = "login_limit.http_local_rate_limit.rate_limited"
            assert await stage.envoy_stats(counted) == {counted: 5}

            # Another set of routes begins no count anew.
            await stage.apply(app, route("new.DOMAIN", to=upstream.url), settings=limited)
            assert await refused(stage.visitor, "/.pomerium/sign_in") == [True]

            await stage.apply(app, settings=settings(xff_num_trusted_hops=1, login_rate_limit={"requests": 0}))
            async with visit(stage.world, stage.replica) as visitor:  # open connections keep their old listener
                assert await refused(visitor, *tried * 3) == [False] * 9
            # What everybody has who sets nothing: an office behind one address logs in at once.
            await stage.apply(app)
            async with visit(stage.world, stage.replica) as visitor:
                assert not any(await refused(visitor, *tried * 30))


async def test_each_user_has_a_count_of_requests_and_strangers_have_none_of_theirs() -> None:
    """Whoever is turned away by the policy takes nothing from those who are let in."""
    limited = config_pb2.Route(
        id="limited",
        to=["UPSTREAM"],
        allow_any_authenticated_user=True,
        rate_limit=config_pb2.RateLimit(requests=2, key=config_pb2.RATE_LIMIT_KEY_USER),
    )
    setattr(limited, "from", "http://limited.test")
    limited.rate_limit.per.FromSeconds(86_400)
    people = [account("one", "one@example.com"), account("two", "two@example.com")]
    async with open_gate(limited, records=people) as gate:

        async def ask(who: str) -> int:
            headers = {"authorization": bearer(who)} if who else {}
            return (await gate.get("limited.test", accept="application/json", **headers)).status

        found = [await ask(who) for who in ("", "", "", "one", "one", "one", "two", "two", "two", "")]

    assert found == [401, 401, 401, 200, 200, 429, 200, 200, 429, 401]
