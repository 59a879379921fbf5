"""From the compiled configuration to Envoy, and what Envoy says of it back to the health checks."""

import asyncio
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from pomerium_agent.agent.blame import Blame
from pomerium_agent.agent.board import Board
from pomerium_agent.agent.handed import HandedNote
from pomerium_agent.authenticate import PublicKeys, Site, build_site
from pomerium_agent.authorize import NO_RULES, Rules
from pomerium_agent.authorize.from_config import RulesBuilder
from pomerium_agent.config import Compiled, ConfigSnapshot
from pomerium_agent.config.action import Unavailable
from pomerium_agent.envoy.admin import EnvoyAdmin
from pomerium_agent.envoy.ads_server import AdsServer
from pomerium_agent.envoy.ads_state import Delivery, Rejection
from pomerium_agent.envoyconfig import BuildCache, LocalAddresses, build_resources
from pomerium_agent.envoyconfig.listeners import ADMIN, BESIDE, METRICS, QUIC, REDIRECT
from pomerium_agent.envoyconfig.resources import CLUSTER, LISTENER, ROUTES, SECRET
from pomerium_agent.errors import EnvoyUnavailable
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.log import configure_logging
from pomerium_agent.sessions.signer import Signer
from pomerium_agent.zero import DerivedSecrets

log = structlog.get_logger(__name__)

CHECKS: Mapping[str, Check] = {
    CLUSTER: Check.XDS_CLUSTER,
    LISTENER: Check.XDS_LISTENER,
    ROUTES: Check.XDS_ROUTES,
    SECRET: Check.XDS_OTHER,
}
REPORT_LIMIT = 2000  # characters of a health report; Envoy may quote a whole resource
POLL_UNTIL_LIVE = 0.25  # seconds
POLL_WHEN_LIVE = 10.0
START_SECONDS = 5.0  # that Envoy may take to open its admin socket before anybody is told


