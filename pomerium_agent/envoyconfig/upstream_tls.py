"""How Envoy checks who an upstream is, and how it proves who we are (routes 9.3)."""

import ipaddress

from pomerium_agent.config.action import Endpoint, UpstreamTls
from pomerium_agent.envoyconfig.wire import any_of, by_ads, text
from pomerium_agent.pb.envoy.config.core.v3 import base_pb2
from pomerium_agent.pb.envoy.extensions.transport_sockets.raw_buffer.v3 import raw_buffer_pb2
from pomerium_agent.pb.envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2
from pomerium_agent.pb.envoy.type.matcher.v3 import regex_pb2, string_pb2

# One secret for all clusters: the system's roots weigh 200 kB, and a thousand clusters would each embed them.
SYSTEM_CA = "upstream-ca-system"

MODERN_CIPHERS = (
    "ECDHE-ECDSA-AES256-GCM-SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305",
    "ECDHE-RSA-CHACHA20-POLY1305",
)
_OLD_CIPHERS = (
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
)
_CURVES = ("X25519", "P-256", "P-384", "P-521")
_REGEX_SPECIAL = frozenset("\\.+?()|[]{}^$")


def build_system_ca(bundle: str) -> secret_pb2.Secret:
    """The roots that upstreams are verified against unless a route brings its own."""
    return secret_pb2.Secret(
        name=SYSTEM_CA, validation_context=common_pb2.CertificateValidationContext(trusted_ca=text(bundle))
    )


def build_transport_socket(endpoint: Endpoint, tls: UpstreamTls, alpn: tuple[str, ...]) -> base_pb2.TransportSocket:
    """The TLS client side towards one endpoint, or none at all for a plain one."""
    if not endpoint.tls:
        return base_pb2.TransportSocket(
            name="envoy.transport_sockets.raw_buffer", typed_config=any_of(raw_buffer_pb2.RawBuffer())
        )
    context = tls_pb2.UpstreamTlsContext(
        sni=endpoint.server_name,
        allow_renegotiation=tls.allow_renegotiation,
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_params=common_pb2.TlsParameters(
                tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2,
                tls_maximum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
                cipher_suites=MODERN_CIPHERS + _OLD_CIPHERS,
                ecdh_curves=_CURVES,
            ),
            alpn_protocols=alpn,
        ),
    )
    _trust(context.common_tls_context, endpoint.server_name, tls)
    if tls.client_certificate:
        context.common_tls_context.tls_certificates.append(
            common_pb2.TlsCertificate(certificate_chain=text(tls.client_certificate), private_key=text(tls.client_key))
        )
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=any_of(context))


def _trust(context: tls_pb2.CommonTlsContext, server_name: str, tls: UpstreamTls) -> None:
    """Names are never verified without roots, which Envoy would refuse (R-15)."""
    rules = common_pb2.CertificateValidationContext(
        match_typed_subject_alt_names=[_build_san(server_name)],
        trust_chain_verification=common_pb2.CertificateValidationContext.ACCEPT_UNTRUSTED if tls.skip_verify else None,
    )
    if tls.custom_ca:
        rules.trusted_ca.CopyFrom(text(tls.custom_ca))
        context.validation_context.CopyFrom(rules)
    else:
        context.combined_validation_context.default_validation_context.CopyFrom(rules)
        context.combined_validation_context.validation_context_sds_secret_config.CopyFrom(
            secret_pb2.SdsSecretConfig(name=SYSTEM_CA, sds_config=by_ads())
        )


def _build_san(server_name: str) -> common_pb2.SubjectAltNameMatcher:
    """The name a certificate must carry. Without a name nothing fits, so that nobody is trusted by accident."""
    kind = common_pb2.SubjectAltNameMatcher.DNS
    try:
        address = ipaddress.ip_address(server_name.partition("%")[0].strip("[]"))
    except ValueError:
        if "*" not in server_name:
            return common_pb2.SubjectAltNameMatcher(san_type=kind, matcher=string_pb2.StringMatcher(exact=server_name))
        pattern = "".join(".*" if c == "*" else f"\\{c}" if c in _REGEX_SPECIAL else c for c in server_name)
        return common_pb2.SubjectAltNameMatcher(
            san_type=kind, matcher=string_pb2.StringMatcher(safe_regex=regex_pb2.RegexMatcher(regex=pattern))
        )
    return common_pb2.SubjectAltNameMatcher(
        san_type=common_pb2.SubjectAltNameMatcher.IP_ADDRESS, matcher=string_pb2.StringMatcher(exact=str(address))
    )
