"""From Envoy's question to what it is about: the parts of a CheckRequest that a decision reads (authorize.md 2)."""

from collections.abc import Mapping
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

from pomerium_agent.envoyconfig.client_certificates import CERTIFICATE_NAMESPACE
from pomerium_agent.pb.envoy.service.auth.v3.attribute_context_pb2 import AttributeContext
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest

HEX = frozenset("0123456789abcdefABCDEF")
Address = IPv4Address | IPv6Address | None


class Question(NamedTuple):
    """One request, as Envoy tells of it. Header names are in lower case.

    `route_id`, `checksum` and `internal` come from the context extensions that our own Envoy configuration sets on
    each route, never from the visitor (A-1); `ip` is the direct peer (A-3).
    """

    headers: Mapping[str, str]  # repeated ones are joined with a comma
    lines: tuple[tuple[str, str], ...] = ()  # as they came, when some were repeated; else empty
    method: str = ""
    scheme: str = "https"
    host: str = ""  # as sent, with the port
    raw_path: str = ""
    query: str = ""  # raw, without the question mark
    ip_text: str = ""
    chain: str = ""  # URL-encoded PEM of the client's certificates, leaf first; empty: none was presented
    route_id: str = ""
    checksum: str = ""
    internal: bool = False

    @property
    def request_id(self) -> str:
        return self.headers.get("x-request-id", "")

    @property
    def path(self) -> str:
        """Percent-decoded, without the query; empty when it cannot be decoded."""
        return decoded_path(self.raw_path)

    @property
    def ip(self) -> Address:
        return address(self.ip_text)

    @property
    def url_host(self) -> str:
        """The host without the port that its scheme has anyway."""
        default = ":80" if self.scheme == "http" else ":443"
        return self.host.removesuffix(default)

    @property
    def hostname(self) -> str:
        """The host without any port."""
        return hostname(self.host)


class Glance:
    """A question as far as every answer needs it; each name says what it says of a Question."""

    __slots__ = (
        "_attributes",
        "_http",
        "checksum",
        "headers",
        "host",
        "internal",
        "ip_text",
        "method",
        "query",
        "raw_path",
        "request_id",
        "route_id",
    )

    def __init__(self, request: CheckRequest) -> None:
        self._attributes = attributes = request.attributes
        self._http = http = attributes.request.http
        told = attributes.context_extensions.get
        headers: Mapping[str, str] = http.headers
        path, _, query = http.path.partition("?")
        self.headers = headers
        self.request_id: str = headers.get("x-request-id", "")
        self.method: str = http.method
        self.host: str = http.host
        self.raw_path: str = path
        self.query: str = query
        self.ip_text: str = attributes.source.address.socket_address.address
        self.route_id: str = told("route_id", "")
        self.checksum: str = told("route_checksum", "")
        self.internal: bool = told("internal", "") == "true"

    @property
    def scheme(self) -> str:
        return self._http.scheme or "https"

    @property
    def chain(self) -> str:
        return chain_of(self._attributes)


Asked = Question | Glance


def gather(request: CheckRequest) -> Question:
    """Read what one check is about."""
    attributes = request.attributes
    http = attributes.request.http
    extensions = attributes.context_extensions
    path, _, query = http.path.partition("?")
    headers, lines = _headers(http)
    return Question(
        headers,
        lines,
        http.method,
        http.scheme or "https",
        http.host,
        path,
        query,
        attributes.source.address.socket_address.address,
        chain_of(attributes),
        extensions.get("route_id", ""),
        extensions.get("route_checksum", ""),
        extensions.get("internal", "") == "true",
    )


def _headers(http: AttributeContext.HttpRequest) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """By name, and line by line if Envoy tells of lines and a name is repeated. It tells in one way or the other."""
    told = http.headers  # Envoy writes all names in lower case
    headers = {name: told[name] for name in told}  # twice as fast as by items()
    if headers or not http.HasField("header_map"):
        return headers, ()
    lines = tuple(
        (each.key.lower(), each.raw_value.decode(errors="replace") if each.raw_value else each.value)
        for each in http.header_map.headers
    )
    headers = dict(lines)
    if len(headers) == len(lines):
        return headers, ()
    joined: dict[str, str] = {}
    for name, value in lines:
        joined[name] = f"{joined[name]},{value}" if name in joined else value
    return joined, lines


def chain_of(attributes: AttributeContext) -> str:
    """What Envoy passes on of the certificates of a client; empty when it presented none."""
    if not attributes.HasField("metadata_context"):
        return ""
    found = attributes.metadata_context.filter_metadata
    if CERTIFICATE_NAMESPACE not in found:
        return ""
    fields = found[CERTIFICATE_NAMESPACE].fields
    return fields["chain"].string_value if "chain" in fields else ""


def decoded_path(path: str) -> str:
    """The path that policies see; empty when an escape is broken, or stands for no text."""
    if "%" not in path:
        return path
    for piece in path.split("%")[1:]:
        if len(piece) < 2 or piece[0] not in HEX or piece[1] not in HEX:
            return ""
    try:
        return unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return ""


def hostname(host: str) -> str:
    """A host without its port; brackets around an IPv6 address go as well."""
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0] if host.count(":") == 1 else host


@lru_cache(maxsize=4096)
def address(text: str) -> Address:
    """An IP address; one of IPv4 that is dressed as IPv6 is undressed. None for anything else."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    return found.ipv4_mapped or found if isinstance(found, IPv6Address) else found
