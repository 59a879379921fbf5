"""The configuration in force, as one value: everything the data plane needs to know, checked and resolved.

Nothing here is a default waiting to be applied or text waiting to be parsed: whoever holds a
ConfigSnapshot can build Envoy resources from it without being able to fail.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum
from types import MappingProxyType
from typing import Any

from pomerium_agent.config.action import DEFAULT_BREAKERS, Action, CircuitBreakers
from pomerium_agent.config.limit import LOGIN_LIMIT, RateLimit
from pomerium_agent.config.login import Login
from pomerium_agent.config.source import EVERYTHING, Match, Source
from pomerium_agent.config.tracing import NO_TRACING, Tracing
from pomerium_agent.config.trust import NO_CLIENT_CERTIFICATES, ClientCertificates
from pomerium_agent.policy import RoutePolicy
from pomerium_agent.settings import Secret

NOTHING: Mapping[str, str] = MappingProxyType({})
NO_SECRET = Secret("")


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One thing that was left out of the configuration, or changed on its way in, and what to do about it."""

    subject: str  # "route r1 (https://app.example.com)", "certificate 2", "settings"
    field: str  # as the operator writes it: "regex", "health_checks[0].timeout"
    reason: str
    remedy: str
    record_id: str = ""
    route_id: str = ""
    warning: bool = False  # the item serves all the same: only something harmless was dropped

    @property
    def id(self) -> str:
        """Eight hex digits by which an error page, a log line and a status report name the same fault."""
        text = "\0".join((self.subject, self.field, self.reason, self.record_id))
        return hashlib.sha256(text.encode()).hexdigest()[:8]

    def __str__(self) -> str:
        return f"{self.subject}: {self.field}: {self.reason}; {self.remedy} [{self.id}]"


@dataclass(frozen=True, slots=True, kw_only=True)
class HeaderRewrite:
    """Rewrite one response header: the leading `prefix`, or the whole value when there is no prefix."""

    header: str
    value: str
    prefix: str | None = None


NOBODY = RoutePolicy(closed="policy-missing")


class BearerFormat(Enum):
    """What a bearer token in `Authorization` is taken for (authorize 4.2)."""

    DEFAULT = "default"
    ACCESS_TOKEN = "idp_access_token"  # noqa: S105  # a name
    IDENTITY_TOKEN = "idp_identity_token"  # noqa: S105  # a name
    JWT = "jwt"


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """Who may use a route, and what is told of them. None means: as the settings say. By default, nobody may."""

    policy: RoutePolicy = NOBODY
    also: tuple[RoutePolicy, ...] = ()  # have to allow as well: of the version that this one stands in for
    also_of: str = ""  # a hash of that version
    client_ca: str | None = None  # PEM, instead of the settings'; empty: it cannot be read, so no certificate is good
    show_error_details: bool = False
    issuer_uri: bool | None = None
    groups_filter: tuple[str, ...] = ()
    bearer_format: BearerFormat | None = None
    identity_providers: tuple[str, ...] = ()
    depends_on: tuple[str, ...] = ()
    idp_client_id: str | None = None  # another client of the same provider, for this route alone
    idp_client_secret: Secret | None = None
    access_token_audiences: tuple[str, ...] | None = None  # None: as the settings say

    @property
    def policies(self) -> tuple[RoutePolicy, ...]:
        """All that have to allow."""
        return (self.policy, *self.also)


CLOSED = Access()


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One route, checked. `key` is a hash of everything in it: equal keys mean equal routes, so caches use it."""

    id: str
    key: str
    record_id: str = ""
    name: str = ""
    description: str = ""
    logo_url: str = ""
    stat_name: str = ""
    source: Source
    match: Match = EVERYTHING
    action: Action
    downstream_name: str = ""  # a host that has the agent's own pages, and no route for this one's sake
    public: bool = False  # nobody can be turned away, so authorize need not be asked; anything else it decides
    bare: bool = False  # no prefix was written down, so that everything else on its host goes first
    regex_priority: int | None = None
    set_request_headers: Mapping[str, str] = field(
        default_factory=lambda: NOTHING
    )  # raw values; templates of routes 5 not yet expanded
    remove_request_headers: tuple[str, ...] = ()  # as configured, without those Envoy would refuse
    set_response_headers: Mapping[str, str] = field(
        default_factory=lambda: NOTHING
    )  # raw values, the route's own; `disable` still in it
    rewrite_response_headers: tuple[HeaderRewrite, ...] = ()
    pass_identity_headers: bool | None = None  # None: as the settings say
    kubernetes: bool = False
    kubernetes_token: Secret = NO_SECRET
    serverless_audience: str = ""  # of Google's identity tokens; empty: none is sent
    access: Access = CLOSED
    rate_limit: RateLimit | None = None


# --- who vouches for visitors, and for us ------------------------------------------------------------

KUBERNETES_ISSUER = "kubernetes:///"  # whatever the API server of the cluster around us calls itself


@dataclass(frozen=True, slots=True, kw_only=True)
class IdentityProvider:
    """An external identity provider, whose JWTs routes may accept (authorize 4.2)."""

    name: str
    issuer: str
    audiences: tuple[str, ...]
    jwks_url: str = ""  # empty: discovered from the issuer
    algorithms: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class GoogleAccount:
    """A service account of Google's. Without a key, nobody: what was configured could not be used."""

    email: str = ""
    key_id: str = ""
    key: Secret = NO_SECRET  # PEM, RSA
    token_url: str = ""


