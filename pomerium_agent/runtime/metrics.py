"""What the agent counts of itself: every metric of ours has its name, its labels and its meaning here.

Those that only tell what is true at the moment are read from the agent when asked for: see `agent.gauges`.
"""

from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from prometheus_client.samples import Sample

from pomerium_agent.runtime.tally import Tally

PREFIX = "pomerium_"
_CALL_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0)


class Metrics:
    """The metrics of one process, in a registry of its own.

    A part that counts is given this object and touches one of its fields (`metrics.policies.set(3)`); whoever
    shows them calls `text`, `page` or `collect`. The names are those that Pomerium has for the same thing, where it
    has one: control planes ask by name (zero link 14), and dashboards know them, with a prefix.
    """

    def __init__(self) -> None:
        disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series per counter that says when it began, which nobody asks for
        self.registry = CollectorRegistry(auto_describe=False)
        self.build_info = Gauge(
            "build_info",
            "Which agent this is; always 1.",
            ("service", "version", "envoy_version"),
            registry=self.registry,
        )
        self.config_ok = Gauge(
            "config_last_reload_success", "Whether the newest configuration was taken, 1 or 0.", registry=self.registry
        )
        self.config_ok_at = Gauge(
            "config_last_reload_success_timestamp",
            "When a configuration was last taken, in seconds since 1970.",
            registry=self.registry,
        )
        self.config_faults = Gauge(
            "config_faults", "Parts of the configuration that were left out of what is served.", registry=self.registry
        )
        self.policies = Gauge("policy_count_total", "Routes of the configuration in force.", registry=self.registry)
        self.reports_sent = Counter(
            "control_plane_reports",
            "What was sent to the control plane, by kind: health, metrics, usage.",
            ("kind",),
            registry=self.registry,
        )
        self.logins = Counter(
            "logins",
            "Logins that came to their end here, by result: success, refused, unavailable.",
            ("result",),
            registry=self.registry,
        )
        self.databroker_seconds = Histogram(
            "databroker_call_duration_seconds",
            "How long calls to the store of records took, by operation.",
            ("operation",),
            buckets=_CALL_SECONDS,
            registry=self.registry,
        )
        self.databroker_errors = Counter(
            "databroker_call_errors",
            "Calls to the store of records that failed because it is out of reach, by operation.",
            ("operation",),
            registry=self.registry,
        )
        self.envoy_starts = Counter(
            "envoy_starts",
            "How often another Envoy began while this agent ran; the first one counts.",
            registry=self.registry,
        )
        self.scrapes = Counter(
            "metrics_requests",
            "Requests to the metrics listener, by result: ok, unauthorized, unavailable.",
            ("result",),
            registry=self.registry,
        )
        self.spans_dropped = Counter(
            "trace_spans_dropped",
            "Spans of this agent that were not sent: too many at once, or the collector did not take them.",
            registry=self.registry,
        )
        self.tally = Tally()
        self.registry.register(self.tally)
        for result in ("success", "refused", "unavailable"):  # so that a rate has something to begin from
            self.logins.labels(result)
        for result in ("ok", "unauthorized", "unavailable"):
            self.scrapes.labels(result)

    def text(self) -> bytes:
        """Everything, in the text format of Prometheus, as control planes know it."""
        return generate_latest(self.registry)

    def page(self) -> bytes:
        """The same with the prefix that Pomerium's metrics have when they are scraped."""
        prefixed = CollectorRegistry(auto_describe=False)
        prefixed.register(_Prefixed(self.registry))
        return generate_latest(prefixed)

    def collect(self) -> Iterable[Metric]:
        """Everything, as families of samples."""
        return self.registry.collect()


class _Prefixed(Collector):
    """The same families by longer names."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._registry = registry

    def collect(self) -> Iterator[Metric]:
        for family in self._registry.collect():
            longer = Metric(PREFIX + family.name, family.documentation, family.type)
            longer.samples = [_prefixed(sample) for sample in family.samples]
            yield longer


def _prefixed(sample: Sample) -> Sample:
    return sample._replace(name=PREFIX + sample.name)
