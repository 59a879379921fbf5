"""A small real control plane on loopback, whose every answer a test may script."""

import asyncio
import base64
import gzip
import json
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import grpc
from aiohttp import web
from google.protobuf.internal.encoder import _VarintBytes  # type: ignore[attr-defined]  # the stubs leave it out
from grpc import aio
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.trace.v1 import trace_pb2

from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.records import Record, record_to_message
from pomerium_agent.settings import Endpoint, Secret, Settings
from tests.fakes.authority import Issued

TOKEN = Secret("cluster-token-of-the-tests")
PATIENCE = 10.0  # seconds a test waits for what must happen
SIGNATURE = "X-Signature=s3cr3t-signature"
CAPTURED = "X-Amz-Meta-Version"


@dataclass(frozen=True, slots=True, kw_only=True)
class Say:
    """One scripted answer.

    `hang`: accept and never answer. `cut_after`: close after so many bytes of the body. `drip`: seconds between
    two bytes of the body.
    """

    status: int = 200
    body: bytes = b""
    content_type: str | None = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)
    hang: bool = False
    cut_after: int | None = None
    close_delimited: bool = False
    drip: float = 0.0


def say(document: object, status: int = 200, **headers: str) -> Say:
    """A JSON answer."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    return Say(status=status, body=json.dumps(document).encode(), headers=names)


def html(status: int = 200) -> Say:
    """What a proxy, or the wrong port, answers."""
    return Say(status=status, body=b"<html><body>It works!</body></html>", content_type="text/html")


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """One request, as it arrived."""

    operation: str
    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes


@dataclass(slots=True, kw_only=True)
class Bundle:
    """A bundle in the storage. Change it with `FakeControlPlane.publish`."""

    content: bytes
    etag: str
    last_modified: str = "Tue, 01 Jan 2030 00:00:00 GMT"
    metadata: str = "1"


class Subscription:
    """One open Subscribe call: who asked, and what to tell them."""

    def __init__(self, request: connect_pb2.SubscribeRequest, metadata: Mapping[str, str], encoding: str) -> None:
        self.request = request
        self.metadata = metadata
        self.encoding = encoding
        self.outbox: asyncio.Queue[bytes | None] = asyncio.Queue()

    def push(self, message: connect_pb2.Message | bytes) -> None:
        """Send a message, or bytes that may be none."""
        self.outbox.put_nowait(message if isinstance(message, bytes) else message.SerializeToString())

    def end(self) -> None:
        """End the stream cleanly."""
        self.outbox.put_nowait(None)


class FakeControlPlane:
    """State, script and record of one control plane. Open it with `serve_control_plane`."""

    def __init__(self) -> None:
        self.http_url = ""
        self.grpc_endpoint = Endpoint(url="", tls=False, host="", port=0)
        self.bootstrap: dict[str, object] = {
            "clusterId": "cluster",
            "organizationId": "organization",
            "sharedSecret": base64.b64encode(b"s" * 32).decode(),
            "pseudonymizationKey": base64.b64encode(b"p" * 32).decode(),
        }
        self.bundles: dict[str, Bundle] = {}
        self.bearers: set[str] = set()
        self.bearer_seconds = 3600
        self.url_seconds = 3600
        self.compress = True
        self.seen: list[Seen] = []
        self.subscriptions: list[Subscription] = []
        self.subscribed = 0  # so often did somebody, ever
        self.exports: list[trace_service_pb2.ExportTraceServiceRequest] = []
        self.metric_exports: list[metrics_service_pb2.ExportMetricsServiceRequest] = []
        self.subscribe_refusals: deque[grpc.StatusCode] = deque()
        self.silent_subscribe = False  # keep the response headers until there is a message
        self.export_refusals: deque[grpc.StatusCode] = deque()
        self.echoes = False  # a refusal of gRPC says whom it refused
        self.export_attempts = 0
        self._script: dict[str, deque[Say]] = {}
        self._always: dict[str, Say] = {}
        self._changed = asyncio.Event()
        self._exchanges = 0

    # What a test says.

    def script(self, operation: str, *says: Say) -> None:
        """The next answers of an operation; after them it behaves again."""
        self._script.setdefault(operation, deque()).extend(says)

    def always(self, operation: str, answer: Say | None) -> None:
        """The answer of an operation from now on; None: behave."""
        if answer is None:
            self._always.pop(operation, None)
        else:
            self._always[operation] = answer

    def publish(self, bundle_id: str, records: Iterable[Record] | bytes, *, etag: str, **fields: str) -> None:
        """Put a bundle into the storage and on the list."""
        content = records if isinstance(records, bytes) else encode_bundle(records)
        self.bundles[bundle_id] = Bundle(content=content, etag=etag, **fields)

    def push(self, message: connect_pb2.Message | bytes) -> None:
        """Tell every subscriber."""
        for subscription in self.subscriptions:
            subscription.push(message)

    # What a test asks.

    def requests(self, operation: str) -> list[Seen]:
        """The requests of one operation, in order."""
        return [seen for seen in self.seen if seen.operation == operation]

    @property
    def spans(self) -> list[trace_pb2.Span]:
        """All spans that arrived."""
        return [
            span
            for export in self.exports
            for resource in export.resource_spans
            for scope in resource.scope_spans
            for span in scope.spans
        ]

    async def until(self, holds: Callable[[], object]) -> None:
        """Return once `holds()`; looked at whenever something arrives here."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                await self._changed.wait()

    # What the wire calls.

    async def answer(self, request: web.Request) -> web.StreamResponse:
        operation = _operation(request)
        body = await request.read()
        self.seen.append(
            Seen(
                operation=operation,
                method=request.method,
                path=request.raw_path,
                headers={name.lower(): value for name, value in request.headers.items()},
                body=body,
            )
        )
        self._notify()
        script = self._script.get(operation)
        scripted = script.popleft() if script else self._always.get(operation)
        if scripted is None:
            scripted = self._behave(operation, request)
        return await _send(request, scripted)

    async def subscribe(
        self, request: connect_pb2.SubscribeRequest, context: aio.ServicerContext[Any, Any]
    ) -> AsyncIterator[bytes]:
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        if self.subscribe_refusals:
            self._notify()
            await context.abort(self.subscribe_refusals.popleft(), self._refusal(context))
        if metadata.get("authorization", "").removeprefix("Bearer ") not in self.bearers:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown bearer")
        subscription = Subscription(request, metadata, metadata.get("grpc-encoding", ""))
        if not self.silent_subscribe:
            await context.send_initial_metadata(())
        self.subscriptions.append(subscription)
        self.subscribed += 1
        self._notify()
        try:
            while (message := await subscription.outbox.get()) is not None:
                yield message
        finally:
            self.subscriptions.remove(subscription)
            self._notify()

    async def export(
        self, request: trace_service_pb2.ExportTraceServiceRequest, context: aio.ServicerContext[Any, Any]
    ) -> trace_service_pb2.ExportTraceServiceResponse:
        self.export_attempts += 1
        self._notify()
        if self.export_refusals:
            await context.abort(self.export_refusals.popleft(), self._refusal(context))
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        if metadata.get("authorization", "").removeprefix("Bearer ") not in self.bearers:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown bearer")
        self.exports.append(request)
        self._notify()
        return trace_service_pb2.ExportTraceServiceResponse()

    async def export_metrics(
        self, request: metrics_service_pb2.ExportMetricsServiceRequest, context: aio.ServicerContext[Any, Any]
    ) -> metrics_service_pb2.ExportMetricsServiceResponse:
        if self.export_refusals:
            await context.abort(self.export_refusals.popleft(), self._refusal(context))
        metadata = {str(key): str(value) for key, value in context.invocation_metadata() or ()}
        if metadata.get("authorization", "").removeprefix("Bearer ") not in self.bearers:
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "unknown bearer")
        self.metric_exports.append(request)
        self._notify()
        return metrics_service_pb2.ExportMetricsServiceResponse()

    def _refusal(self, context: aio.ServicerContext[Any, Any]) -> str:
        return f"scripted refusal of {context.invocation_metadata()}" if self.echoes else "scripted refusal"

    def _behave(self, operation: str, request: web.Request) -> Say:
        if operation == "exchangeToken":
            self._exchanges += 1
            bearer = f"bearer-{self._exchanges}"
            self.bearers.add(bearer)
            return say({"idToken": bearer, "expiresInSeconds": str(self.bearer_seconds)})
        if operation == "storage":
            return self._storage(request)
        if request.headers.get("Authorization", "").removeprefix("Bearer ") not in self.bearers:
            return say({"error": "unauthorized"}, 401)
        if operation == "bootstrap":
            return say(self.bootstrap)
        if operation == "reportUsage":
            return Say(status=204, content_type=None)
        if operation == "bundles":
            return say({"bundles": [{"id": bundle_id} for bundle_id in self.bundles]})
        bundle_id = request.match_info["bundle"]
        return say(
            {
                "url": f"{self.http_url}/storage/{bundle_id}?{SIGNATURE}",
                "expiresInSeconds": str(self.url_seconds),
                "captureMetadataHeaders": [CAPTURED, "X-Absent"],
            }
        )

    def _storage(self, request: web.Request) -> Say:
        bundle = self.bundles[request.match_info["bundle"]]
        headers = {"ETag": bundle.etag, "Last-Modified": bundle.last_modified, CAPTURED: bundle.metadata}
        plain = Say(content_type="application/octet-stream", headers=headers)
        if request.headers.get("If-None-Match") == bundle.etag:
            return replace(plain, status=304, headers={k: v for k, v in headers.items() if k != CAPTURED})
        if self.compress and "gzip" in request.headers.get("Accept-Encoding", ""):
            compressed = headers | {"Content-Encoding": "gzip"}
            return replace(plain, body=gzip.compress(bundle.content), headers=compressed)
        return replace(plain, body=bundle.content)

    def _notify(self) -> None:
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()


