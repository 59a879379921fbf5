"""From the text format of Prometheus to OTLP (zero link 14)."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st
from opentelemetry.proto.metrics.v1.metrics_pb2 import Metric

from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.runtime.otlp_words import described
from pomerium_agent.zero.otlp_metrics import CUMULATIVE, families, user_gauges

SINCE, NOW = datetime(2030, 1, 1, tzinfo=UTC), datetime(2030, 1, 2, tzinfo=UTC)
NANOS = 10**9

# As a real Envoy writes it.
TEXT = """\
# TYPE envoy_cluster_upstream_cx_total counter
envoy_cluster_upstream_cx_total{envoy_cluster_name="a",route="r"} 3
envoy_cluster_upstream_cx_total{envoy_cluster_name="b",route="r"} 4

# TYPE envoy_listener_ssl_ocsp counter
envoy_listener_ssl_ocsp{} 0

# TYPE envoy_server_live gauge
envoy_server_live{} 1

# TYPE envoy_http_rq_time histogram
envoy_http_rq_time_bucket{prefix="p",le="0.5"} 1
envoy_http_rq_time_bucket{prefix="p",le="1"} 3
envoy_http_rq_time_bucket{prefix="p",le="+Inf"} 10
envoy_http_rq_time_sum{prefix="p"} 40.5
envoy_http_rq_time_count{prefix="p"} 10

