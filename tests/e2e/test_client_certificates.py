"""Client certificates through a real Envoy: who gets in, who is told 495, and whom the handshake turns away."""

import asyncio
import socket
import ssl
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from cryptography import x509

from pomerium_agent.pb.pomerium import config_pb2
from pomerium_agent.records import Record
from tests.e2e.gate import Gate, bearer, open_gate
from tests.e2e.test_authorization import policy, route
from tests.e2e.world import eventually
from tests.fakes.client_certificates import CLIENT, Signed, named, principal, root
from tests.fakes.session_records import account

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

CLIENTS, OTHERS, PARTNERS = root("clients"), root("others"), root("partners")
DEV = CLIENTS.sign("dev", (CLIENT, False), named(x509.DNSName("dev.test"), principal("dev@corp.test")))
REVOKED = CLIENTS.sign("gone")
EXPIRED = CLIENTS.sign("old", ends=datetime.now(UTC) - timedelta(minutes=1))
STRANGER = OTHERS.sign("dev", named(x509.DNSName("dev.test")))
PARTNER = PARTNERS.sign("partner")
MIDDLE = CLIENTS.authority("middle")
BELOW = MIDDLE.sign("below")
OPEN = route("open", allow_public_unauthenticated_access=True)
PRIVATE = route("private", allow_any_authenticated_user=True)
OWN = route("own", allow_public_unauthenticated_access=True, tls_downstream_client_ca=PARTNERS.pem)
ROBOT: tuple[Record, ...] = (account("robot", "ci"),)


def mtls(ca: str = CLIENTS.pem, **fields: Any) -> config_pb2.Settings:
    return config_pb2.Settings(downstream_mtls=config_pb2.DownstreamMtlsSettings(ca=ca, **fields))


