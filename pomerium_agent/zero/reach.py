"""Whether the hosts of the routes lead to this cluster, looked at from here (zero link 16.1, Z-63)."""

import asyncio
import json
from collections.abc import Callable, Iterable
from contextlib import aclosing
from urllib.parse import urlsplit

import aiohttp
from yarl import URL

from pomerium_agent.databroker.backend import Backend
from pomerium_agent.databroker.follow import Reset, follow
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record, type_url, unpack
from pomerium_agent.runtime.backoff import Backoff, patient
from pomerium_agent.runtime.clock import Clock
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.supervisor import supervise
from pomerium_agent.runtime.waiting import first_of
from pomerium_agent.zero.api import AnswerTooLong, http_reason, read_at_most
from pomerium_agent.zero.egress import proxy_for
from pomerium_agent.zero.nudge import MIN_GAP, Flag

CONFIG = type_url(config_pb2.Config)
PATH = "/.well-known/pomerium/jwks.json"
FIRST_WAIT = 60.0
INTERVAL = 1800.0
HOST_SECONDS = 30.0
AT_ONCE = 8  # hosts that are asked at the same time
MAX_BYTES = 1024 * 1024


def hosts_of(configs: Iterable[config_pb2.Config]) -> tuple[str, ...]:
    """The distinct hosts, with the port where one is given, that can be asked; sorted.

    A route with its own certificate authority is not for us to judge, and no machine is called `*` (W16). Names below
    `localhost` lead to whoever asks (RFC 6761, 6.3), so that asking says nothing of visitors.
    """
    hosts = set()
    for config in configs:
        for route in config.routes:
            if route.tls_custom_ca:
                continue
            try:
                parts = urlsplit(getattr(route, "from"))
                host, port = parts.hostname or "", parts.port
            except ValueError:
                continue
            if parts.scheme == "https" and host and "*" not in host and not host.endswith(".localhost"):
                bracketed = f"[{host}]" if ":" in host else host
                hosts.add(bracketed if port is None else f"{bracketed}:{port}")
    return tuple(sorted(hosts))


async def check_host(http: aiohttp.ClientSession, host: str, kid: str) -> str:
    """Ask one host for its keys: empty when ours is among them, else what is wrong, in the words of 16.1."""
    try:
        url = URL(f"https://{host}{PATH}")
        async with http.get(
            url,
            headers={"Accept": "application/json"},
            allow_redirects=False,
            proxy=proxy_for(url),
            timeout=aiohttp.ClientTimeout(total=HOST_SECONDS),
        ) as response:
            if response.status != 200:
                return f"unexpected response: {response.status}"
            if (content_type := response.headers.get("Content-Type", "")) != "application/json":
                return f"unexpected response: {content_type[:100] or 'no content type'}"
            return judge_keys(await read_at_most(response, MAX_BYTES), kid)
    except aiohttp.ClientConnectorCertificateError as error:
        return f"invalid certificate: {error.certificate_error}"
    except aiohttp.ClientConnectorDNSError as error:
        return f"DNS error: {error.os_error.strerror or 'the name is not known'}"
    except TimeoutError:
        return f"connection error: no answer within {HOST_SECONDS:g} s"
    except AnswerTooLong as error:
        return f"unexpected response: {error}"
    except (aiohttp.ClientError, OSError, ValueError) as error:
        return f"connection error: {http_reason(error)}"


def judge_keys(body: bytes, kid: str) -> str:
    """Empty when the key is among those in a JWKS."""
    try:
        document = json.loads(body)
        kids = {key.get("kid") for key in document["keys"] if isinstance(key.get("kid"), str)}
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "unexpected response: not a JWKS"
    return "" if kid in kids else f"key not found: key {kid} not found in JWKS"


class Reachability:
    """The job of whoever has the lease: looks when told to, when routes change, and now and then.

    `forced` is raised when the control plane wants a check.
    """

    def __init__(self, backend: Backend, kid: Callable[[], str], forced: Flag, *, health: Health, clock: Clock) -> None:
        self._backend = backend
        self._kid = kid
        self._forced = forced
        self._health = health
        self._clock = clock
        self._configs: dict[str, config_pb2.Config] = {}
        self._changed = Flag()

    async def run(self) -> None:
        """Until cancelled."""
        # Nothing is verified: a certificate of the cluster's own authority is as good, and our key is what counts.
        connector = aiohttp.TCPConnector(ssl=False, force_close=True)
        async with (
            aiohttp.ClientSession(connector=connector, cookie_jar=aiohttp.DummyCookieJar()) as http,
            asyncio.TaskGroup() as group,
        ):
            group.create_task(supervise("routes", self._follow, clock=self._clock, backoff=patient()))
            group.create_task(self._check(http))

    async def _follow(self) -> None:
        async with aclosing(follow(self._backend, CONFIG)) as changes:
            async for change in changes:
                if isinstance(change, Reset):
                    self._configs.clear()
                for record in change.records if isinstance(change, Reset) else (change.record,):
                    self._take(record)
                if self._configs or not isinstance(change, Reset):  # an empty configuration is nothing to look at
                    self._changed.put_up()

    def _take(self, record: Record) -> None:
        config = None if record.deleted else unpack(record.data, config_pb2.Config)
        if config is None:
            self._configs.pop(record.id, None)
        else:
            self._configs[record.id] = config

    async def _check(self, http: aiohttp.ClientSession) -> None:
        await self._clock.sleep(FIRST_WAIT)
        backoff = Backoff(first=60.0, factor=1.5, cap=INTERVAL)
        await first_of(self._changed.wait(), self._forced.wait())
        while True:
            began = self._clock.monotonic()
            self._changed.take()
            self._forced.take()
            if await self.check(http):
                backoff.reset()
                wait = INTERVAL
            else:
                wait = backoff.next()
            await first_of(self._changed.wait(), self._forced.wait(), self._clock.sleep(wait))
            if (early := began + MIN_GAP - self._clock.monotonic()) > 0:
                await self._clock.sleep(early)

    async def check(self, http: aiohttp.ClientSession) -> bool:
        """Ask every host, and report; whether all is well."""
        hosts = await asyncio.to_thread(hosts_of, tuple(self._configs.values()))
        room = asyncio.Semaphore(AT_ONCE)

        async def ask(host: str) -> str:
            async with room:
                return await check_host(http, host, self._kid())

        async with asyncio.TaskGroup() as group:
            asked = [group.create_task(ask(host)) for host in hosts]
        errors = [f"{host}: {task.result()}" for host, task in zip(hosts, asked, strict=True) if task.result()]
        if errors:
            self._health.failed(Check.ROUTES_REACHABLE, "\n".join(errors))
        else:
            self._health.running(Check.ROUTES_REACHABLE)
        return not errors
