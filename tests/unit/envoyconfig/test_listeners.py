"""The doors, and what guards them (routes 7, 8)."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from pomerium_agent.config.snapshot import Address, Certificate, Codec
from pomerium_agent.envoyconfig import LocalAddresses
from pomerium_agent.envoyconfig.build import build_resources
from pomerium_agent.envoyconfig.listeners import bind_hosts
from pomerium_agent.envoyconfig.resources import CLUSTER, LISTENER, SECRET
from pomerium_agent.pb.envoy.config.listener.v3 import listener_pb2
from pomerium_agent.pb.envoy.extensions.filters.http.ext_authz.v3 import ext_authz_pb2
from pomerium_agent.pb.envoy.extensions.filters.network.http_connection_manager.v3 import (
    http_connection_manager_pb2 as hcm_pb2,
)
from pomerium_agent.pb.envoy.extensions.transport_sockets.quic.v3 import quic_transport_pb2
from pomerium_agent.pb.envoy.extensions.transport_sockets.tls.v3 import tls_pb2
from tests.fakes.client_certificates import root
from tests.fakes.golden import resources_of
from tests.fakes.snapshots import LOCAL, certificate, route, snapshot, source
from tests.fakes.static_envoy import as_json

CLIENTS = root("any")


def listeners(**settings: Any) -> dict[str, listener_pb2.Listener]:
    built = build_resources(snapshot(**settings), LOCAL).of(LISTENER)
    return {name: listener_pb2.Listener.FromString(item.body) for name, item in built.items()}


def manager(listener: listener_pb2.Listener) -> hcm_pb2.HttpConnectionManager:
    return hcm_pb2.HttpConnectionManager.FromString(listener.filter_chains[0].filters[0].typed_config.value)


def main(**settings: Any) -> hcm_pb2.HttpConnectionManager:
    return manager(listeners(**settings)["https-ingress"])


def tls(**settings: Any) -> tls_pb2.DownstreamTlsContext:
    socket = listeners(**settings)["https-ingress"].filter_chains[0].transport_socket
    return tls_pb2.DownstreamTlsContext.FromString(socket.typed_config.value)


def test_visitors_come_in_by_https_unless_the_operator_insists() -> None:
    """R-25."""
    assert set(listeners()) == {"https-ingress"}
    assert set(listeners(insecure_server=True)) == {"http-ingress"}
    assert set(listeners(http_redirect=Address(port=80))) == {"https-ingress", "http-redirect"}
    assert not listeners(insecure_server=True)["http-ingress"].filter_chains[0].HasField("transport_socket")


@pytest.mark.parametrize(
    ("host", "ipv6", "expected"),
    [
        ("", True, ("::", "0.0.0.0")),
        ("", False, ("0.0.0.0",)),
        ("127.0.0.1", True, ("127.0.0.1",)),
        ("::1", True, ("::1",)),
        ("[::1]", True, ("::1",)),
        ("::ffff:10.0.0.1", True, ("10.0.0.1",)),
        ("localhost", True, ("127.0.0.1",)),
    ],
)
def test_an_address_without_a_host_is_every_interface(host: str, ipv6: bool, expected: tuple[str, ...]) -> None:
    assert bind_hosts(host, ipv6=ipv6) == expected


def test_limits_are_those_of_the_specification() -> None:
    """R-14."""
    found = main()

    assert found.max_request_headers_kb.value == 128
    assert found.common_http_protocol_options.max_headers_count.value == 1000
    assert found.request_timeout.seconds == 30
    assert found.common_http_protocol_options.idle_timeout.seconds == 300
    assert not found.common_http_protocol_options.HasField("max_stream_duration")
    assert found.use_remote_address.value
    assert found.always_set_request_id_in_response
    assert found.rds.route_config_name == "main"
    ranges = [f"{r.address_prefix}/{r.prefix_len.value}" for r in found.internal_address_config.cidr_ranges]
    assert ranges == ["127.0.0.1/32", "10.0.0.0/8", "192.168.0.0/16", "172.16.0.0/12", "::1/128", "fd00::/8"]
    assert main(timeout_write=timedelta(seconds=5)).common_http_protocol_options.max_stream_duration.seconds == 5


def test_without_ipv6_nothing_speaks_of_it() -> None:
    built = as_json(resources_of(snapshot(), ipv6=False), LISTENER)

    assert "::" not in str(built["https-ingress"]["address"])
    assert "fd00::" not in str(built)


def ext_authz(manager: hcm_pb2.HttpConnectionManager) -> ext_authz_pb2.ExtAuthz:
    [config] = [each.typed_config for each in manager.http_filters if each.name == "envoy.filters.http.ext_authz"]
    return ext_authz_pb2.ExtAuthz.FromString(config.value)


def test_the_filters_stand_in_their_order_under_names_of_their_own() -> None:
    """Routes 8.1, R-19."""
    filters = main().http_filters

    assert [each.name for each in filters] == [
        "pomerium.arrive",
        "pomerium.arrive_json",
        "pomerium.login_limit",
        "pomerium.limit",
        "pomerium.cookies",
        "pomerium.impersonation",
        "envoy.filters.http.ext_authz",
        "pomerium.user_limit",
        "pomerium.groups",
        "pomerium.leave",
        "pomerium.rewrite",
        "envoy.filters.http.router",
    ]
    asleep = {each.name for each in filters if each.disabled}
    limits = {"pomerium.login_limit", "pomerium.limit", "pomerium.user_limit"}
    assert asleep == {"pomerium.impersonation", "pomerium.groups", "pomerium.rewrite", *limits}
    assert "pomerium.login_limit" not in {each.name for each in main(login_limit=None).http_filters}


def test_without_an_answer_of_the_agent_nobody_passes() -> None:
    """R-9."""
    found = ext_authz(main())
    patient = ext_authz(main(grpc_client_timeout=timedelta(0)))

    assert not found.failure_mode_allow
    assert found.status_on_error.code == 503
    assert found.grpc_service.timeout.seconds == 10
    assert patient.grpc_service.timeout.seconds == 30


def test_a_renewed_certificate_leaves_the_listener_alone() -> None:
    """R-16."""
    old = build_resources(snapshot(certificates=(certificate("a.example.com"), certificate("b.example.com"))), LOCAL)
    new = build_resources(snapshot(certificates=(certificate("a.example.com"), certificate("c.example.com"))), LOCAL)

    assert old.of(LISTENER) == new.of(LISTENER)
    assert set(old.of(SECRET)) == set(new.of(SECRET)) == {"upstream-ca-system", "downstream-0", "downstream-1"}
    assert old.of(SECRET)["downstream-1"] != new.of(SECRET)["downstream-1"]
    assert "PRIVATE KEY" not in repr(new.of(SECRET))


@pytest.mark.parametrize(
    ("codec", "alpn"),
    [
        (Codec.AUTO, ["h2", "http/1.1"]),
        (Codec.HTTP1, ["http/1.1"]),
        (Codec.HTTP2, ["h2"]),
        (Codec.HTTP3, ["h2", "http/1.1"]),
    ],
)
def test_what_is_offered_to_visitors_follows_the_codec(codec: Codec, alpn: list[str]) -> None:
    """Routes 7.2."""
    found = tls(codec=codec)

    assert list(found.common_tls_context.alpn_protocols) == alpn
    assert found.HasField("require_client_certificate")
    assert not found.require_client_certificate.value
    assert main(codec=codec).codec_type == (
        hcm_pb2.HttpConnectionManager.CodecType.Value(codec.value) if codec is not Codec.HTTP3 else 0
    )


def test_listener_filters_are_there_when_they_are_needed() -> None:
    """R-25, routes 7.1."""
    plain = listeners(insecure_server=True)["http-ingress"]
    behind = listeners(use_proxy_protocol=True)["https-ingress"]

    assert not plain.listener_filters
    assert [f.name for f in behind.listener_filters] == [
        "envoy.filters.listener.proxy_protocol",
        "envoy.filters.listener.tls_inspector",
    ]


def test_plain_http_is_sent_to_the_same_place_by_https() -> None:
    """R-25, routes 7.4."""
    found = manager(listeners(http_redirect=Address(port=80))["http-redirect"])

    assert found.strip_any_host_port
    [host] = found.route_config.virtual_hosts
    assert host.routes[0].redirect.https_redirect


@pytest.mark.parametrize(
    ("level", "loggers"), [("debug", 2), ("trace", 2), ("info", 1), ("", 1), ("warn", 0), ("error", 0), ("disabled", 0)]
)
def test_requests_are_logged_up_to_info_and_health_checks_when_debugging(level: str, loggers: int) -> None:
    """R-24, routes 8.3."""
    assert len(main(proxy_log_level=level).access_log) == loggers


def test_a_log_line_holds_the_fields_that_were_asked_for() -> None:
    """R-24."""
    fields = ("path", "referer", "headers.X-Team", "headers.bad name", "unknown")

    built = as_json(build_resources(snapshot(access_log_fields=fields), LOCAL), LISTENER)

    manager_json = built["https-ingress"]["filter_chains"][0]["filters"][0]["typed_config"]
    line = manager_json["access_log"][0]["typed_config"]["log_format"]["json_format"]
    assert set(line) == {"time", "level", "event", "service", "path", "referer", "headers.X-Team"}
    assert line["event"] == "http-request"
    assert all("WITHOUT_QUERY" in line[field] for field in ("path", "referer"))


def test_roots_must_be_there() -> None:
    """R-15."""
    with pytest.raises(ValueError, match="no certificate"):
        LocalAddresses(authorize_socket="a", pages_socket="b", system_ca="")


def test_an_operators_authority_is_added_to_the_systems() -> None:
    built = as_json(build_resources(snapshot([route()], certificate_authority="EXTRA"), LOCAL), SECRET)

    bundle = built["upstream-ca-system"]["validation_context"]["trusted_ca"]["inline_string"]
    assert bundle.endswith("\nEXTRA")
    assert bundle.startswith(LOCAL.system_ca)


def test_http3_has_a_listener_of_its_own_and_the_same_filters_but_for_what_is_said_of_it() -> None:
    """Routes 7, 7.3, 7.6: no early data, no extended CONNECT, and nothing of the PROXY protocol."""
    shown = (certificate("a.example.com"), certificate("b.example.com"))
    found = listeners(codec=Codec.HTTP3, certificates=shown, use_proxy_protocol=True, address=Address(port=8443))
    tcp, quic = found["https-ingress"], found["quic-ingress"]

    assert quic.address.socket_address.protocol == quic.address.socket_address.UDP
    assert [each.address.socket_address.protocol for each in quic.additional_addresses] == [1]
    assert (quic.address.socket_address.port_value, tcp.address.socket_address.port_value) == (8443, 8443)
    assert not quic.listener_filters
    transport = quic_transport_pb2.QuicDownstreamTransport.FromString(
        quic.filter_chains[0].transport_socket.typed_config.value
    )
    assert transport.HasField("enable_early_data")
    assert not transport.enable_early_data.value
    assert not transport.downstream_tls_context.common_tls_context.alpn_protocols
    assert not manager(quic).http3_protocol_options.allow_extended_connect
    over_tcp = [each for each in manager(tcp).http_filters if each.name != "pomerium.alt_svc"]
    assert over_tcp == [each for each in manager(quic).http_filters if each.name != "pomerium.no_capsules"]
    assert {"quic-ingress"} == set(found) - set(listeners(certificates=shown))
    assert set(listeners(codec=Codec.HTTP3, insecure_server=True)) == {"http-ingress"}


def test_quic_is_given_no_certificate_that_it_would_refuse_for_tcp_as_well() -> None:
    """Routes 7.6, 11 (5): Ed25519 is for TCP only."""
    ed = replace(certificate("ed.example.com"), chain=CLIENTS.sign("ed", key=ed25519.Ed25519PrivateKey.generate()).pem)

    def names(*shown: Certificate) -> list[str]:
        found = listeners(codec=Codec.HTTP3, certificates=shown).get("quic-ingress")
        if found is None:
            return []
        socket = quic_transport_pb2.QuicDownstreamTransport.FromString(
            found.filter_chains[0].transport_socket.typed_config.value
        )
        configs = socket.downstream_tls_context.common_tls_context.tls_certificate_sds_secret_configs
        return [each.name for each in configs]

    assert names(ed, certificate("a.example.com")) == ["downstream-1"]
    assert names(ed) == []


@pytest.mark.parametrize(("udp", "expected"), [(True, True), (False, False)])
def test_extended_connect_is_there_over_http2_as_soon_as_a_udp_route_is(udp: bool, expected: bool) -> None:
    """Routes 6.2."""
    here = replace(route(), source=source("udp+https://dns.test:53" if udp else "https://dns.test"))
    built = build_resources(snapshot([here]), LOCAL).of(LISTENER)

    found = manager(listener_pb2.Listener.FromString(built["https-ingress"].body))
    assert found.http2_protocol_options.allow_connect is expected
    assert found.HasField("http2_protocol_options") is expected


def test_envoys_admin_is_on_a_port_only_where_it_is_asked_for_and_known() -> None:
    """Routes 7: at the literal address, whatever proxy protocol visitors speak."""
    local = replace(LOCAL, admin_socket="/run/agent/envoy-admin.sock")
    asked = snapshot(envoy_admin=Address(host="::1", port=9901), envoy_admin_log="/dev/stdout", use_proxy_protocol=True)
    built = build_resources(asked, local)
    admin = listener_pb2.Listener.FromString(built.of(LISTENER)["envoy-admin"].body)

    assert admin.address.socket_address.address == "::1"
    assert not admin.listener_filters
    assert not admin.additional_addresses
    [host] = manager(admin).route_config.virtual_hosts
    assert "[::1]:*" in host.domains
    assert "*" not in host.domains
    assert [log.name for log in manager(admin).access_log] == ["envoy.access_loggers.stdout"]
    assert "pomerium-envoy-admin" in built.of(CLUSTER)
    assert "envoy-admin" not in build_resources(asked, LOCAL).of(LISTENER)
    assert "pomerium-envoy-admin" not in build_resources(snapshot(), local).of(CLUSTER)
