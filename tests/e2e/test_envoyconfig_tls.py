"""Who is shown to visitors, and who is believed upstream, through the real Envoy."""

import asyncio
import dataclasses
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import aiohttp
import pytest
from cryptography import x509

from pomerium_agent.config.action import Upstream, UpstreamTls
from pomerium_agent.config.snapshot import Address, Route
from pomerium_agent.config.trust import ClientCertificates, Enforcement
from tests.fakes.client_certificates import root
from tests.fakes.echo import serving_echo
from tests.fakes.golden import resources_of, self_signed
from tests.fakes.snapshots import certificate, endpoint, forward, route, snapshot
from tests.fakes.static_envoy import running_envoy

pytestmark = pytest.mark.e2e


def to_tls(id: str, port: int, server_name: str, tls: UpstreamTls) -> Route:
    """A public route `https://<id>.example.com` to a TLS server on loopback that must be `server_name`."""
    target = endpoint(f"https://127.0.0.1:{port}", server_name=server_name)
    action = dataclasses.replace(forward(), upstream=Upstream(endpoints=(target,), tls=tls))
    return route(id, f"https://{id}.example.com", action, public=True)


async def test_an_upstream_must_be_who_we_called_and_vouched_for(tmp_path: Path, free_port: Callable[[], int]) -> None:
    """R-15."""
    chain, key = self_signed("up.internal")
    (tmp_path / "pair.pem").write_text(chain + key)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    server.load_cert_chain(tmp_path / "pair.pem")

    async with serving_echo(server) as echo:
        routes = [
            to_tls("good", echo.port, "up.internal", UpstreamTls(custom_ca=chain)),
            to_tls("wildcard", echo.port, "*.internal", UpstreamTls(custom_ca=chain)),
            to_tls("wrong-name", echo.port, "other.internal", UpstreamTls(custom_ca=chain)),
            to_tls("no-name", echo.port, "", UpstreamTls(custom_ca=chain)),
            to_tls("unknown-authority", echo.port, "up.internal", UpstreamTls()),
            to_tls("unverified", echo.port, "other.internal", UpstreamTls(skip_verify=True)),
        ]
        bound = snapshot(routes, insecure_server=True, address=Address(host="127.0.0.1", port=free_port()))
        async with running_envoy(resources_of(bound, str(tmp_path)), tmp_path), aiohttp.ClientSession() as client:
            found = {}
            for each in routes:
                url = f"http://127.0.0.1:{bound.settings.address.port}/"
                async with client.get(url, headers={"Host": each.source.host}) as answer:
                    found[each.id] = answer.status

    assert found == {
        "good": 200,
        "wildcard": 200,
        "wrong-name": 503,
        "no-name": 503,
        "unknown-authority": 503,
        "unverified": 200,
    }


async def test_a_visitor_is_shown_the_certificate_of_the_host_or_else_the_first(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """R-16, routes 11."""
    certificates = (
        certificate("first.example.com"),
        certificate("*.wild.example.com"),
        certificate("a.wild.example.com"),
    )
    bound = snapshot(certificates=certificates, address=Address(host="127.0.0.1", port=free_port()))

    async with running_envoy(resources_of(bound, str(tmp_path)), tmp_path):
        shown = {
            name: shown_certificate(bound.settings.address.port, name)
            for name in ("first.example.com", "b.wild.example.com", "a.wild.example.com", "nobody.example.org")
        }

    assert shown == {
        "first.example.com": ("first.example.com", "h2"),
        "b.wild.example.com": ("*.wild.example.com", "h2"),
        "a.wild.example.com": ("a.wild.example.com", "h2"),
        "nobody.example.org": ("first.example.com", "h2"),
    }


def shown_certificate(port: int, name: str) -> tuple[str, str | None]:
    """The DNS name in the certificate that a client asking for `name` is shown, and the protocol agreed on."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2", "http/1.1"])
    with (
        socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
        context.wrap_socket(plain, server_hostname=name) as tls,
    ):
        leaf = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return names.get_values_for_type(x509.DNSName)[0], tls.selected_alpn_protocol()


async def test_where_connections_are_to_be_rejected_and_nobody_can_be_verified_there_are_none(
    tmp_path: Path, free_port: Callable[[], int]
) -> None:
    """A-18, R-17: what cannot be read opens nothing; and Envoy takes what it is given instead."""
    clients = root("clients")
    dev = clients.sign("dev")
    (tmp_path / "client.pem").write_text(dev.pem + dev.key_pem)
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.load_cert_chain(tmp_path / "client.pem")

    def answered(port: int) -> bytes:
        try:
            with (
                socket.create_connection(("127.0.0.1", port), timeout=10) as plain,
                context.wrap_socket(plain, server_hostname="a.example.com") as tls,
            ):
                tls.sendall(b"GET / HTTP/1.1\r\nHost: a.example.com\r\n\r\n")
                return tls.recv(12)
        except OSError:
            return b""

    found: list[bytes] = []
    for enforcement, ca in (
        (Enforcement.REJECT_CONNECTION, ""),
        (Enforcement.REJECT_CONNECTION, clients.pem),
        (Enforcement.POLICY, ""),
    ):
        directory = tmp_path / str(len(found))
        directory.mkdir()
        mtls = ClientCertificates(ca=ca, enforcement=enforcement)
        address = Address(host="127.0.0.1", port=free_port())
        bound = snapshot(certificates=(certificate("a.example.com"),), address=address, client_certificates=mtls)
        async with running_envoy(resources_of(bound, str(directory)), directory):
            found.append(await asyncio.to_thread(answered, address.port))

    assert found == [b"", b"HTTP/1.1 404", b"HTTP/1.1 404"]
