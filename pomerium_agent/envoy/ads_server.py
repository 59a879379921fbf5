"""Serves incremental ADS to Envoy on a unix socket, and says how far Envoy has come with it."""

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import structlog

from pomerium_agent.envoy.ads_state import AdsState, Delivery
from pomerium_agent.envoy.ads_stream import AdsStream
from pomerium_agent.envoyconfig.resources import EnvoyResources
from pomerium_agent.pb.envoy.service.discovery.v3 import ads_pb2_grpc, discovery_pb2
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.latest import Latest

log = structlog.get_logger(__name__)

REBIND_EVERY = 15.0  # seconds between tries of a listener whose port was taken
STOP_GRACE = 0.5  # seconds for open streams when the agent stops; Envoy reconnects to the next agent

Reply = discovery_pb2.DeltaDiscoveryResponse
Context = grpc.aio.ServicerContext[discovery_pb2.DeltaDiscoveryRequest, Reply]


class AdsServer(ads_pb2_grpc.AggregatedDiscoveryServiceServicer):
    """One configuration offered to every Envoy that connects; normally that is one."""

    def __init__(self) -> None:
        self._state = AdsState()
        self._offered = Latest(0)  # grows with each offer, and wakes the streams
        self.delivery: Latest[Delivery] = Latest(Delivery())

    def offer(self, resources: EnvoyResources, label: str) -> None:
        """Replace what Envoy should have; `label` comes back in `delivery` once Envoy has it."""
        self._state.offer(resources, label)
        self._wake()

    @property
    def counters(self) -> Mapping[str, int]:
        """How many responses, resources, acknowledgements and rejections there were, by type."""
        return dict(self._state.counters)

    @property
    def resumed(self) -> bool:
        """Whether the Envoy that is connected came with what an agent before us gave it."""
        return self._state.resumed

    async def retry_bind_failures(self, clock: Clock) -> None:
        """Offer listeners again that could not bind, every few seconds, for as long as there are any."""
        while True:
            await clock.sleep(REBIND_EVERY)
            if self._state.forget_bind_failures():
                self._wake()

    def _wake(self) -> None:
        self._publish(settled=False)
        self._offered.set(self._offered.value + 1)

    def _publish(self, *, settled: bool) -> None:
        delivery = Delivery(self._state.label, settled, self._state.rejections)
        if delivery != self.delivery.value:
            self.delivery.set(delivery)

    async def StreamAggregatedResources(  # type: ignore[override]  # noqa: N802  # coroutine style, see below
        self, _requests: AsyncIterator[discovery_pb2.DiscoveryRequest], context: Context
    ) -> None:
        """Our bootstrap asks for incremental ADS only (routes 13)."""
        await context.abort(grpc.StatusCode.UNIMPLEMENTED, "this server speaks incremental ADS only")

    async def DeltaAggregatedResources(  # type: ignore[override]  # noqa: N802  # the stub knows generators only
        self, requests: AsyncIterator[discovery_pb2.DeltaDiscoveryRequest], context: Context
    ) -> None:
        """Pump one AdsStream for as long as Envoy stays connected."""
        stream = AdsStream(self._state)
        self._state.counters["streams"] += 1
        log.info("envoy connected", streams=self._state.counters["streams"])
        writing = asyncio.Lock()  # grpc allows one write at a time, and responses must keep their order

        async def send(request: discovery_pb2.DeltaDiscoveryRequest | None) -> None:
            async with writing:
                for response in stream.pump() if request is None else stream.receive(request):
                    await context.write(response)
                self._publish(settled=stream.settled)

        async def send_offers() -> None:
            async for _ in self._offered.follow():
                await send(None)

        async with asyncio.TaskGroup() as group:
            offers = group.create_task(send_offers(), name="ads-offers")
            async for request in requests:
                await send(request)
            offers.cancel()
        log.info("envoy disconnected")


@asynccontextmanager
async def serve_ads(socket_path: Path, clock: Clock) -> AsyncIterator[AdsServer]:
    """Serve ADS on `socket_path` (taking it over from an agent before us) until the block ends."""
    ads = AdsServer()
    server = grpc.aio.server(
        options=[
            ("grpc.max_receive_message_length", 64 << 20),  # a NACK may quote a whole resource
            ("grpc.max_send_message_length", -1),
        ]
    )
    ads_pb2_grpc.add_AggregatedDiscoveryServiceServicer_to_server(ads, server)
    server.add_insecure_port(f"unix:{socket_path}")
    # Private keys are handed out here, and the directory may be open to others.
    await asyncio.to_thread(socket_path.chmod, 0o600)
    await server.start()
    try:
        async with asyncio.TaskGroup() as group:
            rebinding = group.create_task(ads.retry_bind_failures(clock), name="ads-rebind")
            yield ads
            rebinding.cancel()
    finally:
        await server.stop(STOP_GRACE)
