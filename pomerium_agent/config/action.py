"""Where requests go: upstreams with all that is known of them, redirects, fixed answers."""

import ipaddress
from dataclasses import dataclass, field
from datetime import timedelta
from enum import Enum


class Transport(Enum):
    """How bytes reach an upstream (routes 3.3)."""

    HTTP = "http"
    HTTPS = "https"
    H2C = "h2c"
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Endpoint:
    """One `to` URL. With `pipe` set, it is a unix socket and host, port and path mean nothing."""

    url: str  # as written, without the weight
    transport: Transport
    host: str = ""  # as Envoy dials it: `localhost` is already 127.0.0.1
    port: int = 0
    hostname: str = ""  # host[:port] as written: the Host header under auto_host_rewrite
    path: str = ""
    pipe: str = ""
    weight: int | None = None  # at least 1
    server_name: str = ""  # SNI and SAN to verify; empty when there is none to verify against

    @property
    def tls(self) -> bool:
        return self.transport is Transport.HTTPS

    @property
    def is_ip(self) -> bool:
        """Whether `host` is an address literal, which needs no resolving."""
        try:
            ipaddress.ip_address(self.host)
        except ValueError:
            return False
        return True


@dataclass(frozen=True, slots=True, kw_only=True)
class UpstreamTls:
    """How an upstream proves who it is, and how we do. PEM texts; an empty `custom_ca` means the system's."""

    skip_verify: bool = False
    custom_ca: str = ""
    client_certificate: str = ""
    client_key: str = field(default="", repr=False)
    allow_renegotiation: bool = False


class LoadBalancing(Enum):
    """By name, since Pomerium's numbers are not Envoy's (routes 1.5)."""

    ROUND_ROBIN = "ROUND_ROBIN"
    MAGLEV = "MAGLEV"
    RANDOM = "RANDOM"
    RING_HASH = "RING_HASH"
    LEAST_REQUEST = "LEAST_REQUEST"


@dataclass(frozen=True, slots=True, kw_only=True)
class CircuitBreakers:
    """None means: as the layer below says (settings, then Envoy)."""

    max_connections: int | None = None
    max_pending_requests: int | None = None
    max_requests: int | None = None
    max_retries: int | None = None
    max_connection_pools: int | None = None


DEFAULT_BREAKERS = CircuitBreakers()


@dataclass(frozen=True, slots=True, kw_only=True)
class Upstream:
    """What becomes an Envoy cluster: equal upstreams of one route id make an equal cluster."""

    endpoints: tuple[Endpoint, ...]
    tls: UpstreamTls = UpstreamTls()
    http1_only: bool = False  # websockets were allowed, and an upgrade needs HTTP/1.1
    load_balancing: LoadBalancing = LoadBalancing.ROUND_ROBIN
    healthy_panic_threshold: int | None = None  # percent
    health_checks: tuple[bytes, ...] = ()  # envoy.config.core.v3.HealthCheck, validated and serialised
    outlier_detection: bytes = b""  # envoy.config.cluster.v3.OutlierDetection, likewise; empty: none
    circuit_breakers: CircuitBreakers = CircuitBreakers()
    dns_v4_only: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class HostRewrite:
    """Which Host the upstream sees; at most one of the first three is set (routes 4.2)."""

    literal: str = ""
    header: str = ""
    path_regex: str = ""
    path_substitution: str = ""
    preserve: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Forward:
    """Send the request on."""

    upstream: Upstream
    prefix_rewrite: str = ""
    regex_rewrite: str = ""
    regex_substitution: str = ""
    host_rewrite: HostRewrite = HostRewrite()
    timeout: timedelta | None = None  # None: settings.default_upstream_timeout; zero: no limit (routes 6.1)
    idle_timeout: timedelta | None = None  # None: unset, so the connection manager's applies
    append_forwarded_host: bool = True
    upgrades: tuple[tuple[str, bool], ...] = (("websocket", False), ("spdy/3.1", False))
    connect: bool = False  # terminate CONNECT here (tcp and udp upstreams)


@dataclass(frozen=True, slots=True, kw_only=True)
class Redirect:
    """Answer with a redirect. None means: leave this part of the URL alone."""

    https: bool | None = None
    scheme: str | None = None
    host: str | None = None
    port: int | None = None
    path: str | None = None
    prefix: str | None = None
    code: int = 301
    strip_query: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class DirectResponse:
    """Answer with this."""

    status: int
    body: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Unavailable:
    """Stands where a quarantined route would: 503, naming the fault (architecture 4.2)."""

    fault_id: str


Action = Forward | Redirect | DirectResponse | Unavailable
