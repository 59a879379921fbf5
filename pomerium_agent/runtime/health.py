"""What each part says of itself: one latest report per named check, offered upward (zero link 13)."""

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import structlog

log = structlog.get_logger(__name__)


class Check(StrEnum):
    """The named checks (zero link 13.2). Bundle checks carry an id: see `bundle_check`."""

    ZERO_CONNECT = "zero.connect"
    ZERO_TOKEN = "zero.token"  # noqa: S105  # of our own: the cluster token in use, and one that cannot take its place
    ZERO_LEASE = "zero.lease"  # of our own: whether this replica is the one that brings in the bundles
    ZERO_BOOTSTRAP_SAVE = "zero.bootstrap-config.save"
    ZERO_TELEMETRY = "zero.telemetry.collect-and-send"
    ROUTES_REACHABLE = "routes.reachable"
    DATABROKER_SYNC = "databroker.sync.initial"
    STORAGE = "storage.backend"
    STORAGE_CLEANUP = "storage.backend.cleanup"
    DATABROKER_SERVICE = "databroker.service"  # of our own: the address for clients outside of this process
    CONFIG_BUILD = "config.databroker.build"
    LAST_GOOD = "config.last-good"  # of our own: what is kept on this machine for a start without the control plane
    XDS_CLUSTER = "xds.cluster"
    XDS_LISTENER = "xds.listener"
    XDS_ROUTES = "xds.route-configuration"
    XDS_OTHER = "xds.other"
    ENVOY = "envoy.server"
    AUTHORIZE = "authorize.service"
    SERVERLESS = "authorize.serverless"  # of our own: identity tokens for Google's platforms
    AUTHENTICATE = "authenticate.service"
    PROXY = "proxy.service"
    IDENTITY_MANAGER = "identity.manager"  # ours: the reference has no check for it


BUNDLES = "zero.resource-bundle."  # what the checks of resource bundles begin with


def bundle_check(bundle_id: str) -> str:
    """The check of one resource bundle."""
    return f"{BUNDLES}{bundle_id}"


def provider_check(name: str) -> str:
    """The check of one identity provider whose JWTs are let in."""
    return f"identity-provider.{name}"


class Status(StrEnum):
    UNKNOWN = "UNKNOWN"
    RUNNING = "RUNNING"
    TERMINATING = "TERMINATING"


@dataclass(frozen=True, slots=True)
class Report:
    """One check at one moment. `error` is empty when all is well; an error keeps the status it found."""

    check: str
    status: Status = Status.UNKNOWN
    error: str = ""
    attributes: Mapping[str, str] = field(default_factory=dict)

    @property
    def healthy(self) -> bool:
        return self.status is Status.RUNNING and not self.error


class Health:
    """The registry of one process. A report equal to the one before is dropped (Z-52)."""

    def __init__(self) -> None:
        self._reports: dict[str, Report] = {}
        self._sequence: dict[str, int] = {}
        self._last = 0
        self._changed = asyncio.Event()
        self._hushed = False

    def hush(self) -> None:
        """Take no more reports: what stops here goes on elsewhere."""
        self._hushed = True

    def running(self, check: str, /, **attributes: str) -> None:
        """All is well with `check`."""
        self._put(Report(check, Status.RUNNING, "", attributes))

    def failed(self, check: str, error: str, attributes: Mapping[str, str] | None = None) -> None:
        """Something is wrong with `check`; `error` says what, in words for an operator, without secrets."""
        before = self._reports.get(check)
        self._put(Report(check, before.status if before else Status.UNKNOWN, error, attributes or {}))

    def terminating(self, check: str) -> None:
        """The part behind `check` is stopping in good order."""
        self._put(Report(check, Status.TERMINATING))

    def _put(self, report: Report) -> None:
        if self._hushed or self._reports.get(report.check) == report:
            return
        if report.error:
            log.warning("health", check=report.check, error=report.error)
        self._last += 1
        self._reports[report.check] = report
        self._sequence[report.check] = self._last
        waiting, self._changed = self._changed, asyncio.Event()
        waiting.set()

    @property
    def reports(self) -> Mapping[str, Report]:
        """The latest report of every check."""
        return dict(self._reports)

    async def follow(self) -> AsyncGenerator[Report, None]:
        """Yield the latest report of every check, then every newer one (Z-54); a slow reader skips to the latest."""
        seen = 0
        while True:
            changed = self._changed
            for number, check in sorted((n, c) for c, n in self._sequence.items() if n > seen):
                seen = number
                yield self._reports[check]
            if self._last == seen:
                await changed.wait()
