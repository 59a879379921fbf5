"""What Envoy does about client certificates: asks for them, and leaves the verdict to the agent (routes 10, R-17).

Who is trusted is a secret of its own, so that another authority, list or name drains nobody. Only where connections
are to be rejected does Envoy verify as well, against all authorities together; the agent looks at each again.
"""

from collections.abc import Mapping
from enum import Enum

from google.protobuf.wrappers_pb2 import UInt32Value

from pomerium_agent.config.snapshot import ConfigSnapshot
from pomerium_agent.config.trust import UPN_OID, ClientCertificates, Enforcement, NamePattern, NameType
from pomerium_agent.envoyconfig.wire import text
from pomerium_agent.pb.envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2
from pomerium_agent.pb.envoy.type.matcher.v3 import regex_pb2, string_pb2

CLIENT_CA = "downstream-client-ca"
CERTIFICATE_NAMESPACE = "com.pomerium.client-certificate-info"  # metadata that the agent is sent with its questions
_NOBODY = "0" * 64  # the hash of no certificate
_Context = common_pb2.CertificateValidationContext
_San = common_pb2.SubjectAltNameMatcher
_TYPES: Mapping[NameType, "_San.SanType"] = {
    NameType.EMAIL: _San.EMAIL,
    NameType.DNS: _San.DNS,
    NameType.URI: _San.URI,
    NameType.IP_ADDRESS: _San.IP_ADDRESS,
    NameType.PRINCIPAL: _San.OTHER_NAME,
}


class Asking(Enum):
    """Whether visitors are asked for a certificate."""

    NOT = "not"
    POLITELY = "politely"  # they may come without
    STRICTLY = "strictly"  # there is no connection without a good one


def asking(snapshot: ConfigSnapshot) -> Asking:
    """One listener serves all hosts, so as soon as one route wants certificates, everybody is asked."""
    settings = snapshot.settings
    mtls = settings.client_certificates
    if settings.insecure_server or (
        mtls.ca is None and all(route.access.client_ca is None for route in snapshot.routes)
    ):
        return Asking.NOT
    return Asking.STRICTLY if mtls.enforcement is Enforcement.REJECT_CONNECTION else Asking.POLITELY


def build_client_ca(snapshot: ConfigSnapshot) -> secret_pb2.Secret:
    """All authorities that any route trusts. Its order does not depend on that of the routes."""
    mtls = snapshot.settings.client_certificates
    own = {route.access.client_ca for route in snapshot.routes if route.access.client_ca}
    bundle = "\n".join((*([mtls.ca] if mtls.ca else []), *sorted(own)))
    if asking(snapshot) is Asking.STRICTLY:
        context = _strict(mtls, bundle)
    else:
        context = _Context(trust_chain_verification=_Context.ACCEPT_UNTRUSTED)
        if bundle:
            context.trusted_ca.CopyFrom(text(bundle))  # browsers offer those certificates that are of use
    return secret_pb2.Secret(name=CLIENT_CA, validation_context=context)


def _strict(mtls: ClientCertificates, bundle: str) -> common_pb2.CertificateValidationContext:
    """Envoy's own verification; nobody passes it when what they are verified by cannot be used."""
    if not bundle or not mtls.usable:
        return _Context(verify_certificate_hash=[_NOBODY])
    return _Context(
        trusted_ca=text(bundle),
        crl=text(mtls.crl) if mtls.crl else None,
        only_verify_leaf_cert_crl=True,
        max_verify_depth=UInt32Value(value=mtls.max_depth) if mtls.max_depth else None,
        match_typed_subject_alt_names=[_san(each) for each in mtls.names],
    )


def _san(name: NamePattern) -> common_pb2.SubjectAltNameMatcher:
    return _San(
        san_type=_TYPES[name.type],
        matcher=string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=name.pattern)),
        oid=UPN_OID if name.type is NameType.PRINCIPAL else "",
    )
