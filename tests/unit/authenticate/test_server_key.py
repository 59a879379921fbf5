"""The key of the hosted service (authenticate 3.5, N-11)."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from pomerium_agent.authenticate import ServerKey, Site, open_server_key
from pomerium_agent.config.login import Flow, Login
from pomerium_agent.errors import ProviderUnavailable
from pomerium_agent.handoff.box import encode_raw
from pomerium_agent.runtime.health import Check, Health
from pomerium_agent.runtime.latest import Latest
from tests.fakes.clock import ManualClock
from tests.fakes.private_ca import PrivateCa
from tests.unit.authenticate.stage import KEY, KeyServer, key_server

ONE, OTHER = bytes(range(32)), bytes(range(32, 64))


@asynccontextmanager
async def asking(
    server: KeyServer, *pins: str, health: Health | None = None
) -> AsyncIterator[tuple[ServerKey, Latest[Site], ManualClock]]:
    clock = ManualClock()
    site = Latest(Site(login=Login(internal_url=server.url, server_keys=pins), shared_key=KEY))
    async with aiohttp.ClientSession() as http:
        yield ServerKey(site, http, clock, health or Health()), site, clock


async def test_it_is_asked_for_once_a_minute() -> None:
    async with key_server(ONE) as server, asking(server) as (key, _, clock):
        assert await asyncio.gather(*(key.current() for _ in range(5))) == [ONE] * 5
        clock.jump(59)
        await key.current()
        assert server.asked == 1
        clock.jump(2)
        server.answers = OTHER

        assert await key.current() == OTHER
        assert key.latest.value == OTHER


async def test_what_the_service_says_of_its_age_counts() -> None:
    async with key_server(ONE) as server, asking(server) as (key, _, clock):
        server.headers["Cache-Control"] = "max-age=10"
        await key.current()
        clock.jump(11)
        await key.current()
        assert server.asked == 2
        server.headers["Cache-Control"] = "max-age=86400"
        clock.jump(11)
        await key.current()
        clock.jump(61)
        await key.current()

        assert server.asked == 4


@pytest.mark.parametrize("answer", [500, 404, b"", b"x" * 31, b"x" * 33, b"x" * 100_000])
async def test_an_outage_is_survived_for_an_hour(answer: bytes | int) -> None:
    async with key_server(ONE) as server, asking(server) as (key, _, clock):
        await key.current()
        server.answers = answer
        clock.jump(3500)
        assert await key.current() == ONE
        clock.jump(200)

        with pytest.raises(ProviderUnavailable):
            await key.current()
        assert key.latest.value is None


async def test_no_other_key_than_the_allowed_ones_is_ever_used() -> None:
    """N-11: not even the one before, since somebody may be in the middle."""
    async with key_server(ONE) as server, asking(server, encode_raw(OTHER), encode_raw(ONE)) as (key, _, clock):
        assert await key.current() == ONE
        server.answers = bytes(range(64, 96))
        clock.jump(61)

        with pytest.raises(ProviderUnavailable, match="not among the allowed"):
            await key.current()
        assert key.latest.value is None
        server.answers = OTHER
        clock.jump(6)
        assert await key.current() == OTHER


async def test_another_service_has_another_key() -> None:
    async with key_server(ONE) as server, key_server(OTHER) as second, asking(server) as (key, site, _):
        await key.current()
        site.set(replace(site.value, login=Login(internal_url=second.url)))

        assert await key.current() == OTHER


async def test_a_foreign_sender_does_not_make_us_ask_without_end() -> None:
    """N-14."""
    async with key_server(ONE) as server, asking(server) as (key, _, clock):
        assert await key.is_of(ONE)
        assert [await key.is_of(OTHER) for _ in range(10)] == [False] * 10
        clock.jump(6)
        assert [await key.is_of(OTHER) for _ in range(10)] == [False] * 10

        assert server.asked == 2


async def test_an_outage_is_told_of_as_soon_as_it_begins_and_until_it_ends() -> None:
    """N-11, authorize 23: logins go on with the key from before, and an operator should know that they soon may not."""
    health = Health()
    async with key_server(ONE) as server, asking(server, encode_raw(ONE), health=health) as (key, _, clock):
        await key.current()
        assert health.reports[Check.AUTHENTICATE].healthy
        server.answers = 503
        clock.jump(61)
        assert await key.current() == ONE
        assert "503" in health.reports[Check.AUTHENTICATE].error
        server.answers = OTHER
        clock.jump(61)
        with pytest.raises(ProviderUnavailable):
            await key.current()
        assert "not among the allowed ones" in health.reports[Check.AUTHENTICATE].error
        server.answers = ONE
        clock.jump(61)
        await key.current()

        assert health.reports[Check.AUTHENTICATE].healthy


async def test_what_another_flow_does_not_need_is_no_trouble_any_more() -> None:
    """A service that is away, and then not configured any more."""
    clock, health = ManualClock(), Health()
    async with key_server() as server, aiohttp.ClientSession() as http:
        server.answers = 503
        site = Latest(Site(login=Login(internal_url=server.url), shared_key=KEY))
        async with open_server_key(site, http, clock, health):
            await clock.until_sleeping()
            assert not health.reports[Check.AUTHENTICATE].healthy
            site.set(Site(login=Login(flow=Flow.STATEFUL, internal_url=server.url), shared_key=KEY))
            async for report in health.follow():
                if report.check == Check.AUTHENTICATE and report.healthy:
                    break


async def test_it_is_ready_for_those_who_cannot_wait() -> None:
    """As soon as there is a configuration for the hosted flow, and renewed from then on."""
    clock, health = ManualClock(), Health()
    async with key_server(ONE) as server, aiohttp.ClientSession() as http:
        site = Latest(Site())
        async with open_server_key(site, http, clock, health) as key:
            site.set(Site(login=Login(internal_url=server.url), shared_key=KEY))
            assert await _next(key.latest) == ONE
            await clock.until_sleeping()
            server.answers = OTHER
            moving = asyncio.create_task(clock.advance(61))
            assert await _next(key.latest, after=ONE) == OTHER
            await moving
            site.set(Site(login=Login(flow=Flow.STATEFUL, internal_url=server.url), shared_key=KEY))
            asked = server.asked
            await clock.advance(300)

            assert server.asked == asked
            assert health.reports[Check.AUTHENTICATE].healthy


async def test_a_service_whose_certificate_nobody_trusts_has_no_key(tmp_path: Path) -> None:
    """N-11: TLS is verified, always; with an authority that is trusted the same service has one."""
    issued = PrivateCa("ca").issue("localhost", "127.0.0.1")
    (tmp_path / "pem").write_bytes(issued.certificate + issued.key)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(tmp_path / "pem")
    app = web.Application()
    app.router.add_get("/.well-known/pomerium/hpke-public-key", _answer)
    server = TestServer(app, host="127.0.0.1")
    await server.start_server(ssl=context)
    try:
        async with asking(KeyServer(url=f"https://127.0.0.1:{server.port}")) as (key, site, clock):
            with pytest.raises(ProviderUnavailable):
                await key.current()
            assert key.latest.value is None
        trusting = ssl.create_default_context(cadata=issued.authority.decode())
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trusting)) as http:
            assert await ServerKey(site, http, clock, Health()).current() == ONE
    finally:
        await server.close()


async def _answer(_: web.Request) -> web.Response:
    return web.Response(body=ONE)


async def _next(cell: Latest[bytes | None], after: bytes | None = None) -> bytes | None:
    async with asyncio.timeout(20):
        async for value in cell.follow():
            if value not in (None, after):
                return value
    raise AssertionError