@dataclass(slots=True)
class Feeder:
    """Offers Envoy each newest configuration, hears what became of it, and says so."""

    config: Latest[Compiled | None]
    ads: AdsServer
    local: LocalAddresses
    board: Board
    rules: Latest[Rules] = field(default_factory=lambda: Latest(NO_RULES))  # what authorization decides by
    keys: Latest[PublicKeys] = field(default_factory=lambda: Latest(()))  # that sign what upstreams are told
    builder: RulesBuilder | None = None  # None: nothing that asks is let in
    site: Latest[Site] = field(default_factory=lambda: Latest(Site()))  # what login goes by
    secrets: Latest[DerivedSecrets] | None = None  # of the cluster token, whose key signs what upstreams are told
    handed: HandedNote | None = None  # for the agent after us
    _cache: BuildCache = field(default_factory=BuildCache)
    _blame: Blame = field(default_factory=Blame)
    _compiled: Compiled | None = None
    _offered: ConfigSnapshot | None = None
    _source: Compiled | None = None  # what the offer was made from
    _ruled: Rules = NO_RULES  # and what is decided by meanwhile
    _answered: int = 0  # the newest offer whose table Envoy took or refused
    _offers: int = 0
    _dirty: asyncio.Event = field(default_factory=asyncio.Event)

    async def run(self) -> None:
        """Feed Envoy until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._watch_config(), name="feed-config")
            group.create_task(self._watch_delivery(), name="feed-delivery")
            group.create_task(self._offer_when_dirty(), name="feed-offer")
            if self.secrets is not None and self.builder is not None:
                group.create_task(self._watch_secrets(self.secrets, self.builder), name="feed-secrets")
            if self.handed is not None:
                group.create_task(self.handed.follow_envoy(), name="feed-note")

    async def _watch_config(self) -> None:
        async for compiled in self.config.follow():
            if compiled is not None:
                self._compiled = compiled
                self._blame.forget_search()
                self._dirty.set()

    async def _watch_secrets(self, secrets: Latest[DerivedSecrets], builder: RulesBuilder) -> None:
        async for each in secrets.follow():
            builder.sign_with(Signer(each.signing_key))
            self._dirty.set()

    async def _watch_delivery(self) -> None:
        async for delivery in self.ads.delivery.follow():
            if delivery.label == str(self._offers) and self._offered is not None:
                self._judge(delivery, self._offered)

    async def _offer_when_dirty(self) -> None:
        """Building runs beside the event loop: a first build of thousands of routes takes seconds."""
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            compiled = self._compiled
            if compiled is None:
                continue
            began = time.perf_counter()
            snapshot, refused = self._blame.arrange(compiled.snapshot)
            resources = await asyncio.to_thread(build_resources, snapshot, self.local, self._cache)
            if self.builder is not None:
                # Before Envoy has them: a route that Envoy knows and authorization does not would answer 404.
                # And one that sends people to log in needs the pages for it.
                self.site.set(await asyncio.to_thread(build_site, compiled.snapshot, self.builder.shared_key))
                rules = await asyncio.to_thread(self.builder.build, _asked_about(snapshot, compiled.snapshot))
                self.rules.set(rules)
                self.keys.set(rules.public_keys)
                self.board.health.running(Check.AUTHORIZE)
            if self.handed is not None:
                await self.handed.write(snapshot.digest)
            self._offers += 1
            self._offered, self._source, self._ruled = snapshot, compiled, self.rules.value
            self.board.offered = Compiled(snapshot, (*compiled.faults, *refused), compiled.records)
            self.ads.offer(resources, str(self._offers))
            log.info(
                "configuration offered to envoy",
                digest=snapshot.digest,
                routes=len(snapshot.routes),
                faults=len(compiled.faults) + len(refused),
                build_ms=round(1000 * (time.perf_counter() - began), 1),
            )

    def _judge(self, delivery: Delivery, offered: ConfigSnapshot) -> None:
        """Act on what Envoy said of the newest offer (R-21)."""
        table = next((refusal for refusal in delivery.rejections if refusal.type_url == ROUTES), None)
        if delivery.settled and self._answered != self._offers:
            # Once for each offer: Envoy may settle again, for another reason, while the next one is being built.
            self._answered = self._offers
            if table is None:
                more = self._blame.accepted(offered)
                if self.builder is not None:
                    self.builder.taken(self._ruled)
            else:
                # A search among the routes of a configuration that is replaced already would blame the wrong ones.
                more = self._source is self._compiled and self._blame.rejected(offered, table.reason)
            if more:
                self._dirty.set()
        self._report(delivery, offered)

    def _report(self, delivery: Delivery, offered: ConfigSnapshot) -> None:
        """Say which configuration is in force, and what Envoy would not take of it."""
        board, health = self.board, self.board.health
        refused = {refusal.type_url for refusal in delivery.rejections}
        for refusal in delivery.rejections:
            health.failed(CHECKS[refusal.type_url], in_words(refusal)[:REPORT_LIMIT])
        if not delivery.settled or self._blame.searching:
            return
        for url, check in CHECKS.items():
            if url not in refused and check is not Check.XDS_ROUTES:
                health.running(check)
        if any(
            refusal.type_url in (LISTENER, ROUTES) and refusal.name not in BESIDE for refusal in delivery.rejections
        ):
            board.metrics.config_ok.set(0)
            return  # visitors do not get what was asked for
        faults = board.offered.faults if board.offered else ()
        blamed = {f"fault.{fault.id}": str(fault) for fault in faults if fault.route_id and not fault.field}
        if blamed:
            health.failed(Check.XDS_ROUTES, "\n".join(blamed.values()), {"digest": offered.digest, **blamed})
        else:
            health.running(Check.XDS_ROUTES, digest=offered.digest)
        health.running(Check.PROXY)
        self._count(offered)
        if board.in_force.value != offered.digest:
            board.taken_at = datetime.now(UTC)
            board.in_force.set(offered.digest)
            log.info("configuration in force", digest=offered.digest, refused=len(delivery.rejections))

    def _count(self, offered: ConfigSnapshot) -> None:
        metrics = self.board.metrics
        metrics.config_ok.set(1)
        if self.board.in_force.value != offered.digest:
            metrics.config_ok_at.set_to_current_time()
        metrics.policies.set(len(offered.routes))
        metrics.config_faults.set(len(self.board.offered.faults) if self.board.offered else 0)


def _asked_about(offered: ConfigSnapshot, wanted: ConfigSnapshot) -> ConfigSnapshot:
    """What Envoy may ask about: also routes that are not offered while we look for one that it refuses, since an Envoy
    that we adopted may have them from before."""
    if offered is wanted:
        return wanted
    by_id = {route.id: route for route in wanted.routes}
    routes = (
        by_id.get(route.id, route) if isinstance(route.action, Unavailable) else route for route in offered.routes
    )
    return replace(offered, routes=tuple(routes))


def in_words(refusal: Rejection) -> str:
    """What Envoy would not take, why, and what to do about it where that is known."""
    reason = re.sub(r"^Error adding/updating listener\(s\) \S+: ", "", refusal.reason).strip()
    words = f"envoy refuses {refusal.name}: {reason}"
    if "cannot bind" not in reason:
        return words
    settings = {REDIRECT: "HTTP_REDIRECT_ADDR", ADMIN: "envoy_admin_address", METRICS: "METRICS_ADDRESS"}
    setting = settings.get(refusal.name, "ADDRESS")
    if refusal.name == QUIC:
        return (
            f"{words}; free that port for UDP, or choose another codec_type. HTTP/1 and HTTP/2 are served meanwhile. "
            "It is tried again every few seconds"
        )
    remedy = "give the service CAP_NET_BIND_SERVICE" if "Permission denied" in reason else "free the port"
    return f"{words}; {remedy}, or choose another address with {setting}. It is tried again every few seconds"


async def watch_envoy(admin: EnvoyAdmin, health: Health, clock: Clock) -> None:
    """Ask Envoy whether it is live: often until it is, then now and then (R-23)."""
    began = clock.monotonic()
    while True:
        try:
            live = await admin.live()
        except EnvoyUnavailable as error:
            live = False
            if clock.monotonic() - began >= START_SECONDS:
                health.failed(Check.ENVOY, str(error))
        if live:
            health.running(Check.ENVOY)
        await clock.sleep(POLL_WHEN_LIVE if live else POLL_UNTIL_LIVE)


async def apply_log_level(config: Latest[Compiled | None], admin: EnvoyAdmin, clock: Clock, started_with: str) -> None:
    """Keep Envoy's log level at what the settings say, without restarting it (R-23)."""
    level = started_with
    async for compiled in config.follow():
        if compiled is None or compiled.snapshot.settings.proxy_log_level == level:
            continue
        while True:
            try:
                await admin.set_log_level(compiled.snapshot.settings.proxy_log_level)
            except EnvoyUnavailable:
                await clock.sleep(POLL_WHEN_LIVE)
                continue
            break
        level = compiled.snapshot.settings.proxy_log_level
        log.info("envoy log level changed", level=level)


async def follow_log_level(config: Latest[Compiled | None], started_with: str) -> None:
    """Keep our own log level at what the settings say, from their first change on: before, this machine decides."""
    level = started_with
    async for compiled in config.follow():
        if compiled is None or compiled.snapshot.settings.log_level == level:
            continue
        level = compiled.snapshot.settings.log_level
        configure_logging(level, service="agent")
        log.info("agent log level changed", level=level)
