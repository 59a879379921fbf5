"""Whether routes can be reached: which hosts are asked, what counts as an answer, and when it is looked at."""

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from pomerium_agent.console.reach import latest_check
from pomerium_agent.console.sightings import HealthReport, Replica
from pomerium_agent.databroker.memory import MemoryBackend
from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record, pack
from pomerium_agent.runtime.health import Health, Report
from pomerium_agent.sessions.signer import Signer
from pomerium_agent.zero.nudge import MIN_GAP, Flag
from pomerium_agent.zero.reach import CONFIG, FIRST_WAIT, INTERVAL, PATH, Reachability, check_host, hosts_of, judge_keys
from pomerium_agent.zero.secrets import derive_secrets
from tests.fakes.authority import issue_for_loopback
from tests.fakes.clock import ManualClock, settle

SECRETS = derive_secrets("secret")
KEYS = json.dumps({"keys": [{"kid": "another"}, Signer(SECRETS.signing_key).jwk]}).encode()
CHECK = "routes.reachable"


def config(*routes: str, custom_ca: str = "") -> config_pb2.Config:
    found = config_pb2.Config()
    for url in routes:
        setattr(found.routes.add(tls_custom_ca=custom_ca), "from", url)
    return found


def test_the_hosts_of_all_routes_are_asked_once_each() -> None:
    """Z-63: distinct, sorted, with their port."""
    one = config("https://b.example.com", "https://a.example.com:8443/path", "https://b.example.com/other")
    two = config("https://c.example.com", "https://[::1]:9443", "https://B.example.com")

    assert hosts_of([one, two]) == ("[::1]:9443", "a.example.com:8443", "b.example.com", "c.example.com")


def test_what_cannot_be_judged_is_not_asked() -> None:
    """Z-63, W16: other schemes, no URL at all, wildcards, names of this machine, routes with an own authority."""
    routes = config(
        "http://plain.example.com",
        "tcp+https://tcp.example.com:22",
        "https://*.example.com",
        "https://a.pomerium.localhost",
        "https://[",
        "",
    )

    assert hosts_of([routes, config("https://own.example.com", custom_ca="Y2E=")]) == ()


@given(st.text(max_size=40))
def test_no_url_breaks_the_selection(text: str) -> None:
    hosts_of([config(text, f"https://{text}")])


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"null", b'{"keys": 1}', b'{"keys": [1]}', b"[" * 100_000])
def test_what_is_no_jwks_is_an_unexpected_response(body: bytes) -> None:
    """Z-63."""
    assert judge_keys(body, "kid") == "unexpected response: not a JWKS"


def test_the_key_is_the_one_that_routes_publish() -> None:
    """Z-4, Z-63: the kid is compared with the derived key's."""
    assert judge_keys(KEYS, SECRETS.kid) == ""
    assert judge_keys(b'{"keys": []}', SECRETS.kid) == f"key not found: key {SECRETS.kid} not found in JWKS"


@dataclass(slots=True)
class Routes:
    """What answers at the address of the routes."""

    port: int = 0
    status: int = 200
    content_type: str = "application/json"
    body: bytes = KEYS
    headers: list[dict[str, str]] = field(default_factory=list)
    asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def answer(self, request: web.Request) -> web.Response:
        self.headers.append({name.lower(): value for name, value in request.headers.items()})
        self.asked.set()
        headers = {"Content-Type": self.content_type, "Location": "https://127.0.0.1:1/"}
        return web.Response(status=self.status, body=self.body, headers=headers)

    async def until_asked(self, times: int) -> None:
        async with asyncio.timeout(5):
            while len(self.headers) < times:
                self.asked.clear()
                await self.asked.wait()


@asynccontextmanager
async def routes(folder: Path, *, tls: bool = True) -> AsyncIterator[Routes]:
    found = Routes()
    app = web.Application()
    app.router.add_get(PATH, found.answer)
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.1)
    await runner.setup()
    context = issue_for_loopback(expired=True).server_context(folder) if tls else None
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
    found.port = runner.addresses[0][1]
    yield found
    await runner.cleanup()


async def asked(host: str, *, verify: bool = False) -> str:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=verify)) as http:
        return await check_host(http, host, SECRETS.kid)


async def test_our_key_is_what_counts_and_not_the_certificate(tmp_path: Path) -> None:
    """Z-63: TLS is not verified."""
    async with routes(tmp_path) as at:
        assert await asked(f"localhost:{at.port}") == ""
        assert at.headers[0]["accept"] == "application/json"


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda at: setattr(at, "status", 404), "unexpected response: 404"),
        (lambda at: setattr(at, "status", 302), "unexpected response: 302"),
        (lambda at: setattr(at, "content_type", "application/json; charset=utf-8"), "unexpected response: application"),
        (lambda at: setattr(at, "body", b"<html>"), "unexpected response: not a JWKS"),
        (lambda at: setattr(at, "body", b" " * 2_000_000), "unexpected response: the answer is longer than"),
        (lambda at: setattr(at, "body", b'{"keys": []}'), f"key not found: key {SECRETS.kid} not found in JWKS"),
    ],
)
async def test_what_is_wrong_is_said_in_the_references_words(
    change: Callable[[Routes], None], error: str, tmp_path: Path
) -> None:
    """Z-63: zero link 16.1, error texts."""
    async with routes(tmp_path) as at:
        change(at)
        assert (await asked(f"localhost:{at.port}")).startswith(error)


