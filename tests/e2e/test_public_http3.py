"""HTTP/3 through a real Envoy with a client that is not ours: who gets in, how much goes through, what it survives."""

import asyncio
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from aiohttp import web
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.runtime.health import Check
from tests.e2e.gate import Gate, bearer, open_gate
from tests.e2e.world import eventually
from tests.fakes.client_certificates import root
from tests.fakes.golden import self_signed
from tests.fakes.h3_client import HungUp, http3
from tests.fakes.session_records import account, session, user

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

PEOPLE = [
    session("ada", "ada"),
    user("ada", "ada@example.com"),
    session("eve", "eve"),
    user("eve", "eve@elsewhere.test"),
    account("robot", "ada"),
]
LARGE = bytes(range(256)) * (4 << 10)  # a megabyte: many windows of a stream


def route(host: str, to: str = "UPSTREAM", **fields: object) -> config_pb2.Route:
    made = config_pb2.Route(id=host, to=[to], **fields)  # type: ignore[arg-type]  # whatever a route has
    setattr(made, "from", f"https://{host}.test")
    return made


def settings(*certificates: tuple[str, str], **fields: object) -> config_pb2.Settings:
    """With HTTP/3."""
    made = config_pb2.Settings(codec_type=config_pb2.CODEC_TYPE_HTTP3, **fields)  # type: ignore[arg-type]  # any field
    for chain, key in certificates:
        made.certificates.add(cert_bytes=chain.encode(), key_bytes=key.encode())
    return made


OPEN = route("open", allow_public_unauthenticated_access=True)
PRIVATE = route("private", allowed_domains=["example.com"])


async def test_policies_hold_and_large_bodies_go_through_as_over_tcp() -> None:
    """Routes 1.7 (136), 7.6, 7.3, 8.4, R-8, R-9: the same chain; Alt-Svc says where, whoever answers."""
    async with mirror() as large:
        routes = (OPEN, PRIVATE, route("large", large, allow_public_unauthenticated_access=True))
        async with (
            open_gate(*routes, settings=settings(http3_advertise_port=8443), records=PEOPLE, tls=True) as gate,
            http3(gate.port, "open.test") as client,
        ):
            cookie = ("cookie", f"_pomerium={bearer('ada').removeprefix('Bearer Pomerium-')}")
            answers = {
                "open": await client.ask("open.test", "/page"),
                "by cookie": await client.ask("private.test", headers=[cookie]),
                "as a service account": await client.ask("private.test", headers=[("authorization", bearer("robot"))]),
                "as somebody else": await client.ask("private.test", headers=[("authorization", bearer("eve"))]),
                "as nobody": await client.ask("private.test", headers=[("accept", "text/html")]),
                "our own page": await client.ask("private.test", "/.well-known/pomerium/jwks.json"),
                "no such host": await client.ask("nobody.test"),
            }
            assert {asked: reply.status for asked, reply in answers.items()} == {
                "open": 200,
                "by cookie": 200,
                "as a service account": 200,
                "as somebody else": 403,
                "as nobody": 302,
                "our own page": 200,
                "no such host": 404,
            }
            assert b'"path": "/page"' in answers["open"].body
            assert "alt-svc" not in answers["open"].headers
            assert answers["as nobody"].headers["set-cookie"][0].startswith("__Host-_pomerium_login=")
            sent = await client.ask("large.test", method="POST", body=LARGE)
            assert (sent.status, sent.body) == (200, LARGE)
            assert "capsule-protocol" not in sent.headers

            over_tcp = [await gate.get("open.test"), await gate.get("private.test"), await gate.get("nobody.test")]
            assert [answer.headers["alt-svc"] for answer in over_tcp] == ['h3=":8443"; ma=86400'] * 3
            assert await alt_svc_over_h2(gate.port) == 'h3=":8443"; ma=86400'


