"""What was last sent to the control plane about this replica, kept for whoever asks on this machine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from opentelemetry.proto.metrics.v1.metrics_pb2 import ScopeMetrics

from pomerium_agent.runtime.health import Report
from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.runtime.otlp_words import described

USERS_KEPT = 1000  # of one usage report
CHECKS_KEPT = 1000

User = Mapping[str, str]


@dataclass(slots=True)
class Sent:
    """Written by those who send, and only after the other side has taken it."""

    metrics: Metrics = field(default_factory=Metrics)
    _health: dict[str, tuple[Report, datetime, datetime]] = field(default_factory=dict, repr=False)
    _scopes: tuple[ScopeMetrics, ...] = field(default=(), repr=False)
    _scopes_at: datetime | None = None
    _users: tuple[User, ...] = field(default=(), repr=False)
    _users_count: int = 0
    _users_at: datetime | None = None

    def health(self, report: Report, made_at: datetime, sent_at: datetime) -> None:
        """One health report has arrived."""
        self._health.pop(report.check, None)
        self._health[report.check] = report, made_at, sent_at
        if len(self._health) > CHECKS_KEPT:
            del self._health[next(iter(self._health))]
        self.metrics.reports_sent.labels("health").inc()

    def exported(self, scopes: Sequence[ScopeMetrics], at: datetime) -> None:
        """One export of metrics has arrived."""
        self._scopes, self._scopes_at = tuple(scopes), at
        self.metrics.reports_sent.labels("metrics").inc()

    def usage(self, users: Sequence[User], at: datetime) -> None:
        """One usage report has arrived."""
        self._users, self._users_count, self._users_at = tuple(users[:USERS_KEPT]), len(users), at
        self.metrics.reports_sent.labels("usage").inc()

    def to_json(self) -> dict[str, object]:
        """Everything, as it went out; None stands for what was never sent."""
        return {
            "health": [
                {
                    "check": check,
                    "error": report.error,
                    "attributes": dict(report.attributes),
                    "at": made_at.isoformat(),
                    "sent_at": sent_at.isoformat(),
                }
                for check, (report, made_at, sent_at) in sorted(self._health.items())
            ],
            "metrics": None
            if self._scopes_at is None
            else {"sent_at": self._scopes_at.isoformat(), "scopes": described(self._scopes)},
            "usage": None
            if self._users_at is None
            else {
                "sent_at": self._users_at.isoformat(),
                "count": self._users_count,
                "users": [dict(user) for user in self._users],
            },
        }
