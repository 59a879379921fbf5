"""How single settings are read: each parser takes what the wire carries and returns what the data plane needs."""

import ipaddress
import re
from collections.abc import Iterable, Mapping
from datetime import timedelta
from types import MappingProxyType
from typing import TypeVar
from urllib.parse import urlsplit

from google.protobuf.duration_pb2 import Duration

from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.durations import parse_duration
from pomerium_agent.config.headers import parse_header_name, parse_headers
from pomerium_agent.config.kubernetes import OURS
from pomerium_agent.config.snapshot import Codec, EscapedSlashes, Underscores
from pomerium_agent.config.urls import ascii_host, display
from pomerium_agent.pb.pomerium import config_pb2

LOG_LEVELS = (
    "trace",
    "debug",
    "info",
    "warn",
    "warning",
    "error",
    "critical",
    "fatal",
    "panic",
    "off",
    "none",
    "disabled",
)  # routes 1.7, field 3
LOOKUP_FAMILIES = ("AUTO", "V4_ONLY", "V6_ONLY", "V4_PREFERRED", "ALL")
ACCESS_LOG_FIELDS = frozenset(
    (
        "authority",
        "client-certificate",
        "cluster-stat-name",
        "duration",
        "forwarded-for",
        "ip",
        "method",
        "path",
        "query",
        "referer",
        "request-id",
        "response-code",
        "response-code-details",
        "size",
        "upstream-cluster",
        "user-agent",
    )
)
# Flags that are true when no flags are configured at all (routes 1.9), as far as the data plane reads them.
DEFAULT_TRUE_FLAGS = (
    "add_extra_metrics_labels",
    "authorize_use_synced_data",
    "config_hot_reload",
    "envoy_resource_manager",
    "grpc_databroker_keepalive",
    "match_any_incoming_port",
    "mcp",
    "refresh_session_at_id_token_expiration",
    "routes_portal",
    "set_envoy_concurrency_to_go_max_procs",
)
E = TypeVar("E")
_COOKIE_NAME = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+")
_UNDERSCORES = {0: Underscores.ALLOW, 1: Underscores.ALLOW, 2: Underscores.REJECT_REQUEST, 3: Underscores.DROP_HEADER}
_SLASHES = dict(enumerate(EscapedSlashes))
_CODECS = dict(enumerate(Codec))


def parse_log_level(text: str) -> str:
    level = text.strip().lower() or "info"
    if level not in LOG_LEVELS:
        raise Unusable(f"{shown(text)} is not a log level", f"use one of {', '.join(LOG_LEVELS)}")
    return level


def parse_lookup_family(text: str) -> str:
    family = text.strip().upper() or "V4_PREFERRED"
    if family not in LOOKUP_FAMILIES:
        raise Unusable(f"{shown(text)} is not a lookup family", f"use one of {', '.join(LOOKUP_FAMILIES)}")
    return family


def parse_grpc_timeout(value: Duration) -> timedelta:
    """Zero means the default of 30 s here (routes 1.7, field 99)."""
    return parse_duration(value) or timedelta(seconds=30)


def parse_query_timeout(value: Duration) -> timedelta:
    """Whole seconds, one or more: c-ares knows no finer ones."""
    parsed = timedelta(seconds=parse_duration(value) // timedelta(seconds=1))
    if not parsed:
        raise Unusable("the time limit is below one second", "use 1s or more")
    return parsed


def parse_refresh_rate(value: Duration) -> timedelta:
    """Envoy demands more than a millisecond (routes 4.4)."""
    parsed = parse_duration(value)
    if parsed <= timedelta(milliseconds=1):
        raise Unusable("the rate must be above one millisecond", "use 1s or more")
    return parsed


def parse_query_tries(tries: int) -> int:
    if tries < 1:
        raise Unusable("the number of tries is zero", "use 1 or more")
    return tries


def parse_cookie_name(name: str) -> str:
    if not _COOKIE_NAME.fullmatch(name):
        raise Unusable(f"{shown(name)} is not a name for a cookie", "use letters, digits, hyphens and underscores")
    return name


def parse_service_url(url: str) -> str:
    """The URL of a service that visitors are sent to."""
    service_host(url)
    return url


def service_host(url: str) -> str:
    """Its host as a domain: lower-case ASCII, with the port when it is not the scheme's own."""
    try:
        parts = urlsplit(url)
        host, port = ascii_host(parts.hostname or ""), parts.port
    except ValueError:
        raise Unusable(f"{shown(display(url))} is not a URL", "write it as https://host") from None
    if parts.scheme not in ("http", "https"):
        raise Unusable(f"{shown(display(url))} begins with neither http:// nor https://", "write it as https://host")
    if "*" in host:
        raise Unusable(f"{shown(display(url))} has a wildcard in its host", "name one host")
    return host if port in (None, 443 if parts.scheme == "https" else 80) else f"{host}:{port}"


def parse_ip(text: str) -> str:
    try:
        return str(ipaddress.ip_address(text.strip()))
    except ValueError:
        raise Unusable(f"{shown(text)} is not an IP address", "use an address of this machine") from None


def parse_codec(number: int) -> Codec:
    return _known(_CODECS, number)


def parse_escaped_slashes(number: int) -> EscapedSlashes:
    return _known(_SLASHES, number)


def parse_underscores(number: int) -> Underscores:
    return _known(_UNDERSCORES, number)


def parse_response_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """The map of headers for every response; one bad entry spoils it, since half of it may be worse than none."""
    complaints = Complaints("")
    parsed = parse_headers("", headers, complaints)
    first = next((fault for fault in complaints.faults if not fault.warning), None)
    if first is not None:
        raise Unusable(first.reason, first.remedy)
    return parsed


def parse_claim_headers(headers: Mapping[str, str]) -> Mapping[str, str]:
    """Header → claim."""
    for name in sorted(headers):
        parse_header_name(name)
        if name.lower() in OURS:
            raise Unusable(f"{shown(name)} is not for claims: on routes to Kubernetes it is ours", "use another name")
    return MappingProxyType(dict(sorted(headers.items())))


def parse_flag_match_any_port(flags: Mapping[str, bool]) -> bool:
    """A map that is not empty replaces the whole set, so a flag it does not list is off (routes 1.7, field 118)."""
    return flags.get("match_any_incoming_port", False)


def parse_log_fields(fields: config_pb2.Settings.StringList) -> tuple[str, ...]:
    """What can be logged, each once; `unknown_log_fields` names the rest."""
    return tuple(dict.fromkeys(name for name in fields.values if _loggable(name)))


def unknown_log_fields(fields: Iterable[str]) -> tuple[str, ...]:
    return tuple(name for name in fields if not _loggable(name))


def _loggable(name: str) -> bool:
    header = name.removeprefix("headers.")
    return name in ACCESS_LOG_FIELDS or (header != name and bool(_COOKIE_NAME.fullmatch(header)))


def _known(choices: Mapping[int, E], number: int) -> E:
    if number not in choices:
        raise Unusable(f"{number} is not a known choice", "update this replica, or use an older choice")
    return choices[number]
