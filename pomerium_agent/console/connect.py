"""The Connect service (zero link 6): tells replicas, within milliseconds, that there is something to fetch."""

import asyncio
from collections.abc import AsyncIterator

import structlog

from pomerium_agent.console.gate import Context, Gate, metadata, refuse
from pomerium_agent.console.nudges import Nudges, Numbers
from pomerium_agent.console.places import peer_address
from pomerium_agent.console.presence import Presence
from pomerium_agent.console.sightings import Sighting
from pomerium_agent.pb.pomerium import connect_pb2, connect_pb2_grpc

log = structlog.get_logger(__name__)

INSTANCE = "x-pomerium-agent-instance"  # metadata by which our replicas name themselves; others have a host name
NOBODY = "__unknown__"  # what a replica says that does not know its host name


class ConnectService(connect_pb2_grpc.ConnectServicer):
    """One stream per replica. Changes while a message is under way collapse into one."""

    def __init__(self, gate: Gate, nudges: Nudges, presence: Presence) -> None:
        self._gate = gate
        self._nudges = nudges
        self._presence = presence

    async def Subscribe(  # noqa: N802  # the name of the method on the wire
        self, request: connect_pb2.SubscribeRequest, context: Context
    ) -> AsyncIterator[connect_pb2.Message]:
        """Messages until the bearer expires or its token is not good any more; then UNAUTHENTICATED."""
        bearer = await self._gate.admit_call(context)
        cell = await self._nudges.cell_for(bearer.cluster_id, bearer.generation)
        replica = Sighting(
            cluster_id=bearer.cluster_id,
            instance=instance_of(metadata(context), request.hostname),
            hostname=request.hostname,
            version=request.version,
            address=peer_address(context.peer()),
            generation=bearer.generation,
        ).cut()
        loop = asyncio.get_running_loop()
        expires = deadline = loop.time() + self._gate.seconds_left(bearer)
        told = cell.value  # the replica fetches everything once it is connected, so what comes later counts
        with self._presence.here(replica):
            log.info("replica connected", cluster=bearer.cluster_id, instance=replica.instance, host=replica.hostname)
            await context.send_initial_metadata(())  # tells the replica that it is accepted (W1)
            changes = cell.follow()
            try:
                while True:
                    async with asyncio.timeout_at(deadline):
                        now: Numbers = await anext(changes)
                    good = now.seconds_good(bearer.generation, self._gate.clock.now())
                    if good <= 0:
                        await refuse(context, "the cluster token was rotated")
                    deadline = min(expires, loop.time() + good)
                    for message in now.messages_since(told):
                        yield message
                    told = now
            except TimeoutError:
                await refuse(context, "the bearer, or the token behind it, has expired; exchange a new one")
            finally:
                log.info("replica left", cluster=bearer.cluster_id, instance=replica.instance)


def instance_of(given: dict[str, str], hostname: str) -> str:
    """What tells a replica from its siblings: the instance it names, else its host name."""
    return given.get(INSTANCE) or hostname or NOBODY
