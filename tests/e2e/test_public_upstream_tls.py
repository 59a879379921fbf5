"""How upstreams that speak TLS are verified, and how the proxy shows them who it is."""

import base64
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from tests.e2e.visitor import Visitor, on_stage, route, settings
from tests.fakes.grpc_echo import Echo, serve_grpc
from tests.fakes.private_ca import PrivateCa, server_context
from tests.fakes.upstream import Upstream, serve_upstream

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]


async def test_an_upstream_is_trusted_only_by_the_name_and_the_authority_that_the_route_says(tmp_path: Path) -> None:
    """R-3, R-15, routes 1.2 (14 to 19, 57), 1.7 (34), 9.2, 9.3, A10."""
    ours, other, known = PrivateCa("ours"), PrivateCa("other"), PrivateCa("known")
    me = ours.issue("the-proxy")
    async with AsyncExitStack() as stack:

        async def serve(name: str, ca: PrivateCa, *names: str, clients_of: PrivateCa | None = None) -> Upstream:
            context = server_context(ca.issue(*names), tmp_path / name, clients_of=clients_of)
            return await stack.enter_async_context(serve_upstream(name, tls=context))

        erp = await serve("erp", ours, "erp.internal")
        by_ip = await serve("by-ip", ours, "127.0.0.1")
        strict = await serve("strict", ours, "erp.internal", clients_of=ours)
        global_ = await serve("global", known, "127.0.0.1")
        plain = await stack.enter_async_context(serve_upstream("plain"))
        calls = await stack.enter_async_context(serve_grpc(ours.issue("127.0.0.1")))
        ca_file = tmp_path / "our-ca.pem"
        ca_file.write_bytes(ours.pem)

        trusted = {"to": erp.url, "tls_custom_ca": ours.base64}
        client = {"tls_client_cert": base64.b64encode(me.certificate).decode(), "tls_client_key": me.key.decode()}
        named = {"tls_upstream_server_name": "erp.internal"}
        routes = (
            route("good.DOMAIN", **trusted, **named),
            route("pem.DOMAIN", to=erp.url, tls_custom_ca=ours.pem.decode(), tls_server_name="erp.internal"),
            route("file.DOMAIN", to=erp.url, tls_custom_ca_file=str(ca_file), **named),
            route("ip.DOMAIN", to=by_ip.url, tls_custom_ca=ours.base64),
            route("ip-not.DOMAIN", **trusted),  # its certificate is for a name
            route("wrong-name.DOMAIN", **trusted, tls_upstream_server_name="crm.internal"),
            route("wrong-ca.DOMAIN", to=erp.url, tls_custom_ca=other.base64, **named),
            route("no-ca.DOMAIN", to=erp.url, **named),
            route("skip.DOMAIN", to=erp.url, tls_skip_verify=True, tls_upstream_server_name="whatever.internal"),
            route("skip-with-ca.DOMAIN", to=erp.url, tls_skip_verify=True, tls_custom_ca=other.base64),
            route("client.DOMAIN", to=strict.url, tls_custom_ca=ours.base64, **named, **client),
            route("nobody.DOMAIN", to=strict.url, tls_custom_ca=ours.base64, **named),
            route("global.DOMAIN", to=global_.url),
            route("replaced.DOMAIN", to=global_.url, tls_custom_ca=ours.base64),
            route("mixed.DOMAIN", to=[by_ip.url, plain.url], tls_custom_ca=ours.base64),
            route("chat.DOMAIN", **trusted, **named, allow_websockets=True),
            route("grpc.DOMAIN", to=f"https://127.0.0.1:{calls.port}", tls_custom_ca=ours.base64),
        )
        whole = settings(certificate_authority=known.base64)
        async with on_stage(*routes, settings=whole) as stage:
            expected = {
                "good": 200,
                "pem": 200,
                "file": 200,
                "ip": 200,
                "ip-not": 503,
                "wrong-name": 503,
                "wrong-ca": 503,
                "no-ca": 503,
                "skip": 200,
                "skip-with-ca": 200,
                "client": 200,
                "nobody": 503,
                "global": 200,  # by the settings' certificate_authority
                "replaced": 503,  # a route's own authority stands instead of all others
            }
            found = {host: (await stage.visitor.ask(f"{host}.DOMAIN")).status for host in expected}
            assert found == expected

            assert await asked_for(stage.visitor, erp) == {
                "good.DOMAIN": "erp.internal",
                "pem.DOMAIN": "erp.internal",
                "skip.DOMAIN": "whatever.internal",
            }
            assert (erp.last.host, erp.last.protocol) == (erp.address, "http/1.1")
            assert [seen.client for seen in strict.seen] == ["the-proxy"]

            replies = [await stage.visitor.ask("mixed.DOMAIN") for _ in range(4)]
            assert {reply.said["from"] for reply in replies} == {"by-ip", "plain"}
            async with stage.visitor.websocket("chat.DOMAIN") as frames:
                await frames.send_str("over TLS")
                assert await frames.receive_str() == "over TLS"
            async with stage.visitor.grpc("grpc.DOMAIN") as channel:  # HTTP/2, since both sides offer it
                assert await Echo(channel).once(b"abc") == b"cba"


async def asked_for(visitor: Visitor, upstream: Upstream) -> dict[str, str]:
    """The name that each host's connection asks the upstream for."""
    names = {}
    for host in ("good.DOMAIN", "pem.DOMAIN", "skip.DOMAIN"):
        assert (await visitor.ask(host)).status == 200
        names[host] = upstream.last.server_name
    return names
