"""The store of records is changed under a replica that serves, and outlives everything else (Z-23, Z-25)."""

import asyncio
import json
import os
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest

from pomerium_agent.console.control import poke
from pomerium_agent.console.store import open_store
from pomerium_agent.demo.playground import ReplicaAt, free_port, visitor
from pomerium_agent.sessions.entries import SESSION
from tests.e2e.world import CLUSTER, HELLO, World, eventually, kill, open_world
from tests.fakes.oidc_provider import ADA, Browser, OidcClient, needs_oidc_provider, run_oidc_provider

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

FILE = "databroker.sqlite"
SETTINGS = """
authenticate_service_url: https://authenticate.DOMAIN:PORT
idp_provider: oidc
idp_provider_url: ISSUER
idp_client_id: agent
idp_client_secret: SECRET
"""
WIKI = """
from: https://wiki.DOMAIN
to: UPSTREAM
allow_any_authenticated_user: true
"""


async def set_storage(world: World, storage: str) -> None:
    await world.cluster.verb("console", "cluster", "set-storage", CLUSTER, storage)


def types_in(directory: Path) -> set[str]:
    """What a file store holds, seen from outside."""
    if not (directory / FILE).exists():
        return set()
    with sqlite3.connect(f"file:{directory / FILE}?mode=ro", uri=True) as database:
        found = {str(type) for (type,) in database.execute("SELECT type FROM record")}
    database.close()
    return found


@asynccontextmanager
async def asking(world: World, replica: ReplicaAt) -> AsyncIterator[list[int]]:
    """Ask without a pause while the block runs, and note every answer."""
    answers: list[int] = []

    async def ask() -> None:
        while True:
            answers.append((await world.get(replica, "hello")).status)
            await asyncio.sleep(0.01)

    async with asyncio.TaskGroup() as group:
        task = group.create_task(ask())
        yield answers
        task.cancel()


async def test_the_store_changes_under_a_serving_replica_and_no_request_fails() -> None:
    """Z-25: from memory to a file and back; a new route arrives through the new store."""
    async with open_world() as world:
        await world.apply(HELLO)
        store = world.cluster.directory / "records"
        async with world.cluster.replica() as replica, asking(world, replica) as answers:
            await set_storage(world, f"file://{store}")
            await eventually("the file holds the configuration", lambda: holds(store, "pomerium.io/BundleCacheEntry"))
            await world.apply(HELLO, HELLO.replace("hello.DOMAIN", "second.DOMAIN"))
            await eventually("the new route answers", lambda: serves(world, replica, "second"))
            await set_storage(world, "memory")
            await eventually("the file is let go of", lambda: let_go(store))
            await world.apply(HELLO, HELLO.replace("hello.DOMAIN", "third.DOMAIN"))
            await eventually("the next route answers", lambda: serves(world, replica, "third"))

    assert set(answers) == {200}
    assert len(answers) > 50


async def test_a_replica_with_a_file_store_comes_back_without_its_control_plane() -> None:
    """What it serves is in the file, who it is in the bootstrap file; agent and Envoy are new, the console is gone."""
    async with open_world() as world:
        await world.apply(HELLO)
        await set_storage(world, f"file://{world.cluster.directory / 'records'}")
        async with world.cluster.replica() as replica:
            assert (await world.get(replica, "hello")).status == 200
            kill(world.cluster.console.running.pid)
            await world.cluster.console.running.process.wait()

            pids = await replica.pids()
            for name in ("agent", "envoy"):
                kill(pids[name])

            await eventually("hello answers again", lambda: serves(world, replica, "hello"))
            assert (await replica.pids())["agent"] != pids["agent"]


async def serves(world: World, replica: ReplicaAt, host: str) -> bool:
    return (await world.get(replica, host)).status == 200


async def holds(store: Path, type: str) -> bool:
    return type in await asyncio.to_thread(types_in, store)


async def let_go(store: Path) -> bool:
    """The last connection takes the log beside the file away when it is closed."""
    return not await asyncio.to_thread((store / f"{FILE}-wal").exists)


@needs_oidc_provider
async def test_a_session_outlives_the_store_and_ends_with_the_shared_secret() -> None:
    """Z-25: who is logged in stays so in another store; under another secret every handle is void at once."""
    port = free_port()
    async with open_world() as world, visitor(world.cluster.ca_file) as plain:
        login = f"https://authenticate.{world.domain}:{port}"
        client = OidcClient(redirect_uris=(f"{login}/oauth2/callback",))
        async with run_oidc_provider([client]) as provider:
            filled = SETTINGS.replace("DOMAIN", world.domain).replace("PORT", str(port))
            filled = filled.replace("ISSUER", provider.issuer).replace("SECRET", json.dumps(client.secret))
            await world.apply(WIKI, HELLO, settings=filled)
            async with world.cluster.replica(port=port) as replica:
                sessions = [
                    aiohttp.ClientSession(
                        connector=plain.connector, connector_owner=False, cookie_jar=aiohttp.CookieJar(unsafe=True)
                    )
                    for _ in range(2)
                ]
                async with sessions[0] as ada, sessions[1] as again:
                    wiki = world.url(replica, "wiki", "/")

                    async def status(who: aiohttp.ClientSession) -> int:
                        async with who.get(wiki, allow_redirects=False) as answer:
                            return answer.status

                    async def log_in(who: aiohttp.ClientSession) -> None:
                        async with who.get(wiki, allow_redirects=False) as first:
                            begins = first.headers["Location"]
                        back = await Browser(who).log_in(
                            begins, ADA, until=f"https://wiki.{world.domain}:{port}/.pomerium"
                        )
                        async with who.get(back) as answer:
                            assert answer.status == 200

                    await log_in(ada)
                    agent = (await replica.pids())["agent"]
                    store = world.cluster.directory / "records"
                    await set_storage(world, f"file://{store}")
                    await eventually("the file holds the session", lambda: holds(store, SESSION))
                    assert await status(ada) == 200

                    async with asking(world, replica) as answers:
                        await asyncio.to_thread(replace_secret, world)

                        async def stranger() -> bool:
                            return await status(ada) == 302

                        await eventually("the old handle counts no more", stranger)
                    assert set(answers) == {200}
                    await log_in(again)
                    assert await status(again) == 200
                    assert await status(ada) == 302
                    assert (await replica.pids())["agent"] == agent


def replace_secret(world: World) -> None:
    """What a control plane may do; no verb does, so far."""
    with open_store(world.cluster.console.data_dir, create=False) as console:
        cluster = console.cluster(CLUSTER)
        console.set_secrets(cluster.id, replace(console.secrets(cluster.id), shared_secret=os.urandom(32)))
    poke(world.cluster.console.data_dir, cluster.id)
