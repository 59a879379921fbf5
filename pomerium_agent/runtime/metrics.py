"""What the agent counts of itself: every metric of ours has its name, its labels and its meaning here."""

from collections.abc import Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, disable_created_metrics, generate_latest
from prometheus_client.metrics_core import Metric


class Metrics:
    """The metrics of one process, in a registry of its own.

    A part that counts is given this object and touches one of its fields (`metrics.policies.set(3)`); whoever
    shows them calls `text`, or `collect`. The names are those that Pomerium has for the same thing, where it has
    one: control planes ask by name (zero link 14), and dashboards know them.
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

    def text(self) -> bytes:
        """Everything, in the text format of Prometheus."""
        return generate_latest(self.registry)

    def collect(self) -> Iterable[Metric]:
        """Everything, as families of samples."""
        return self.registry.collect()
