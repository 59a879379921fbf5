"""Whether a client certificate is good: chain, purpose, names, revocation, and the time (authorize 11, A-18). Pure.

Everything but the time is worked out once for a chain. Time changes a verdict only at the moments at which some
certificate begins or ends to be valid, so a verdict is kept for the stretch between two of them and never longer.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import lru_cache
from math import inf
from typing import NamedTuple

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from pomerium_agent.authorize.certificate import UNREADABLE, Presented, alternative_names, presented
from pomerium_agent.config.client_certificates import read_crls
from pomerium_agent.config.pem import parse_certificates
from pomerium_agent.config.regexes import whole_match
from pomerium_agent.config.trust import UPN_OID, ClientTrust, NameType

AUTHORITIES_REMEMBERED = 256
VERDICTS_REMEMBERED = 1024
MAX_DEPTH = 9  # what "no limit" comes to; no more certificates of a client are looked at
# Above these, one signature takes long to check, and a client could have us check many.
MAX_RSA_BITS = 8192
MAX_RSA_EXPONENT = 1 << 33
_PURPOSES = (ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE)
_UTF8_STRING, _ENDLESS = 0x0C, 0x80  # a tag, and a length that DER does not have
_UPN = x509.ObjectIdentifier(UPN_OID)


class Judgement(NamedTuple):
    """Whether the certificate is good, and until when that holds (seconds since the epoch)."""

    valid: bool
    until: float = inf


NOT_JUDGED = Judgement(True)


@dataclass(frozen=True, slots=True)
class _Authorities:
    """A ClientTrust, read."""

    certificates: tuple[x509.Certificate, ...]
    store: Store
    crls: Mapping[x509.Name, tuple[x509.CertificateRevocationList, ...]] = field(repr=False)
    names: tuple[tuple[NameType, Callable[[str], bool]], ...]


def judge(trust: ClientTrust | None, chain: str, now: datetime) -> Judgement:
    """The verdict on a URL-encoded PEM chain at one moment. Where nothing is judged, anything is good (authorize 11).

    Never raises, whatever a client presents: what cannot be read, or takes too long to check, is not good.
    """
    if trust is None:
        return NOT_JUDGED
    found = presented(chain)
    if found is None or not trust.ca:
        return Judgement(False)
    moments = _moments(trust, found)
    stretch = bisect_right(moments, now.timestamp())
    until = moments[stretch] if stretch < len(moments) else inf
    return Judgement(_good(trust, found, stretch), until)


@lru_cache(maxsize=VERDICTS_REMEMBERED)
def _moments(trust: ClientTrust, found: Presented) -> tuple[float, ...]:
    """When anything may change, in order. A certificate is valid through the whole of its last second."""
    certificates = (found.leaf, *found.above, *_authorities(trust).certificates)
    begin = {certificate.not_valid_before_utc.timestamp() for certificate in certificates}
    return tuple(sorted(begin | {certificate.not_valid_after_utc.timestamp() + 1 for certificate in certificates}))


@lru_cache(maxsize=VERDICTS_REMEMBERED)
def _good(trust: ClientTrust, found: Presented, stretch: int) -> bool:
    """The verdict between the moment before `stretch` and the one after it."""
    if stretch == 0:
        return False  # nothing is valid yet
    authorities = _authorities(trust)
    start = datetime.fromtimestamp(_moments(trust, found)[stretch - 1], UTC)
    try:
        if not _is_named(found.leaf, authorities):
            return False
        chain = _chain(trust, found, authorities, start)
        return len(chain) - 1 <= (trust.max_depth or MAX_DEPTH) and not _revoked(chain, authorities)
    except (VerificationError, *UNREADABLE):
        return False


@lru_cache(maxsize=AUTHORITIES_REMEMBERED)
def _authorities(trust: ClientTrust) -> _Authorities:
    certificates = parse_certificates(trust.ca)[1]
    crls: dict[x509.Name, tuple[x509.CertificateRevocationList, ...]] = {}
    for crl in read_crls(trust.crl):
        crls[crl.issuer] = (*crls.get(crl.issuer, ()), crl)
    names = tuple((each.type, whole_match(each.pattern)) for each in trust.names)
    return _Authorities(certificates, Store(list(certificates)), crls, names)


# --- the chain --------------------------------------------------------------------------------------


def _is_authority(_policy: Policy, _certificate: x509.Certificate, found: x509.BasicConstraints) -> None:
    if not found.ca:
        raise ValueError("not an authority")


def _may_sign(_policy: Policy, _certificate: x509.Certificate, found: x509.KeyUsage | None) -> None:
    if found is not None and not found.key_cert_sign:
        raise ValueError("an authority that may not sign certificates")


def _for_clients(_policy: Policy, _certificate: x509.Certificate, found: x509.ExtendedKeyUsage | None) -> None:
    if found is not None and not any(purpose in found for purpose in _PURPOSES):
        raise ValueError("not for clients")


# Less than the rules of the web ask for, which private authorities seldom keep; an extension that is critical and not
# known is refused all the same.
_OF_LEAF = ExtensionPolicy.permit_all().may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _for_clients)
_OF_AUTHORITY = (
    ExtensionPolicy.permit_all()
    .require_present(x509.BasicConstraints, Criticality.AGNOSTIC, _is_authority)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _may_sign)
    .may_be_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, _for_clients)
)


def _chain(
    trust: ClientTrust, found: Presented, authorities: _Authorities, now: datetime
) -> tuple[x509.Certificate, ...]:
    """The first chain from the leaf to an authority that holds. Raises VerificationError when there is none."""
    between = (trust.max_depth or MAX_DEPTH) - 1
    verifier = (
        PolicyBuilder()
        .store(authorities.store)
        .time(now)
        .max_chain_depth(between)
        .extension_policies(ca_policy=_OF_AUTHORITY, ee_policy=_OF_LEAF)
        .build_client_verifier()
    )
    above = [certificate for certificate in found.above if _quick(certificate)] if between else []
    return tuple(verifier.verify(found.leaf, above).chain)


def _quick(certificate: x509.Certificate) -> bool:
    """Whether what its key signed is checked in little time."""
    try:
        key = certificate.public_key()
    except UNREADABLE:
        return False
    if not isinstance(key, rsa.RSAPublicKey):
        return True
    return key.key_size <= MAX_RSA_BITS and key.public_numbers().e < MAX_RSA_EXPONENT


# --- revocation -------------------------------------------------------------------------------------


def _revoked(chain: tuple[x509.Certificate, ...], authorities: _Authorities) -> bool:
    """Whether the leaf's issuer says so. Lists in its name of which it signed none are worse than no list.

    When a list should have been renewed is not looked at (authorize 11).
    """
    leaf, issuer = chain[0], chain[1] if len(chain) > 1 else chain[0]
    lists = authorities.crls.get(leaf.issuer, ())
    signed = [each for each in lists if _signed(each, issuer)]
    if lists and not signed:
        return True
    return any(each.get_revoked_certificate_by_serial_number(leaf.serial_number) is not None for each in signed)


def _signed(crl: x509.CertificateRevocationList, issuer: x509.Certificate) -> bool:
    try:
        key = issuer.public_key()
        return crl.is_signature_valid(key)  # type: ignore[arg-type]  # raises TypeError for keys that cannot sign
    except (*UNREADABLE, UnsupportedAlgorithm):
        return False


# --- names ------------------------------------------------------------------------------------------


def _is_named(leaf: x509.Certificate, authorities: _Authorities) -> bool:
    """Whether one of its names is, in whole, what one pattern for that type of name says."""
    if not authorities.names:
        return True
    found = alternative_names(leaf)
    return found is not None and any(
        type is wanted and fits(name) for type, name in _names(found) for wanted, fits in authorities.names
    )


def _names(found: x509.SubjectAlternativeName) -> Iterator[tuple[NameType, str]]:
    for name in found:
        if isinstance(name, x509.DNSName):
            yield NameType.DNS, name.value
        elif isinstance(name, x509.RFC822Name):
            yield NameType.EMAIL, name.value
        elif isinstance(name, x509.UniformResourceIdentifier):
            yield NameType.URI, name.value
        elif isinstance(name, x509.IPAddress):
            yield NameType.IP_ADDRESS, str(getattr(name.value, "ipv4_mapped", None) or name.value)
        elif isinstance(name, x509.OtherName) and name.type_id == _UPN:
            text = _utf8_string(name.value)
            if text is not None:
                yield NameType.PRINCIPAL, text


def _utf8_string(der: bytes) -> str | None:
    """A UTF8String out of its DER; None for anything else."""
    if len(der) < 2 or der[0] != _UTF8_STRING or der[1] == _ENDLESS:
        return None
    length, start = der[1], 2
    if length & 0x80:
        start += length & 0x7F
        length = int.from_bytes(der[2:start], "big")
    if len(der) - start != length:
        return None
    try:
        return der[start:].decode()
    except UnicodeDecodeError:
        return None
