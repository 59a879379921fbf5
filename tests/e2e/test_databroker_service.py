"""The databroker of a real replica, asked from outside by a client that knows the specification only."""

import asyncio
import base64
import os
from typing import Any

import aiohttp
import grpc
import pytest

from pomerium_agent.databroker.service.token import make_token
from pomerium_agent.demo.playground import ReplicaAt, free_port
from pomerium_agent.runtime.clock import SystemClock
from tests.e2e.world import HELLO, World, eventually, kill, open_world
from tests.fakes.databroker_wire import WireClient, message, wire_client

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

CONFIG = "type.googleapis.com/pomerium.config.VersionedConfig"
SESSION = "type.googleapis.com/session.Session"
QUICK = {"grpc.initial_reconnect_backoff_ms": 100, "grpc.max_reconnect_backoff_ms": 500}


def socket_of(replica: ReplicaAt) -> str:
    return f"unix:{replica.directory / 'databroker.sock'}"


async def everything(wire: WireClient, type: str = "") -> tuple[list[Any], Any]:
    """All records of a type, and the versions to go on from."""
    records, versions = [], None
    async with asyncio.timeout(30):
        async for answer in wire.wait_for("SyncLatest", type=type):
            if answer.WhichOneof("response") == "record":
                records.append(answer.record)
            elif answer.WhichOneof("response") == "versions":
                versions = answer.versions
    return records, versions


async def status_of(call: Any) -> grpc.StatusCode:
    """How a call that must not end well ends."""
    with pytest.raises(grpc.aio.AioRpcError) as refused:
        await asyncio.wait_for(call.read() if hasattr(call, "read") else call, 30)
    return refused.value.code()


async def shared_secret(world: World) -> bytes:
    """What every replica of the cluster knows, as docs/operating.md has an operator get it."""
    api = world.cluster.console.cluster_api.rstrip("/")
    async with aiohttp.ClientSession() as http:
        async with http.post(f"{api}/exchangeToken", json={"refreshToken": world.cluster.token}) as answer:
            bearer = (await answer.json())["idToken"]
        async with http.get(f"{api}/bootstrap", headers={"Authorization": f"Bearer {bearer}"}) as answer:
            return base64.b64decode((await answer.json())["sharedSecret"])


async def test_the_socket_of_a_replica_shows_its_records_and_takes_changes() -> None:
    """D-1, D-5, D-37: and a follower survives the agent that it follows."""
    async with open_world() as world:
        await world.apply(HELLO)
        async with world.cluster.replica() as replica, wire_client(socket_of(replica), str, options=QUICK) as wire:
            assert (replica.directory / "databroker.sock").stat().st_mode & 0o777 == 0o600
            assert (replica.directory / "databroker.sock").stat().st_uid == os.getuid()
            types = list((await wire.wait_for("ListTypes")).types)
            assert types == sorted(types)
            configured, _ = await everything(wire, CONFIG if CONFIG in types else types[0])
            assert configured

            request = message("databroker", "PutRequest")
            request.records.add(type=SESSION, id="from-outside").data.type_url = SESSION
            written = await wire.send("Put", request)
            records, versions = await everything(wire, SESSION)
            assert [record.id for record in records] == ["from-outside"]
            cursor = {"server_version": versions.server_version, "record_version": versions.latest_record_version}
            assert written.server_version == cursor["server_version"]

            following = wire.call("Sync", **cursor, type=SESSION)
            await following.initial_metadata()
            kill((await replica.pids())["agent"])
            assert await status_of(following) is grpc.StatusCode.UNAVAILABLE

            # Records in memory end with their agent: the next one says so, and is read from the start.
            assert await status_of(wire.wait_for("Sync", **cursor)) is grpc.StatusCode.ABORTED

            async def configured_again() -> bool:
                return bool((await everything(wire, configured[0].type))[0])

            await eventually("the next agent has the configuration", configured_again)
        assert not (replica.directory / "databroker.sock").exists()


async def test_an_address_in_the_settings_is_served_at_once_to_who_knows_the_secret() -> None:
    """D-2, D-3; and taken away again with the setting."""
    port = free_port()
    async with open_world() as world:
        await world.apply(HELLO)
        async with world.cluster.replica() as replica:
            await world.apply(HELLO, settings=f"grpc_address: 127.0.0.1:{port}")
            key, clock = await shared_secret(world), SystemClock()
            target = f"127.0.0.1:{port}"
            async with wire_client(target, str, options=QUICK) as stranger:
                assert await status_of(stranger.wait_for("ListTypes")) is grpc.StatusCode.UNAUTHENTICATED
            async with wire_client(target, lambda: make_token(key, clock.now()), options=QUICK) as wire:
                assert list((await wire.call("ListTypes")).types)

                async def as_healthy() -> bool:
                    status = await replica.status()
                    return "databroker.service" in str(status["checks"])

                await eventually("the status names the service", as_healthy)
                await world.apply(HELLO)

                async def gone() -> bool:
                    try:
                        await wire.call("ListTypes")
                    except grpc.aio.AioRpcError as error:
                        return error.code() is grpc.StatusCode.UNAVAILABLE
                    return False

                await eventually("nobody listens there any more", gone)


async def test_an_address_of_this_machine_is_served_too() -> None:
    port = free_port()
    async with open_world() as world:
        await world.apply(HELLO)
        environment = {"GRPC_ADDRESS": f"127.0.0.1:{port}"}
        async with world.cluster.replica(environment=environment), wire_client(f"127.0.0.1:{port}", str) as wire:
            assert await status_of(wire.wait_for("ServerInfo")) is grpc.StatusCode.UNAUTHENTICATED
