"""From the compiled configuration to Envoy, and what Envoy says of it back to the health checks."""

import asyncio
import time
from collections.abc import Mapping

import structlog

from pomerium_agent.agent.board import Board
from pomerium_agent.config import Compiled
from pomerium_agent.envoy.admin import EnvoyAdmin
from pomerium_agent.envoy.ads_server import AdsServer
from pomerium_agent.envoy.ads_state import Delivery, Rejection
from pomerium_agent.envoyconfig import BuildCache, LocalAddresses, build_resources
from pomerium_agent.envoyconfig.resources import CLUSTER, LISTENER, ROUTES, SECRET
from pomerium_agent.errors import EnvoyUnavailable
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest

log = structlog.get_logger(__name__)

CHECKS: Mapping[str, Check] = {
    CLUSTER: Check.XDS_CLUSTER,
    LISTENER: Check.XDS_LISTENER,
    ROUTES: Check.XDS_ROUTES,
    SECRET: Check.XDS_OTHER,
}
POLL_UNTIL_LIVE = 0.25  # seconds
POLL_WHEN_LIVE = 10.0


async def feed_envoy(config: Latest[Compiled | None], ads: AdsServer, local: LocalAddresses, board: Board) -> None:
    """Turn each newest configuration into resources and offer them. Building runs beside the event loop."""
    cache = BuildCache()
    async for compiled in config.follow():
        if compiled is None:
            continue
        began = time.perf_counter()
        resources = await asyncio.to_thread(build_resources, compiled.snapshot, local, cache)
        board.offered = compiled
        ads.offer(resources, compiled.snapshot.digest)
        log.info(
            "configuration offered to envoy",
            digest=compiled.snapshot.digest,
            routes=len(compiled.snapshot.routes),
            faults=len(compiled.faults),
            build_ms=round(1000 * (time.perf_counter() - began), 1),
        )


async def report_delivery(ads: AdsServer, health: Health, board: Board) -> None:
    """Say which configuration is in force, and what Envoy would not take of it (R-21)."""
    async for delivery in ads.delivery.follow():
        if not delivery.settled:
            _report_rejections(delivery.rejections, health)
            continue
        if board.in_force.value != delivery.label:
            board.in_force.set(delivery.label)
            log.info("configuration in force", digest=delivery.label, rejected=len(delivery.rejections))
        _report_health(delivery, health)


def _report_health(delivery: Delivery, health: Health) -> None:
    refused = {rejection.type_url for rejection in delivery.rejections}
    for url, check in CHECKS.items():
        if url not in refused:
            health.running(check, **({"digest": delivery.label} if check is Check.XDS_ROUTES else {}))
    _report_rejections(delivery.rejections, health)


def _report_rejections(rejections: tuple[Rejection, ...], health: Health) -> None:
    for url, check in CHECKS.items():
        refused = [rejection for rejection in rejections if rejection.type_url == url]
        if refused:
            text = "; ".join(f"envoy refused {rejection.name}: {rejection.reason}" for rejection in refused)
            health.failed(check, text[:4000])


async def watch_envoy(admin: EnvoyAdmin, health: Health, clock: Clock) -> None:
    """Ask Envoy whether it is live: often until it is, then now and then (R-23)."""
    while True:
        try:
            live = await admin.live()
        except EnvoyUnavailable as error:
            live = False
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
