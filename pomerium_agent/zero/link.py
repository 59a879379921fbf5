"""The link to the control plane: what runs in it, and what stands on what."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta

import aiohttp
import structlog

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.bundle_entry import BUNDLE_LEASE
from pomerium_agent.databroker.leases import Holder, hold_lease
from pomerium_agent.runtime.backoff import patient
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import BUNDLES, Check, Health
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.metrics import Metrics
from pomerium_agent.runtime.rerun import rerun_on_change
from pomerium_agent.runtime.spans import Spans
from pomerium_agent.runtime.supervisor import supervise
from pomerium_agent.settings import Secret, Settings
from pomerium_agent.zero.active_users import count_active_users
from pomerium_agent.zero.answers import BootstrapConfig
from pomerium_agent.zero.api import PATIENCE, ClusterApi, Patience
from pomerium_agent.zero.bootstrap import BootstrapLoop
from pomerium_agent.zero.bootstrap_file import BootstrapFile
from pomerium_agent.zero.bundles import Downloader, DownloadUrls
from pomerium_agent.zero.cluster_token import ClusterToken
from pomerium_agent.zero.connect import ConnectStream, Events
from pomerium_agent.zero.egress import tls_context, trusted_roots
from pomerium_agent.zero.export import Exporter
from pomerium_agent.zero.filled import watch_filled
from pomerium_agent.zero.identity import Identity, read_identity
from pomerium_agent.zero.nudge import ConnectionState, Flag, Schedule
from pomerium_agent.zero.reach import Reachability
from pomerium_agent.zero.reconciler import Reconciler
from pomerium_agent.zero.report import Reporter
from pomerium_agent.zero.secrets import DerivedSecrets
from pomerium_agent.zero.sent import Sent
from pomerium_agent.zero.standing import Standing
from pomerium_agent.zero.telemetry import Scrape, Telemetry
from pomerium_agent.zero.usage import Usage
from pomerium_agent.zero.writeback import open_writeback

log = structlog.get_logger(__name__)

LEASE = BUNDLE_LEASE
Job = Callable[[], Awaitable[None]]
LEASE_TTL = timedelta(seconds=30)  # renewed at half of it (Z-29)


@dataclass(frozen=True, slots=True, kw_only=True)
class Link:
    """Our end of the line: what the rest of the agent may read, and what the jobs work with.

    `bootstrap` is None until the file or the API has told who we are (Z-8). `events` holds what the stream said.
    `filled` is true once the configuration is in the databroker, brought there by our jobs or by another replica's;
    `missed` once our jobs have asked for it and did not get all of it.
    `leading` is the store in which this replica has the lease, `envoy` how to ask Envoy for what it counts.
    """

    token: ClusterToken
    bootstrap: Latest[BootstrapConfig | None]
    connection: Latest[ConnectionState]
    events: Events
    filled: Latest[bool]
    missed: Latest[bool]
    api: ClusterApi
    downloader: Downloader
    reporter: Reporter
    telemetry: Telemetry
    sent: Sent
    leading: Latest[Backend | None]
    envoy: Latest[Scrape | None]
    standing: Standing
    identity: Identity
    health: Health
    clock: Clock

    @property
    def secrets(self) -> DerivedSecrets:
        """What follows from the token in use."""
        return self.token.secrets.value


@asynccontextmanager
async def open_link(
    settings: Settings,
    *,
    health: Health,
    clock: Clock,
    instance: str,
    metrics: Metrics | None = None,
    patience: Patience = PATIENCE,
    hangup: Flag | None = None,
) -> AsyncIterator[Link]:
    """Open the line: the connect stream and the bootstrap loop run until the block ends.

    Yields once the bootstrap file was tried (Z-22). Raises SettingsError for what cannot work on this machine;
    Refused comes out of the block, in an exception group, unless the settings say to serve on. `hangup`: read the
    cluster token again.
    """
    identity = await asyncio.to_thread(read_identity, instance)
    roots = await asyncio.to_thread(trusted_roots)
    sent = Sent(metrics or Metrics())
    leading, envoy = Latest[Backend | None](None), Latest[Scrape | None](None)
    async with _open_sessions(roots) as (api_session, download_session):
        api = ClusterApi(api_session, settings.cluster_api, settings.token, identity, clock=clock, patience=patience)
        token = ClusterToken(
            settings.token, settings.token_source, api, health=health, clock=clock, hangup=hangup or Flag()
        )
        file_key = token.secrets.value.file_key
        writeback = await asyncio.to_thread(open_writeback, settings.bootstrap_writeback, file_key)
        standing = Standing(settings.on_refused, token, health=health, clock=clock)
        stream = ConnectStream(settings.connect, identity, roots, api.tokens, health=health, clock=clock)
        due = Schedule(stream.connection, stream.events.bootstrap_config_updated, clock=clock)
        bootstrap = BootstrapLoop(api, due, writeback, health=health, clock=clock)
        if settings.bootstrap_file is not None:
            await bootstrap.load(BootstrapFile(settings.bootstrap_file, file_key))
        exporter = Exporter(settings.otel, identity, roots, api.tokens)
        link = Link(
            token=token,
            bootstrap=bootstrap.current,
            connection=stream.connection,
            events=stream.events,
            filled=Latest(False),
            missed=Latest(False),
            api=api,
            downloader=Downloader(download_session, DownloadUrls(api, clock), identity, patience=patience),
            reporter=Reporter(exporter, health=health, clock=clock, sent=sent),
            telemetry=Telemetry(exporter, sent=sent, envoy=envoy, leading=leading, health=health, clock=clock),
            sent=sent,
            leading=leading,
            envoy=envoy,
            standing=standing,
            identity=identity,
            health=health,
            clock=clock,
        )
        async with asyncio.TaskGroup() as group:
            tasks = [
                group.create_task(token.run(), name="cluster-token"),
                group.create_task(standing.follow_token(), name="standing"),
                group.create_task(_run_with_each_token(token, standing, stream, bootstrap), name="line"),
            ]
            yield link
            for task in tasks:
                task.cancel()


async def _run_with_each_token(
    token: ClusterToken, standing: Standing, stream: ConnectStream, bootstrap: BootstrapLoop
) -> None:
    """The stream and the bootstrap loop, begun anew with another token. Nothing that serves visitors stands on them."""
    sealed_with = token.current.value

    async def keep_bootstrap(present: Secret) -> None:
        nonlocal sealed_with
        if present != sealed_with:
            await bootstrap.reseal(token.secrets.value.file_key)
            sealed_with = present
        await standing.while_welcome(bootstrap.run)

    async def under(present: Secret) -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(standing.while_welcome(stream.run), name="connect")
            group.create_task(keep_bootstrap(present), name="bootstrap")

    await rerun_on_change(token.current, under)


@asynccontextmanager
async def run_jobs(
    link: Link, stores: Latest[Backend], *, replica: str | None = None, spans: Spans | None = None
) -> AsyncIterator[None]:
    """Run what a replica does for its control plane: reports, and under the lease what one replica does for all (Z-30).

    The leased jobs work in one store of records at a time; another one begins them anew (Z-25). The lease is held under
    the name of this `replica`, which all its agents use, unless told otherwise; under none of them when it is empty.
    `spans` takes those of bringing the configuration in.

    Leaving the block stops the leased jobs, gives the lease back, and sends the last reports (Z-64).
    """
    try:
        async with asyncio.TaskGroup() as group:
            jobs = [
                group.create_task(link.standing.while_welcome(link.reporter.run)),
                group.create_task(
                    link.standing.while_welcome(lambda: link.telemetry.run(link.events.telemetry_requests))
                ),
                group.create_task(link.standing.while_welcome(lambda: _run_leased_jobs(link, stores, replica, spans))),
                group.create_task(_watch_filled(link, stores)),
            ]
            yield
            for job in jobs:
                job.cancel()
    finally:
        if link.standing.welcome:
            await link.reporter.flush()


async def _run_leased_jobs(link: Link, stores: Latest[Backend], replica: str | None, spans: Spans | None) -> None:
    """Under one bootstrap config after the other: a new one ends the jobs and begins them anew (Z-25)."""
    holder = Holder(link.identity.instance if replica is None else replica)

    async def under(bootstrap: BootstrapConfig | None) -> None:
        if bootstrap is not None:
            await rerun_on_change(stores, lambda backend: in_store(backend, bootstrap.pseudonymization_key))

    async def in_store(backend: Backend, pseudonyms: bytes) -> None:
        reconciler = Reconciler(
            link.api,
            link.downloader,
            backend,
            health=link.health,
            clock=link.clock,
            filled=link.filled,
            missed=link.missed,
            spans=spans,
        )

        async def reconcile() -> None:
            due = Schedule(link.connection, link.events.config_updated, clock=link.clock, on_disconnect=True)
            await reconciler.run(due)

        async def leased() -> None:
            link.health.running(Check.ZERO_LEASE, role="active")
            link.leading.set(backend)
            try:
                await _side_by_side(link, {"zero-reconciler": reconcile} | _watching(link, backend, pseudonyms))
            finally:
                link.leading.set(None)
                _end_leaders_trouble(link.health)
                link.health.running(Check.ZERO_LEASE, role="standby")

        link.health.running(Check.ZERO_LEASE, role="standby")

        async def hold() -> None:
            await hold_lease(backend, LEASE, LEASE_TTL, leased, link.clock, holder)

        await supervise("zero-lease", hold, clock=link.clock, backoff=patient())

    await rerun_on_change(link.bootstrap, under)


def _end_leaders_trouble(health: Health) -> None:
    """What could not be done under the lease is the next holder's to say; who stands by would say it for ever."""
    for check, report in health.reports.items():
        if report.error and (check.startswith(BUNDLES) or check == Check.ROUTES_REACHABLE):
            health.terminating(check)


