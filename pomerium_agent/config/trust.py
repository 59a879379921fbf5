"""Which client certificates are good, as values (routes 10, authorize 11). Nothing here can fail."""

from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

UPN_OID = "1.3.6.1.4.1.311.20.2.3"  # the otherName that Windows writes a user's principal name into


class Enforcement(Enum):
    """What becomes of visitors without a good certificate, by the names that operators write."""

    POLICY = "policy"  # what the policies say of it, and nothing else
    DEFAULT_DENY = "policy_with_default_deny"
    REJECT_CONNECTION = "reject_connection"  # they do not get through the handshake


class NameType(Enum):
    """The kinds of subject alternative names that a certificate may be known by."""

    EMAIL = "email"
    DNS = "dns"
    URI = "uri"
    IP_ADDRESS = "ip_address"
    PRINCIPAL = "user_principal_name"


class NamePattern(NamedTuple):
    """A name that fits: the whole of one name of this type, as RE2 reads the pattern."""

    type: NameType
    pattern: str


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientTrust:
    """What makes a certificate good on one route. Without an authority, none is."""

    ca: str = ""  # PEM
    crl: str = ""  # PEM; empty: nothing is revoked
    names: tuple[NamePattern, ...] = ()  # one of them must fit; empty: any name will do
    max_depth: int = 1  # authorities above the leaf; 0: as many as it takes


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientCertificates:
    """What the settings say about client certificates.

    `ca` is PEM; None: only routes with an authority of their own ask for certificates; empty: there should be one,
    and it cannot be used. Not `usable`: what holds for all authorities cannot be used, so no certificate is good.
    """

    ca: str | None = None
    crl: str = ""
    names: tuple[NamePattern, ...] = ()
    max_depth: int = 1
    enforcement: Enforcement = Enforcement.DEFAULT_DENY
    usable: bool = True

    def trust(self, own_ca: str | None) -> ClientTrust | None:
        """For a route with an authority of its own, or without; None: certificates are not judged there (A-18)."""
        ca = self.ca if own_ca is None else own_ca
        if ca is None:
            return None
        if not self.usable:
            return ClientTrust()
        return ClientTrust(ca=ca, crl=self.crl, names=self.names, max_depth=self.max_depth)


NO_CLIENT_CERTIFICATES = ClientCertificates()
