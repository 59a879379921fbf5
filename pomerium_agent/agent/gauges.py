"""What is true of this replica at the moment, as metrics: read off the board whenever somebody asks."""

from collections.abc import Iterator
from datetime import datetime
from functools import lru_cache

from cryptography import x509
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from pomerium_agent.agent.board import Board
from pomerium_agent.authenticate.manager.run import LEASE as IDENTITY_LEASE
from pomerium_agent.config.snapshot import Certificate
from pomerium_agent.databroker.bundle_entry import BUNDLE_LEASE
from pomerium_agent.envoy.ads_stream import SHORT_NAMES

LEASES = (BUNDLE_LEASE, IDENTITY_LEASE)


class BoardGauges(Collector):
    """Parts that are not there yet have no metrics."""

    def __init__(self, board: Board) -> None:
        self._board = board

    def collect(self) -> Iterator[Metric]:
        """All of them; reads memory only."""
        yield from self._replica()
        yield from self._control_plane()
        yield from self._configuration()
        yield from self._envoy()
        yield from self._records()
        yield from self._certificates()

    def _replica(self) -> Iterator[Metric]:
        board = self._board
        yield _gauge("ready", "Whether visitors are served and more may come, 1 or 0.", board.ready)
        checks = GaugeMetricFamily("health_check", "Whether a check is well, 1 or 0, by its name.", labels=("check",))
        for name, report in sorted(board.health.reports.items()):
            checks.add_metric((name,), float(not report.error))
        yield checks

    def _control_plane(self) -> Iterator[Metric]:
        link = self._board.link
        connected = bool(link and link.connection.value.connected)
        yield _gauge("control_plane_connected", "Whether the line to the control plane is up, 1 or 0.", connected)
        if link is None:
            return
        welcome = link.standing.welcome
        yield _gauge("control_plane_welcome", "0 when the control plane has refused our cluster token.", welcome)
        left = link.api.tokens.seconds_left
        if left is not None:
            text = "Seconds until the bearer that the cluster token was exchanged for expires."
            yield _gauge("control_plane_token_remaining_seconds", text, left)

    def _configuration(self) -> Iterator[Metric]:
        board = self._board
        offered, stale = board.offered, board.stale
        text = "Whether only the last configuration known to be good is served, 1 or 0."
        yield _gauge("config_last_good_in_use", text, stale is not None)
        if stale is not None:
            text = "When that configuration was known to be in force, in seconds since 1970."
            yield _gauge("config_last_good_timestamp_seconds", text, stale.timestamp())
        if offered is None:
            return
        newest = max((record.version for record in offered.records), default=0)
        yield _gauge("config_db_version", "Version of the newest record the configuration is made of.", newest)
        yield _gauge("config_records", "Records that the configuration is made of.", len(offered.records))

    def _envoy(self) -> Iterator[Metric]:
        board = self._board
        yield _gauge("envoy_running", "Whether Envoy runs, 1 or 0.", bool(board.envoy_pid.value))
        if board.ads is None:
            return
        counted = board.ads.counters
        answers = CounterMetricFamily(
            "xds_answers",
            "What Envoy said to resources that it was sent, by type and result: ack, nack.",
            labels=("type", "result"),
        )
        for kind in SHORT_NAMES.values():
            for result in ("ack", "nack"):
                answers.add_metric((kind, result), counted.get(f"{kind}_{result}s", 0))
        yield answers
        yield CounterMetricFamily(
            "xds_streams", "Times Envoy connected for its configuration.", counted.get("streams", 0)
        )
        refused = len(board.ads.delivery.value.rejections)
        yield _gauge("xds_refused_resources", "Resources of the newest configuration that Envoy refuses.", refused)

    def _records(self) -> Iterator[Metric]:
        board = self._board
        if board.people is not None:
            text = "Sessions and service accounts that this replica knows."
            yield _gauge("sessions", text, len(board.people.sessions))
        if board.databroker is not None:
            held = board.databroker.leases
            leases = GaugeMetricFamily(
                "databroker_lease_held", "Whether this replica holds a lease, 1 or 0, by its name.", labels=("lease",)
            )
            for name in LEASES:
                leases.add_metric((name,), float(name in held))
            yield leases
        if board.log_ends is not None:
            text = "Newest version in the change log of the store of records."
            yield _gauge("databroker_record_version", text, board.log_ends.latest_record_version)
            text = "Oldest version that is still in that change log."
            yield _gauge("databroker_oldest_record_version", text, board.log_ends.earliest_record_version)

    def _certificates(self) -> Iterator[Metric]:
        offered = self._board.offered
        if offered is None:
            return
        settings = offered.snapshot.settings
        ends = GaugeMetricFamily(
            "certificate_expiry_timestamp_seconds",
            "When a certificate that visitors or scrapers are shown ends, in seconds since 1970, by its first name.",
            labels=("name", "id", "listener"),
        )
        shown = [("main", each) for each in settings.certificates if not each.self_signed_fallback]
        if settings.metrics is not None and settings.metrics.certificate is not None:
            shown.append(("metrics", settings.metrics.certificate))
        for listener, each in shown:
            ends.add_metric((next(iter(each.names), ""), each.id[:8], listener), _end(each).timestamp())
        yield ends


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(name, text, value=float(value))


@lru_cache(maxsize=4096)
def _end(certificate: Certificate) -> datetime:
    """Remembered, since parsing is slow."""
    return x509.load_pem_x509_certificate(certificate.chain.encode()).not_valid_after_utc
