"""How records are laid over each other (Z-45, Z-46, Z-49, R-2, routes 2.1)."""

from datetime import timedelta

import pytest

from pomerium_agent.config.action import Forward, Unavailable
from pomerium_agent.config.merge import BRANDING, overlay
from pomerium_agent.pb.pomerium import config_pb2
from tests.fakes.config_records import compiled, config, entity, issue, route, settings, versioned


def merged(*parts: config_pb2.Settings) -> config_pb2.Settings:
    target = config_pb2.Settings()
    for part in parts:
        overlay(target, part)
    return target


def test_a_scalar_wins_when_it_is_present_even_when_it_is_zero() -> None:
    base = settings(cookie_name="a", insecure_server=True, timeout_read="5s", xff_num_trusted_hops=2)

    assert merged(base, settings(cookie_name="b")).cookie_name == "b"
    assert merged(base, settings()).cookie_name == "a"
    assert not merged(base, settings(insecure_server=False)).insecure_server
    zero = merged(base, settings(timeout_read="0s", xff_num_trusted_hops=0))
    assert (zero.timeout_read.seconds, zero.xff_num_trusted_hops, zero.HasField("timeout_read")) == (0, 0, True)


def test_lists_and_maps_replace_when_they_are_not_empty_and_can_never_be_emptied() -> None:
    base = settings(scopes=["a", "b"], set_response_headers={"X": "1", "Y": "2"})

    later = merged(base, settings(scopes=["c"], set_response_headers={"Z": "3"}))
    emptied = merged(base, settings(scopes=[], set_response_headers={}))

    assert (list(later.scopes), dict(later.set_response_headers)) == (["c"], {"Z": "3"})
    assert (list(emptied.scopes), dict(emptied.set_response_headers)) == (["a", "b"], {"X": "1", "Y": "2"})


def test_a_wrapped_list_replaces_when_it_is_present_even_empty() -> None:
    base = settings(access_log_fields={"values": ["path"]})

    assert list(merged(base, settings(access_log_fields={"values": ["method"]})).access_log_fields.values) == ["method"]
    assert list(merged(base, settings(access_log_fields={})).access_log_fields.values) == []
    assert list(merged(base, settings()).access_log_fields.values) == ["path"]


def test_nested_messages_and_flags_replace_as_a_whole() -> None:
    base = settings(circuit_breaker_thresholds={"max_requests": 1}, runtime_flags={"a": True, "b": True})

    later = merged(base, settings(circuit_breaker_thresholds={"max_retries": 2}, runtime_flags={"b": False}))

    assert not later.circuit_breaker_thresholds.HasField("max_requests")
    assert dict(later.runtime_flags) == {"b": False}


def test_certificates_are_appended() -> None:
    one, two = settings(certificates=[{"id": "1"}]), settings(certificates=[{"id": "2"}])

    assert [certificate.id for certificate in merged(one, two).certificates] == ["1", "2"]


@pytest.mark.parametrize("field", BRANDING)
def test_branding_comes_from_one_source_as_a_set(field: str) -> None:
    base = settings(**dict.fromkeys(BRANDING, "base"))

    later = merged(base, settings(**{field: "mine"}))

    assert {name: getattr(later, name) for name in BRANDING} == {
        name: "mine" if name == field else "" for name in BRANDING
    }
    assert merged(base, settings(cookie_name="x")).logo_url == "base"
    assert merged(base, settings(**{field: ""})).primary_color in ("base", "")


def test_configs_are_laid_over_by_id_then_versioned_ones_then_entities() -> None:
    """Z-46; ids decide, not the order of arrival."""
    records = [
        entity("a-settings", settings(cookie_name="entity")),
        versioned("a-versioned", conditions=[], cookie_name="versioned", timeout_idle="3s"),
        config("b", cookie_name="b", timeout_read="2s", timeout_idle="2s"),
        config("a", cookie_name="a", timeout_read="1s", timeout_write="1s", timeout_idle="1s"),
    ]

    snapshot, faults = compiled(*records)

    assert not faults
    assert snapshot.settings.cookie_name == "entity"
    assert snapshot.settings.timeout_idle == timedelta(seconds=3)
    assert snapshot.settings.timeout_read == timedelta(seconds=2)
    assert snapshot.settings.timeout_write == timedelta(seconds=1)


def test_a_deleted_record_takes_its_routes_and_settings_with_it() -> None:
    """Z-49."""
    both, _ = compiled(config("a", route(id="1")), config("b", route(id="2", prefix="/2"), cookie_name="b"))

    left, faults = compiled(config("a", route(id="1")), previous=both)

    assert ([r.id for r in left.routes], left.settings.cookie_name, faults) == (["1"], "_pomerium", ())


