"""One agent after the other under constant traffic, real Envoy and a real login (architecture 1, 7; envoy.md 5)."""

import asyncio
import json
from collections.abc import Mapping

import aiohttp
import pytest

from pomerium_agent.demo.playground import ReplicaAt, free_port, visitor
from pomerium_agent.demo.processes import run_verb
from pomerium_agent.errors import SettingsError
from tests.e2e.traffic import Visit, traffic
from tests.e2e.world import CLUSTER, HELLO, World, eventually, kill, open_world
from tests.fakes.oidc_provider import ADA, Browser, OidcClient, needs_oidc_provider, run_oidc_provider

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

PRIVATE = HELLO.replace("hello.DOMAIN", "private.DOMAIN").replace(
    "allow_public_unauthenticated_access", "allow_any_authenticated_user"
)
LOGIN = """
authenticate_service_url: https://authenticate.DOMAIN:PORT
idp_provider: oidc
idp_provider_url: ISSUER
idp_client_id: agent
idp_client_secret: SECRET
"""


async def upgrade(replica: ReplicaAt, *options: str) -> str:
    """`pomerium-agent upgrade`, as an operator types it; raises SettingsError with what it says when it fails."""
    return await run_verb("upgrade", "--socket", str(replica.control_socket), *options)


async def make_robot(world: World) -> Mapping[str, str]:
    verb = ("console", "service-account", "create", "robot", "--cluster", CLUSTER, "--json")
    headers: Mapping[str, str] = json.loads(await world.cluster.verb(*verb))["headers"]
    return headers


async def test_agents_are_replaced_under_traffic_and_no_request_fails() -> None:
    """Then one that cannot start comes to nothing, and at last the old one dies while the new one gets ready."""
    async with open_world() as world:
        await world.apply(HELLO, PRIVATE)
        robot = await make_robot(world)
        token = world.cluster.directory / "token"
        token.write_text(world.cluster.token)
        health = f"127.0.0.1:{free_port()}"
        environment = {"HEALTH_CHECK_ADDR": health}
        async with world.cluster.replica(token_file=token, environment=environment) as replica:
            before = await replica.pids()
            await eventually("the robot gets in", lambda: gets_in(world, replica, robot))
            public: Visit = (world.url(replica, "hello"), {})
            probe: Visit = (f"http://{health}/readyz", {})
            async with traffic(world.client, public, probe, (world.url(replica, "private"), robot)) as seen:
                for options in ((), ("--keeper",), ("--keeper",)):
                    told = await upgrade(replica, *options)
                    assert "the new agent serves alone" in told
                    assert ("the new keeper has taken over" in told) == ("--keeper" in options)
                    await seen.more()
                after = await replica.pids()
                token.unlink()
                with pytest.raises(SettingsError) as no_keeper:
                    await upgrade(replica)
                with pytest.raises(SettingsError) as no_agent:
                    await upgrade(replica, "--no-keeper")
                await seen.more()
                assert await replica.pids() == after
            assert seen.failed == []
            assert (after["envoy"], after["keeper"]) == (before["envoy"], before["keeper"])
            assert after["agent"] != before["agent"]
            assert "the new keeper, tried out beside this one, ended with code 2" in str(no_keeper.value)
            assert "nothing has changed for visitors: it ended with code 2" in str(no_agent.value)
            left = {path.name for path in replica.directory.glob("*.sock") if path.stem[-1].isdigit()}
            assert left == {f"{name}-{after['agent']}.sock" for name in ("ads", "databroker", "metrics")}

            token.write_text(world.cluster.token)
            async with traffic(world.client, public) as seen:
                async with asyncio.TaskGroup() as group:
                    upgrading = group.create_task(upgrade(replica))
                    await eventually("the new agent gets ready", lambda: comes(replica, after["agent"]))
                    kill(after["agent"])
                assert "the new agent serves alone" in upgrading.result()
                await eventually("the robot gets in", lambda: gets_in(world, replica, robot))
            assert seen.failed == []


async def gets_in(world: World, replica: ReplicaAt, headers: Mapping[str, str]) -> bool:
    return (await world.get(replica, "private", headers=headers)).status == 200


async def comes(replica: ReplicaAt, agent: int) -> bool:
    """Another agent has its own socket already."""
    found = {path.name for path in replica.directory.glob("ads-*.sock")}
    return bool(found - {f"ads-{agent}.sock"})


@needs_oidc_provider
@pytest.mark.parametrize("storage", ["memory", "file"])
async def test_who_is_signed_in_stays_so_and_logins_go_on(storage: str) -> None:
    """The records of an agent's own store go over to the next agent, and so does what is written in between (Z-25)."""
    port = free_port()
    async with open_world() as world, visitor(world.cluster.ca_file) as plain:
        login = f"https://authenticate.{world.domain}:{port}"
        client = OidcClient(redirect_uris=(f"{login}/oauth2/callback",))
        async with run_oidc_provider([client]) as provider:
            filled = LOGIN.replace("DOMAIN", world.domain).replace("PORT", str(port))
            filled = filled.replace("ISSUER", provider.issuer).replace("SECRET", json.dumps(client.secret))
            if storage == "file":
                store = f"file://{world.cluster.directory / 'records'}"
                await world.cluster.verb("console", "cluster", "set-storage", CLUSTER, store)
            await world.apply(PRIVATE, settings=filled)
            async with world.cluster.replica(port=port) as replica:
                ada = await sign_in(world, replica, plain)
                visit = (world.url(replica, "private"), ada)
                async with traffic(plain, visit) as seen, asyncio.TaskGroup() as group:
                    more = group.create_task(keep_signing_in(world, replica, plain))
                    for _ in range(2):
                        await upgrade(replica)
                        await seen.more()
                    more.cancel()
                assert seen.failed == []
                listed = json.loads(
                    await run_verb("sessions", "list", "--json", "--socket", str(replica.control_socket))
                )
                assert len(listed["sessions"]) > 2


async def keep_signing_in(world: World, replica: ReplicaAt, plain: aiohttp.ClientSession) -> None:
    """One after the other; each ends with the page that was asked for, or this raises."""
    while True:
        await sign_in(world, replica, plain)


async def sign_in(world: World, replica: ReplicaAt, plain: aiohttp.ClientSession) -> Mapping[str, str]:
    """A browser of its own goes through the login; the cookie with which it is signed in."""
    jar = aiohttp.CookieJar(unsafe=True)
    async with aiohttp.ClientSession(connector=plain.connector, connector_owner=False, cookie_jar=jar) as cookies:
        page = world.url(replica, "private")
        async with cookies.get(page, allow_redirects=False) as first:
            assert first.status == 302, await first.text()
            begins = first.headers["Location"]
        host = page.removesuffix("/")
        back = await Browser(cookies).log_in(begins, ADA, until=f"{host}/.pomerium")
        async with cookies.get(back) as answer:
            assert answer.status == 200, await answer.text()
        found = jar.filter_cookies(first.url)
        return {"cookie": "; ".join(f"{name}={morsel.value}" for name, morsel in found.items())}
