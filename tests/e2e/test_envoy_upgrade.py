"""Envoy gets another binary while its replica serves: real console, keeper, agent and Envoy (R-23, routes 12.2)."""

import json
import os
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest

from pomerium_agent.demo.playground import ReplicaAt
from pomerium_agent.envoy.binary import envoy_binary
from tests.e2e.load import answers, load
from tests.e2e.world import CLUSTER, HELLO, World, eventually, open_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

PRIVATE = HELLO.replace("hello.", "private.").replace(
    "allow_public_unauthenticated_access", "allow_any_authenticated_user"
)


async def test_envoy_is_upgraded_under_load_and_no_request_fails(tmp_path: Path) -> None:
    """Architecture 7: hot restart when its binary changes; also where somebody is asked for, and twice in a row."""
    binary = tmp_path / "envoy"
    _install(binary)
    environment = {"POMERIUM_ENVOY_PATH": str(binary), "POMERIUM_AGENT_HANDOVER_SECONDS": "2"}
    async with open_world() as world:
        await world.apply(HELLO, PRIVATE)
        robot = ("console", "service-account", "create", "robot", "--cluster", CLUSTER, "--json")
        headers = json.loads(await world.cluster.verb(*robot))["headers"]
        async with world.cluster.replica(environment=environment) as replica:
            await eventually("the robot gets in", lambda: _gets_in(world, replica, headers))
            async with load(world, replica, "hello") as public, load(world, replica, "private", headers=headers) as own:
                for _ in range(2):
                    await public.some()
                    before = await replica.pids()
                    _install(binary)
                    os.kill(before["agent"], signal.SIGTERM)  # the one after it asks for what is installed now
                    await eventually("another envoy serves", partial(_other_envoy, replica, before["envoy"]))
                    await eventually("the one before has left", partial(_gone, before["envoy"]))
                await public.some()
                await own.some()
            await world.apply(HELLO.replace("hello.", "later."))
            await eventually("the new envoy is fed", lambda: answers(world, replica, "later"))

    assert public.failures == []
    assert own.failures == []


def _install(binary: Path) -> None:
    """Another Envoy under the same name, as installers leave it: what follows an executable's end is not looked at."""
    new = binary.with_suffix(".new")
    shutil.copy(envoy_binary(None), new)
    with new.open("ab") as file:
        file.write(os.urandom(8))
    new.replace(binary)


async def _gets_in(world: World, replica: ReplicaAt, headers: dict[str, str]) -> bool:
    return (await world.get(replica, "private", headers=headers)).status == 200


async def _other_envoy(replica: ReplicaAt, before: int) -> bool:
    status = await replica.status()
    return bool(status["ready"]) and (await replica.pids())["envoy"] not in (0, before)


async def _gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False