async def test_extended_connect_is_refused_since_it_could_end_envoy() -> None:
    """Routes 6.2, 7.3: not announced, and Envoy hangs up on whoever asks all the same; others are served on."""
    udp = route("dns", "udp://127.0.0.1:9", allow_public_unauthenticated_access=True)
    setattr(udp, "from", "udp+https://dns.test:53")
    async with open_gate(OPEN, udp, settings=settings(), tls=True) as gate:
        asked = [
            (":method", "CONNECT"),
            (":protocol", "connect-udp"),
            (":scheme", "https"),
            (":authority", "dns.test:53"),
            (":path", "/.well-known/masque/udp/dns.test/53/"),
            ("capsule-protocol", "?1"),
        ]
        async with http3(gate.port, "dns.test") as client:
            with pytest.raises(HungUp):
                await client.send(asked, b"\x00\x06\x00hello")
        async with http3(gate.port, "open.test") as client:
            assert (await client.ask("open.test")).status == 200


async def test_a_renewed_certificate_drops_nobody_and_names_choose_their_own() -> None:
    """R-16, routes 7.6, 11 (3, 5, 7): by SDS; what QUIC cannot show is left out, and stays for TCP."""
    ed = root("ed").sign("ed", key=ed25519.Ed25519PrivateKey.generate())
    left_out = (ed.pem, ed.key_pem)
    a, b, renewed = self_signed("a.test"), self_signed("b.test"), self_signed("a.test", "renewed.test")
    async with (
        open_gate(OPEN, settings=settings(a, b, left_out), tls=True) as gate,
        http3(gate.port, "a.test") as before,
    ):
        assert (await before.ask("open.test")).status == 200
        async with http3(gate.port, "b.test") as other:
            assert "b.test" in other.certificate.subject.rfc4514_string()
        gate.configure(OPEN, settings=settings(renewed, b, left_out))

        async def is_shown() -> bool:
            async with http3(gate.port, "a.test") as client:
                return client.certificate.public_bytes(Encoding.PEM).decode() == renewed[0]

        await eventually("the renewed one is shown", is_shown)
        assert (await before.ask("open.test")).status == 200


async def test_client_certificates_are_asked_for_and_judged_over_quic(tmp_path: Path) -> None:
    """A-18, R-17, routes 10: politely with a verdict by the agent, and strictly by the handshake."""
    ours, others = root("clients"), root("others")
    shown = (None, ours.sign("dev"), others.sign("dev"))

    async def answers(enforcement: int) -> list[int]:
        mtls = config_pb2.DownstreamMtlsSettings(ca=ours.pem, enforcement=enforcement)  # type: ignore[arg-type]  # an enum
        async with open_gate(OPEN, settings=settings(downstream_mtls=mtls), tls=True) as gate:
            return [await status(gate, each) for each in shown]

    async def status(gate: Gate, certificate: object) -> int:
        try:
            async with http3(gate.port, "open.test", certificate, tmp_path) as client:  # type: ignore[arg-type]  # of `shown`
                return (await client.ask("open.test")).status
        except HungUp:
            return 0

    assert await answers(config_pb2.POLICY_WITH_DEFAULT_DENY) == [495, 200, 495]
    assert await answers(config_pb2.REJECT_CONNECTION) == [0, 200, 0]


async def test_a_port_in_use_is_said_and_leaves_tcp_serving() -> None:
    """R-21, routes 13: as any listener of visitors that cannot bind, it is tried again later."""
    async with open_gate(OPEN, tls=True) as gate:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
            taken.bind(("127.0.0.1", gate.port))
            gate.configure(OPEN, settings=settings())

            async def is_said() -> bool:
                return "free that port for UDP" in gate.health.reports[Check.XDS_LISTENER].error

            await eventually("it is said", is_said)
            assert (await gate.get("open.test")).status == 200


async def alt_svc_over_h2(port: int) -> str:
    """What curl is told over HTTP/2."""
    arguments = ("--http2", "-sk", "-o", "/dev/null", "-w", "%{http_version} %header{alt-svc}", "-H", "host: open.test")
    process = await asyncio.create_subprocess_exec(
        "curl", *arguments, f"https://127.0.0.1:{port}/", stdout=asyncio.subprocess.PIPE
    )
    version, _, found = (await process.communicate())[0].decode().partition(" ")
    assert version == "2"
    return found


@asynccontextmanager
async def mirror() -> AsyncIterator[str]:
    """An upstream that sends back what it was sent, and says things that only a proxy may say."""

    async def answer(request: web.Request) -> web.Response:
        headers = {"capsule-protocol": "?1", "alt-svc": 'h3=":1"'}
        return web.Response(body=await request.read(), headers=headers)

    app = web.Application(client_max_size=1 << 24)
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()
