"""From the text format of Prometheus to OTLP, one series after the other. Pure (zero link 14, Z-57)."""

import math
from collections.abc import Collection, Iterable, Iterator, Mapping
from datetime import datetime

import structlog
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, InstrumentationScope, KeyValue
from opentelemetry.proto.metrics.v1.metrics_pb2 import (
    AggregationTemporality,
    Gauge,
    Histogram,
    HistogramDataPoint,
    Metric,
    NumberDataPoint,
    ScopeMetrics,
    Sum,
)
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.samples import Sample

log = structlog.get_logger(__name__)

SESSIONS, ENVOY, CORE = "pomerium-cluster", "envoy", "pomerium-managed-core"
CUMULATIVE = AggregationTemporality.AGGREGATION_TEMPORALITY_CUMULATIVE
COUNT_LIMIT = 2**63  # what OTLP has room for
Labels = tuple[tuple[str, str], ...]


def user_gauges(counts: Mapping[str, int], now: datetime) -> ScopeMetrics:
    """`dau` and `mau` as int64 gauges (Z-55, Z-56); a number that does not fit is left out."""
    return _scope(
        SESSIONS,
        (
            Metric(
                name=name,
                unit="unique users",
                gauge=Gauge(data_points=[NumberDataPoint(time_unix_nano=_nanos(now), as_int=count)]),
            )
            for name, count in counts.items()
            if abs(count) < COUNT_LIMIT
        ),
    )


def families(
    scope: str, text: str, names: Collection[str], labels: Collection[str], *, since: datetime, now: datetime
) -> ScopeMetrics:
    """The families of `names`, one OTLP metric per series, with the `labels` (none named: with all).

    Only what is asked for is read: Envoy's text has tens of thousands of lines. What cannot be converted is left out.
    """
    wanted = frozenset(names)
    found: list[Metric] = []
    for name, kind, lines in _families(text, wanted):
        try:
            samples = [
                sample for family in text_string_to_metric_families("\n".join(lines)) for sample in family.samples
            ]
            found += _metrics(name, kind, samples, frozenset(labels), since=since, now=now)
        except ValueError as error:
            log.warning("metric left out", metric=name, reason=str(error))
    return _scope(scope, found)


def _families(text: str, wanted: Collection[str]) -> Iterator[tuple[str, str, list[str]]]:
    """Name, kind and sample lines of each wanted family, as its TYPE line names it."""
    name, kind, lines = "", "", list[str]()
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            if name in wanted:
                yield name, kind, lines
            name, _, kind = line.removeprefix("# TYPE ").partition(" ")
            lines = []
        elif name in wanted and line and not line.startswith("#"):
            lines.append(line)
    if name in wanted:
        yield name, kind, lines


def _metrics(
    name: str, kind: str, samples: Iterable[Sample], keep: Collection[str], *, since: datetime, now: datetime
) -> Iterator[Metric]:
    match kind.strip():
        case "counter":
            for sample in samples:
                point = _number(sample, keep, now)
                point.start_time_unix_nano = _nanos(since)
                yield Metric(
                    name=name, sum=Sum(data_points=[point], aggregation_temporality=CUMULATIVE, is_monotonic=True)
                )
        case "gauge":
            for sample in samples:
                yield Metric(name=name, gauge=Gauge(data_points=[_number(sample, keep, now)]))
        case "histogram":
            yield from _histograms(name, samples, keep, since=since, now=now)
        case other:
            raise ValueError(f"it is of type {other or 'unknown'}")


def _number(sample: Sample, keep: Collection[str], now: datetime) -> NumberDataPoint:
    return NumberDataPoint(
        attributes=_attributes(_labels(sample, keep)), time_unix_nano=_nanos(now), as_double=float(sample.value)
    )


def _histograms(
    name: str, samples: Iterable[Sample], keep: Collection[str], *, since: datetime, now: datetime
) -> Iterator[Metric]:
    """Counts that grow with their bound become counts per bucket; the bound `+Inf` is not written down."""
    series: dict[Labels, list[Sample]] = {}
    for sample in samples:  # all labels tell series apart, also those that are not kept
        series.setdefault(_labels(sample, (), but="le"), []).append(sample)
    for group in series.values():
        buckets, total, count = list[tuple[float, int]](), 0.0, 0
        for sample in group:
            if sample.name == f"{name}_bucket":
                buckets.append((float(sample.labels.get("le", "")), _count(sample)))
            elif sample.name == f"{name}_sum":
                total = sample.value
            elif sample.name == f"{name}_count":
                count = _count(sample)
        buckets.sort()
        if not buckets or not math.isinf(buckets[-1][0]):
            buckets.append((math.inf, count))
        per_bucket = [n - before for (_, n), before in zip(buckets, [0, *(n for _, n in buckets)], strict=False)]
        if any(number < 0 for number in per_bucket):
            raise ValueError("its buckets do not add up")
        yield Metric(
            name=name,
            histogram=Histogram(
                aggregation_temporality=CUMULATIVE,
                data_points=[
                    HistogramDataPoint(
                        attributes=_attributes(_labels(group[0], keep, but="le")),
                        start_time_unix_nano=_nanos(since),
                        time_unix_nano=_nanos(now),
                        count=count,
                        sum=total,
                        explicit_bounds=[bound for bound, _ in buckets[:-1]],
                        bucket_counts=per_bucket,
                    )
                ],
            ),
        )


def _count(sample: Sample) -> int:
    if not 0 <= sample.value < COUNT_LIMIT:  # also what is no number at all
        raise ValueError(f"{sample.name} is {sample.value}, which is no count")
    return int(sample.value)


def _labels(sample: Sample, keep: Collection[str], but: str = "") -> Labels:
    return tuple(sorted((k, v) for k, v in sample.labels.items() if k != but and (not keep or k in keep)))


def _attributes(labels: Labels) -> list[KeyValue]:
    return [KeyValue(key=key, value=AnyValue(string_value=value)) for key, value in labels]


def _scope(name: str, metrics: Iterable[Metric]) -> ScopeMetrics:
    return ScopeMetrics(scope=InstrumentationScope(name=name), metrics=metrics)


def _nanos(moment: datetime) -> int:
    return int(moment.timestamp() * 1_000_000) * 1000
