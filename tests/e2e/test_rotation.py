"""A cluster token is rotated under load: with an overlap nobody notices, without one it is as documented."""

import json
import os
import signal
from pathlib import Path

import pytest

from pomerium_agent.agent.last_good import LastGood
from pomerium_agent.demo.playground import ReplicaAt
from pomerium_agent.errors import ConfigRejected
from pomerium_agent.zero.bootstrap_file import BootstrapFile
from pomerium_agent.zero.cluster_token import fingerprint
from pomerium_agent.zero.secrets import derive_secrets
from tests.e2e.load import answers, load
from tests.e2e.world import CLUSTER, HELLO, World, eventually, open_world

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]


def mount(directory: Path, token: str) -> Path:
    """As Kubernetes mounts a secret: a new directory, and the link that leads there swapped by a rename."""
    directory.mkdir(exist_ok=True)
    version = directory / f"..{fingerprint(token)}"
    version.mkdir()
    (version / "token").write_text(token + "\n")
    (directory / "..new").symlink_to(version.name)
    (directory / "..new").rename(directory / "..data")
    if not (directory / "token").is_symlink():
        (directory / "token").symlink_to("..data/token")
    return directory / "token"


async def rotate(world: World, overlap: str) -> str:
    verb = ("console", "cluster", "rotate-token", CLUSTER, "--overlap", overlap, "--json")
    return str(json.loads(await world.cluster.verb(*verb))["token"])


async def uses(replica: ReplicaAt, token: str) -> bool:
    status = await replica.status()
    return bool(status["connected"]) and status["token"]["fingerprint"] == fingerprint(token)  # type: ignore[index]  # our own JSON


async def on_old_token(world: World) -> int:
    found = json.loads(await world.cluster.verb("console", "status", "--json"))
    return int(found["clusters"][0]["token"]["replicas_on_old"])


async def test_with_an_overlap_two_replicas_move_over_and_no_request_fails() -> None:
    """Architecture 7; zero link 7, 18.5: by SIGHUP at once, else within seconds; the files are sealed anew."""
    async with open_world() as world:
        await world.apply(HELLO)
        secret = world.cluster.directory / "secret"
        file = mount(secret, world.cluster.token)
        async with (
            world.cluster.replica("one", token_file=file) as one,
            world.cluster.replica("two", token_file=file) as two,
            load(world, one, "hello") as seen_one,
            load(world, two, "hello") as seen_two,
        ):
            pids = [await one.pids(), await two.pids()]
            new = await rotate(world, "1h")
            await eventually("the console counts both", lambda: both_on_old(world))
            mount(secret, new)
            os.kill(one.running.pid, signal.SIGHUP)

            await eventually("one has moved", lambda: uses(one, new))
            await eventually("two has moved", lambda: uses(two, new))
            await eventually("the console counts nobody", lambda: none_on_old(world))
            await world.cluster.verb("console", "cluster", "end-overlap", CLUSTER)
            await world.apply(HELLO, HELLO.replace("hello.DOMAIN", "late.DOMAIN"))
            for replica in (one, two):
                await eventually("changes arrive", lambda replica=replica: answers(world, replica, "late"))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
                await eventually("its files are sealed anew", lambda replica=replica: sealed_with(replica, new))  # type: ignore[misc]  # mypy cannot infer lambdas with defaults
            await seen_one.some()
            await seen_two.some()

            assert (seen_one.failures, seen_two.failures) == ([], [])
            assert [await one.pids(), await two.pids()] == pids
            for replica in (one, two):
                log = replica.running.log.read_text()
                assert new not in log
                assert world.cluster.token not in log


async def both_on_old(world: World) -> bool:
    return await on_old_token(world) == 2


async def none_on_old(world: World) -> bool:
    return await on_old_token(world) == 0


async def sealed_with(replica: ReplicaAt, token: str) -> bool:
    key = derive_secrets(token).file_key
    known = BootstrapFile(replica.directory / "cache" / "pomerium" / "bootstrap.dat", key)
    try:
        return await known.load() is not None and await LastGood(replica.directory / "state", key).load() is not None
    except ConfigRejected:  # sealed with the old one
        return False


async def test_without_an_overlap_one_stops_or_serves_on_and_takes_up_the_new_token() -> None:
    """Z-66: `exit` ends with code 3; `serve` fails no request, and another token in the file ends its silence."""
    async with open_world() as world:
        await world.apply(HELLO)
        file = world.cluster.directory / "token"
        file.write_text(world.cluster.token)
        serves = {"POMERIUM_AGENT_ON_REFUSED": "serve"}
        async with (
            world.cluster.replica("stops") as stops,
            world.cluster.replica("serves", token_file=file, environment=serves) as replica,
            load(world, replica, "hello") as seen,
        ):

            async def is_refused() -> bool:
                statuses = (await replica.status())["statuses"]
                return "refused" in statuses["zero.connect"]["error"]  # type: ignore[index]  # our own JSON

            async def has_stopped() -> bool:
                return stops.running.process.returncode is not None

            new = await rotate(world, "0")

            await eventually("one has stopped", has_stopped)
            await eventually("the other is refused", is_refused)
            assert stops.running.process.returncode == 3
            file.write_text("")
            os.kill(replica.running.pid, signal.SIGHUP)
            await eventually("an empty file is named", lambda: names_no_token(replica))
            file.write_text(new)
            await eventually("the new token is taken up", lambda: uses(replica, new))
            await seen.some()
            assert seen.failures == []
            await world.apply(HELLO, HELLO.replace("hello.DOMAIN", "late.DOMAIN"))
            await eventually("changes arrive", lambda: answers(world, replica, "late"))


async def names_no_token(replica: ReplicaAt) -> bool:
    statuses = (await replica.status())["statuses"]
    return "the token in use stays" in statuses["zero.token"]["error"]  # type: ignore[index]  # our own JSON
