"""Pieces of configuration that still know which record they came from, so that a fault can name it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from pomerium_agent.config.complaints import shown
from pomerium_agent.config.snapshot import Fault
from pomerium_agent.pb.pomerium import config_pb2


@dataclass(frozen=True, slots=True)
class SourcedRoute:
    """A route as sent, computed fields stripped; `found` are faults from resolving its references."""

    record_id: str
    message: config_pb2.Route
    found: tuple[Fault, ...] = ()


@dataclass(frozen=True, slots=True)
class SourcedCertificate:
    """A certificate and its key as sent."""

    record_id: str
    label: str  # how a fault calls it
    chain: bytes
    key: bytes = field(repr=False)


@dataclass(frozen=True, slots=True)
class SourcedSettings:
    """One record's settings. The message must not be changed: caches hold it too."""

    record_id: str
    message: config_pb2.Settings


@dataclass(frozen=True, slots=True)
class Layer:
    """What one record, or all entities together, add. `token` changes whenever anything in it may have."""

    name: str
    token: object
    settings: SourcedSettings | None
    routes: tuple[SourcedRoute, ...]
    certificates: tuple[SourcedCertificate, ...] = ()


@dataclass(frozen=True, slots=True)
class MergedSettings:
    """The settings of all layers, later ones over earlier ones; `origin` says which record a field came from."""

    message: config_pb2.Settings
    origin: Mapping[str, str]
    certificates: tuple[SourcedCertificate, ...]


def certificates_of(settings: SourcedSettings) -> tuple[SourcedCertificate, ...]:
    """The certificates that a Settings message carries inline."""
    return tuple(
        SourcedCertificate(
            record_id=settings.record_id,
            label=f"certificate {shown(certificate.id)}" if certificate.id else f"certificate {number}",
            chain=certificate.cert_bytes,
            key=certificate.key_bytes,
        )
        for number, certificate in enumerate(settings.message.certificates, 1)
    )
