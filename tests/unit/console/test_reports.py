"""From a replica's spans to the words of `console status` (zero link 13.3)."""

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from types import MappingProxyType

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.collector.trace.v1 import trace_service_pb2
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import ResourceMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from opentelemetry.proto.trace.v1.trace_pb2 import ResourceSpans, ScopeSpans, Span, Status

from pomerium_agent.console.otlp import METRICS, SCOPE, TRACES
from pomerium_agent.console.sightings import MAX_ATTRIBUTES, MAX_TEXT
from pomerium_agent.console.status import read_status
from pomerium_agent.console.words import status_lines
from tests.fakes.console import NOW, QUICKSTART, Visit, visited_console

BUILD = "config.databroker.build"
ROUTES = "xds.route-configuration"
LISTENER = "xds.listener"


def attributes(values: dict[str, str]) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in values.items()]


def span(
    name: str, values: Mapping[str, str] = MappingProxyType({}), *, error: str = "", at: int = 1, **more: str
) -> Span:
    """One report; in `more`, a double underscore stands for a dot."""
    code = Status.STATUS_CODE_ERROR if error else Status.STATUS_CODE_OK
    return Span(
        name=name,
        start_time_unix_nano=at,
        end_time_unix_nano=at,
        status=Status(code=code, message=error),
        attributes=attributes({**values, **{key.replace("__", "."): value for key, value in more.items()}}),
    )


def resource(instance: str = "i-1") -> Resource:
    values = {"service.name": SCOPE, "service.version": "1.2.3", "host.name": "host"}
    return Resource(attributes=attributes(values | ({"service.instance.id": instance} if instance else {})))


async def export(visit: Visit, *spans: Span, instance: str = "i-1", scope: str = SCOPE, bearer: str = "") -> None:
    """What a replica does when its health changes: gzip, bearer, one request (Z-53)."""
    request = trace_service_pb2.ExportTraceServiceRequest(
        resource_spans=[
            ResourceSpans(
                resource=resource(instance),
                scope_spans=[ScopeSpans(scope=InstrumentationScope(name=scope), spans=spans)],
            )
        ]
    )
    async with visit.channel() as channel:
        call = channel.unary_unary(
            f"/{TRACES}/Export",
            request_serializer=trace_service_pb2.ExportTraceServiceRequest.SerializeToString,
            response_deserializer=trace_service_pb2.ExportTraceServiceResponse.FromString,
        )
        await call(
            request,
            metadata=(("authorization", f"Bearer {bearer or await visit.bearer()}"),),
            compression=grpc.Compression.Gzip,
            timeout=5,
        )


def words(visit: Visit, *, console_runs: bool = True) -> list[str]:
    status = read_status(visit.console.store, visit.console.store.cluster("demo"), console_runs=console_runs)
    return list(status_lines(status, status.changed_at + timedelta(minutes=3)))


