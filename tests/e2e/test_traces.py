"""One request, one trace: Envoy's spans and the agent's at a real collector (routes 7.7, R-32)."""

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from aiohttp import web
from grpc import aio
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2 as collector_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2_grpc as collector_grpc
from opentelemetry.proto.trace.v1 import trace_pb2

from pomerium_agent.demo.playground import ReplicaAt
from tests.e2e.world import HELLO, World, eventually, open_world
from tests.fakes.raw_server import serve_raw, swallow

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(180)]

PRIVATE = HELLO.replace("hello.", "private.").replace(
    "allow_public_unauthenticated_access", "allow_any_authenticated_user"
)
CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-"
JSON = {"accept": "application/json"}


@dataclass
class Collector(collector_grpc.TraceServiceServicer):
    """Takes OTLP over gRPC and over HTTP, and keeps what it was sent."""

    spans: list[tuple[str, trace_pb2.Span]] = field(default_factory=list)  # with the name of the service
    resources: list[dict[str, str]] = field(default_factory=list)
    headers: Counter[tuple[str, str]] = field(default_factory=Counter)
    batches: Counter[tuple[str, int]] = field(default_factory=Counter)  # by service and number of spans
    refused: int = 0
    status: int = 200

    async def Export(  # noqa: N802  # the name of the method
        self, request: collector_pb2.ExportTraceServiceRequest, context: "aio.ServicerContext[object, object]"
    ) -> collector_pb2.ExportTraceServiceResponse:
        self.take(request, {str(key): str(value) for key, value in context.invocation_metadata() or ()})
        return collector_pb2.ExportTraceServiceResponse()

    async def post(self, request: web.Request) -> web.Response:
        assert request.content_type == "application/x-protobuf"
        said = collector_pb2.ExportTraceServiceRequest.FromString(await request.read())
        if self.status == 200:
            self.take(said, dict(request.headers))
        elif said.resource_spans[0].scope_spans[0].scope.name == "pomerium-agent":
            self.refused += 1
        return web.Response(status=self.status)

    def take(self, request: collector_pb2.ExportTraceServiceRequest, headers: dict[str, str]) -> None:
        for each in request.resource_spans:
            resource = {item.key: item.value.string_value for item in each.resource.attributes}
            self.resources.append(resource)
            service = resource["service.name"]
            self.headers[service, headers.get("x-team", headers.get("X-Team", ""))] += 1
            self.batches[service, sum(len(scope.spans) for scope in each.scope_spans)] += 1
            self.spans += [(service, span) for scope in each.scope_spans for span in scope.spans]

    def of(self, service: str, trace: bytes) -> list[trace_pb2.Span]:
        return [span for whose, span in self.spans if whose == service and span.trace_id == trace]

    def texts(self) -> str:
        return "\n".join(str(span) for _, span in self.spans)


@asynccontextmanager
async def collecting(port: int, *, http: bool = False) -> AsyncIterator[Collector]:
    collector = Collector()
    if http:
        app = web.Application()
        app.router.add_post("/v1/traces", collector.post)
        runner = web.AppRunner(app)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", port).start()
        yield collector
        await runner.cleanup()
        return
    server = aio.server()
    collector_grpc.add_TraceServiceServicer_to_server(collector, server)  # type: ignore[no-untyped-call]
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    yield collector
    await server.stop(None)


def settings(port: int, *more: str, ratio: float = 1.0, http: bool = False) -> str:
    """For HTTP, by the settings of traces alone, which win over what is said for everything."""
    where = (
        "otel_exporter_otlp_endpoint: http://127.0.0.1:1",
        f"otel_exporter_otlp_traces_endpoint: http://127.0.0.1:{port}/v1/traces",
        "otel_exporter_otlp_traces_protocol: http/protobuf",
        'otel_exporter_otlp_headers: ["x-team=nobody"]',
        'otel_exporter_otlp_traces_headers: ["x-team=100%25 edge"]',
    )
    lines = (
        "otel_traces_exporter: otlp",
        f"otel_traces_sampler_arg: {ratio}",
        *(
            where
            if http
            else (
                f"otel_exporter_otlp_endpoint: http://127.0.0.1:{port}",
                "otel_exporter_otlp_protocol: grpc",
                'otel_exporter_otlp_headers: ["x-team=the%20edge"]',
            )
        ),
        "otel_attribute_value_length_limit: 64",
        "otel_bsp_max_export_batch_size: 3",
        "otel_resource_attributes: [service.namespace=here]",
        "otel_bsp_schedule_delay: 0.2s",
        *more,
    )
    return "\n".join(lines)


