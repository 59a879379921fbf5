"""Which certificate a visitor is shown, and that a new one disturbs nobody."""

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from tests.e2e.visitor import Visitor, answer, on_stage, route, settings, visit
from tests.e2e.world import eventually, open_world
from tests.fakes import config_records
from tests.fakes.authority import Issued
from tests.fakes.control_plane import TOKEN, serve_control_plane
from tests.fakes.private_ca import PrivateCa

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(120)]

LISTENER_CHANGES = (
    "listener_manager.listener_added",
    "listener_manager.listener_modified",
    "listener_manager.listener_in_place_updated",
    "listener_manager.total_filter_chains_draining",
    "listener_manager.total_listeners_draining",
)
APP = route("app.example.com", response=answer("app"))


def with_certificates(*issued: Issued) -> str:
    return settings(
        certificates=[{"cert": each.certificate.decode(), "key": each.key.decode()} for each in issued],
        set_response_headers={"X-Frame-Options": "DENY"},
    )


def der(issued: Issued) -> bytes:
    return x509.load_pem_x509_certificate(issued.certificate).public_bytes(Encoding.DER)


async def shown(visitor: Visitor, server_name: str) -> bytes:
    """The certificate for those who ask for `server_name`."""
    async with visitor.connect(server_name) as line:
        return line.certificate


async def test_certificates_are_chosen_by_name_and_renewed_without_disturbing_anybody() -> None:
    """R-16, routes 1.7 (9), 7.2, 11: SNI, the default, a renewal by SDS alone, one that does not match its key."""
    ca = PrivateCa("operator")
    app = ca.issue("app.example.com")
    wild = ca.issue("*.example.com", "example.com", minutes_old=50)
    org = ca.issue("*.example.org", minutes_old=40)
    async with on_stage(APP, settings=with_certificates(app, wild, org)) as stage:
        visitor = stage.visitor

        by_name = {
            "app.example.com": app,
            "any.example.com": wild,
            "example.com": wild,
            "x.example.org": org,
            "nobody.test": app,  # the first one
            "": app,
        }
        assert {name: await shown(visitor, name) for name in by_name} == {
            name: der(issued) for name, issued in by_name.items()
        }
        starter = x509.load_der_x509_certificate(await shown(visitor, f"any.{visitor.domain}"))
        names = starter.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert f"*.{visitor.domain}" in names.get_values_for_type(x509.DNSName)

        # Renewed under an open connection: the same listener, and the connection lives on.
        async with visitor.connect("app.example.com") as line:
            request = ("GET /ping HTTP/1.1", "Host: app.example.com")
            assert (await line.ask(*request))[0] == 200
            envoy, counters = await stage.envoy_stats(*LISTENER_CHANGES), await stage.counters()
            renewed = ca.issue("app.example.com", minutes_old=5)

            await stage.apply(APP, settings=with_certificates(renewed, wild, org))

            await shows(visitor, "app.example.com", renewed)
            assert (await line.ask(*request))[0] == 200
            assert line.certificate == der(app)
            assert await shown(visitor, "nobody.test") == der(renewed)
            assert await shown(visitor, "x.example.org") == der(org)
            assert await stage.envoy_stats(*LISTENER_CHANGES) == envoy
            sent = await stage.counters() - counters
            assert {name for name in sent if name.endswith("_sent")} == {"secrets_sent"}

            # One whose key is another's: it stands aside, named, and the last good one for its names stays.
            wrong = Issued(certificate=ca.issue("*.example.org").certificate, key=app.key, authority=ca.pem)
            await stage.apply(APP, settings=with_certificates(renewed, wild, wrong), options=("--allow-faulty",))
            assert await shown(visitor, "x.example.org") == der(org)
            assert await shown(visitor, "app.example.com") == der(renewed)
            assert (await line.ask(*request))[0] == 200
            assert any("do not belong together" in str(fault) for fault in await stage.faults())


async def test_without_any_certificate_visitors_are_shown_one_that_nobody_vouches_for() -> None:
    """R-16, A18: and no promise to stay on HTTPS is made with it."""
    open_to_all = config_records.route(
        from_="https://app.example.com",
        response={"status": 200, "body": "served"},
        allowPublicUnauthenticatedAccess=True,
    )
    async with serve_control_plane() as plane, open_world() as world:
        plane.publish("config", [config_records.config("config", open_to_all)], etag='"1"')
        grpc = plane.grpc_endpoint.url
        bare = {
            "POMERIUM_ZERO_TOKEN": str(TOKEN),
            "CLUSTER_API_ENDPOINT": f"{plane.http_url}/v1",
            "CONNECT_SERVER_ENDPOINT": grpc,
            "POMERIUM_OTEL_ENDPOINT": grpc,
        }
        async with (
            world.cluster.replica("bare", environment=bare) as replica,
            visit(world, replica) as visitor,
            visitor.connect("app.example.com") as line,
        ):
            certificate = x509.load_der_x509_certificate(line.certificate)
            status, headers, body = await line.ask("GET / HTTP/1.1", "Host: app.example.com")

    [name] = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert (name.value, certificate.issuer) == ("no certificate configured", certificate.subject)
    assert (status, body) == (200, b"served")
    spelled = {name.lower() for name, _ in headers}
    assert "x-frame-options" in spelled
    assert "strict-transport-security" not in spelled


async def shows(visitor: Visitor, server_name: str, issued: Issued) -> None:
    async def seen() -> bool:
        return await shown(visitor, server_name) == der(issued)

    await eventually(f"{server_name} is shown another certificate", seen)
