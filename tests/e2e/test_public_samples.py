"""The sample files as an operator would apply them: served as written, and one change among two hundred routes."""

import asyncio
import re
from collections import Counter

import pytest

from tests.e2e.visitor import Stage, visit
from tests.e2e.world import eventually, open_world
from tests.fakes.console import MIXED, QUICKSTART
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

DOMAIN = "example.com"
# The samples name upstreams that exist nowhere.
NOWHERE = re.compile(r"//[a-z0-9-]+\.internal(:[0-9]+)?")


async def test_the_sample_files_are_served_and_one_change_among_two_hundred_routes_resends_no_other() -> None:
    """R-4, R-7, R-9, R-31, Z-20: shown from the counters of ADS."""
    quickstart = await asyncio.to_thread(QUICKSTART.read_text)
    as_written = await asyncio.to_thread(MIXED.read_text)
    async with serve_upstream() as upstream, serve_upstream("other") as other, open_world() as world:
        led = quickstart.replace("hello:8080", upstream.address).replace("verify:8000", upstream.address)
        await world.cluster.apply(led)
        async with world.cluster.replica() as replica, visit(world, replica) as visitor:
            stage = Stage(world=world, replica=replica, visitor=visitor)
            assert (await visitor.ask("hello.localhost.pomerium.io", "/a?b")).said["path"] == "/a?b"
            stranger = await visitor.ask("verify.localhost.pomerium.io")
            # Where the hosted service can be reached, it logs people in; elsewhere they are told that it cannot.
            assert stranger.status in (302, 503)
            assert stranger.headers.get("location", "https://authenticate.pomerium.app/").startswith(
                "https://authenticate.pomerium.app/"
            )

            assert "200" in await world.cluster.apply(as_written, "--dry-run")
            text = NOWHERE.sub(f"//{upstream.address}", as_written)
            await stage.put(text)
            arrived = {
                ("public-3.example.com", "/x"): "/x",
                ("api-4.example.com", "/v1/status"): "/v1/status",
                ("api-4.example.com", "/v1/a/b?c"): "/a/b?c",
                ("api-5.example.com", "/v2/users/ada"): "/users/ada",
                ("any.apps-6.example.com", "/y"): "/y",
                ("alt-7.example.com:8443", "/z"): "/z",
                ("headers-1.example.com", "/h"): "/h",
                ("tenant-2.example.com", "/t"): "/t",
            }
            assert {asked: (await visitor.ask(*asked)).said["path"] for asked in arrived} == arrived
            assert upstream.last.host == "tenant-2.internal"
            statuses = {
                ("status-8.example.com", "/hello"): 200,
                ("status-8.example.com", "/else"): 404,
                ("old-9.example.com", "/"): 308,
                ("alt-7.example.com", "/"): 404,
                ("team-1.example.com", "/"): stranger.status,
                ("wiki-1.example.com", "/"): stranger.status,
                ("legacy-1.example.com", "/"): stranger.status,
                ("reports-1.example.com", "/"): 403,  # it lets nobody in
                ("docs-1.example.com", "/"): 503,  # its upstream speaks no TLS
            }
            assert {asked: (await visitor.ask(*asked)).status for asked in statuses} == statuses

            async def sent_for(changed: str, host: str, path: str, expected: str) -> Counter[str]:
                """Apply it, wait until it is live, and see what went to Envoy for it."""
                before = await stage.counters()
                await world.cluster.apply(changed)
                began = asyncio.get_running_loop().time()

                async def live() -> bool:
                    return expected in (await visitor.ask(host, path)).text

                await eventually("the changed route is live", live)
                # A bound on a noisy machine, far above what it takes; the bench measures it.
                assert asyncio.get_running_loop().time() - began < 5
                sent = await stage.counters() - before
                return Counter({name: n for name, n in sent.items() if name.endswith(("_sent", "_removed"))})

            text = text.replace('"hello from 8"', '"hello again"')
            assert await sent_for(text, "status-8.example.com", "/hello", "hello again") == {"routes_sent": 1}
            text = text.replace(
                f'public-3.{DOMAIN}"\n    to: "{upstream.url}"', f'public-3.{DOMAIN}"\n    to: "{other.url}"'
            )
            sent = await sent_for(text, "public-3.example.com", "/x", '"other"')
            assert sent["clusters_sent"] == 1
            assert sent["routes_sent"] <= 1
            assert sent.keys() <= {"clusters_sent", "routes_sent"}
