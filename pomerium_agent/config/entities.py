"""Separately kept key pairs, policies, routes and settings, put together into one layer (routes 2.1, Z 18.3, R-3)."""

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache

from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID

from pomerium_agent.config.complaints import Complaints, shown
from pomerium_agent.config.route_names import from_of
from pomerium_agent.config.snapshot import Fault
from pomerium_agent.config.sourced import Layer, SourcedCertificate, SourcedRoute, SourcedSettings
from pomerium_agent.config.urls import display
from pomerium_agent.pb.pomerium import config_pb2

LAYER = "entities"
REMEDY = "create what it refers to, or remove the reference"


@dataclass(frozen=True, slots=True)
class Entities:
    """The entity records by record id, decoded, computed fields stripped."""

    key_pairs: Mapping[str, config_pb2.KeyPair]
    policies: Mapping[str, config_pb2.Policy]
    routes: Mapping[str, config_pb2.Route]
    settings: Mapping[str, config_pb2.Settings]

    @property
    def token(self) -> tuple[object, ...]:
        """Equal as long as nothing changed; comparing it is quick, since equal parts are mostly the same object."""
        return tuple(
            part for group in (self.key_pairs, self.policies, self.routes, self.settings) for part in group.items()
        )


def synthesize(entities: Entities) -> tuple[Layer, tuple[Fault, ...]]:
    """One layer out of all entities: routes and settings by id ascending, references resolved.

    What refers to something that does not exist is left without it, and a warning says so. Settings are
    merged as protobuf merges (lists concatenate). Every key pair for servers becomes a certificate.
    """
    resolver = _Resolver(entities)
    routes = tuple(resolver.route(record_id, entities.routes[record_id]) for record_id in sorted(entities.routes))
    settings = resolver.settings()
    layer = Layer(LAYER, entities.token, settings, routes, resolver.server_certificates())
    return layer, tuple(resolver.faults)