async def traced(world: World, replica: ReplicaAt, host: str, path: str = "/", **headers: str) -> bytes:
    """The trace that the upstream was told, of a request that gets there."""
    answer = await world.get(replica, host, path, headers=headers)
    assert answer.status == 200
    seen = answer.json()["headers"]
    assert isinstance(seen, dict)
    assert not [name for name in seen if name.lower().startswith("x-pomerium-agent-")]
    return bytes.fromhex({name.lower(): value for name, value in seen.items()}["traceparent"].split("-")[1])


async def is_traced(world: World, replica: ReplicaAt) -> bool:
    seen = (await world.get(replica, "hello")).json()["headers"]
    return isinstance(seen, dict) and any(name.lower() == "traceparent" for name in seen)


@pytest.mark.parametrize("http", [False, True])
async def test_one_request_is_one_trace_from_the_visitor_to_the_upstream(
    http: bool,
    free_port: Callable[[], int],  # a parameter of the test
) -> None:
    """Envoy's span, below it the agent's decision and the way to the upstream, and nobody's query or session in them.

    At last the agent brings in another configuration, which is a trace too.

    Switched on while all goes on, with headers for the collector; over gRPC, and over HTTP by the settings of traces
    alone: routes 1.7 (121, 123, 125, 126, 127, 128, 129, 130, 131, 134, 135).
    """
    port = free_port()
    async with open_world() as world, collecting(port, http=http) as collector:
        await world.apply(HELLO, PRIVATE)
        async with world.cluster.replica() as replica:
            envoy = (await replica.pids())["envoy"]
            assert not await is_traced(world, replica)
            await world.apply(HELLO, PRIVATE, settings=settings(port, http=http))
            await eventually("requests are traced", lambda: is_traced(world, replica))

            public = await traced(world, replica, "hello", f"/{'a' * 100}?token=planted-secret")
            denied = await world.get(
                replica, "private", "/b?token=planted-secret", headers={**JSON, "traceparent": f"{CALLER}01"}
            )
            asked = bytes.fromhex(CALLER.split("-")[1])
            await asyncio.gather(*(world.get(replica, "private", headers=JSON) for _ in range(10)))

            async def all_there() -> bool:
                ours = sum(span.name == "authorize" for _, span in collector.spans)
                return bool(collector.of("Envoy", public) and collector.of("pomerium-agent", asked) and ours == 11)

            await eventually("the spans are there", all_there)

            async def envoys_too() -> bool:
                return any(span.name == "ingress" for span in collector.of("Envoy", asked))

            await eventually("and Envoy's of the denied request", envoys_too)
            assert (await replica.pids())["envoy"] == envoy

            await world.apply(HELLO, settings=settings(port, http=http))

            async def brought_in() -> bool:
                return any(span.name == "sync" for _, span in collector.spans)

            await eventually("the next configuration is brought in, and traced", brought_in)

    assert denied.status == 401
    (decision,) = collector.of("pomerium-agent", asked)
    ingress = next(span for span in collector.of("Envoy", asked) if span.name == "ingress")
    assert decision.parent_span_id == ingress.span_id
    assert ingress.parent_span_id.hex() == CALLER.split("-")[2]
    facts = {item.key: item.value for item in decision.attributes}
    assert facts["pomerium.allowed"].bool_value is False
    assert facts["http.response.status_code"].int_value == 401
    assert collector.of("pomerium-agent", public) == []  # nobody was asked
    url = next(
        item.value.string_value
        for span in collector.of("Envoy", public)
        for item in span.attributes
        if item.key == "http.url" and span.name == "ingress"
    )
    assert url == f"https://hello.{world.domain}:{replica.port}/{'a' * 63}"
    assert all(len(item.value.string_value) <= 64 for item in decision.attributes)
    assert "planted-secret" not in collector.texts()
    assert max(size for service, size in collector.batches if service == "pomerium-agent") == 3
    sync = next(span for _, span in collector.spans if span.name == "sync")
    steps = {span.name: span for span in collector.of("pomerium-agent", sync.trace_id)}
    assert steps.keys() >= {"list bundles", "bundle", "download", "sync"}
    assert steps["bundle"].parent_span_id == sync.span_id
    team = "100% edge" if http else "the edge"
    assert collector.headers.keys() == {("Envoy", team), ("pomerium-agent", team)}
    assert all(resource["service.namespace"] == "here" for resource in collector.resources)


