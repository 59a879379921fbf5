"""From a token to answered requests, and what happens when parts of it die: real console, agent and Envoy."""

import asyncio
import json
import os
import time

import aiohttp
import pytest

from pomerium_agent.demo.playground import ReplicaAt, free_port, run_console
from tests.e2e.load import answers, load
from tests.e2e.world import CLUSTER, HELLO, World, eventually, kill, open_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


async def test_a_token_brings_up_a_replica_that_serves_a_route_over_tls() -> None:
    """Z-8, R-16: nothing but a token; the certificate of the starter domain is the console's."""
    async with open_world() as world:
        await world.apply(HELLO)

        async with world.cluster.replica() as replica:
            answer = await world.get(replica, "hello", "/a?b=c")

        assert answer.status == 200
        assert answer.json()["path"] == "/a?b=c"


async def test_a_route_that_is_not_public_lets_no_stranger_in() -> None:
    """R-9: fail closed."""
    async with open_world() as world:
        await world.apply(HELLO.replace("allow_public_unauthenticated_access", "allow_any_authenticated_user"))

        async with world.cluster.replica() as replica:
            answer = await world.get(replica, "hello", headers={"accept": "application/json"})
            # The hosted service, which nobody configured another for, cannot be reached from a test.
            page = await world.get(replica, "hello", headers={"accept": "text/html"})

        assert answer.status == 401
        assert (page.status, page.headers["retry-after"]) == (503, "5")
        assert "cannot be reached just now" in page.text  # ours, and not what Envoy says when nobody answers it


async def test_a_service_account_gets_in_until_it_is_revoked() -> None:
    """A-7, A-32: made and revoked at the console, honoured by the replica at its next request."""
    async with open_world() as world:
        await world.apply(HELLO.replace("allow_public_unauthenticated_access", "allow_any_authenticated_user"))
        async with world.cluster.replica() as replica:
            verb = ("console", "service-account")
            made = json.loads(await world.cluster.verb(*verb, "create", "robot", "--cluster", CLUSTER, "--json"))
            headers = made["headers"]

            async def status(wanted: int) -> bool:
                answer = await world.get(replica, "hello", headers={"accept": "application/json", **headers})
                return answer.status == wanted

            await eventually("the robot gets in", lambda: status(200))
            await world.cluster.verb(*verb, "revoke", "robot", "--cluster", CLUSTER)
            await eventually("the robot is out", lambda: status(401))


async def test_a_change_is_live_in_under_a_second_and_resends_no_other_route() -> None:
    """Z-20, R-31: shown from the counters of ADS."""
    second = HELLO.replace("hello.DOMAIN", "second.DOMAIN")
    async with open_world() as world:
        await world.apply(HELLO, second)
        async with world.cluster.replica() as replica:
            before = await ads_counters(replica)

            await world.apply(HELLO, second + 'set_response_headers: {x-changed: "yes"}\n')
            applied = time.monotonic()
            await eventually(
                "the changed header is seen",
                lambda: has_header(world, replica, "second", "x-changed"),
            )
            took = time.monotonic() - applied

            after = await ads_counters(replica)
        # A bound on a noisy machine, far above what it takes; the bench measures it.
        assert took < 5
        assert after["routes_sent"] - before["routes_sent"] == 1
        assert after.get("clusters_sent", 0) == before["clusters_sent"]
        assert after.get("listeners_sent", 0) == before["listeners_sent"]
        assert after.get("secrets_sent", 0) == before["secrets_sent"]


async def test_requests_go_on_without_the_console_and_the_next_apply_arrives_after_it_is_back() -> None:
    """Z-16, Z-65."""
    async with open_world() as world:
        await world.apply(HELLO)
        async with world.cluster.replica() as replica:
            kill(world.cluster.console.running.pid)
            await world.cluster.console.running.process.wait()
            assert (await world.get(replica, "hello")).status == 200
            api_port = int(world.cluster.console.cluster_api.split(":")[2].split("/")[0])
            grpc_port = int(world.cluster.console.connect.rpartition(":")[2])

            async with run_console(
                world.cluster.console.data_dir, world.cluster.directory, api_port=api_port, grpc_port=grpc_port
            ):
                await world.apply(HELLO, HELLO.replace("hello.DOMAIN", "late.DOMAIN"))

                await eventually("the late route answers", lambda: answers(world, replica, "late"))
            assert (await world.get(replica, "hello")).status == 200


