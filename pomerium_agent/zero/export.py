"""OTLP on its way to the control plane: one call under a bearer, and what fits into it (zero link 13.3, 14)."""

from typing import Any, NewType

from google.protobuf.message import Message
from grpc import aio

from pomerium_agent.errors import ControlPlaneUnavailable, Refused
from pomerium_agent.settings import Endpoint
from pomerium_agent.zero.identity import Identity
from pomerium_agent.zero.token import TELEMETRY_MIN_TTL, TokenCache
from pomerium_agent.zero.transport import bearer_metadata, describe, is_unauthenticated, open_channel

Method = NewType("Method", str)
TRACES = Method("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
METRICS = Method("/opentelemetry.proto.collector.metrics.v1.MetricsService/Export")
MAX_BYTES = 3 * 1024 * 1024  # of what one call carries; gRPC servers take messages of 4 MiB
EACH_BYTES = 8  # that a part of a message takes beside its own, at most
TIMEOUT = 10.0


class Exporter:
    """Speaks to one telemetry endpoint as one replica."""

    def __init__(self, endpoint: Endpoint, identity: Identity, roots: bytes, tokens: TokenCache) -> None:
        self.identity = identity
        self._endpoint = endpoint
        self._roots = roots
        self._tokens = tokens

    def open(self) -> aio.Channel:
        """A channel; the caller closes it."""
        return open_channel(self._endpoint, self.identity, self._roots)

    async def send(self, channel: aio.Channel, method: Method, request: Message) -> None:
        """One export; what is said in answer does not matter. ControlPlaneUnavailable when it did not arrive."""
        try:
            bearer = await self._tokens.bearer(TELEMETRY_MIN_TTL)
        except Refused as error:  # whoever does the work under this token meets the same answer and decides
            raise ControlPlaneUnavailable(f"refused: {error}") from error
        export: aio.UnaryUnaryMultiCallable[Any, Any] = channel.unary_unary(
            method, request_serializer=type(request).SerializeToString
        )
        try:
            await export(request, metadata=bearer_metadata(bearer), timeout=TIMEOUT)
        except aio.AioRpcError as error:
            if is_unauthenticated(error):
                self._tokens.reset(bearer)
            raise ControlPlaneUnavailable(f"{self._endpoint.authority}: {describe(error, bearer)}") from None


def size_of(part: Message) -> int:
    """How much of MAX_BYTES one part of a request takes."""
    return part.ByteSize() + EACH_BYTES
