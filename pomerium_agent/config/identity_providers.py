"""External identity providers of the settings, whose JWTs routes may accept (routes 1.4, authorize 4.2)."""

from collections import Counter
from collections.abc import Mapping
from urllib.parse import SplitResult, urlsplit

from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.snapshot import KUBERNETES_ISSUER, IdentityProvider
from pomerium_agent.config.urls import display
from pomerium_agent.idp.signed import ALGORITHMS
from pomerium_agent.pb.pomerium import config_pb2

LOOPBACK = ("localhost", "127.0.0.1", "::1")
DEFAULT_ALGORITHMS = ("RS256", "ES256", "EdDSA")


def parse_identity_providers(
    messages: Mapping[str, config_pb2.IdentityProvider], complaints: Complaints
) -> tuple[IdentityProvider, ...]:
    """The usable ones by name; each of the others is a fault, and nobody gets in by its tokens.

    None keeps what it was before: whoever takes an audience off a provider must not find it still accepted because
    of a mistake elsewhere.
    """
    found = []
    issuers = Counter(message.issuer for message in messages.values())
    for name in sorted(messages):
        of_this_one = Complaints(complaints.subject, record_id=complaints.record_id)
        provider = _parse(name, messages[name], of_this_one)
        if issuers[provider.issuer] > 1:
            of_this_one.refuse(_field(name, "issuer"), "another provider has the same", "keep only one of them")
        complaints.faults += of_this_one.faults
        if not of_this_one.refused:
            found.append(provider)
    return tuple(found)


def _parse(name: str, message: config_pb2.IdentityProvider, complaints: Complaints) -> IdentityProvider:
    if not name or "/" in name or name != name.lower() or not name.isprintable():
        complaints.refuse(
            f"identity_providers[{shown(name)}]",
            "a provider's name is in lower case and has no slash",
            "give it another name",
        )
    complaints.attempt(_field(name, "issuer"), _issuer, message.issuer)
    if message.jwks_url:
        complaints.attempt(_field(name, "jwks_url"), _jwks_url, message)
    if not any(message.audiences) or not all(message.audiences):
        complaints.refuse(
            _field(name, "audiences"),
            "there is none, or an empty one",
            "name the audiences that tokens for this cluster are issued for",
        )
    for algorithm in message.supported_algs:
        if algorithm not in ALGORITHMS:
            complaints.refuse(
                _field(name, "supported_algs"),
                f"{shown(algorithm)} is not a signature that only the provider can make",
                f"use some of {', '.join(sorted(ALGORITHMS))}",
            )
    return IdentityProvider(
        name=name,
        issuer=message.issuer,
        audiences=tuple(message.audiences),
        jwks_url=message.jwks_url,
        algorithms=tuple(message.supported_algs) or DEFAULT_ALGORITHMS,
    )


def _field(name: str, field: str) -> str:
    return f"identity_providers[{shown(name)}].{field}"


def _issuer(url: str) -> str:
    if url == KUBERNETES_ISSUER:
        return url
    parts = _checked(url)
    if parts.query or parts.fragment:
        raise Unusable(f"{shown(display(url))} has a query or a fragment", "give the issuer as tokens name it in iss")
    return url


def _jwks_url(message: config_pb2.IdentityProvider) -> str:
    if message.issuer == KUBERNETES_ISSUER:
        raise Unusable("the keys of a local cluster come from its API server", "remove jwks_url")
    _checked(message.jwks_url)
    return message.jwks_url


def _checked(url: str) -> SplitResult:
    """Raises Unusable for anything that keys must not be fetched from."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError:
        raise Unusable(f"{shown(display(url))} is not a URL", "write it as https://host/path") from None
    secure = parts.scheme == "https" or (parts.scheme == "http" and host in LOOPBACK)
    if not host or not secure or not url.isprintable() or " " in url:
        raise Unusable(
            f"{shown(display(url))} is not an https URL", "use https://; http:// is for this machine itself only"
        )
    if "@" in parts.netloc:
        raise Unusable("it has a user name in it", "remove everything before the @")
    return parts
