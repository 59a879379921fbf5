"""Records of single routes, settings and key pairs, as another control plane keeps them, through the whole replica."""

import asyncio
import ssl
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from pomerium_agent.pb.pomerium import config_pb2
from tests.e2e.visitor import Visitor, visit
from tests.e2e.world import open_world
from tests.fakes.authority import Issued
from tests.fakes.config_records import entity, route, settings
from tests.fakes.control_plane import TOKEN, serve_control_plane
from tests.fakes.private_ca import PrivateCa
from tests.fakes.token_issuer import TokenIssuer
from tests.fakes.upstream import serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


def key_pair(id: str, certificate: bytes = b"", key: bytes = b"") -> config_pb2.KeyPair:
    return config_pb2.KeyPair(id=id, certificate=certificate, key=key)


async def test_what_routes_and_settings_refer_to_is_in_force(tmp_path: Path) -> None:
    """R-3, routes 1.2 (84, 85), 1.6, 1.7 (162): certificates by SNI, an authority for clients, a token."""
    ours, clients = PrivateCa("ours"), PrivateCa("clients")
    shop, wiki, ada = ours.issue("shop.example.com"), ours.issue("wiki.example.com"), clients.issue("ada")
    async with (
        TokenIssuer().serve() as ci,
        serve_upstream() as upstream,
        serve_control_plane() as plane,
        open_world() as world,
    ):
        whole = settings(
            certificate_key_pair_ids=["shop", "wiki"],
            identity_providers={"ci": {"issuer": ci.url, "audiences": ["pomerium"]}},
        )
        certified = route(
            from_="https://shop.example.com",
            to=[upstream.url],
            tls_downstream_client_ca_key_pair_id="clients",
            allow_public_unauthenticated_access=True,
        )
        kubernetes = route(
            from_="https://wiki.example.com",
            to=[upstream.url],
            bearer_token_format="BEARER_TOKEN_FORMAT_JWT",
            kubernetes_service_account_token_key_pair_id="token",
            allow_any_authenticated_user=True,
        )
        records = [
            entity("s", whole),
            entity("certified", certified),
            entity("kubernetes", kubernetes),
            entity("shop", key_pair("shop", shop.certificate, shop.key)),
            entity("wiki", key_pair("wiki", wiki.certificate, wiki.key)),
            entity("clients", key_pair("clients", clients.pem)),
            entity("token", key_pair("token", key=b"k8s-token")),
        ]
        plane.publish("config", records, etag='"1"')
        environment = {
            "POMERIUM_ZERO_TOKEN": str(TOKEN),
            "CLUSTER_API_ENDPOINT": f"{plane.http_url}/v1",
            "CONNECT_SERVER_ENDPOINT": plane.grpc_endpoint.url,
            "POMERIUM_OTEL_ENDPOINT": plane.grpc_endpoint.url,
        }
        async with (
            world.cluster.replica("entities", environment=environment) as replica,
            visit(world, replica) as visitor,
        ):
            assert [await shown(visitor, name) for name in ("shop.example.com", "wiki.example.com")] == [
                der(shop),
                der(wiki),
            ]
            assert await status(visitor.port, "shop.example.com", None, tmp_path) == 495
            assert await status(visitor.port, "shop.example.com", ours.issue("ada"), tmp_path) == 495
            assert await status(visitor.port, "shop.example.com", ada, tmp_path) == 200
            bearer = f"Authorization: Bearer {ci.token(email='job@example.com')}"
            assert await status(visitor.port, "wiki.example.com", None, tmp_path, bearer) == 200

    assert upstream.last.values("authorization") == ["Bearer k8s-token"]
    assert upstream.last.values("impersonate-user") == ["job@example.com"]


async def shown(visitor: Visitor, server_name: str) -> bytes:
    async with visitor.connect(server_name) as line:
        return line.certificate


def der(issued: Issued) -> bytes:
    return x509.load_pem_x509_certificate(issued.certificate).public_bytes(Encoding.DER)


async def status(port: int, host: str, certificate: Issued | None, folder: Path, *more: str) -> int:
    """Of one request on a connection of its own."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if certificate is not None:
        (folder / "client.pem").write_bytes(certificate.certificate + certificate.key)
        context.load_cert_chain(folder / "client.pem")
    reader, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=host)
    lines = ("GET / HTTP/1.1", f"Host: {host}", "Accept: application/json", "Connection: close", *more, "", "")
    writer.write("\r\n".join(lines).encode())
    async with asyncio.timeout(15):
        answer = await reader.read()
    writer.close()
    return int(answer.split()[1])