def _watching(link: Link, backend: Backend, pseudonyms: bytes) -> dict[str, Job]:
    """The jobs under the lease that only look and tell (zero link 15, 16)."""
    reachability = Reachability(
        backend, lambda: link.secrets.kid, link.events.run_health_checks, health=link.health, clock=link.clock
    )
    jobs: dict[str, Job] = {
        "active-users": lambda: count_active_users(backend, link.clock),
        "reachability": reachability.run,
        "usage": Usage(backend, pseudonyms, link.api.report_usage, link.sent, link.clock).run,
    }
    if not pseudonyms:
        log.warning("usage is not reported: the control plane gave no key for pseudonyms")
        del jobs["usage"]
    return jobs


async def _side_by_side(link: Link, jobs: Mapping[str, Job]) -> None:
    """A job that fails is begun again by itself; the others go on (Z-31)."""
    async with asyncio.TaskGroup() as group:
        for name, job in jobs.items():
            group.create_task(supervise(name, job, clock=link.clock, backoff=patient()), name=name)


async def _watch_filled(link: Link, stores: Latest[Backend]) -> None:
    """Also of a replica that does not have the lease, and of one that the control plane does not welcome."""

    async def in_store(backend: Backend) -> None:
        if not link.filled.value:
            await watch_filled(link.filled, link.api, backend, link.clock)

    await rerun_on_change(stores, in_store)


@asynccontextmanager
async def _open_sessions(roots: bytes) -> AsyncIterator[tuple[aiohttp.ClientSession, aiohttp.ClientSession]]:
    """One for the API, one for downloads, which decompresses by itself to know where the data ends."""
    async with (
        aiohttp.TCPConnector(ssl=tls_context(roots)) as connector,
        aiohttp.ClientSession(
            connector=connector, connector_owner=False, cookie_jar=aiohttp.DummyCookieJar()
        ) as api_session,
        aiohttp.ClientSession(
            connector=connector, connector_owner=False, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        ) as download_session,
    ):
        yield api_session, download_session
