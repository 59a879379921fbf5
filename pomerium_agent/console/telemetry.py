"""Metrics of replicas: asked for by a person, kept until the next answer of the same replica (zero link 14)."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from opentelemetry.proto.metrics.v1.metrics_pb2 import ScopeMetrics

from pomerium_agent.console.database import Database
from pomerium_agent.console.sightings import Sighting
from pomerium_agent.pb.pomerium import connect_pb2
from pomerium_agent.runtime.otlp_words import described

MAX_SERIES = 2_000  # of one answer that are kept
MAX_TEXT = 1_024  # characters of a name, label or value
SESSIONS = "pomerium-cluster"

# What is asked for unless somebody says otherwise: how busy a replica is, and whether it has its configuration.
ENVOY_METRICS = (
    "envoy_server_live",
    "envoy_server_uptime",
    "envoy_server_memory_allocated",
    "envoy_server_total_connections",
    "envoy_http_downstream_cx_active",
    "envoy_http_downstream_rq_total",
    "envoy_http_downstream_rq_xx",
)
AGENT_METRICS = (
    "build_info",
    "config_last_reload_success",
    "config_last_reload_success_timestamp",
    "config_faults",
    "policy_count_total",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Telemetry:
    """What one replica answered last. `dau` and `mau` come from whoever had the lease, and are None of others."""

    instance: str
    hostname: str
    at: datetime
    scopes: Sequence[Mapping[str, Any]]
    dau: int | None
    mau: int | None

    def to_json(self) -> dict[str, object]:
        return {
            "instance": self.instance,
            "hostname": self.hostname,
            "at": self.at.isoformat(),
            "dau": self.dau,
            "mau": self.mau,
            "scopes": list(self.scopes),
        }


def telemetry_request(envoy: Iterable[str], agent: Iterable[str]) -> connect_pb2.TelemetryRequest:
    """A request for these metrics, and for the numbers of active users."""
    return connect_pb2.TelemetryRequest(
        session_analytics=connect_pb2.SessionAnalyticsRequest(),
        envoy_metrics=connect_pb2.EnvoyMetricsRequest(metrics=envoy),
        pomerium_metrics=connect_pb2.PomeriumMetricsRequest(metrics=agent),
    )


def save_telemetry(database: Database, replica: Sighting, scopes: Iterable[ScopeMetrics], now: datetime) -> None:
    """Keep an answer in place of the one before, within the limits of what is kept of a replica's words."""
    kept = cut(described(scopes))
    users = {each["name"]: each.get("value") for each in _metrics_of(kept, SESSIONS)}
    dau, mau = (value if isinstance(value := users.get(name), int) else None for name in ("dau", "mau"))
    with database.write() as db:
        db.execute(
            "INSERT OR REPLACE INTO telemetry VALUES (?, ?, ?, ?, ?, ?)",
            (replica.cluster_id, replica.instance, now.isoformat(), json.dumps(kept), dau, mau),
        )


def cut(scopes: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The first series, with texts of a bounded length."""
    kept: list[dict[str, Any]] = []
    left = MAX_SERIES
    for scope in scopes:
        metrics = [_cut(metric) for metric in scope["metrics"][:left]]
        left -= len(metrics)
        kept.append({"scope": str(scope["scope"])[:MAX_TEXT], "metrics": metrics})
        if left <= 0:
            break
    return kept


def _cut(metric: Mapping[str, Any]) -> dict[str, Any]:
    labels = {k[:MAX_TEXT]: v[:MAX_TEXT] for k, v in sorted(metric["labels"].items())[:32]}
    return {**metric, "name": metric["name"][:MAX_TEXT], "labels": labels}


def _metrics_of(scopes: Iterable[Mapping[str, Any]], name: str) -> list[Mapping[str, Any]]:
    return [metric for scope in scopes if scope["scope"] == name for metric in scope["metrics"]]


def read_telemetry(database: Database, cluster_id: str) -> tuple[Telemetry, ...]:
    """The latest answer of every replica, the newest first."""
    rows = database.read(
        "SELECT telemetry.*, replica.hostname FROM telemetry JOIN replica USING (cluster_id, instance) "
        "WHERE cluster_id = ? ORDER BY at DESC, instance",
        (cluster_id,),
    )
    return tuple(
        Telemetry(
            instance=row["instance"],
            hostname=row["hostname"],
            at=datetime.fromisoformat(row["at"]),
            scopes=json.loads(row["scopes"]),
            dau=row["dau"],
            mau=row["mau"],
        )
        for row in rows
    )


def active_users(answers: Iterable[Telemetry]) -> Telemetry | None:
    """The newest answer that says how many people there are: the lease moves, and with it who says so."""
    return next((each for each in answers if each.dau is not None or each.mau is not None), None)
