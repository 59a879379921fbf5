"""How each of the settings otel_* is read. Every function raises Unusable."""

import re
from collections.abc import Iterable
from urllib.parse import unquote

from pomerium_agent.config.complaints import Unusable, shown
from pomerium_agent.config.durations import parse_positive_duration
from pomerium_agent.config.tracing import Headers
from pomerium_agent.config.urls import parse_endpoint
from pomerium_agent.settings import Secret

OFF = ("", "none", "noop")
PROTOCOLS = ("grpc", "http/protobuf")
LARGEST_BATCH = 4096
LOG_LEVELS = ("trace", "debug", "info", "warn", "error", "none")
# What HTTP and gRPC both take. A name that Envoy refuses would cost visitors their whole listener.
_HEADER_NAME = re.compile(r"(?!grpc-)[a-z0-9][a-z0-9._-]*(?<!-bin)")
_NOT_OURS = frozenset(
    (
        "connection",
        "content-length",
        "content-type",
        "host",
        "keep-alive",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
_HEADER_VALUE = re.compile(r"[\x21-\x7e]([\x20-\x7e]*[\x21-\x7e])?|")


def parse_exporter(text: str) -> bool:
    """Whether there is one."""
    name = text.strip().lower()
    if name in OFF:
        return False
    if name != "otlp":
        raise Unusable(f"there is no exporter {shown(text)}", "use otlp, or none")
    return True


def parse_ratio(value: float) -> float:
    if not 0 <= value <= 1:  # also what is no number
        raise Unusable(f"{value:g} is no share of all traces", "give a number from 0 to 1, for example 0.1")
    return value


def parse_attributes(pairs: Iterable[str]) -> tuple[tuple[str, str], ...]:
    """`name=value` each, percent-encoded where need be, the last of a name counts."""
    found: dict[str, str] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise Unusable(f"{shown(pair)} is not name=value", "write for example service.namespace=edge")
        found[unquote(name.strip())] = unquote(value.strip())
    return tuple(sorted(found.items()))


def parse_headers(pairs: Iterable[str]) -> Headers:
    """Likewise; values are secrets, so no complaint shows one."""
    found: dict[str, Secret] = {}
    for number, pair in enumerate(pairs, 1):
        name, equals, value = (unquote(part.strip()) for part in pair.partition("="))
        name = name.lower()
        if not equals or not _HEADER_NAME.fullmatch(name) or name in _NOT_OURS:
            raise Unusable(f"number {number} is not name=value with a header that can be set", "write x-team=edge")
        if not _HEADER_VALUE.fullmatch(value):
            raise Unusable(f"the value of {shown(name)} cannot be sent", "use printable ASCII, without spaces around")
        found[name] = Secret(value)
    return tuple(sorted(found.items(), key=lambda pair: pair[0]))


def parse_collector(text: str) -> str:
    """The URL of a collector."""
    url = text.strip()
    if not url.startswith(("http://", "https://")):
        raise Unusable(f"{shown(text)} is not the URL of a collector", "write for example http://127.0.0.1:4317")
    parse_endpoint(url)
    if "@" in url.partition("://")[2].partition("/")[0] or "?" in url or "#" in url or "," in url:
        raise Unusable("it has more than host, port and path", "put credentials into otel_exporter_otlp_headers")
    return url


def parse_protocol(text: str) -> str:
    name = text.strip().lower()
    if name and name not in PROTOCOLS:
        raise Unusable(f"the protocol {shown(text)} is not known", f"use {' or '.join(PROTOCOLS)}")
    return name


def parse_otel_log_level(text: str) -> str:
    level = text.strip().lower() or "warn"
    level = {"warning": "warn", "off": "none", "disabled": "none", "fatal": "error"}.get(level, level)
    if level not in LOG_LEVELS:
        raise Unusable(f"{shown(text)} is not a log level", f"use one of {', '.join(LOG_LEVELS)}")
    return level


def parse_value_limit(value: int) -> int | None:
    """Characters; a negative number means no limit."""
    return value if value >= 0 else None


def parse_batch_size(value: int) -> int:
    if not 1 <= value <= LARGEST_BATCH:
        raise Unusable(f"{value} spans are no batch", f"give a number from 1 to {LARGEST_BATCH}")
    return value


# Field of the wire → attribute of `Tracing`, and how it is read.
PARSERS = (
    ("otel_traces_exporter", "exporter", parse_exporter),
    ("otel_traces_sampler_arg", "ratio", parse_ratio),
    ("otel_resource_attributes", "resource", parse_attributes),
    ("otel_log_level", "log_level", parse_otel_log_level),
    ("otel_attribute_value_length_limit", "value_limit", parse_value_limit),
    ("otel_exporter_otlp_endpoint", "endpoint", parse_collector),
    ("otel_exporter_otlp_traces_endpoint", "traces_endpoint", parse_collector),
    ("otel_exporter_otlp_protocol", "protocol", parse_protocol),
    ("otel_exporter_otlp_traces_protocol", "traces_protocol", parse_protocol),
    ("otel_exporter_otlp_headers", "headers", parse_headers),
    ("otel_exporter_otlp_traces_headers", "traces_headers", parse_headers),
    ("otel_exporter_otlp_timeout", "timeout", parse_positive_duration),
    ("otel_exporter_otlp_traces_timeout", "traces_timeout", parse_positive_duration),
    ("otel_bsp_schedule_delay", "schedule_delay", parse_positive_duration),
    ("otel_bsp_max_export_batch_size", "batch_size", parse_batch_size),
)
