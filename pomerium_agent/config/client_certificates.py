"""The settings' say on client certificates: what of it cannot be read makes no certificate good (routes 10)."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.pem import CURVES, parse_certificates, pem_text
from pomerium_agent.config.regexes import parse_regex
from pomerium_agent.config.trust import ClientCertificates, Enforcement, NamePattern, NameType
from pomerium_agent.pb.pomerium import config_pb2

T = TypeVar("T")
MAX_DEPTH = 100  # what Envoy takes
_CLOSED = "until then no client certificate is good"
_CRL = re.compile(r"-----BEGIN X509 CRL-----.*?-----END X509 CRL-----", re.DOTALL)
_ENFORCEMENT: Mapping[int, Enforcement] = {
    config_pb2.POLICY: Enforcement.POLICY,
    config_pb2.REJECT_CONNECTION: Enforcement.REJECT_CONNECTION,
}
_TYPES: Mapping[int, NameType] = {
    config_pb2.SANMatcher.EMAIL: NameType.EMAIL,
    config_pb2.SANMatcher.DNS: NameType.DNS,
    config_pb2.SANMatcher.URI: NameType.URI,
    config_pb2.SANMatcher.IP_ADDRESS: NameType.IP_ADDRESS,
    config_pb2.SANMatcher.USER_PRINCIPAL_NAME: NameType.PRINCIPAL,
}


def parse_client_certificates(mtls: config_pb2.DownstreamMtlsSettings, complaints: Complaints) -> ClientCertificates:
    """What is in force, and a fault for each part that cannot be used: nobody comes in because of a typing error."""
    ca: str | None = None
    if asks_for_certificates(mtls):
        ca = _attempt(complaints, "ca" if mtls.ca else "ca_key_pair_id", lambda: _authority(mtls)) or ""
    crl = _attempt(complaints, "crl", lambda: parse_crl(mtls.crl)) if mtls.crl else ""
    names = _attempt(complaints, "match_subject_alt_names", lambda: _names(mtls.match_subject_alt_names))
    depth = _attempt(complaints, "max_verify_depth", lambda: _depth(mtls))
    return ClientCertificates(
        ca=ca,
        crl=crl or "",
        names=names or (),
        max_depth=1 if depth is None else depth,
        enforcement=_ENFORCEMENT.get(mtls.enforcement, Enforcement.DEFAULT_DENY),
        usable=crl is not None and names is not None and depth is not None,
    )


def asks_for_certificates(mtls: config_pb2.DownstreamMtlsSettings) -> bool:
    """Whether there is an authority for all routes, readable or not."""
    return bool(mtls.ca or mtls.ca_key_pair_id)


def parse_client_ca(material: str | bytes) -> str:
    """Certificates of authorities, as PEM text; one of them at least can be verified with. Raises Unusable."""
    text, certificates = parse_certificates(material)
    if not all(map(_is_readable, certificates)):
        raise Unusable("it holds a certificate with a name or a time that cannot be read", "leave that one out")
    if not any(_verifies(certificate) for certificate in certificates):
        raise Unusable(
            "none of its authorities has a key that client certificates can be verified with",
            "use an authority with an RSA key, or an EC key on P-256, P-384 or P-521",
        )
    return text


def parse_crl(material: str) -> str:
    """Lists of revoked certificates, as PEM text; Envoy would take anything in silence. Raises Unusable."""
    text = pem_text(material)
    if not _CRL.search(text) or _CRL.sub("", text).strip():
        raise Unusable(
            "it holds something else than lists of revoked certificates",
            "paste only what is between -----BEGIN X509 CRL----- and -----END X509 CRL-----",
        )
    try:
        for crl in read_crls(text):
            # Neither is parsed before it is asked for.
            len(crl), crl.issuer
    except (ValueError, UnsupportedAlgorithm):
        raise Unusable("it holds a list of revoked certificates that cannot be read", "make it anew") from None
    return text


def read_crls(pem: str) -> tuple[x509.CertificateRevocationList, ...]:
    """The lists in a PEM text that `parse_crl` has accepted."""
    return tuple(x509.load_pem_x509_crl(block.encode()) for block in _CRL.findall(pem))


def _attempt(complaints: Complaints, name: str, parse: Callable[[], T]) -> T | None:
    try:
        return parse()
    except Unusable as why:
        complaints.refuse(f"downstream_mtls.{name}", why.reason, f"{why.remedy}; {_CLOSED}")
        return None


def _authority(mtls: config_pb2.DownstreamMtlsSettings) -> str:
    if not mtls.ca:
        raise Unusable(f"there is no key pair {shown(mtls.ca_key_pair_id)} with a certificate", "create it")
    return parse_client_ca(mtls.ca)


def _names(matchers: Sequence[config_pb2.SANMatcher]) -> tuple[NamePattern, ...]:
    found = []
    for matcher in matchers:
        if matcher.san_type not in _TYPES:
            raise Unusable("a pattern does not say what type of name it is for", f"use {_words()}")
        found.append(NamePattern(_TYPES[matcher.san_type], parse_regex(matcher.pattern)))
    return tuple(found)


def _words() -> str:
    return ", ".join(each.value for each in NameType)


def _depth(mtls: config_pb2.DownstreamMtlsSettings) -> int:
    if not mtls.HasField("max_verify_depth"):
        return 1
    if mtls.max_verify_depth > MAX_DEPTH:
        raise Unusable(f"{mtls.max_verify_depth} is above {MAX_DEPTH}", "use a lower number, or 0 for no limit")
    return mtls.max_verify_depth


def _is_readable(certificate: x509.Certificate) -> bool:
    """These parts are parsed only when they are asked for; authorization does so at every new chain."""
    try:
        return bool((certificate.subject, certificate.not_valid_before_utc, certificate.not_valid_after_utc))
    except ValueError:
        return False


def _verifies(certificate: x509.Certificate) -> bool:
    try:
        key = certificate.public_key()
    except (ValueError, UnsupportedAlgorithm):
        return False
    if isinstance(key, ec.EllipticCurvePublicKey):
        return key.curve.name in CURVES
    return isinstance(key, rsa.RSAPublicKey)
