"""The control plane is down and the machine starts: it serves what it served, and says since when."""

import json
from datetime import UTC, datetime
from functools import partial

import pytest

from tests.e2e.world import CLUSTER, HELLO, Answer, console_again, eventually, kill, open_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

VERB = ("console", "service-account")


PRIVATE = HELLO.replace("hello.", "private.").replace(
    "allow_public_unauthenticated_access", "allow_any_authenticated_user"
)


async def test_service_accounts_get_in_while_the_console_is_away_and_whoever_was_revoked_not_a_moment_longer() -> None:
    """Z-65, A-7, A-32: records in memory, console away, agent killed; then the console is back and is listened to."""
    async with open_world() as world:
        await world.apply(HELLO, PRIVATE)
        made = {}
        for name in ("robot", "dismissed"):
            said = await world.cluster.verb(*VERB, "create", name, "--cluster", CLUSTER, "--json")
            made[name] = {"accept": "application/json", **json.loads(said)["headers"]}
        async with world.cluster.replica() as replica:

            async def status(name: str, wanted: int) -> bool:
                return (await world.get(replica, "private", headers=made[name])).status == wanted

            async def kept() -> bool:
                """The copy on disk is newer than the accounts."""
                report = (await replica.status())["statuses"]["config.last-good"]  # type: ignore[index]
                return datetime.fromisoformat(report["attributes"]["kept_at"]) >= known

            for name in made:
                await eventually(f"{name} gets in", partial(status, name, 200))
            known = datetime.now(UTC).replace(microsecond=0)
            await eventually("both are kept", kept)
            kill(world.cluster.console.running.process.pid)
            agent = (await replica.pids())["agent"]
            kill(agent)

            async def another() -> bool:
                return (await replica.pids())["agent"] != agent and bool((await replica.status())["config"])

            await eventually("there is another agent", another)
            await eventually("the robot gets in again", partial(status, "robot", 200))
            assert await status("dismissed", 200)
            assert (await world.get(replica, "private", headers={"accept": "application/json"})).status == 401
            assert (await replica.status())["connected"] is False

            async with console_again(world):
                await world.cluster.verb(*VERB, "revoke", "dismissed", "--cluster", CLUSTER)
                await eventually("the dismissed is out", partial(status, "dismissed", 401))
                assert await status("robot", 200)


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
