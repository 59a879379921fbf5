"""How visitors are shown who we are: certificates by SDS, so that a renewed one drains nobody (routes 7.2, R-16)."""

from collections.abc import Iterable

from google.protobuf.wrappers_pb2 import BoolValue

from pomerium_agent.config.snapshot import Certificate, Codec, Settings
from pomerium_agent.envoyconfig.client_certificates import CLIENT_CA, Asking
from pomerium_agent.envoyconfig.upstream_tls import MODERN_CIPHERS
from pomerium_agent.envoyconfig.wire import any_of, by_ads, text
from pomerium_agent.pb.envoy.config.core.v3 import base_pb2
from pomerium_agent.pb.envoy.extensions.transport_sockets.tls.v3 import common_pb2, secret_pb2, tls_pb2

_ALPN = {
    Codec.AUTO: ("h2", "http/1.1"),
    Codec.HTTP1: ("http/1.1",),
    Codec.HTTP2: ("h2",),
    Codec.HTTP3: ("h2", "http/1.1"),
}


def secret_name(position: int) -> str:
    """The certificate's name for Envoy: its place in the list, which a renewal does not change.

    The listener names its secrets. Were they called by content, every renewal would be a new listener.
    """
    return f"downstream-{position}"


def build_certificates(certificates: Iterable[Certificate]) -> tuple[secret_pb2.Secret, ...]:
    """The certificates as secrets, in the order in which Envoy prefers them."""
    return tuple(
        secret_pb2.Secret(
            name=secret_name(position),
            tls_certificate=common_pb2.TlsCertificate(
                certificate_chain=text(certificate.chain), private_key=text(certificate.key)
            ),
        )
        for position, certificate in enumerate(certificates)
    )


def build_tls_parameters() -> common_pb2.TlsParameters:
    """Versions and ciphers of every listener of ours."""
    return common_pb2.TlsParameters(
        tls_minimum_protocol_version=common_pb2.TlsParameters.TLSv1_2,
        tls_maximum_protocol_version=common_pb2.TlsParameters.TLSv1_3,
        cipher_suites=MODERN_CIPHERS,
    )


def build_downstream_tls(settings: Settings, asked: Asking = Asking.NOT) -> base_pb2.TransportSocket:
    """TLS over TCP; `asked`: whether it asks visitors for their certificates (R-17)."""
    context = build_tls_context(settings, asked, _ALPN[settings.codec])
    return base_pb2.TransportSocket(name="envoy.transport_sockets.tls", typed_config=any_of(context))


def build_tls_context(
    settings: Settings, asked: Asking, alpn: Iterable[str], positions: Iterable[int] | None = None
) -> tls_pb2.DownstreamTlsContext:
    """One TLS context for all hosts; Envoy picks the certificate by the name a visitor asks for.

    `positions`: which of the certificates; all of them unless said.
    """
    shown = range(len(settings.certificates)) if positions is None else positions
    context = tls_pb2.DownstreamTlsContext(
        common_tls_context=tls_pb2.CommonTlsContext(
            tls_params=build_tls_parameters(),
            alpn_protocols=alpn,
            tls_certificate_sds_secret_configs=[
                secret_pb2.SdsSecretConfig(name=secret_name(position), sds_config=by_ads()) for position in shown
            ],
        ),
        require_client_certificate=BoolValue(value=asked is Asking.STRICTLY),
    )
    if asked is not Asking.NOT:
        context.common_tls_context.validation_context_sds_secret_config.CopyFrom(
            secret_pb2.SdsSecretConfig(name=CLIENT_CA, sds_config=by_ads())
        )
    return context