async def test_trouble_on_the_way_is_said_in_the_references_words(tmp_path: Path) -> None:
    """Z-63: zero link 16.1, error texts."""
    async with routes(tmp_path) as at:
        assert (await asked(f"localhost:{at.port}", verify=True)).startswith("invalid certificate: ")
    async with routes(tmp_path, tls=False) as at:
        assert (await asked(f"localhost:{at.port}")).startswith("connection error: ")
    assert (await asked(f"127.0.0.1:{at.port}")).startswith("connection error: ")
    assert (await asked("nothing.invalid")).startswith("DNS error: ")


@dataclass(slots=True, kw_only=True)
class House:
    at: Routes
    backend: MemoryBackend
    clock: ManualClock
    health: Health
    forced: Flag

    async def put(self, *urls: str, id: str = "one") -> None:
        await self.backend.put([Record(type=CONFIG, id=id, data=pack(config(*urls)))])

    async def until_reported(self, holds: Callable[[Report], bool]) -> Report:
        async with asyncio.timeout(5):
            async for report in self.health.follow():
                if report.check == CHECK and holds(report):
                    return report
        raise AssertionError


@asynccontextmanager
async def house(folder: Path) -> AsyncIterator[House]:
    clock, health, forced = ManualClock(), Health(), Flag()
    backend = MemoryBackend(clock)
    async with routes(folder) as at:
        found = House(at=at, backend=backend, clock=clock, health=health, forced=forced)
        await found.put(f"https://localhost:{at.port}")
        async with asyncio.TaskGroup() as group:
            job = Reachability(backend, lambda: SECRETS.kid, forced, health=health, clock=clock)
            task = group.create_task(job.run())
            await clock.until_sleeping()
            yield found
            task.cancel()
    await backend.close()


async def test_nothing_is_asked_in_the_first_minute_and_then_every_half_hour(tmp_path: Path) -> None:
    """Z-63: the schedule after success."""
    async with house(tmp_path) as it:
        await it.clock.advance(FIRST_WAIT - 1)
        assert it.at.headers == []
        await it.clock.advance(1)
        assert (await it.until_reported(lambda _: True)).healthy
        await it.clock.until_sleeping()

        await it.clock.advance(INTERVAL - 1)
        assert len(it.at.headers) == 1
        await it.clock.advance(1)
        await it.at.until_asked(2)


async def test_a_check_is_forced_by_the_control_plane_and_by_a_change_of_routes(tmp_path: Path) -> None:
    """Z-63, and zero link 6.3; another Config record does not hide the first (W16)."""
    async with house(tmp_path) as it:
        await it.clock.advance(FIRST_WAIT)
        await it.until_reported(lambda report: report.healthy)
        await it.clock.until_sleeping()

        await it.clock.advance(MIN_GAP)
        it.forced.put_up()
        await it.at.until_asked(2)
        await it.clock.until_sleeping()
        await it.clock.advance(MIN_GAP)
        await it.put("https://nothing.invalid", id="two")
        report = await it.until_reported(lambda report: bool(report.error))

        assert len(it.at.headers) == 3
        assert report.error.startswith("nothing.invalid: DNS error: ")
        await it.clock.until_sleeping()
        await it.clock.advance(MIN_GAP)
        await it.backend.put([Record(type=CONFIG, id="two").as_deleted(it.clock.now())])
        await it.until_reported(lambda report: report.healthy)


async def test_a_flood_of_requests_for_checks_does_not_flood_the_hosts(tmp_path: Path) -> None:
    """Zero link 6.3, 16.1: the last one is not lost."""
    async with house(tmp_path) as it:
        await it.clock.advance(FIRST_WAIT)
        await it.until_reported(lambda report: report.healthy)
        await it.clock.until_sleeping()

        for _ in range(20):
            it.forced.put_up()
            await it.clock.until_sleeping()
            await settle()
        assert len(it.at.headers) == 1
        await it.clock.advance(MIN_GAP)

        await it.at.until_asked(2)


async def test_what_fails_is_looked_at_again_soon(tmp_path: Path) -> None:
    """Z-63: from about a minute on, and half an hour again after success."""
    async with house(tmp_path) as it:
        it.at.status = 503
        await it.clock.advance(FIRST_WAIT)
        report = await it.until_reported(lambda report: bool(report.error))
        assert report.error == f"localhost:{it.at.port}: unexpected response: 503"
        await it.clock.until_sleeping()

        it.at.status = 200
        await it.clock.advance(90)

        await it.until_reported(lambda report: report.healthy)


def test_the_console_understands_the_errors() -> None:
    """Two hosts are two lines (zero link 16.1)."""
    error = "a.example.com: DNS error: the name is not known\nb.example.com: unexpected response: 404"
    replica = Replica(
        instance="i",
        hostname="h",
        version="1",
        address="",
        connected=True,
        connected_at=None,
        last_seen=ManualClock().now(),
        reports={CHECK: HealthReport(check=CHECK, error=error)},
    )

    found = latest_check((replica,))

    assert found is not None
    assert set(found.unreachable) == {"a.example.com", "b.example.com"}
