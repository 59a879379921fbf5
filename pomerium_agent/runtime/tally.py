"""What is counted at every request: plain numbers, which cost next to nothing until somebody asks for them."""

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

# Upper bounds in nanoseconds: a remembered answer takes some 20 µs, one that waits for the store milliseconds.
BOUNDS = tuple(
    1000 * each
    for each in (10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 500_000, 2_500_000)
)
MOST_REASONS = 200  # sets of reasons that are told apart: those of a policy in Rego may be anything
OTHER = ("other",)


class Cell:
    """One count, for whoever is about to count the same thing again."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Tally(Collector):
    """Decisions by outcome and reasons, how long they took, how many were remembered, and how many failed."""

    def __init__(self) -> None:
        self.failed = 0
        self.remembered = 0
        self._cells: dict[tuple[str, tuple[str, ...]], Cell] = {}
        self._times = [0] * (len(BOUNDS) + 1)
        self._nanoseconds = 0

    def cell(self, outcome: str, reasons: tuple[str, ...]) -> Cell:
        """Where decisions with this outcome and these reasons are counted."""
        found = self._cells.get((outcome, reasons))
        if found is None:
            if len(self._cells) >= MOST_REASONS:
                reasons = OTHER
            found = self._cells.setdefault((outcome, reasons), Cell())
        return found

    def took(self, nanoseconds: int) -> None:
        """One decision has been made."""
        self._times[bisect_left(BOUNDS, nanoseconds)] += 1
        self._nanoseconds += nanoseconds

    def collect(self) -> Iterator[Metric]:
        """As Prometheus has them."""
        decisions = CounterMetricFamily(
            "authorize_decisions",
            "Decisions, by outcome (allow, deny, login, enroll, certificate) and the reasons for it, joined by `+`.",
            labels=("outcome", "reason"),
        )
        for (outcome, reasons), cell in self._cells.items():
            decisions.add_metric((outcome, "+".join(reasons)), cell.count)
        yield decisions
        yield CounterMetricFamily(
            "authorize_remembered_decisions", "Decisions that were remembered answers.", value=self.remembered
        )
        yield CounterMetricFamily(
            "authorize_failures", "Checks without a decision, which Envoy answers with 503.", value=self.failed
        )
        seconds = HistogramMetricFamily(
            "authorize_decision_duration_seconds", "How long decisions took, from question to answer."
        )
        bounds = (*(f"{bound / 1e9:g}" for bound in BOUNDS), "+Inf")
        seconds.add_metric((), list(zip(bounds, accumulate(self._times), strict=True)), self._nanoseconds / 1e9)
        yield seconds