# --- what holds for all routes ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Address:
    """Where to listen. An empty host means every interface."""

    host: str = ""
    port: int = 443


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """A certificate chain with its key, both PEM, both checked to belong together. `id` is a content hash."""

    id: str
    chain: str
    key: str = field(repr=False)
    names: tuple[str, ...] = ()  # DNS names and IP addresses of the leaf
    self_signed_fallback: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class MetricsListener:
    """Where metrics are scraped, and who may: whoever knows, and proves, all that is not None (routes 7.5)."""

    address: Address
    basic_auth: Secret | None = None  # user:password
    certificate: Certificate | None = None
    client_ca: str | None = None  # PEM; never without a certificate of our own


class Codec(Enum):
    AUTO = "AUTO"
    HTTP1 = "HTTP1"
    HTTP2 = "HTTP2"
    HTTP3 = "HTTP3"


class EscapedSlashes(Enum):
    """By Envoy's names."""

    IMPLEMENTATION_SPECIFIC_DEFAULT = "IMPLEMENTATION_SPECIFIC_DEFAULT"
    KEEP_UNCHANGED = "KEEP_UNCHANGED"
    REJECT_REQUEST = "REJECT_REQUEST"
    UNESCAPE_AND_REDIRECT = "UNESCAPE_AND_REDIRECT"
    UNESCAPE_AND_FORWARD = "UNESCAPE_AND_FORWARD"


class Underscores(Enum):
    """By Envoy's names."""

    ALLOW = "ALLOW"
    REJECT_REQUEST = "REJECT_REQUEST"
    DROP_HEADER = "DROP_HEADER"


@dataclass(frozen=True, slots=True, kw_only=True)
class DnsOptions:
    """How upstream names are resolved (routes 1.7: 60, 146 to 149, 153, 154)."""

    lookup_family: str = "V4_PREFERRED"
    udp_max_queries: int = 100
    use_tcp: bool = False
    query_tries: int | None = None
    query_timeout: timedelta | None = None
    refresh_rate: timedelta | None = None
    failure_refresh_rate: timedelta | None = None


DEFAULT_ACCESS_LOG_FIELDS = (
    "upstream-cluster",
    "method",
    "authority",
    "path",
    "user-agent",
    "referer",
    "forwarded-for",
    "request-id",
    "duration",
    "size",
    "response-code",
    "response-code-details",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The merged settings that the data plane reads (routes 1.7). Durations of zero mean "off" where Envoy says so."""

    address: Address = Address()
    insecure_server: bool = False
    http_redirect: Address | None = None
    grpc_address: Address | None = None  # where clients outside reach the databroker; None: nowhere
    grpc_insecure: bool | None = None  # None: as the address has it, see `agent.databroker_address`
    metrics: MetricsListener | None = None
    log_level: str = "info"
    proxy_log_level: str = "info"
    access_log_fields: tuple[str, ...] = DEFAULT_ACCESS_LOG_FIELDS
    certificates: tuple[Certificate, ...] = ()  # never empty in a compiled snapshot: see the fallback
    certificate_authority: str = ""  # PEM, in addition to the system's
    timeout_read: timedelta = timedelta(seconds=30)
    timeout_write: timedelta = timedelta(0)
    timeout_idle: timedelta = timedelta(minutes=5)
    default_upstream_timeout: timedelta = timedelta(seconds=30)
    grpc_client_timeout: timedelta = timedelta(seconds=10)
    cookie_name: str = "_pomerium"
    login: Login = field(default_factory=Login)
    login_read: Mapping[str, Any] = field(default_factory=lambda: NOTHING, repr=False)  # what `login` was made from
    pass_identity_headers: bool = False
    jwt_claims_headers: Mapping[str, str] = field(default_factory=lambda: NOTHING)
    # None: not configured, so Pomerium's defaults apply; the key `disable` is still in it
    set_response_headers: Mapping[str, str] | None = None
    codec: Codec = Codec.AUTO
    envoy_admin: Address | None = None  # where Envoy's admin is on a port; always of loopback
    envoy_admin_log: str = "/dev/null"  # of requests to it
    http3_advertise_port: int = 0  # which Alt-Svc names; 0: that of the address
    use_proxy_protocol: bool = False
    skip_xff_append: bool = False
    xff_trusted_hops: int = 0
    normalize_path: bool = True
    merge_slashes: bool = True
    escaped_slashes: EscapedSlashes = EscapedSlashes.REJECT_REQUEST
    underscores: Underscores = Underscores.REJECT_REQUEST
    match_any_incoming_port: bool = True
    dns: DnsOptions = DnsOptions()
    circuit_breakers: CircuitBreakers = DEFAULT_BREAKERS
    bind_source_address: str = ""
    bind_freebind: bool | None = None
    signing_key: str = field(default="", repr=False)  # PEM; empty: the one derived from the token
    hosts_of_authenticate: tuple[str, ...] = ()
    login_limit: RateLimit | None = LOGIN_LIMIT  # None: none
    issuer_uri: bool = False  # of assertions: https://host/ instead of the host alone
    groups_filter: tuple[str, ...] = ()  # directory groups that upstreams may hear of; empty: all
    bearer_format: BearerFormat = BearerFormat.DEFAULT
    authorize_log_fields: tuple[str, ...] | None = None  # None: the usual ones
    branding: Mapping[str, str] = field(default_factory=lambda: NOTHING)  # by the names of the settings
    client_certificates: ClientCertificates = NO_CLIENT_CERTIFICATES
    identity_providers: tuple[IdentityProvider, ...] = ()  # those that can be used, by name
    tracing: Tracing = NO_TRACING
    google_account: GoogleAccount | None = None  # None: whoever the metadata server says we are


@dataclass(frozen=True, slots=True, kw_only=True)
class ConfigSnapshot:
    """Everything the data plane needs to know. Replaced whole, never edited. Routes are in matching order."""

    settings: Settings
    routes: tuple[Route, ...] = ()
    digest: str = ""  # hash of the records it was compiled from