async def test_what_nobody_collects_is_not_traced_and_a_visitor_cannot_change_that(
    free_port: Callable[[], int],
) -> None:
    """Routes 1.7 (122): a share of zero; and a caller who says that its trace is not collected is left alone."""
    port = free_port()
    async with open_world() as world, collecting(port) as collector:
        await world.apply(HELLO, PRIVATE, settings=settings(port, ratio=0))
        async with world.cluster.replica() as replica:
            for _ in range(5):
                await world.get(replica, "private", headers={**JSON, "traceparent": f"{CALLER}01"})
            await world.apply(HELLO, PRIVATE, settings=settings(port))
            await world.get(replica, "private", headers={**JSON, "traceparent": f"{CALLER}00"})

            async def one_is_there() -> bool:
                await world.get(replica, "private", headers=JSON)
                return any(span.name == "authorize" for _, span in collector.spans)

            await eventually("the others are collected", one_is_there)

    assert collector.of("Envoy", bytes.fromhex(CALLER.split("-")[1])) == []
    assert collector.of("pomerium-agent", bytes.fromhex(CALLER.split("-")[1])) == []


async def test_a_collector_that_is_away_costs_no_request_anything(free_port: Callable[[], int]) -> None:
    async with open_world() as world:
        await world.apply(HELLO, PRIVATE, settings=settings(free_port(), "otel_exporter_otlp_timeout: 1s"))
        async with world.cluster.replica() as replica:
            answers = await asyncio.gather(*(world.get(replica, "hello") for _ in range(50)))
            denied = await asyncio.gather(*(world.get(replica, "private", headers=JSON) for _ in range(50)))

            async def told() -> bool:
                return "spans cannot be sent" in await asyncio.to_thread(replica.running.log.read_text)

            await eventually("the log says so", told)

    assert {answer.status for answer in answers} == {200}
    assert {answer.status for answer in denied} == {401}


@pytest.mark.parametrize(
    "limits",
    [
        "otel_exporter_otlp_timeout: 1s",
        "otel_exporter_otlp_timeout: 3600s\notel_exporter_otlp_traces_timeout: 1s",
    ],
)
async def test_a_collector_that_never_answers_is_waited_for_as_long_as_it_says(limits: str) -> None:
    """Routes 1.7 (132, 133): what is said for traces alone wins; without either it would be ten seconds."""
    async with open_world() as world, serve_raw(swallow) as port:
        await world.apply(HELLO, PRIVATE, settings=settings(port, limits, http=True))
        async with world.cluster.replica() as replica:
            await world.get(replica, "private", headers=JSON)

            async def told() -> bool:
                return "spans cannot be sent" in await asyncio.to_thread(replica.running.log.read_text)

            await eventually("the log says so", told, within=8.0)


async def test_trouble_with_a_collector_is_not_told_where_nobody_wants_to_hear_of_it(
    free_port: Callable[[], int],
) -> None:
    """Routes 1.7 (124)."""
    port = free_port()
    async with open_world() as world, collecting(port, http=True) as collector:
        collector.status = 503
        await world.apply(HELLO, PRIVATE, settings=settings(port, "otel_log_level: error", http=True))
        async with world.cluster.replica() as replica:

            async def refused() -> bool:
                await world.get(replica, "private", headers=JSON)
                return collector.refused > 0

            await eventually("the collector has refused spans", refused)
            collector.status = 200

            async def taken() -> bool:
                await world.get(replica, "private", headers=JSON)
                return any(whose == "pomerium-agent" for whose, _ in collector.spans)

            await eventually("the collector has taken spans", taken)
            said = await asyncio.to_thread(replica.running.log.read_text)

    assert "spans cannot be sent" not in said
    assert "spans are sent again" not in said