class _Resolver:
    def __init__(self, entities: Entities) -> None:
        self._entities = entities
        self._key_pairs = {pair.id or record_id: pair for record_id, pair in sorted(entities.key_pairs.items())}
        self._policies = {policy.id or record_id: policy for record_id, policy in sorted(entities.policies.items())}
        self.faults: list[Fault] = []

    def route(self, record_id: str, route: config_pb2.Route) -> SourcedRoute:
        references = any(
            (
                route.tls_custom_ca_key_pair_id,
                route.tls_client_key_pair_id,
                route.tls_downstream_client_ca_key_pair_id,
                route.kubernetes_service_account_token_key_pair_id,
                route.policy_ids,
            )
        )
        if route.id and not references:
            return SourcedRoute(record_id, route)
        resolved = config_pb2.Route()
        resolved.CopyFrom(route)
        resolved.id = route.id or record_id
        subject = f"route {shown(route.name or resolved.id)} ({shown(display(from_of(route)))[1:-1]})"
        complaints = Complaints(subject, record_id=record_id, route_id=resolved.id)
        pair = self._pair(route.tls_custom_ca_key_pair_id, "tls_custom_ca_key_pair_id", complaints)
        if pair is not None:
            resolved.tls_custom_ca = _text(pair.certificate)
        pair = self._pair(route.tls_client_key_pair_id, "tls_client_key_pair_id", complaints)
        if pair is not None:
            resolved.tls_client_cert, resolved.tls_client_key = _text(pair.certificate), _text(pair.key)
        if route.tls_downstream_client_ca_key_pair_id:
            resolved.tls_downstream_client_ca = self._authority(route.tls_downstream_client_ca_key_pair_id)
        field = "kubernetes_service_account_token_key_pair_id"
        pair = self._pair(route.kubernetes_service_account_token_key_pair_id, field, complaints)
        if pair is not None:
            resolved.kubernetes_service_account_token = _text(pair.key)
        for policy_id in route.policy_ids:
            policy = self._policies.get(policy_id)
            if policy is None:
                # Unlike any other reference: what is missing may be a deny, and must not open the route (P-27).
                complaints.refuse("policy_ids", f"there is no policy {shown(policy_id)}", REMEDY)
            else:
                resolved.policies.add().CopyFrom(policy)
        return SourcedRoute(record_id, resolved, tuple(complaints.faults))

    def settings(self) -> SourcedSettings | None:
        """All Settings records as one; the last one's id stands for it."""
        merged = config_pb2.Settings()
        for record_id in sorted(self._entities.settings):
            merged.MergeFrom(self._entities.settings[record_id])
        if not self._entities.settings:
            return None
        record_id = max(self._entities.settings)
        complaints = Complaints("settings", record_id=record_id)
        self._settings_references(merged, complaints)
        self.faults += complaints.faults
        return SourcedSettings(record_id, merged)

    def _settings_references(self, merged: config_pb2.Settings, complaints: Complaints) -> None:
        for key_pair_id in merged.certificate_key_pair_ids:
            pair = self._pair(key_pair_id, "certificate_key_pair_ids", complaints)
            if pair is not None:
                merged.certificates.add(id=key_pair_id, cert_bytes=pair.certificate, key_bytes=pair.key)
        authorities: tuple[tuple[str, Callable[[str], object]], ...] = (
            ("certificate_authority", lambda text: setattr(merged, "certificate_authority", text)),
            ("metrics_client_ca", lambda text: setattr(merged, "metrics_client_ca", text)),
            ("autocert_ca", lambda text: setattr(merged, "autocert_ca", text)),
            ("autocert_trusted_ca", lambda text: setattr(merged, "autocert_trusted_ca", text)),
            ("ssh_user_ca_key", lambda text: setattr(merged, "ssh_user_ca_key", text)),
        )
        for name, assign in authorities:
            field = "ssh_user_ca_key_pair_id" if name == "ssh_user_ca_key" else f"{name}_key_pair_id"
            pair = self._pair(getattr(merged, field), field, complaints)
            if pair is not None:
                assign(_text(pair.certificate))
        for key_pair_id in merged.ssh_host_key_pair_ids:
            pair = self._pair(key_pair_id, "ssh_host_key_pair_ids", complaints)
            if pair is not None:
                merged.ssh_host_keys.values.append(_text(pair.certificate))
        if merged.HasField("downstream_mtls"):
            mtls = merged.downstream_mtls
            if mtls.ca_key_pair_id:
                mtls.ca = self._authority(mtls.ca_key_pair_id)

    def server_certificates(self) -> tuple[SourcedCertificate, ...]:
        """Every key pair whose certificate is for servers; a certificate without a key is an authority."""
        found = []
        for record_id, pair in sorted(self._entities.key_pairs.items()):
            if pair.certificate and pair.key and _is_for_servers(pair.certificate):
                label = f"key pair {shown(pair.name or pair.id or record_id)}"
                found.append(SourcedCertificate(record_id, label, pair.certificate, pair.key))
        return tuple(found)

    def _authority(self, key_pair_id: str) -> str:
        """The authority for client certificates; a missing one is complained about where it would be read.

        It is not left out like other references: without it, everybody could come in (A-18).
        """
        pair = self._key_pairs.get(key_pair_id)
        return _text(pair.certificate) if pair is not None else ""

    def _pair(self, key_pair_id: str, field: str, complaints: Complaints) -> config_pb2.KeyPair | None:
        if not key_pair_id:
            return None
        pair = self._key_pairs.get(key_pair_id)
        if pair is None:
            complaints.warn(field, f"there is no key pair {shown(key_pair_id)}", REMEDY)
        return pair


def _text(material: bytes) -> str:
    return material.decode("utf-8", "replace")


@lru_cache(maxsize=8192)
def _is_for_servers(certificate: bytes) -> bool:
    """Whether it parses and has the extended key usage serverAuth (Z 18.3); remembered, since parsing is slow."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            leaf = x509.load_pem_x509_certificates(certificate)[0]
            usage = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return False
    return ExtendedKeyUsageOID.SERVER_AUTH in usage
