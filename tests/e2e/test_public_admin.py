"""Envoy's admin on a port of this machine: for programs here, and for no page of somebody else's."""

import asyncio

import aiohttp
import pytest

from pomerium_agent.demo.playground import free_port
from pomerium_agent.pb.pomerium import config_pb2
from tests.e2e.gate import open_gate
from tests.e2e.test_authorization import route
from tests.e2e.world import eventually

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

OPEN = route("open", allow_public_unauthenticated_access=True)


async def test_the_admin_answers_this_machine_and_no_web_page() -> None:
    """Routes 1.7 (108, 110), 7: by a listener that comes and goes without a restart of Envoy."""
    port = free_port()
    settings = config_pb2.Settings(envoy_admin_address=f"127.0.0.1:{port}", envoy_admin_access_log_path="/dev/stdout")
    async with open_gate(OPEN, settings=settings) as gate:

        async def ask(path: str, *, method: str = "GET", **headers: str) -> int:
            named = {name.replace("_", "-"): value for name, value in headers.items()}
            async with gate.client.request(method, f"http://127.0.0.1:{port}{path}", headers=named) as answer:
                await answer.read()
                return answer.status

        here = f"http://127.0.0.1:{port}"
        assert await ask("/server_info") == await ask("/ready", host=f"localhost:{port}") == 200
        assert await ask("/logging?level=info", method="POST", origin=here, sec_fetch_site="same-origin") == 200
        assert await ask("/server_info", host="rebound.example") == 404
        assert await ask("/quitquitquit", method="POST", origin="https://evil.example") == 403
        assert await ask("/quitquitquit", method="POST", origin="null") == 403
        assert await ask("/quitquitquit", method="POST", sec_fetch_site="cross-site") == 403
        assert (await gate.get("open.test")).status == 200

        async def is_logged() -> bool:
            said = await asyncio.to_thread((gate.directory / "envoy.log").read_text)
            return "/server_info" in said and "quitquitquit" not in said

        await eventually("what was let through is logged", is_logged)
        gate.configure(OPEN)

        async def is_closed() -> bool:
            try:
                _, writer = await asyncio.open_connection("127.0.0.1", port)
            except OSError:
                return True
            writer.close()
            return False

        await eventually("the port is closed", is_closed)
        with pytest.raises(aiohttp.ClientConnectorError):
            async with aiohttp.ClientSession() as client, client.get(here):
                pass
        assert (await gate.get("open.test")).status == 200
