"""Whether HTTP/3 can be served, and what is in its way (routes 7.6). Pure."""

from collections.abc import Sequence
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from pomerium_agent.config.complaints import Complaints, Unusable
from pomerium_agent.config.snapshot import Certificate, Codec, Settings


def parse_port(port: int) -> int:
    """A port; zero means that of the address."""
    if port > 65535:
        raise Unusable(f"{port} is not a port", "use a number from 1 to 65535")
    return port


def serves_http3(settings: Settings) -> bool:
    """Whether there is a listener for QUIC: it was asked for, and has a certificate to show."""
    wanted = settings.codec is Codec.HTTP3 and not settings.insecure_server
    return wanted and bool(quic_positions(settings.certificates))


def quic_positions(certificates: Sequence[Certificate]) -> tuple[int, ...]:
    """Which of the certificates QUIC can show. Envoy knows no others there, and would refuse them for TCP as well."""
    return tuple(place for place, certificate in enumerate(certificates) if _speaks_quic(certificate.chain))


def check_http3(settings: Settings, complaints: Complaints) -> None:
    """Warn where HTTP/3 is asked for and not served, or not for every name."""
    if settings.codec is not Codec.HTTP3:
        return
    if settings.insecure_server:
        complaints.warn(
            "codec_type",
            "HTTP/3 is never without TLS, so with insecure_server it is not served",
            "remove insecure_server, or choose another codec_type",
        )
        return
    served = set(quic_positions(settings.certificates))
    left_out = [each for place, each in enumerate(settings.certificates) if place not in served]
    if left_out:
        names = ", ".join(name for each in left_out for name in each.names[:3]) or "a certificate without names"
        complaints.warn(
            "codec_type",
            f"Envoy shows no Ed25519 certificate over HTTP/3, so there it goes without that of {names[:200]}",
            "use an ECDSA certificate on P-256",
        )


@lru_cache(maxsize=256)
def _speaks_quic(chain: str) -> bool:
    leaf = x509.load_pem_x509_certificate(chain.encode("ascii"))
    return isinstance(leaf.public_key(), ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
