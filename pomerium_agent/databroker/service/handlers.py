"""The table of services: which method of ours answers which call, and under which limits."""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Mapping, Sequence
from typing import Any, TypeAlias, cast

import grpc
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import Message
from grpc_health.v1 import health_pb2
from grpc_reflection.v1alpha import reflection_pb2

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.service.broker import MAX_MESSAGE, Broker
from pomerium_agent.databroker.service.calls import CallRefused, Context, Status, answering
from pomerium_agent.databroker.service.registry import Registry
from pomerium_agent.databroker.service.standard import HealthService, describe
from pomerium_agent.databroker.service.streams import Streams
from pomerium_agent.pb.pomerium import databroker_pb2 as pb
from pomerium_agent.pb.pomerium import registry_pb2
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.version import full_version

CALL_SECONDS = 30.0  # that a call without a stream may take, whatever its caller would wait
REFLECTION_SECONDS = 60.0
RECORDS, CHECKPOINTS, REGISTRY = "databroker.DataBrokerService", "databroker.CheckpointService", "registry.Registry"
HEALTH, REFLECTION = "grpc.health.v1.Health", "grpc.reflection.v1alpha.ServerReflection"
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"  # the same messages; newer tools ask it first
NAMES = (RECORDS, CHECKPOINTS, REGISTRY, HEALTH, REFLECTION)

Method = Callable[[Any], Awaitable[Message]]
StreamMethod = Callable[[Any], AsyncGenerator[Message, None]]
Handler: TypeAlias = "grpc.RpcMethodHandler[Any, Any]"  # generic in its stub only


class Services:
    """What is served, on however many addresses."""

    def __init__(self, backend: Backend, registry: Registry, clock: Clock, envoy_version: str) -> None:
        self._broker = Broker(backend)
        self._registry = registry
        self._health = HealthService(backend, NAMES, clock)
        self._reflection = describe(NAMES)
        self._versions = (("x-envoy-version", envoy_version), ("x-pomerium-version", full_version()))

    def handlers(self, streams: Streams) -> Sequence[grpc.GenericRpcHandler]:
        """Every service, for a server whose streams are `streams` (D-1)."""
        broker, registry, health = self._broker, self._registry, self._health
        unary = self._unary

        def stream(method: StreamMethod, request: type[Message]) -> Handler:
            return self._stream(method, request, streams)

        table: Mapping[str, dict[str, Handler]] = {
            RECORDS: {
                "AcquireLease": unary(broker.acquire_lease, pb.AcquireLeaseRequest),
                "Clear": unary(broker.clear, Empty),
                "Get": unary(broker.get, pb.GetRequest),
                "GetOptions": unary(broker.get_options, pb.GetOptionsRequest),
                "ListTypes": unary(broker.list_types, Empty),
                "Put": unary(broker.put, pb.PutRequest),
                "Patch": unary(broker.patch, pb.PatchRequest),
                "Query": unary(broker.query, pb.QueryRequest),
                "ReleaseLease": unary(broker.release_lease, pb.ReleaseLeaseRequest),
                "RenewLease": unary(broker.renew_lease, pb.RenewLeaseRequest),
                "ServerInfo": unary(broker.server_info, Empty),
                "SetOptions": unary(broker.set_options, pb.SetOptionsRequest),
                "Sync": stream(broker.sync, pb.SyncRequest),
                "SyncLatest": stream(broker.sync_latest, pb.SyncLatestRequest),
            },
            CHECKPOINTS: {
                "GetCheckpoint": unary(broker.get_checkpoint, pb.GetCheckpointRequest),
                "SetCheckpoint": unary(broker.set_checkpoint, pb.SetCheckpointRequest),
            },
            REGISTRY: {
                "Report": unary(registry.report, registry_pb2.RegisterRequest),
                "List": unary(registry.list, registry_pb2.ListRequest),
                "Watch": stream(registry.watch, registry_pb2.ListRequest),
            },
            HEALTH: {
                "Check": unary(health.check, health_pb2.HealthCheckRequest),
                "Watch": stream(health.watch, health_pb2.HealthCheckRequest),
            },
            REFLECTION: {"ServerReflectionInfo": self._reflect(streams)},
            REFLECTION_V1: {"ServerReflectionInfo": self._reflect(streams)},
        }
        return [grpc.method_handlers_generic_handler(name, methods) for name, methods in table.items()]

    def _unary(self, method: Method, request_type: type[Message]) -> Handler:
        async def call(request: Message, context: Context) -> Message:
            async with answering(context):
                await context.send_initial_metadata(self._versions)
                limit = asyncio.timeout(CALL_SECONDS)
                try:
                    async with limit:
                        response = await method(request)
                except TimeoutError:
                    if not limit.expired():
                        raise
                    raise CallRefused(Status.DEADLINE_EXCEEDED, f"not done within {CALL_SECONDS:g} seconds") from None
                if response.ByteSize() > MAX_MESSAGE:
                    raise CallRefused(Status.RESOURCE_EXHAUSTED, f"the answer is larger than {MAX_MESSAGE} bytes")
                return response
            raise AssertionError("an aborted call does not come here")

        handler: Handler = grpc.unary_unary_rpc_method_handler(
            call,
            request_deserializer=request_type.FromString,
            response_serializer=_serialize,
        )
        return handler

    def _stream(self, method: StreamMethod, request_type: type[Message], streams: Streams) -> Handler:
        async def call(request: Message, context: Context) -> None:
            async with answering(context, streams.patience), streams.place(context):
                await context.send_initial_metadata(self._versions)
                await streams.pump(method(request), context)

        handler: Handler = grpc.unary_stream_rpc_method_handler(
            call,
            request_deserializer=request_type.FromString,
            response_serializer=_serialize,
        )
        return handler

    def _reflect(self, streams: Streams) -> Handler:
        async def call(requests: AsyncIterator[reflection_pb2.ServerReflectionRequest], context: Context) -> None:
            async with answering(context), streams.place(context, REFLECTION_SECONDS):
                # The stub has it return an awaitable; it is a generator.
                answers = cast(AsyncGenerator[Message, None], self._reflection.ServerReflectionInfo(requests, context))
                await streams.pump(answers, context)

        handler: Handler = grpc.stream_stream_rpc_method_handler(
            call,
            request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
            response_serializer=_serialize,
        )
        return handler


def _serialize(message: Message) -> bytes:
    return message.SerializeToString()
