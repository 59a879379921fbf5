"""Header names and values that a configuration may set or remove (routes 4.4, 5)."""

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType

from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.snapshot import NOTHING, HeaderRewrite
from pomerium_agent.pb.pomerium import config_pb2

MAX_BYTES = 16_384  # of a name or a value, by Envoy's own rule
MAX_COUNT = 450  # Envoy takes 1000 at one place, where those of the settings, of a route and of our own meet
_FRAMING = frozenset({"content-length", "transfer-encoding"})
_TOKEN = re.compile(r"[0-9A-Za-z!#$%&'*+.^_`|~-]+")


def parse_header_name(name: str) -> str:
    """A name that may be set: a token, not `Host`, not a pseudo-header, nothing that frames. Raises Unusable."""
    if not name:
        raise Unusable("a header has no name", "give it one or remove it")
    if name.lower() == "host":
        raise Unusable(f"{shown(name)} cannot be set like other headers", "use host_rewrite instead")
    if name.lower() in _FRAMING:
        raise Unusable(f"{shown(name)} says where a message ends, which depends on the message", "remove it")
    if name.startswith(":"):
        raise Unusable(f"{shown(name)} is a pseudo-header", "remove it; use host_rewrite or prefix_rewrite instead")
    if not _TOKEN.fullmatch(name) or len(name) > MAX_BYTES:
        raise Unusable(f"{shown(name)} is not a header name", "use letters, digits and hyphens")
    return name


def parse_header_value(value: str) -> str:
    """A value without CR, LF or NUL. Raises Unusable; the value itself may be a secret and is not repeated."""
    if any(character in value for character in "\r\n\0"):
        raise Unusable("the value has a line break or NUL inside", "write it on one line")
    if len(value.encode()) > MAX_BYTES:
        raise Unusable(f"the value is longer than {MAX_BYTES} bytes", "shorten it")
    return value


def parse_headers(field: str, headers: Mapping[str, str], complaints: Complaints) -> Mapping[str, str]:
    """A map of headers to set, sorted by name; `disable` is a name like any other here (routes 5)."""
    if not headers:
        return NOTHING
    if len(headers) > MAX_COUNT:
        complaints.refuse(field, f"there are more than {MAX_COUNT} headers", "set fewer")
    for name in sorted(headers):
        complaints.attempt(field, parse_header_name, name)
        complaints.attempt(f"{field}.{_plain(name)}", parse_header_value, headers[name])
    seen: dict[str, str] = {}
    for name in sorted(headers):
        if seen.setdefault(name.lower(), name) != name:
            complaints.warn(
                field,
                f"{shown(seen[name.lower()])} and {shown(name)} are one header, and the latter wins",
                "keep one of them",
            )
    return MappingProxyType({name: headers[name] for name in sorted(headers)})


def parse_removals(field: str, names: Iterable[str], complaints: Complaints) -> tuple[str, ...]:
    """Headers to remove; those that Envoy refuses to remove are dropped with a warning (routes 1.2, field 23)."""
    kept: dict[str, None] = {}
    for name in names:
        if not name:
            complaints.warn(field, "an entry is empty", "remove it")
        elif name.lower() == "host" or name.startswith(":"):
            complaints.warn(
                field, f"{shown(name)} cannot be removed, since every request has it", "remove it from the list"
            )
        elif not _TOKEN.fullmatch(name) or len(name) > MAX_BYTES:
            complaints.warn(field, f"{shown(name)} is not a header name", "remove it from the list")
        else:
            kept[name] = None
    return tuple(kept)


def parse_response_rewrites(
    rewrites: Iterable[config_pb2.RouteRewriteHeader], complaints: Complaints
) -> tuple[HeaderRewrite, ...]:
    """`rewrite_response_headers`; without a prefix the whole value is replaced (routes 1.3)."""
    parsed = []
    for index, rewrite in enumerate(rewrites):
        field = f"rewrite_response_headers[{index}]"
        complaints.attempt(f"{field}.header", parse_header_name, rewrite.header)
        complaints.attempt(f"{field}.value", parse_header_value, rewrite.value)
        prefix = rewrite.prefix if rewrite.HasField("prefix") else None
        complaints.attempt(f"{field}.prefix", parse_header_value, prefix or "")
        parsed.append(HeaderRewrite(header=rewrite.header, value=rewrite.value, prefix=prefix))
    return tuple(parsed)


def _plain(name: str) -> str:
    cut = name[:60]
    return (cut if cut.isprintable() else "".join(c if c.isprintable() else "?" for c in cut)) or '""'
