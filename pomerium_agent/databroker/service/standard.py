"""The services every gRPC server is expected to have: am I well (health), and what do you speak (reflection)."""

from collections.abc import AsyncGenerator, Iterable

from google.protobuf import descriptor, descriptor_pb2, descriptor_pool
from google.rpc import error_details_pb2
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2
from grpc_reflection.v1alpha.reflection import aio as reflection

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.messages import STORED_IN
from pomerium_agent.errors import DatabrokerUnavailable, RecordNotFound
from pomerium_agent.pb.pomerium import databroker_pb2, registry_pb2
from pomerium_agent.runtime.clock import Clock

LOOK_EVERY = 5.0  # seconds between looks at the store, for whoever watches our health
# And what is inside of records and refusals, so that tools can show it.
DESCRIBED = (databroker_pb2, registry_pb2, health_pb2, reflection_pb2, error_details_pb2, *STORED_IN)

Serving = health_pb2.HealthCheckResponse


class HealthService:
    """grpc.health.v1.Health: all services are as well as the store behind them."""

    def __init__(self, backend: Backend, names: Iterable[str], clock: Clock) -> None:
        self._backend = backend
        self._names = frozenset(("", *names))
        self._clock = clock

    async def check(self, request: health_pb2.HealthCheckRequest) -> health_pb2.HealthCheckResponse:
        if request.service not in self._names:
            raise RecordNotFound("there is no such service here")
        return await self._look()

    async def watch(
        self, request: health_pb2.HealthCheckRequest
    ) -> AsyncGenerator[health_pb2.HealthCheckResponse, None]:
        known, told = request.service in self._names, None
        while True:
            now = await self._look() if known else Serving(status=Serving.SERVICE_UNKNOWN)
            if now != told:
                told = now
                yield now
            await self._clock.sleep(LOOK_EVERY)

    async def _look(self) -> health_pb2.HealthCheckResponse:
        try:
            await self._backend.server_info()
        except DatabrokerUnavailable:
            return Serving(status=Serving.NOT_SERVING)
        return Serving(status=Serving.SERVING)


def describe(names: Iterable[str]) -> reflection.ReflectionServicer:
    """Reflection of these services and of what is inside records, and of nothing else in this process."""
    pool = descriptor_pool.DescriptorPool()
    added: set[str] = set()
    for module in DESCRIBED:
        _add(pool, module.DESCRIPTOR, added)
    return reflection.ReflectionServicer(names, pool=pool)


def _add(pool: descriptor_pool.DescriptorPool, file: descriptor.FileDescriptor, added: set[str]) -> None:
    if file.name in added:
        return
    added.add(file.name)
    for dependency in file.dependencies:
        _add(pool, dependency, added)
    message = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(message)
    pool.AddSerializedFile(message.SerializeToString())
