"""Where spans go, and the ways there: OTLP over gRPC or HTTP."""

import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import aiohttp
import grpc
from grpc import aio
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)

Send = Callable[[ExportTraceServiceRequest], Awaitable[None]]  # one open way to a collector

EXPORT = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"


@dataclass(frozen=True, slots=True, kw_only=True)
class Collector:
    """Where spans go, and what is said with them. `headers` hold secrets."""

    url: str
    http: bool
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout: float = 10.0
    delay: float = 5.0  # seconds in which spans are gathered
    batch: int = 512
    ratio: float = 1.0  # of the traces that begin here
    value_limit: int | None = None
    resource: tuple[tuple[str, str], ...] = ()
    silent: bool = False  # trouble with sending is not told


class NotTaken(Exception):  # an answer, which is no error of ours
    """The collector answered something else than 2xx."""


FAILURES = (OSError, aiohttp.ClientError, aio.AioRpcError, TimeoutError, ValueError, NotTaken)


class _OverHttp:
    def __init__(self, collector: Collector, http: aiohttp.ClientSession) -> None:
        self._collector = collector
        self._http = http

    async def __call__(self, request: ExportTraceServiceRequest) -> None:
        headers = {**dict(self._collector.headers), "content-type": "application/x-protobuf"}
        async with self._http.post(
            self._collector.url,
            data=request.SerializeToString(),
            headers=headers,
            timeout=aiohttp.ClientTimeout(total=self._collector.timeout),
            allow_redirects=False,
        ) as response:
            if not 200 <= response.status < 300:
                raise NotTaken(f"it answered {response.status}")


class _OverGrpc:
    def __init__(self, collector: Collector, channel: aio.Channel) -> None:
        self._collector = collector
        self._export = channel.unary_unary(
            EXPORT,
            request_serializer=ExportTraceServiceRequest.SerializeToString,
            response_deserializer=ExportTraceServiceResponse.FromString,
        )

    async def __call__(self, request: ExportTraceServiceRequest) -> None:
        await self._export(request, metadata=self._collector.headers, timeout=self._collector.timeout)


@asynccontextmanager
async def open_way(collector: Collector, tls: ssl.SSLContext, roots: bytes) -> AsyncIterator[Send]:
    """A way to the collector, for as long as the block runs; it raises one of FAILURES."""
    if collector.http:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=tls, limit=1), cookie_jar=aiohttp.DummyCookieJar()
        ) as http:
            yield _OverHttp(collector, http)
        return
    parts = urlsplit(collector.url)
    secure = parts.scheme == "https"
    target = parts.netloc if parts.port is not None else f"{parts.netloc}:{443 if secure else 80}"
    if secure:
        credentials = grpc.ssl_channel_credentials(root_certificates=roots)
        channel = aio.secure_channel(f"dns:{target}", credentials)
    else:
        channel = aio.insecure_channel(f"dns:{target}")
    async with channel:
        yield _OverGrpc(collector, channel)


def reason_of(error: Exception) -> str:
    """Why it failed, in words."""
    if isinstance(error, aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return str(error) or type(error).__name__
