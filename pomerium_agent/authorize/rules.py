"""What authorization knows of the configuration: one frozen value per generation, swapped as a whole (A-33)."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from pomerium_agent.config.snapshot import GoogleAccount
from pomerium_agent.config.templates import Reference
from pomerium_agent.config.trust import ClientTrust
from pomerium_agent.look.branding import PLAIN, Branding
from pomerium_agent.policy import RoutePolicy
from pomerium_agent.sessions.bearer import BearerRule
from pomerium_agent.sessions.signer import Signer
from pomerium_agent.settings import Secret

EMPTY: Mapping[str, Any] = MappingProxyType({})
NO_SECRET = Secret("")
CLOSED = RoutePolicy(closed="policy-missing")

DEFAULT_LOG_FIELDS = (
    "request-id",
    "check-request-id",
    "method",
    "path",
    "host",
    "ip",
    "session-id",
    "service-account-id",
    "user",
    "email",
    "impersonate-session-id",
    "impersonate-user-id",
    "impersonate-email",
    "removed-groups-count",
    "envoy-route-id",
    "envoy-route-checksum",
    "route-id",
    "route-checksum",
)

Template = tuple[str | Reference, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteRules:
    """One route, as a decision about it needs it."""

    id: str
    checksum: int = 0
    name: str = ""
    policy: RoutePolicy = CLOSED
    also: tuple[RoutePolicy, ...] = ()  # that have to allow as well
    show_error_details: bool = False
    pass_identity_headers: bool = False  # the route's say, else the global one
    issuer_uri: bool = False
    groups_filter: frozenset[str] = frozenset()  # the route's and the global one together
    bearer: BearerRule | None = None  # how bearers are read; None: they belong to the upstream (authorize 4.2)
    set_request_headers: tuple[tuple[str, Template], ...] = ()
    kubernetes: bool = False
    kubernetes_token: Secret = NO_SECRET
    serverless_audience: str = ""  # of Google's identity tokens; empty: none is sent
    affinity: bool = False  # load balancing by ring hash or maglev
    depends_on: tuple[str, ...] = ()
    idp_id: str = ""
    client_trust: ClientTrust | None = None  # which client certificates are good; None: none is judged
    stat_name: str = ""
    limits_users: bool = False  # Envoy counts the requests of each user

    @property
    def policies(self) -> tuple[RoutePolicy, ...]:
        """All that have to allow."""
        return (self.policy, *self.also)


NONE_BEFORE: Mapping[tuple[str, int], RouteRules] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """Everything about one generation of the configuration. `Rules()` lets nobody in.

    `former` are versions of routes that Envoy may still have: what it asks about one of them is allowed only if both
    that version and the present one allow it, or a wider policy would open a route that leads elsewhere.
    """

    routes: Mapping[str, RouteRules] = field(default_factory=lambda: EMPTY)  # by route id (W4)
    former: Mapping[tuple[str, int], RouteRules] = field(default_factory=lambda: NONE_BEFORE)  # by id and checksum
    cookie_name: str = "_pomerium"
    shared_key: bytes = field(default=b"", repr=False)
    handle_lifetime: timedelta | None = None  # W2
    authenticate_url: str = ""
    stateless: bool = False  # a hosted service logs people in (authenticate 1)
    default_idp_id: str = ""
    idp_of_host: Mapping[str, str] = field(default_factory=lambda: EMPTY)  # for internal paths; else the default
    jwt_claims_headers: Mapping[str, str] = field(default_factory=lambda: EMPTY)  # header name to claim
    signer: Signer | None = None
    public_keys: tuple[Mapping[str, str], ...] = ()  # of all that sign for us, or did lately, as JWKs
    log_fields: tuple[str, ...] = DEFAULT_LOG_FIELDS
    branding: Branding = PLAIN
    google_account: GoogleAccount | None = None  # None: whoever the metadata server says we are


NO_RULES = Rules()
