"""OTLP metrics as JSON-ready values, for people at either end of the line. Pure."""

import math
from collections.abc import Iterable, Iterator

from opentelemetry.proto.metrics.v1.metrics_pb2 import HistogramDataPoint, Metric, ScopeMetrics


def described(scopes: Iterable[ScopeMetrics]) -> list[dict[str, object]]:
    """Every series as JSON-ready values: a number, or for a histogram its count and sum."""
    return [
        {"scope": scope.scope.name, "metrics": [each for metric in scope.metrics for each in _described(metric)]}
        for scope in scopes
    ]


def _described(metric: Metric) -> Iterator[dict[str, object]]:
    kind = metric.WhichOneof("data")
    if kind not in ("gauge", "sum", "histogram"):
        return
    data = getattr(metric, kind)
    for point in data.data_points:
        value: dict[str, object]
        if isinstance(point, HistogramDataPoint):
            value = {"count": point.count, "sum": _finite(point.sum)}
        else:
            number = point.as_int if point.WhichOneof("value") == "as_int" else point.as_double
            value = {"value": _finite(number)}
        labels = {each.key: each.value.string_value for each in point.attributes}
        yield {"name": metric.name, "kind": kind, "labels": labels, **value}


def _finite(number: float) -> float | str:
    """JSON has no words for the others."""
    return number if math.isfinite(number) else str(number)