async def test_the_version_in_force_is_known_by_its_digest(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        old = visit.console.store.config(visit.cluster.id).digest
        await export(visit, span(BUILD, digest=old))
        assert "    version 1 is in force" in words(visit)

        visit.apply(QUICKSTART)
        assert "    version 1 is in force, not version 2" in words(visit)

        new = visit.console.store.config(visit.cluster.id).digest
        await export(visit, span(BUILD, digest=new, at=2))
        assert "    version 2 is in force" in words(visit)

        await export(visit, span(BUILD, digest="feed", at=3))
        assert "    an unknown configuration (feed) is in force, not version 2" in words(visit)


async def test_faults_are_shown_with_what_was_left_out_and_why(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        text = "route bad (https://bad.example.com): regex: RE2 refuses it; use RE2 syntax"
        note = "route ok (https://ok.example.com): remove_request_headers: Host is left alone; remove it"
        await export(visit, span(BUILD, error=text, digest="x", fault__1a2b3c4d=text, fault__5e6f7a8b=note))

        status = read_status(visit.console.store, visit.cluster, console_runs=True)

        assert words(visit)[-2:] == [f"    FAULT 1a2b3c4d: {text}", f"    note 5e6f7a8b: {note}"]
        assert status.to_json()["replicas"][0]["faults"] == {"1a2b3c4d": text}  # type: ignore[index]  # plain JSON


async def test_in_force_is_what_envoy_took_and_not_what_was_built(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        old = visit.console.store.config(visit.cluster.id).digest
        visit.apply(QUICKSTART)
        new = visit.console.store.config(visit.cluster.id).digest

        await export(visit, span(BUILD, digest=new), span(ROUTES, digest=old))
        assert "    version 1 is in force, not version 2" in words(visit)

        await export(visit, span(ROUTES, error="envoy refuses it", at=2))
        assert words(visit)[-2:] == [
            "    has not said yet which configuration is in force",
            f"    {ROUTES}: envoy refuses it",
        ]


async def test_a_replica_whose_listener_cannot_open_has_nothing_in_force(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        digest = visit.console.store.config(visit.cluster.id).digest

        await export(visit, span(BUILD, digest=digest), span(LISTENER, error="cannot bind :443"))

        assert words(visit)[-2:] == [
            "    has not said yet which configuration is in force",
            f"    {LISTENER}: cannot bind :443",
        ]


async def test_a_check_that_fails_is_shown_until_it_is_well_again(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        await export(visit, span("zero.resource-bundle.config", error="no room", at=5))
        assert "    zero.resource-bundle.config: no room" in words(visit)

        await export(visit, span("zero.resource-bundle.config", values={"X-Bundle-Version": "1"}, at=6))

        status = read_status(visit.console.store, visit.cluster, console_runs=True)
        assert status.replicas[0].failing == {}
        assert status.replicas[0].fetched == "1"


async def test_a_report_that_arrives_late_changes_nothing(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        await export(visit, span("envoy.server", at=9))
        await export(visit, span("envoy.server", error="it crashed", at=8))

        (replica,) = visit.console.store.sightings.replicas(visit.cluster.id)
    assert replica.reports["envoy.server"].error == ""


async def test_a_replica_without_an_instance_is_known_by_its_host(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        await export(visit, span("envoy.server"), instance="")

        (replica,) = visit.console.store.sightings.replicas(visit.cluster.id)
    assert (replica.instance, replica.hostname, replica.version) == ("host", "host", "1.2.3")


async def test_the_stream_and_the_reports_of_a_replica_are_one_replica(tmp_path: Path) -> None:
    async with (
        visited_console(tmp_path) as visit,
        visit.subscribed(await visit.bearer(), hostname="host", instance="i-1"),
    ):
        await visit.console.presence.written()
        await export(visit, span("envoy.server"))

        (replica,) = visit.console.store.sightings.replicas(visit.cluster.id)
        assert replica.connected
        assert "envoy.server" in replica.reports


async def test_other_spans_are_not_taken_for_health(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        await export(visit, span("GET /"), scope="some.tracer")
        await export(visit, Span(name="unset"))

        (replica,) = visit.console.store.sightings.replicas(visit.cluster.id)
    assert replica.reports == {}


async def test_a_replica_cannot_fill_the_disk_with_words(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        many = {f"key{number:04}": "y" * (MAX_TEXT + 10) for number in range(MAX_ATTRIBUTES + 10)}
        await export(visit, span("envoy.server", many, error="x" * (2 * MAX_TEXT)))

        (replica,) = visit.console.store.sightings.replicas(visit.cluster.id)
    report = replica.reports["envoy.server"]
    assert len(report.error) == MAX_TEXT
    assert len(report.attributes) == MAX_ATTRIBUTES
    assert max(len(value) for value in report.attributes.values()) == MAX_TEXT


async def test_a_replica_cannot_fill_the_disk_with_its_name(tmp_path: Path) -> None:
    long = "x" * (MAX_TEXT + 1)
    async with visited_console(tmp_path) as visit:
        async with visit.subscribed(await visit.bearer(), hostname=long):
            await visit.console.presence.written()
        seen = visit.console.store.sightings.replicas(visit.cluster.id)

    assert [(len(each.hostname), len(each.instance)) for each in seen] == [(MAX_TEXT, MAX_TEXT)]


async def test_reports_need_a_bearer(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        with pytest.raises(grpc.aio.AioRpcError) as refused:
            await export(visit, span("envoy.server"), bearer="nonsense")

    assert refused.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_metrics_are_a_sign_of_life(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        async with visit.channel() as channel:
            call = channel.unary_unary(
                f"/{METRICS}/Export",
                request_serializer=metrics_service_pb2.ExportMetricsServiceRequest.SerializeToString,
                response_deserializer=metrics_service_pb2.ExportMetricsServiceResponse.FromString,
            )
            request = metrics_service_pb2.ExportMetricsServiceRequest(
                resource_metrics=[ResourceMetrics(resource=resource())]
            )
            await call(request, metadata=(("authorization", f"Bearer {await visit.bearer()}"),), timeout=5)

        (replica,) = visit.console.store.sightings.replicas(visit.cluster.id)
    assert replica.instance == "i-1"


async def test_nobody_is_connected_to_a_console_that_does_not_run(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit, visit.subscribed(await visit.bearer()):
        await visit.console.presence.written()

        assert "connected since" in "".join(words(visit))
        assert "NOT connected, last seen" in "".join(words(visit, console_runs=False))


async def test_a_cluster_nobody_has_joined_says_so(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        assert words(visit) == [
            f"demo  {visit.cluster.domain}",
            "  version 1 (created, 3 min ago)",
            "  no replica has been seen yet, or none for a day",
        ]


async def test_replicas_long_gone_are_forgotten_with_their_reports(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        await export(visit, span("envoy.server"))
        sightings = visit.console.store.sightings

        sightings.forget(NOW.replace(year=2000))
        assert len(sightings.replicas(visit.cluster.id)) == 1
        sightings.forget(NOW.replace(year=2999))

        assert sightings.replicas(visit.cluster.id) == ()
        assert visit.console.store.database.read("SELECT * FROM report") == []


async def test_replicas_that_are_gone_do_not_bury_those_that_serve(tmp_path: Path) -> None:
    """Every start of a replica is an instance of its own."""
    async with visited_console(tmp_path) as visit:
        for number in range(6):
            await export(visit, span(BUILD, digest="x", at=number), instance=f"i-{number}")

        shown = [line for line in words(visit) if line.startswith("  replica")]

        assert len(shown) == 3
        assert words(visit)[-1] == "  and 3 more that are not connected; --json lists them"
