"""Fields of routes and settings that no other file has for its subject: what each does to real requests."""

from collections import Counter
from pathlib import Path

import pytest

from pomerium_agent.demo.playground import free_port
from tests.e2e.visitor import Stage, on_stage, route, settings, visit
from tests.e2e.world import eventually
from tests.fakes.private_ca import PrivateCa, server_context
from tests.fakes.upstream import Upstream, serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

BRANDING = {
    "primary_color": "#0b5fff",
    "secondary_color": "#123456",
    "darkmode_primary_color": "#7fb0ff",
    "darkmode_secondary_color": "#654321",
    "logo_url": "https://assets.example.com/logo.svg",
    "favicon_url": "https://assets.example.com/favicon.ico",
    "error_message_first_paragraph": "Ask the **help desk**, 100% of the time.",
}


async def test_the_rest_of_the_fields_do_what_they_say(tmp_path: Path) -> None:
    """Routes 1.2 (20, 21, 37, 58, 75), 1.7 (10, 60, 85 to 91, 111), 9.1, R-15, R-26."""
    ours = PrivateCa("ours")
    me = ours.issue("the-proxy")
    (tmp_path / "me.pem").write_bytes(me.certificate)
    (tmp_path / "me-key.pem").write_bytes(me.key)
    strict_tls = server_context(ours.issue("127.0.0.1"), tmp_path / "strict", clients_of=ours)
    async with serve_upstream("one") as one, serve_upstream("two") as two, serve_upstream(tls=strict_tls) as strict:
        routes = (
            route("weights.DOMAIN", to=[one.url, two.url], load_balancing_weights=[10, 30], stat_name="scales"),
            route(
                "files.DOMAIN",
                to=strict.url,
                tls_custom_ca=ours.base64,
                tls_client_cert_file=str(tmp_path / "me.pem"),
                tls_client_key_file=str(tmp_path / "me-key.pem"),
                tls_upstream_allow_renegotiation=True,
            ),
            route("*.wild.DOMAIN", to=one.url),
            route("extra.DOMAIN", to=one.url, tls_downstream_server_name="inside.wild.DOMAIN"),
            route("named.DOMAIN", to=f"http://app.localhost:{one.port}"),
        )
        async with on_stage(*routes) as stage:
            visitor = stage.visitor
            shares = Counter([(await visitor.ask("weights.DOMAIN")).said["from"] for _ in range(40)])
            assert abs(shares["two"] - 30) <= 2, shares
            counted = await stage.envoy_stats("cluster.scales.upstream_rq_total")
            assert counted == {"cluster.scales.upstream_rq_total": 40}

            assert (await visitor.ask("files.DOMAIN")).status == 200
            assert strict.last.client == "the-proxy"

            # A host that a route names beside its own has our pages, and no route: not even the wildcard above it.
            assert await visitor.statuses("any.wild.DOMAIN", "/", "/ping") == [200, 200]
            assert await visitor.statuses("inside.wild.DOMAIN", "/", "/ping") == [404, 200]

            await names_are_looked_up(stage, routes, one)
            await pages_wear_the_colours_of_the_house(stage, routes)


async def names_are_looked_up(stage: Stage, routes: tuple[str, ...], upstream: Upstream) -> None:
    """By the family that is asked for, with every option of the resolver in place; the upstream has IPv4 only."""
    options = {
        "dns_udp_max_queries": 5,
        "dns_use_tcp": True,
        "dns_query_tries": 2,
        "dns_query_timeout": "2s",
        "dns_refresh_rate": "10s",
        "dns_failure_refresh_rate": "10s",
        "envoy_bind_config_source_address": "127.0.0.2",
        "envoy_bind_config_freebind": True,
    }
    for family, expected in (("V4_ONLY", 200), ("V6_ONLY", 503), ("V4_PREFERRED", 200)):
        await stage.apply(*routes, settings=settings(dns_lookup_family=family, **options))

        async def answered(expected: int = expected) -> bool:
            return (await stage.visitor.ask("named.DOMAIN")).status == expected

        # Envoy goes on with the cluster of before until the new one has looked its names up.
        await eventually(f"{family} answers with {expected}", answered)
    assert upstream.last.peer == "127.0.0.2"


async def pages_wear_the_colours_of_the_house(stage: Stage, routes: tuple[str, ...]) -> None:
    """Also those that Envoy answers by itself; and the redirect listener comes from the records."""
    port = free_port()
    whole = settings(**BRANDING, http_redirect_addr=f"127.0.0.1:{port}")
    await stage.apply(*routes, settings=whole)
    async with visit(stage.world, stage.replica) as visitor:
        page = await visitor.ask("nobody.DOMAIN", headers=[("Accept", "text/html")])
        plain = await visitor.ask("nobody.DOMAIN", headers=[("Accept", "application/json")])
        async with visitor.client.get(
            f"http://127.0.0.1:{port}/a?b", headers={"Host": "app.example.com:80"}, allow_redirects=False
        ) as moved:
            assert (moved.status, moved.headers["location"]) == (301, "https://app.example.com/a?b")
    assert page.status == plain.status == 404
    for shown in ("#0b5fff", "#7fb0ff", "https://assets.example.com/logo.svg", "favicon.ico"):
        assert shown in page.text
    assert "<strong>help desk</strong>, 100% of the time." in page.text
    assert plain.said["status"] == 404