# TYPE odd summary
odd{quantile="0.5"} 1
"""


def converted(*names: str, labels: tuple[str, ...] = (), text: str = TEXT) -> list[Metric]:
    return list(families("envoy", text, names, labels, since=SINCE, now=NOW).metrics)


def labels_of(metric: Metric) -> dict[str, str]:
    [point] = getattr(metric, metric.WhichOneof("data") or "").data_points
    return {each.key: each.value.string_value for each in point.attributes}


def test_a_counter_is_a_growing_sum_per_series() -> None:
    """Z-57: cumulative, from when telemetry began; the name stays as it was."""
    one, two = converted("envoy_cluster_upstream_cx_total")

    assert one.name == two.name == "envoy_cluster_upstream_cx_total"
    assert (one.sum.is_monotonic, one.sum.aggregation_temporality) == (True, CUMULATIVE)
    [point] = two.sum.data_points
    assert (point.as_double, point.WhichOneof("value")) == (4.0, "as_double")
    assert point.start_time_unix_nano == int(SINCE.timestamp()) * NANOS
    assert point.time_unix_nano == int(NOW.timestamp()) * NANOS
    assert labels_of(two) == {"envoy_cluster_name": "b", "route": "r"}


def test_a_counter_whose_name_does_not_say_so_keeps_its_name() -> None:
    """Z-57: libraries like to add `_total`."""
    assert [metric.name for metric in converted("envoy_listener_ssl_ocsp")] == ["envoy_listener_ssl_ocsp"]


def test_a_gauge_is_a_gauge() -> None:
    """Z-57."""
    [metric] = converted("envoy_server_live")
    assert metric.gauge.data_points[0].as_double == 1.0


def test_a_histogram_has_counts_per_bucket_and_no_infinite_bound() -> None:
    """Z-57."""
    [metric] = converted("envoy_http_rq_time")

    [point] = metric.histogram.data_points
    assert metric.histogram.aggregation_temporality == CUMULATIVE
    assert list(point.explicit_bounds) == [0.5, 1.0]
    assert list(point.bucket_counts) == [1, 2, 7]
    assert (point.count, point.sum) == (10, 40.5)
    assert labels_of(metric) == {"prefix": "p"}


def test_only_the_labels_that_are_asked_for_are_kept() -> None:
    """Zero link 14: an empty list keeps all, and leaving some out merges no series."""
    found = converted("envoy_cluster_upstream_cx_total", "envoy_http_rq_time", labels=("route",))

    assert [labels_of(metric) for metric in found] == [{"route": "r"}, {"route": "r"}, {}]


def test_what_cannot_be_converted_is_left_out_and_the_rest_is_not() -> None:
    """Z-57, without the quirk: one summary does not silence an Envoy."""
    broken = TEXT + "# TYPE torn histogram\ntorn_bucket{le="
    backwards = '# TYPE back histogram\nback_bucket{le="1"} 5\nback_bucket{le="2"} 3\nback_count 3\n'

    found = converted("odd", "envoy_server_live", "torn", "back", "absent", text=broken + "\n" + backwards)

    assert [metric.name for metric in found] == ["envoy_server_live"]


@pytest.mark.parametrize(
    "lines",
    [
        'h_bucket{le="1"} +Inf\nh_count 1\n',
        'h_bucket{le="1"} 1\nh_count +Inf\n',
        'h_bucket{le="1"} NaN\nh_count 1\n',
        'h_bucket{le="1"} 1e30\nh_count 1e30\n',
        'h_bucket{le="+Inf"} 1\nh_count 1e30\n',
        'h_bucket{le="x"} 1\nh_count 1\n',
        "h_bucket 1\nh_count 1\n",
    ],
)
def test_a_histogram_whose_numbers_are_none_is_left_out_and_the_rest_is_not(lines: str) -> None:
    """Z-57, zero link 14."""
    found = converted("h", "envoy_server_live", text=f"{TEXT}\n# TYPE h histogram\n{lines}")

    assert [metric.name for metric in found] == ["envoy_server_live"]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(['h_bucket{le="1"}', 'h_bucket{le="+Inf"}', "h_bucket", "h_sum", "h_count", "h"]),
            st.one_of(st.floats().map(str), st.integers().map(str), st.text(max_size=5)),
        )
    )
)
def test_no_number_breaks_the_conversion(lines: list[tuple[str, str]]) -> None:
    for kind in ("histogram", "counter", "gauge"):
        text = f"# TYPE h {kind}\n" + "".join(f"{name} {value}\n" for name, value in lines)
        families("envoy", text, ("h",), (), since=SINCE, now=NOW)


@pytest.mark.parametrize("count", [2**63, -(2**63) - 1, 10**300])
def test_users_that_nobody_can_have_are_left_out(count: int) -> None:
    """Zero link 14: the store of records may hold anything."""
    scope = user_gauges({"dau": count, "mau": 3}, NOW)

    assert [metric.name for metric in scope.metrics] == ["mau"]


def test_active_users_are_whole_numbers_with_a_unit() -> None:
    """Z-55, Z-56."""
    scope = user_gauges({"dau": 2, "mau": 3}, NOW)

    assert scope.scope.name == "pomerium-cluster"
    assert [(m.name, m.unit, m.gauge.data_points[0].as_int) for m in scope.metrics] == [
        ("dau", "unique users", 2),
        ("mau", "unique users", 3),
    ]
    assert not scope.metrics[0].gauge.data_points[0].attributes


def test_the_agents_own_metrics_are_asked_for_by_their_exact_names() -> None:
    """Zero link 14, core."""
    metrics = Metrics()
    metrics.reports_sent.labels("usage").inc()

    found = converted("control_plane_reports_total", "policy_count", text=metrics.text().decode())

    [only] = found
    assert (only.name, labels_of(only), only.sum.data_points[0].as_double) == (
        "control_plane_reports_total",
        {"kind": "usage"},
        1.0,
    )


@given(st.text(alphabet='# TYPEabc{}="0123456789.+InfNa\n_', max_size=200))
def test_no_text_breaks_the_conversion(text: str) -> None:
    families("envoy", "# TYPE a histogram\n" + text, ("a", "b", "c"), (), since=SINCE, now=NOW)


@pytest.mark.parametrize(("value", "shown"), [("2.5", 2.5), ("+Inf", "inf"), ("NaN", "nan")])
def test_every_value_can_be_shown_as_json(value: str, shown: object) -> None:
    scope = families("envoy", f'# TYPE a gauge\na{{k="v"}} {value}\n', ("a",), (), since=SINCE, now=NOW)

    assert described([scope]) == [
        {"scope": "envoy", "metrics": [{"name": "a", "kind": "gauge", "labels": {"k": "v"}, "value": shown}]}
    ]