async def test_a_killed_envoy_is_back_and_serving() -> None:
    """R-23: the keeper restarts it, the agent feeds it the same configuration."""
    async with open_world() as world:
        await world.apply(HELLO)
        async with world.cluster.replica() as replica:
            before = (await replica.pids())["envoy"]

            kill(before)

            await eventually("hello answers again", lambda: answers(world, replica, "hello"))
            await eventually("another envoy is named", lambda: other_pid(replica, "envoy", before))


async def test_killing_the_agent_fails_no_request_and_the_next_one_adopts_envoy_without_a_reload() -> None:
    """R-22, architecture 7."""
    async with open_world() as world:
        await world.apply(HELLO)
        async with world.cluster.replica() as replica:
            pids = await replica.pids()
            reloads = await envoy_reloads(replica)

            async with load(world, replica, "hello") as seen:
                await seen.some()
                kill(pids["agent"])
                await eventually("another agent is ready", lambda: ready_with_other_agent(replica, pids["agent"]))
                await seen.some()

            assert seen.failures == []
            assert (await replica.pids())["envoy"] == pids["envoy"]
            assert await envoy_reloads(replica) == reloads
            counters = await ads_counters(replica)
            assert {name: n for name, n in counters.items() if name.endswith("_sent")} == {}
            await world.apply(HELLO, HELLO.replace("hello.DOMAIN", "next.DOMAIN"))
            await eventually("the next agent applies changes", lambda: answers(world, replica, "next"))


async def test_an_agent_that_begins_without_the_control_plane_serves_on_what_envoy_has() -> None:
    """Architecture 7, Z-65: console and agent die together, and no request fails; what is applied later arrives.

    Routes that ask who comes are decided again at once, from the last known good configuration.
    """
    private = HELLO.replace("hello.DOMAIN", "private.DOMAIN").replace(
        "allow_public_unauthenticated_access", "allow_any_authenticated_user"
    )
    async with open_world() as world:
        await world.apply(HELLO, private)
        made = await world.cluster.verb("console", "service-account", "create", "robot", "--cluster", CLUSTER, "--json")
        robot = {"accept": "application/json", **json.loads(made)["headers"]}
        async with world.cluster.replica() as replica:

            async def is_kept() -> bool:
                return (replica.directory / "state" / "last-good.sealed").exists()

            async def stranger_is_told() -> bool:
                answer = await world.get(replica, "private", headers={"accept": "application/json"})
                return answer.status == 401

            await eventually("the configuration is kept", is_kept)
            await eventually("the robot gets in", lambda: gets_in(world, replica, robot))
            agent = (await replica.pids())["agent"]
            ports = [
                int(url.split(":")[2].split("/")[0])
                for url in (world.cluster.console.cluster_api, world.cluster.console.connect)
            ]

            async with load(world, replica, "hello") as seen:
                await seen.some()
                kill(world.cluster.console.running.pid)
                await world.cluster.console.running.process.wait()
                kill(agent)
                await eventually(
                    "envoy is connected to another agent", lambda: connected_to_other_agent(replica, agent)
                )
                await seen.some()

            assert seen.failures == []
            await eventually("the next agent decides who gets in", stranger_is_told)
            status = await replica.status()
            assert status["ready"]
            assert status["config"]["last_good_of"]  # type: ignore[index]  # our own JSON
            assert {name: n for name, n in (await ads_counters(replica)).items() if name.endswith("_sent")} == {}
            async with run_console(
                world.cluster.console.data_dir, world.cluster.directory, api_port=ports[0], grpc_port=ports[1]
            ):
                await world.apply(HELLO, HELLO.replace("hello.DOMAIN", "late.DOMAIN"))
                await eventually("the late route answers", lambda: answers(world, replica, "late"))


async def test_a_replica_that_knows_who_it_is_but_not_what_to_serve_is_not_ready() -> None:
    """A bootstrap file is there, the console is not: an empty databroker is not an empty configuration."""
    async with open_world() as world:
        await world.apply(HELLO)
        remembers = {"XDG_CACHE_HOME": str(world.cluster.directory / "kept")}
        async with world.cluster.replica(environment=remembers):
            pass
        kill(world.cluster.console.running.pid)
        await world.cluster.console.running.process.wait()

        async with world.cluster.replica(wait=False, environment=remembers) as replica:
            await eventually("its envoy asks for a configuration", lambda: connected_to_other_agent(replica, 0))

            status = await replica.status()
            assert not status["ready"]
            assert status["config"]["offered"] == ""  # type: ignore[index]  # our own JSON