def client_of(tmp_path: Path, chain: tuple[Signed, ...]) -> ssl.SSLContext:
    """A client that believes any server, and presents these."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if chain:
        path = tmp_path / f"{chain[0].certificate.serial_number}.pem"
        path.write_text("".join((chain[0].key_pem, *[each.pem for each in chain])))
        context.load_cert_chain(path)
    return context


async def ask(
    gate: Gate, tmp_path: Path, host: str, *chain: Signed, path: str = "/", **headers: str
) -> tuple[int, str]:
    """Status and body for a client on a connection of its own; (0, reason) when there is no connection."""
    named_so = {name.replace("_", "-"): value for name, value in headers.items()}
    connector = aiohttp.TCPConnector(ssl=client_of(tmp_path, chain), force_close=True)
    async with aiohttp.ClientSession(connector=connector) as client:
        try:
            url = gate.url(path)
            async with client.get(url, headers={"host": f"{host}.test", **named_so}, allow_redirects=False) as answer:
                return answer.status, await answer.text()
        except aiohttp.ClientError as error:
            return 0, str(error)


async def test_a_good_certificate_gets_in_and_all_others_are_told_which_is_missing(tmp_path: Path) -> None:
    """A-18, A-12, R-17, routes 1.7 (116): the default is to deny, before anybody is sent to log in."""
    settings = mtls(crl=CLIENTS.crl(REVOKED))
    async with open_gate(OPEN, PRIVATE, settings=settings, records=ROBOT, tls=True) as gate:
        statuses = {
            name: ((await ask(gate, tmp_path, "open", *chain))[0], (await ask(gate, tmp_path, "private", *chain))[0])
            for name, chain in {
                "good": (DEV,),
                "none": (),
                "of another authority": (STRANGER,),
                "with the other authority": (STRANGER, OTHERS),
                "revoked": (REVOKED,),
                "expired": (EXPIRED,),
                "too deep": (BELOW, MIDDLE),
            }.items()
        }
        robot = await ask(gate, tmp_path, "private", DEV, authorization=bearer("robot"))
        without = await ask(gate, tmp_path, "private", authorization=bearer("robot"))
        page = (await ask(gate, tmp_path, "open", accept="text/html"))[1]
        program = await ask(gate, tmp_path, "open", accept="application/json")
        own_pages = await ask(gate, tmp_path, "open", path="/.well-known/pomerium/jwks.json")

    assert statuses.pop("good") == (200, 302)
    assert set(statuses.values()) == {(495, 495)}
    assert (robot[0], without[0]) == (200, 495)
    assert "a valid client certificate is required to access this page" in page
    assert program[0] == 495
    assert own_pages[0] == 200, "A-28: our own pages ask for none"


async def test_depth_and_names_are_looked_at(tmp_path: Path) -> None:
    """A-18, routes 1.8: the chain as it was presented reaches the agent, and names of every type."""
    patterns = [
        config_pb2.SANMatcher(san_type=config_pb2.SANMatcher.USER_PRINCIPAL_NAME, pattern=".*@corp.test"),
        config_pb2.SANMatcher(san_type=config_pb2.SANMatcher.URI, pattern="spiffe://test/.*"),
    ]
    with_uri = MIDDLE.sign("job", named(x509.UniformResourceIdentifier("spiffe://test/job")))
    settings = mtls(max_verify_depth=2, match_subject_alt_names=patterns)
    async with open_gate(OPEN, settings=settings, tls=True) as gate:
        statuses = [
            (await ask(gate, tmp_path, "open", *chain))[0]
            for chain in ((DEV,), (with_uri, MIDDLE), (with_uri,), (BELOW, MIDDLE), (STRANGER,))
        ]

    assert statuses == [200, 200, 495, 495, 495]


async def test_a_route_with_an_authority_of_its_own_goes_by_that(tmp_path: Path) -> None:
    """A-18, A-33, routes 1.2 (38, 39): instead of the global one; and without a global one, for nobody else."""
    (tmp_path / "partners.pem").write_text(PARTNERS.pem)
    from_file = route(
        "filed", allow_public_unauthenticated_access=True, tls_downstream_client_ca_file=str(tmp_path / "partners.pem")
    )
    async with open_gate(OPEN, OWN, from_file, settings=mtls(), tls=True) as gate:
        both = [
            [(await ask(gate, tmp_path, host, signed))[0] for host in ("open", "own", "filed")]
            for signed in (DEV, PARTNER)
        ]
    async with open_gate(OPEN, OWN, tls=True) as gate:
        alone = [
            [(await ask(gate, tmp_path, host, *chain))[0] for host in ("open", "own")] for chain in ((), (PARTNER,))
        ]

    assert both == [[200, 495, 495], [495, 200, 200]]
    assert alone == [[200, 495], [200, 200]]


async def test_where_policies_decide_they_alone_do(tmp_path: Path) -> None:
    """P-19, P-20, R-17: `client_certificate` reads the certificate, `invalid_client_certificate` the verdict."""
    asks = route(
        "asks",
        policies=[
            policy(
                "[{allow: {and: [{client_certificate: {san_dns: dev.test}}]}},"
                " {deny: {or: [{invalid_client_certificate: 1}]}}]"
            )
        ],
    )
    looks = route("looks", policies=[policy("allow: {and: [{client_certificate: {san_dns: dev.test}}]}")])
    prints = route(
        "prints",
        allow_public_unauthenticated_access=True,
        policies=[policy("deny: {or: [{invalid_client_certificate: 1}]}")],
        set_request_headers={"X-Print": "${pomerium.client_cert_fingerprint}"},
    )
    async with open_gate(OPEN, asks, looks, prints, settings=mtls(enforcement=config_pb2.POLICY), tls=True) as gate:
        found = {
            host: [(await ask(gate, tmp_path, host, *chain))[0] for chain in ((DEV,), (STRANGER,), (REVOKED,), ())]
            for host in ("open", "asks", "looks")
        }
        forged = {
            "x_print": "forged",
            "x_forwarded_client_cert": "By=x;Hash=y",
            "com_pomerium_client_certificate_info": quote(DEV.pem),
        }
        seen = (await ask(gate, tmp_path, "prints", DEV, **forged))[1]
        made_up = await ask(gate, tmp_path, "asks", **forged)

    assert found == {
        "open": [200, 200, 200, 200],
        "asks": [200, 495, 403, 495],
        "looks": [200, 200, 403, 403],
    }
    assert DEV.certificate.fingerprint(DEV.certificate.signature_hash_algorithm).hex() in seen  # type: ignore[arg-type]  # SHA-256
    assert "forged" not in seen
    assert made_up[0] == 495


async def test_connections_can_be_rejected_outright(tmp_path: Path) -> None:
    """R-17: there is not even an answer; a good one for another route still gets 495 there."""
    settings = mtls(enforcement=config_pb2.REJECT_CONNECTION, crl=CLIENTS.crl(REVOKED) + PARTNERS.crl())
    async with open_gate(OPEN, OWN, settings=settings, tls=True) as gate:
        good = [(await ask(gate, tmp_path, "open", DEV))[0], (await ask(gate, tmp_path, "own", PARTNER))[0]]
        crossed = [(await ask(gate, tmp_path, "own", DEV))[0], (await ask(gate, tmp_path, "open", PARTNER))[0]]
        rejected = [
            (await ask(gate, tmp_path, "open", *chain))[0] for chain in ((), (STRANGER,), (REVOKED,), (EXPIRED,))
        ]

    assert good == [200, 200]
    assert crossed == [495, 495]
    assert rejected == [0, 0, 0, 0]


async def test_another_authority_drains_nobody_and_is_in_force_on_open_connections(tmp_path: Path) -> None:
    """R-17, A-33: the listener stays as it is, and the next request on the same connection is judged anew."""
    async with open_gate(OPEN, settings=mtls(), tls=True) as gate:
        context = client_of(tmp_path, (DEV,))
        reader, writer = await asyncio.open_connection("127.0.0.1", gate.port, ssl=context)

        async def status() -> int:
            writer.write(b"GET / HTTP/1.1\r\nHost: open.test\r\n\r\n")
            head = (await reader.readuntil(b"\r\n\r\n")).decode().lower()
            assert "connection: close" not in head
            length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
            await reader.readexactly(length)
            return int(head.split(" ")[1])

        assert await status() == 200

        gate.configure(OPEN, settings=mtls(ca=PARTNERS.pem))

        async def refused() -> bool:
            return await status() == 495

        await eventually("the other authority is in force", refused)
        gate.configure(OPEN, settings=mtls(ca=PARTNERS.pem + CLIENTS.pem))

        async def let_in() -> bool:
            return await status() == 200

        await eventually("both are in force", let_in)
        writer.close()
        with suppress(OSError):  # whoever closes first
            await writer.wait_closed()


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3], ids=str)
async def test_a_resumed_session_is_judged_by_its_certificate_too(tmp_path: Path, version: ssl.TLSVersion) -> None:
    """A-18: no certificate is sent again then."""
    async with open_gate(OPEN, settings=mtls(), tls=True) as gate:
        context = client_of(tmp_path, (DEV,))
        context.minimum_version = context.maximum_version = version

        def twice() -> list[tuple[bytes, bool]]:
            return [*_asked_twice(context, gate.port)]

        first, second = await asyncio.to_thread(twice)

    assert first == (b"200", False)
    assert second == (b"200", True)


def _asked_twice(context: ssl.SSLContext, port: int) -> list[tuple[bytes, bool]]:
    found, session = [], None
    for _ in range(2):
        with (
            socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
            context.wrap_socket(plain, server_hostname="open.test", session=session) as tls,
        ):
            tls.sendall(b"GET / HTTP/1.1\r\nHost: open.test\r\n\r\n")
            found.append((tls.recv(12)[9:], bool(tls.session_reused)))
            session = tls.session
    return found