def encode_bundle(records: Iterable[Record]) -> bytes:
    """Records as a bundle's bytes."""
    encoded = [record_to_message(record).SerializeToString() for record in records]
    return b"".join(_VarintBytes(len(one)) + one for one in encoded)


@asynccontextmanager
async def serve_control_plane(
    issued: Issued | None = None, folder: Path | None = None
) -> AsyncIterator[FakeControlPlane]:
    """Serve HTTP and gRPC on free ports of loopback until the block ends; over TLS when there is a certificate."""
    plane = FakeControlPlane()
    app = web.Application()
    for path in (
        "/v1/{operation:exchangeToken|bootstrap|bundles|reportUsage}",
        "/v1/bundles/{bundle}/{operation:download}",
        "/v1/config/{operation:import}",
    ):
        app.router.add_route("*", path, plane.answer)
    app.router.add_route("*", "/storage/{bundle}", plane.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    tls = issued.server_context(folder) if issued and folder else None
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    server = aio.server()
    server.add_generic_rpc_handlers(_handlers(plane))
    if issued is None:
        port = server.add_insecure_port("127.0.0.1:0")
    else:
        credentials = grpc.ssl_server_credentials([(issued.key, issued.certificate)])
        port = server.add_secure_port("127.0.0.1:0", credentials)
    await server.start()
    scheme = "http" if issued is None else "https"
    plane.http_url = f"{scheme}://127.0.0.1:{runner.addresses[0][1]}"
    plane.grpc_endpoint = Endpoint(
        url=f"{scheme}://127.0.0.1:{port}", tls=issued is not None, host="127.0.0.1", port=port
    )
    try:
        yield plane
    finally:
        await server.stop(None)
        await runner.cleanup()


def settings_for(plane: FakeControlPlane, folder: Path, **changes: Any) -> Settings:
    """The settings of an agent that belongs to `plane` and keeps its files in `folder`."""
    settings = Settings(
        token=TOKEN,
        cluster_api=f"{plane.http_url}/v1",
        connect=plane.grpc_endpoint,
        otel=plane.grpc_endpoint,
        bootstrap_file=folder / "bootstrap.dat",
        bootstrap_writeback=(folder / "bootstrap.dat").as_uri(),
        runtime_dir=folder,
        state_dir=folder,
    )
    return replace(settings, **changes)


def _operation(request: web.Request) -> str:
    return request.match_info.get("operation", "storage")


def _handlers(plane: FakeControlPlane) -> tuple[grpc.GenericRpcHandler, ...]:
    """By hand, so that a test may send bytes that are no message."""
    subscribe = grpc.unary_stream_rpc_method_handler(
        plane.subscribe,
        request_deserializer=connect_pb2.SubscribeRequest.FromString,
        response_serializer=bytes,
    )
    export = grpc.unary_unary_rpc_method_handler(
        plane.export,
        request_deserializer=trace_service_pb2.ExportTraceServiceRequest.FromString,
        response_serializer=trace_service_pb2.ExportTraceServiceResponse.SerializeToString,
    )
    return (
        grpc.method_handlers_generic_handler("pomerium.zero.Connect", {"Subscribe": subscribe}),
        grpc.method_handlers_generic_handler("opentelemetry.proto.collector.trace.v1.TraceService", {"Export": export}),
        grpc.method_handlers_generic_handler(
            "opentelemetry.proto.collector.metrics.v1.MetricsService",
            {
                "Export": grpc.unary_unary_rpc_method_handler(
                    plane.export_metrics,
                    request_deserializer=metrics_service_pb2.ExportMetricsServiceRequest.FromString,
                    response_serializer=metrics_service_pb2.ExportMetricsServiceResponse.SerializeToString,
                )
            },
        ),
    )


async def _send(request: web.Request, answer: Say) -> web.StreamResponse:
    if answer.hang:
        await asyncio.Event().wait()
    response = web.StreamResponse(status=answer.status, headers=dict(answer.headers))
    if answer.content_type is not None:
        response.headers["Content-Type"] = answer.content_type
    if answer.close_delimited:
        response.force_close()
        response._length_check = False  # an HTTP/1.0 manner of ending a body, which aiohttp does not offer
    elif answer.status not in (204, 304):
        response.content_length = len(answer.body)
    await response.prepare(request)
    if request.method == "HEAD" or answer.status == 304:
        return response
    if answer.cut_after is not None:
        await response.write(answer.body[: answer.cut_after])
        if request.transport is not None:
            request.transport.close()
        return response
    for byte in answer.body if answer.drip else b"":
        await response.write(bytes([byte]))
        await asyncio.sleep(answer.drip)
    if answer.body and not answer.drip:
        await response.write(answer.body)
    await response.write_eof()
    return response
