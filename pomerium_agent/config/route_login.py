"""What a route says of proving who one is: whom it lets in beside policies, which bearers, which hosts first."""

from urllib.parse import urlsplit

from pomerium_agent.config.access import parse_bearer_format, parse_issuer_format
from pomerium_agent.config.complaints import Complaints, shown
from pomerium_agent.config.urls import ascii_host, display
from pomerium_agent.pb.pomerium import config_pb2

MAX_DEPENDS_ON = 5


def check_whitelists(route: config_pb2.Route, complaints: Complaints) -> None:
    """Who may come in is decided by authorize; that the answers contradict each other is seen here (routes 4.3)."""
    whitelists = [name for name in ("allowed_users", "allowed_domains") if getattr(route, name)]
    for name in ("allow_public_unauthenticated_access", "allow_any_authenticated_user"):
        if getattr(route, name) and whitelists:
            complaints.refuse(
                name,
                f"the route contains whitelists ({', '.join(whitelists)}), which {name} would make meaningless",
                "remove one or the other",
            )
    if route.allow_public_unauthenticated_access and route.allow_any_authenticated_user:
        complaints.refuse(
            "allow_public_unauthenticated_access",
            "the route is open to everyone and to any signed-in user at once",
            "remove allow_public_unauthenticated_access or allow_any_authenticated_user",
        )


def check_login(
    route: config_pb2.Route, *, jwt_bearer: bool, identity_providers: frozenset[str], complaints: Complaints
) -> None:
    """How somebody proves who they are; the two values are what the settings say of all routes."""
    if len(route.depends_on) > MAX_DEPENDS_ON:
        complaints.refuse("depends_on", f"it is limited to {MAX_DEPENDS_ON} hosts", "remove some")
    for index, host in enumerate(route.depends_on):
        if "/" in host and not _host_of(host):
            complaints.refuse(
                f"depends_on[{index}]", f"{shown(display(host))} is not a URL", "write a host, or https://host"
            )
    complaints.attempt("bearer_token_format", parse_bearer_format, route.bearer_token_format)
    complaints.attempt("jwt_issuer_format", parse_issuer_format, route.jwt_issuer_format)
    if not route.identity_providers:
        return
    jwt = jwt_bearer
    if route.HasField("bearer_token_format"):
        jwt = route.bearer_token_format == config_pb2.BEARER_TOKEN_FORMAT_JWT
    if not jwt:
        complaints.refuse(
            "identity_providers",
            "it is unsupported unless bearer_token_format is jwt",
            "set bearer_token_format, or remove identity_providers",
        )
    for name in sorted(set(route.identity_providers) - identity_providers):
        complaints.refuse(
            "identity_providers",
            f"{shown(name)} is not among the settings' identity_providers",
            "add it there, or remove it",
        )


def _host_of(url: str) -> str:
    """The host of a URL in lower-case ASCII; empty when it has none."""
    try:
        return ascii_host(urlsplit(url).hostname or "")
    except ValueError:
        return ""