# --- entities --------------------------------------------------------------------------------------

CERT, KEY = issue("upstream.example.com", server=False)


def key_pair(id: str, certificate: bytes = CERT, key: bytes = KEY) -> config_pb2.KeyPair:
    return config_pb2.KeyPair(id=id, certificate=certificate, key=key)


def test_references_of_an_entity_route_are_resolved() -> None:
    """R-3: key pairs come as raw PEM."""
    snapshot, faults = compiled(
        entity("r", route(id="r", to=["https://a"], tls_custom_ca_key_pair_id="p", tls_client_key_pair_id="p")),
        entity("p", key_pair("p")),
    )

    assert not faults
    action = snapshot.routes[0].action
    assert isinstance(action, Forward)
    assert action.upstream.tls.custom_ca == CERT.decode()
    assert (action.upstream.tls.client_certificate, action.upstream.tls.client_key) == (CERT.decode(), KEY.decode())


def test_a_missing_reference_is_left_empty_and_a_warning_names_it() -> None:
    snapshot, faults = compiled(
        entity("r", route(tls_custom_ca_key_pair_id="gone")),
        entity("s", settings(certificate_authority_key_pair_id="gone")),
    )

    assert len(snapshot.routes) == 1
    assert {(fault.field, fault.warning) for fault in faults} == {
        ("tls_custom_ca_key_pair_id", True),
        ("certificate_authority_key_pair_id", True),
    }


def test_a_route_whose_policy_is_missing_stands_aside() -> None:
    """P-27: what is missing may be a deny, and must not open the route."""
    public = route(policy_ids=["nobody"], allow_public_unauthenticated_access=True)

    snapshot, faults = compiled(entity("r", public))

    assert isinstance(snapshot.routes[0].action, Unavailable)
    assert [(fault.field, fault.warning) for fault in faults] == [("policy_ids", False)]


def test_an_entity_route_without_an_id_is_known_by_its_record() -> None:
    assert compiled(entity("record-id", route()))[0].routes[0].id == "record-id"


def test_settings_entities_are_merged_as_protobuf_merges() -> None:
    """Z 18.3: lists concatenate here, and only here."""
    snapshot, faults = compiled(
        entity("2", settings(access_log_fields={"values": ["path"]}, cookie_name="second")),
        entity("1", settings(access_log_fields={"values": ["method"]}, cookie_name="first")),
    )

    assert not faults
    assert snapshot.settings.access_log_fields == ("method", "path")
    assert snapshot.settings.cookie_name == "second"


def test_every_key_pair_for_servers_is_a_certificate_and_others_only_when_named() -> None:
    server_cert, server_key = issue("www.example.com")
    pairs = (entity("server", key_pair("server", server_cert, server_key)), entity("client", key_pair("client")))

    alone, _ = compiled(*pairs)
    named, _ = compiled(*pairs, entity("s", settings(certificate_key_pair_ids=["client", "server"])))

    assert [c.names for c in alone.settings.certificates] == [("www.example.com",)]
    assert {c.names for c in named.settings.certificates} == {("www.example.com",), ("upstream.example.com",)}


def test_authorities_of_the_settings_are_resolved() -> None:
    snapshot, _ = compiled(entity("p", key_pair("p")), entity("s", settings(certificate_authority_key_pair_id="p")))

    assert snapshot.settings.certificate_authority == CERT.decode()


def test_an_authority_for_clients_that_is_missing_is_not_left_out() -> None:
    """Routes 10, A-18: unlike other references, since without it everybody could come in."""
    public = route(id="r", tls_downstream_client_ca_key_pair_id="p", allow_public_unauthenticated_access=True)
    mtls = settings(downstream_mtls={"ca": "another", "ca_key_pair_id": "p"})

    there, none = compiled(entity("p", key_pair("p")), entity("r", public), entity("s", mtls))
    gone, faults = compiled(entity("r", public), entity("s", mtls))

    assert not none
    assert there.settings.client_certificates.ca == CERT.decode()
    assert there.routes[0].access.client_ca == CERT.decode()
    assert gone.settings.client_certificates.ca == ""
    assert isinstance(gone.routes[0].action, Unavailable)
    assert {(fault.field, fault.warning) for fault in faults} == {
        ("downstream_mtls.ca_key_pair_id", False),
        ("tls_downstream_client_ca_key_pair_id", False),
    }


def test_entities_count_only_when_all_of_them_were_delivered() -> None:
    """Z 18.2."""
    records = (config("c", route(id="config")), entity("r", route(id="entity", prefix="/e")))

    assert [r.id for r in compiled(*records, entities_ready=False)[0].routes] == ["config"]
    assert {r.id for r in compiled(*records)[0].routes} == {"config", "entity"}
