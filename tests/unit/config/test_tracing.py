"""Where traces go, as the settings otel_* say (routes 7.7)."""

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest

from pomerium_agent.config.complaints import Unusable
from pomerium_agent.config.tracing import Tracing
from pomerium_agent.config.tracing_values import (
    parse_attributes,
    parse_collector,
    parse_exporter,
    parse_headers,
    parse_otel_log_level,
    parse_protocol,
    parse_ratio,
)
from pomerium_agent.settings import Secret

HERE = "http://127.0.0.1:4317"


def test_nothing_is_traced_unless_there_is_an_exporter_and_a_place_for_it() -> None:
    assert Tracing().target is None
    assert Tracing(exporter=True).target is None
    assert Tracing(endpoint=HERE).target is None
    assert Tracing(exporter=True, endpoint=HERE).target is not None


@pytest.mark.parametrize(
    ("tracing", "url", "http"),
    [
        (Tracing(endpoint=HERE), HERE, False),
        (Tracing(endpoint="http://c:4318"), "http://c:4318/v1/traces", True),
        (Tracing(endpoint="http://c:4318/", protocol="grpc"), "http://c:4318/", False),
        (Tracing(endpoint="https://c/otlp", protocol="http/protobuf"), "https://c/otlp/v1/traces", True),
        (Tracing(endpoint=HERE, traces_endpoint="https://t/x", traces_protocol="http/protobuf"), "https://t/x", True),
        (Tracing(endpoint=HERE, protocol="http/protobuf", traces_protocol="grpc"), HERE, False),
    ],
)
def test_what_is_said_for_traces_alone_wins_and_the_port_tells_the_protocol(
    tracing: Tracing,
    url: str,
    http: bool,  # a column of the table
) -> None:
    target = replace(tracing, exporter=True).target

    assert target is not None
    assert (target.url, target.http) == (url, http)


def test_times_and_headers_of_traces_win_too() -> None:
    tracing = Tracing(
        exporter=True,
        endpoint=HERE,
        timeout=timedelta(seconds=3),
        traces_timeout=timedelta(seconds=4),
        headers=(("a", Secret("1")),),
        traces_headers=(("b", Secret("2")),),
    )

    target = tracing.target

    assert target is not None
    assert target.timeout == timedelta(seconds=4)
    assert target.headers == (("b", Secret("2")),)
    assert "headers" not in repr(target)


@pytest.mark.parametrize(("text", "there"), [("", False), ("none", False), (" NoOp ", False), ("otlp", True)])
def test_exporters(text: str, there: bool) -> None:  # a column of the table
    assert parse_exporter(text) is there


def test_pairs_are_read_as_opentelemetry_writes_them() -> None:
    assert parse_attributes(["a=1", "b=x%3Dy", "a=2"]) == (("a", "2"), ("b", "x=y"))
    assert parse_headers(["Authorization=Basic%20abc="]) == (("authorization", Secret("Basic abc=")),)


@pytest.mark.parametrize("url", ["c:4317", "ftp://c", "http://u:p@c", "http://c?x=1", "http://", "http://c,2"])
def test_what_is_no_collector(url: str) -> None:
    with pytest.raises(Unusable):
        parse_collector(url)


@pytest.mark.parametrize(
    "refuse",
    [
        lambda: parse_ratio(1.5),
        lambda: parse_ratio(float("nan")),
        lambda: parse_protocol("http/json"),
        lambda: parse_exporter("jaeger"),
        lambda: parse_otel_log_level("loud"),
        lambda: parse_attributes(["nothing"]),
    ],
)
def test_what_cannot_be_meant_is_refused(refuse: Callable[[], object]) -> None:
    with pytest.raises(Unusable):
        refuse()


@pytest.mark.parametrize(
    "name", ["host", "Host", ":authority", "te", "content-type", "grpc-timeout", "key-bin", "x!y", "", "-x", "x y"]
)
def test_what_envoy_or_grpc_would_refuse_as_a_header_costs_nobody_a_listener(name: str) -> None:
    """R-4: a broken value troubles its own field and nothing else."""
    with pytest.raises(Unusable):
        parse_headers([f"{name}=value"])


def test_no_complaint_shows_the_value_of_a_header() -> None:
    with pytest.raises(Unusable) as refused:
        parse_headers(["x-key=planted\nsecret"])
    assert "planted" not in f"{refused.value.reason} {refused.value.remedy}"
