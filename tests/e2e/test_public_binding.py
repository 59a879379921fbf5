"""From which address Envoy speaks to upstreams: one that this machine need not have (R-27, routes 9.1)."""

import aiohttp
import pytest

from pomerium_agent.pb.pomerium import config_pb2
from tests.e2e.gate import Gate, open_gate
from tests.e2e.test_authorization import route

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

NOT_OURS = "203.0.113.7"  # of a documentation network
OPEN = route("open", allow_public_unauthenticated_access=True)


async def bind_errors(gate: Gate) -> int:
    connector = aiohttp.UnixConnector(path=str(gate.directory / "admin.sock"))
    async with (
        aiohttp.ClientSession(connector=connector) as client,
        client.get("http://envoy/stats?filter=bind_errors&format=json") as response,
    ):
        stats = (await response.json(content_type=None))["stats"]
    return sum(each["value"] for each in stats if "name" in each)


@pytest.mark.parametrize("freely", [False, True])
async def test_an_address_that_is_not_here_can_be_bound_only_freely(freely: bool) -> None:
    """Routes 1.7 (111, 112): nobody answers to it on loopback; but without, not even a socket can have it."""
    settings = config_pb2.Settings(envoy_bind_config_source_address=NOT_OURS, envoy_bind_config_freebind=freely)
    async with open_gate(OPEN, settings=settings) as gate:
        assert (await gate.get("open.test")).status in (503, 504)

        assert bool(await bind_errors(gate)) is not freely
