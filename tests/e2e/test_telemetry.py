"""What a replica tells its control plane when asked and unasked: real console, agent and Envoy."""

import asyncio
import json
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import pytest_asyncio
from google.protobuf.timestamp_pb2 import Timestamp

from pomerium_agent.databroker.sqlite.backend import open_sqlite
from pomerium_agent.demo.playground import ReplicaAt
from pomerium_agent.pb.pomerium import session_pb2, user_pb2
from pomerium_agent.records import Record, pack, type_url
from pomerium_agent.runtime.clock import SystemClock
from tests.e2e.world import CLUSTER, HELLO, World, eventually, open_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

EMAIL = "ada@example.com"


@dataclass(frozen=True, slots=True)
class Scene:
    world: World
    replica: ReplicaAt

    async def asked(self, *arguments: str) -> dict[str, Any]:
        """`console telemetry`: the fresh answer of the one replica."""
        said = json.loads(await self.world.cluster.verb("console", "telemetry", CLUSTER, "--json", *arguments))
        assert said["asked"]
        [answer] = said["replicas"]
        assert answer["fresh"]
        assert isinstance(answer, dict)
        return answer

    async def show(self, *arguments: str) -> str:
        """`pomerium-agent telemetry show` in a process of its own."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "pomerium_agent", "telemetry", "show", *arguments),
            *("--socket", str(self.replica.control_socket)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        said, errors = await process.communicate()
        assert process.returncode == 0, errors.decode()
        return said.decode()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def scene() -> AsyncIterator[Scene]:
    """A replica in whose storage somebody is signed in from the beginning."""
    async with open_world() as world:
        store = f"file://{world.cluster.directory / 'records'}"
        backend = await open_sqlite(store, SystemClock())
        now = Timestamp()
        now.GetCurrentTime()
        session = session_pb2.Session(id="s1", user_id="ada", issued_at=now, accessed_at=now)
        session.expires_at.FromSeconds(now.seconds + 3600)
        user = user_pb2.User(id="ada", email=EMAIL)
        await backend.put([Record(type=type_url(type(each)), id=each.id, data=pack(each)) for each in (session, user)])
        await backend.close()
        await world.cluster.verb("console", "cluster", "set-storage", CLUSTER, store)
        await world.apply(HELLO)
        async with world.cluster.replica() as replica:
            assert (await world.get(replica, "hello")).status == 200
            yield Scene(world, replica)


def values(answer: dict[str, Any]) -> dict[tuple[str, str], Any]:
    return {
        (scope["scope"], metric["name"]): metric.get("value", metric.get("count"))
        for scope in answer["scopes"]
        for metric in scope["metrics"]
    }


async def test_a_console_gets_the_metrics_that_it_asks_for_and_no_others(scene: Scene) -> None:
    """Z-55, Z-56, Z-57: a gauge, a counter and a histogram of a real Envoy, and the agent's own."""
    names = ("envoy_server_live", "envoy_http_downstream_rq_total", "envoy_http_downstream_rq_time")
    arguments = [argument for name in names for argument in ("--envoy", name)]

    async def has_users() -> bool:
        return (await scene.asked("--envoy", "envoy_server_live"))["dau"] is not None

    await eventually("the lease holder has counted", has_users)
    found = values(await scene.asked(*arguments, "--agent", "policy_count_total"))

    assert found["envoy", "envoy_server_live"] == 1
    assert found["envoy", "envoy_http_downstream_rq_total"] >= 0
    assert found["envoy", "envoy_http_downstream_rq_time"] >= 0
    assert found["pomerium-managed-core", "policy_count_total"] == 1
    assert (found["pomerium-cluster", "dau"], found["pomerium-cluster", "mau"]) == (1, 1)
    assert {name for _, name in found} == {*names, "policy_count_total", "dau", "mau"}


async def test_users_are_reported_by_pseudonym_and_the_replica_shows_what_it_sent(scene: Scene) -> None:
    """Z-61, Z-62: the console learns of one user, and of no name."""

    async def reported() -> bool:
        status = json.loads(await scene.world.cluster.verb("console", "status", "--json"))
        return bool(status["clusters"][0]["users"]["reported"] == 1)

    await eventually("the user is reported", reported)
    await scene.asked("--agent", "build_info")
    sent, words = json.loads(await scene.show("--json")), await scene.show()

    [user] = sent["usage"]["users"]
    assert len(user["pseudonymousId"]) == len(user["pseudonymousEmail"]) == 44
    assert [scope["scope"] for scope in sent["metrics"]["scopes"]][-1] == "pomerium-managed-core"
    checks = {each["check"]: each["error"] for each in sent["health"]}
    for check in ("zero.connect", "zero.resource-bundle.config", "proxy.service", "authorize.service", "envoy.server"):
        assert checks[check] == "", check
    for text in (json.dumps(sent), words):
        assert EMAIL not in text
        assert scene.world.cluster.token not in text
    assert user["pseudonymousId"] in words
    assert "1 user reported so far, by pseudonym" in await scene.world.console_status()