async def test_two_replicas_with_one_token_both_serve_and_both_follow() -> None:
    async with open_world() as world:
        await world.apply(HELLO)
        async with world.cluster.replica("r1") as one, world.cluster.replica("r2") as two:
            assert [(await world.get(replica, "hello")).status for replica in (one, two)] == [200, 200]

            await world.apply(HELLO, HELLO.replace("hello.DOMAIN", "both.DOMAIN"))

            for replica in (one, two):
                await eventually("both serve the new route", lambda replica=replica: answers(world, replica, "both"))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults


async def test_a_bad_regex_harms_only_its_own_route_and_the_console_names_it() -> None:
    """R-4, Z-48, A16."""
    bad = "name: bad\n" + HELLO.replace("hello.DOMAIN", "bad.DOMAIN") + "regex: '^/(?!a)'\n"
    async with open_world() as world:
        await world.apply(HELLO, bad, options=("--allow-faulty",))
        async with world.cluster.replica() as replica:
            assert (await world.get(replica, "hello")).status == 200
            quarantined = await world.get(replica, "bad")
            assert quarantined.status == 503

            async def named() -> bool:
                text = await world.console_status()
                return "regex" in text and f"https://bad.{world.domain}" in text

            await eventually("console status names the route and the field", named)
            faults = (await replica.status())["config"]["faults"]  # type: ignore[index]  # our own JSON
        assert [fault["field"] for fault in faults] == ["regex"]
        assert faults[0]["id"] in quarantined.text


async def test_console_status_shows_the_version_in_force_on_each_replica() -> None:
    async with open_world() as world:
        await world.apply(HELLO)
        async with world.cluster.replica():

            async def in_force() -> bool:
                text = await world.console_status()
                return "connected" in text and "in force" in text

            await eventually("console status says what is in force", in_force)


async def test_a_rotated_token_stops_the_replica_with_code_3() -> None:
    """Z-66, architecture 8."""
    async with open_world() as world, world.cluster.replica() as replica:
        await world.cluster.verb("console", "cluster", "rotate-token", CLUSTER, "--overlap", "0")

        async with asyncio.timeout(60):
            code = await replica.running.process.wait()

        assert code == 3
        assert "token" in replica.running.log.read_text()


async def test_a_replica_that_stops_leaves_no_process_and_no_directory_behind() -> None:
    """Z-64, R-23."""
    async with open_world() as world:
        await world.apply(HELLO)
        async with world.cluster.replica() as replica:
            pids = await replica.pids()
        assert replica.running.process.returncode == 0
        for pid in pids.values():
            await eventually(f"process {pid} is gone", lambda pid=pid: gone(pid))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults


async def test_the_redirect_listener_sends_visitors_to_https() -> None:
    """R-25, routes 7.4."""
    port = free_port()
    async with open_world() as world:
        await world.apply(HELLO)
        async with world.cluster.replica(environment={"HTTP_REDIRECT_ADDR": f"127.0.0.1:{port}"}):
            url = f"http://hello.{world.domain}:{port}/x?y=z"
            async with world.client.get(url, allow_redirects=False) as response:
                assert response.status == 301
                assert response.headers["location"] == f"https://hello.{world.domain}/x?y=z"


# --- probes ---------------------------------------------------------------------------------------


async def gets_in(world: World, replica: ReplicaAt, headers: dict[str, str]) -> bool:
    return (await world.get(replica, "private", headers=headers)).status == 200


async def has_header(world: World, replica: ReplicaAt, host: str, header: str) -> bool:
    return header in (await world.get(replica, host)).headers


async def ads_counters(replica: ReplicaAt) -> dict[str, int]:
    counters = (await replica.status())["ads"]
    assert isinstance(counters, dict)
    return counters


async def other_pid(replica: ReplicaAt, which: str, before: int) -> bool:
    return (await replica.pids())[which] not in (0, before)


async def ready_with_other_agent(replica: ReplicaAt, before: int) -> bool:
    status = await replica.status()
    return bool(status["ready"]) and (await replica.pids())["agent"] != before


async def connected_to_other_agent(replica: ReplicaAt, before: int) -> bool:
    return (await replica.pids())["agent"] != before and (await ads_counters(replica)).get("streams", 0) > 0


async def envoy_reloads(replica: ReplicaAt) -> dict[str, int]:
    """How often Envoy's listeners and routes were changed since it started."""
    connector = aiohttp.UnixConnector(path=str(replica.directory / "envoy-admin.sock"))
    wanted = (
        "listener_manager.listener_added",
        "listener_manager.listener_modified",
        "http.ingress.rds.main.config_reload",
    )
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.get("http://envoy/stats", params={"format": "json"}) as response,
    ):
        stats = (await response.json(content_type=None))["stats"]
    return {stat["name"]: stat["value"] for stat in stats if stat.get("name") in wanted}


async def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
