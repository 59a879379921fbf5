"""What is in force, asked of a real replica: exported, compared, and shown at the console (zero link 17, Z-29)."""

import asyncio
import json
import subprocess
import sys

import pytest

from tests.e2e.world import CLUSTER, HELLO, eventually, open_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


async def test_a_replica_can_be_exported_and_compared_like_its_cluster() -> None:
    """Z-46: what a replica was told is what was applied, without what the console adds."""
    async with open_world() as world:
        await world.apply(HELLO)
        file = world.cluster.directory / "exported.yaml"
        async with world.cluster.replica() as replica:
            socket = ("--socket", str(replica.control_socket))
            await asyncio.to_thread(typed, "export", *socket, "-o", str(file))
            same = await asyncio.to_thread(typed, "diff", str(file), *socket)
            mode = file.stat().st_mode & 0o777
            applied = await world.cluster.verb("console", "apply", "-f", str(file), "--cluster", CLUSTER)

    assert mode == 0o600
    assert same.strip() == "nothing changes"
    assert "nothing changes" in applied


async def test_the_console_names_who_leads_and_where_replicas_call_from() -> None:
    """Z-29: replicas that keep records in their own memory hold a lease each."""
    async with open_world() as world:
        await world.apply(HELLO)
        async with world.cluster.replica():

            async def told() -> bool:
                (cluster,) = json.loads(await world.cluster.verb("console", "status", "--json"))["clusters"]
                here = [each for each in cluster["replicas"] if each["connected"]]
                leads = [each["lease_holder"] for each in here]
                return leads == [True] and cluster["address"]["addresses"] == ["127.0.0.1"]

            await eventually("the one replica leads", told)
            assert "  lease holder\n" in await world.console_status()


def typed(*words: str) -> str:
    """A verb about the replica of this machine, as a person would run it; what it printed."""
    command = (sys.executable, "-P", "-m", "pomerium_agent", *words)
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout
