"""The control plane is down and the machine starts: it serves what it served, and says since when."""

import json

import pytest

from tests.e2e.world import HELLO, Answer, eventually, kill, open_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


async def test_a_replica_that_starts_without_its_control_plane_serves_what_it_served() -> None:
    """Z-65: records in memory, console, agent, Envoy and keeper gone; the first request is answered as before."""
    async with open_world() as world:
        await world.apply(HELLO)
        # What belongs to the machine, and not to the process, is somewhere else than the runtime directory.
        machine = world.cluster.directory / "machine"
        kept = {"STATE_DIRECTORY": str(machine / "state"), "XDG_CACHE_HOME": str(machine / "cache")}
        async with world.cluster.replica("r1", environment=kept) as before:
            assert (await world.get(before, "hello")).status == 200
            digest = json.loads(json.dumps(await before.status()))["config"]["in_force"]

            async def is_kept() -> bool:
                return bool((await before.status())["statuses"].get("config.last-good"))  # type: ignore[attr-defined]

            await eventually("the configuration is kept", is_kept)
        kill(world.cluster.console.running.process.pid)

        async with world.cluster.replica("r1", environment=kept) as after:
            answers: list[Answer] = [await world.get(after, "hello", f"/{n}") for n in range(3)]
            status = json.loads(json.dumps(await after.status()))

        assert [answer.status for answer in answers] == [200, 200, 200]
        assert answers[2].json()["path"] == "/2"
        assert status["config"]["in_force"] == digest
        assert status["config"]["last_good_of"]
        assert status["ready"] is True
        assert status["connected"] is False
