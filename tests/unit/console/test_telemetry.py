"""Metrics of replicas at the console: asked for over Connect, received over OTLP, kept, shown (zero link 14)."""

import asyncio
import json
from pathlib import Path

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1 import metrics_service_pb2
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics
from opentelemetry.proto.resource.v1.resource_pb2 import Resource
from typer.testing import CliRunner

from pomerium_agent.cli.console import console_app
from pomerium_agent.console.control import ask
from pomerium_agent.console.otlp import METRICS
from pomerium_agent.console.status import read_status
from pomerium_agent.console.telemetry import MAX_SERIES, MAX_TEXT, cut, read_telemetry
from pomerium_agent.console.words import status_lines
from pomerium_agent.pb.pomerium import connect_pb2
from tests.fakes.console import NOW, Visit, visited_console

Call = grpc.aio.UnaryStreamCall[connect_pb2.SubscribeRequest, connect_pb2.Message]


def text(key: str, value: str) -> KeyValue:
    return KeyValue(key=key, value=AnyValue(string_value=value))


def scope(name: str, **metrics: int) -> ScopeMetrics:
    return ScopeMetrics(
        scope=InstrumentationScope(name=name),
        metrics=[
            Metric(name=key, gauge=Gauge(data_points=[NumberDataPoint(as_int=value, attributes=[text("k", "v")])]))
            for key, value in metrics.items()
        ],
    )


async def export(visit: Visit, *scopes: ScopeMetrics, instance: str = "i-1") -> None:
    """What a replica does when it is asked."""
    resource = Resource(attributes=[text("host.name", "host"), text("service.instance.id", instance)])
    request = metrics_service_pb2.ExportMetricsServiceRequest(
        resource_metrics=[ResourceMetrics(resource=resource, scope_metrics=scopes)]
    )
    async with visit.channel() as channel:
        call = channel.unary_unary(
            f"/{METRICS}/Export",
            request_serializer=metrics_service_pb2.ExportMetricsServiceRequest.SerializeToString,
            response_deserializer=metrics_service_pb2.ExportMetricsServiceResponse.FromString,
        )
        await call(request, metadata=(("authorization", f"Bearer {await visit.bearer()}"),), timeout=5)


async def next_message(call: Call) -> connect_pb2.Message:
    async with asyncio.timeout(5):
        message = await call.read()
    assert isinstance(message, connect_pb2.Message)
    return message


async def test_who_is_connected_is_asked_and_who_comes_later_is_not(tmp_path: Path) -> None:
    """Zero link 6.1: telemetry_request, with what is wanted of each producer."""
    question = {"op": "telemetry", "envoy": ["envoy_server_live"], "agent": ["build_info"]}
    async with visited_console(tmp_path) as visit:
        async with visit.subscribed(await visit.bearer()) as call:
            said = await asyncio.to_thread(ask, visit.console.data_dir, question | {"cluster": visit.cluster.id})
            message = await next_message(call)

        request = message.telemetry_request
        assert said == {"ok": True}
        assert request.HasField("session_analytics")
        assert list(request.envoy_metrics.metrics) == ["envoy_server_live"]
        assert list(request.pomerium_metrics.metrics) == ["build_info"]
        async with visit.subscribed(await visit.bearer()) as later:
            await visit.console.nudges.ask_telemetry(visit.cluster.id, request)
            assert (await next_message(later)).HasField("telemetry_request")
            await visit.console.nudges.refresh(visit.cluster.id)  # nothing new, so nothing is said
            with pytest.raises(TimeoutError):
                async with asyncio.timeout(0.05):
                    await later.read()


async def test_of_each_replica_the_latest_answer_is_kept(tmp_path: Path) -> None:
    """Z-55, Z-56: the number of people comes from whoever had the lease last."""
    async with visited_console(tmp_path) as visit:
        await export(visit, scope("pomerium-cluster", dau=1, mau=2), scope("envoy", a=1))
        await export(visit, scope("pomerium-cluster", dau=3, mau=4), scope("envoy", b=2))
        await export(visit, scope("envoy", b=5), instance="i-2")

        second, first = read_telemetry(visit.console.store.database, visit.cluster.id)
        status = read_status(visit.console.store, visit.cluster, console_runs=True)

    assert (first.instance, first.dau, first.mau) == ("i-1", 3, 4)
    assert (second.instance, second.dau, second.mau) == ("i-2", None, None)
    assert second.scopes == [
        {"scope": "envoy", "metrics": [{"name": "b", "kind": "gauge", "labels": {"k": "v"}, "value": 5}]}
    ]
    users = status.to_json()["users"]
    assert isinstance(users, dict)
    assert (users["dau"], users["mau"], users["reported"]) == (3, 4, 0)
    assert any("active users: 3 a day, 4 a month" in line for line in status_lines(status, NOW))


async def test_users_that_were_reported_are_counted(tmp_path: Path) -> None:
    """Z-62: a second report on the same person counts no second one."""
    user = {"pseudonymousId": "p", "pseudonymousEmail": "", "lastSignedInAt": "2030-01-01T00:00:00.123456789Z"}
    async with visited_console(tmp_path) as visit:
        bearer = await visit.bearer()
        for _ in range(2):
            assert (await visit.post("reportUsage", {"users": [user]}, bearer))[0] == 204

        status = read_status(visit.console.store, visit.cluster, console_runs=True)

    assert any("1 user reported so far, by pseudonym" in line for line in status_lines(status, NOW))


def test_what_is_kept_of_an_answer_is_bounded() -> None:
    metric = {"name": "n" * 9999, "kind": "gauge", "labels": {"k" * 9999: "v" * 9999}, "value": 1}
    kept = cut([{"scope": "s" * 9999, "metrics": [metric] * (MAX_SERIES + 5)}, {"scope": "more", "metrics": [metric]}])

    [only] = kept
    assert len(only["metrics"]) == MAX_SERIES
    assert only["scope"] == "s" * MAX_TEXT
    assert only["metrics"][0]["labels"] == {"k" * MAX_TEXT: "v" * MAX_TEXT}


async def test_the_verb_asks_waits_and_shows(tmp_path: Path) -> None:
    async with visited_console(tmp_path) as visit:
        async with visit.subscribed(await visit.bearer(), hostname="host", instance="i-1") as call:
            await visit.console.presence.written()
            words = ["telemetry", "demo", "--envoy", "a", "--data-dir", str(tmp_path)]
            typed = asyncio.create_task(asyncio.to_thread(CliRunner().invoke, console_app, words))
            message = await next_message(call)
            assert list(message.telemetry_request.envoy_metrics.metrics) == ["a"]
            await export(visit, scope("envoy", a=7))

            done = await typed

        assert done.exit_code == 0
        assert "replica host  i-1" in done.stdout
        assert "  envoy  a{k=v}  7\n" in done.stdout


def test_without_a_console_the_verb_says_so(tmp_path: Path) -> None:
    CliRunner().invoke(console_app, ["cluster", "create", "demo", "--data-dir", str(tmp_path)])

    done = CliRunner().invoke(console_app, ["telemetry", "demo", "--data-dir", str(tmp_path)])
    as_json = CliRunner().invoke(console_app, ["telemetry", "demo", "--data-dir", str(tmp_path), "--json"])

    assert "no console is serving this data directory" in done.stdout
    assert "no replica has answered yet" in done.stdout
    assert json.loads(as_json.stdout) == {"asked": False, "replicas": []}
