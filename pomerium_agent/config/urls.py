"""The grammar of `from` and `to` URLs (routes 3.1, 3.3), parsed into what Envoy will be told."""

import ipaddress
import re
from collections.abc import Sequence
from dataclasses import replace
from urllib.parse import SplitResult, unquote, urlsplit

import idna

from pomerium_agent.config.action import Endpoint, Transport
from pomerium_agent.config.complaints import Complaints, Unusable, shown
from pomerium_agent.config.source import Kind, Source

SOURCE_KINDS = {
    "http": Kind.HTTP,
    "https": Kind.HTTP,
    "tcp+https": Kind.TCP,
    "tcp+http": Kind.TCP,
    "udp+https": Kind.UDP,
    "udp+http": Kind.UDP,
}
TRANSPORTS = {
    "http": Transport.HTTP,
    "https": Transport.HTTPS,
    "h2c": Transport.H2C,
    "tcp": Transport.TCP,
    "udp": Transport.UDP,
}
SOCKET_TRANSPORTS = {"unix": Transport.HTTP, "http+unix": Transport.HTTP, "https+unix": Transport.HTTPS}
MAX_SOCKET_PATH = 107  # bytes of sun_path that a kernel takes, without the final NUL
MAX_WEIGHT = 2**32 - 1  # of all endpoints together; Envoy adds them up in 32 bits
_HOST = re.compile(r"[A-Za-z0-9._*-]+")
_DOTS = re.compile("[.\u3002\uff0e\uff61]")
_WHITE_OR_CONTROL = re.compile(r"[\x00-\x20\x7f]")


def parse_source(url: str) -> Source:
    """A route's `from`. Raises Unusable.

    The host comes out in lower-case ASCII, an IPv6 address in brackets, the port only when written.
    """
    if not url:
        raise Unusable("it is empty", "give the public URL, for example https://app.example.com")
    parts, port = _split(url)
    if not parts.scheme:
        raise Unusable(f"{_safe(url)} has no scheme", f"write https://{_safe_host(url)}")
    if parts.scheme == "ssh":
        raise Unusable("ssh routes are not supported by this version yet", "use tcp+https:// in the meantime")
    kind = SOURCE_KINDS.get(parts.scheme)
    if kind is None:
        raise Unusable(
            f"the scheme of {_safe(url)} is not one of {', '.join(sorted(SOURCE_KINDS))}",
            "use https:// for web sites, tcp+https:// or udp+https:// for anything else",
        )
    host = _host(parts, url)
    if parts.query or parts.fragment:
        raise Unusable(f"{_safe(url)} has a query or a fragment", "leave out everything from the ? or # on")
    if kind is Kind.HTTP and parts.path not in ("", "/"):
        raise Unusable(
            f"{_safe(url)} has a path",
            "put only scheme and host here, and the path into the field prefix, path or regex",
        )
    targets = () if kind is Kind.HTTP else tuple(_target(part) for part in parts.path.split("/") if part)
    if kind is not Kind.HTTP and "*" in host:
        raise Unusable(f"{_safe(url)} has a wildcard", "name the host of a tcp or udp route in full")
    return Source(url=url, kind=kind, scheme=parts.scheme, host=host, port=port, targets=targets)


def parse_endpoint(url: str) -> Endpoint:
    """One `to` URL, with or without `,weight`. Raises Unusable."""
    url, comma, weight_text = url.partition(",")
    weight = _weight(weight_text) if comma else None
    if not url:
        raise Unusable("it is empty", "give the upstream's URL, for example http://app.internal:8080")
    parts, port = _split(url)
    if not parts.scheme:
        raise Unusable(f"{_safe(url)} has no scheme", f"write http://{_safe_host(url)} or https://{_safe_host(url)}")
    if parts.scheme in SOCKET_TRANSPORTS:
        return _socket(url, parts, weight)
    if parts.scheme == "ssh":
        raise Unusable("ssh upstreams are not supported by this version yet", "use tcp:// in the meantime")
    transport = TRANSPORTS.get(parts.scheme)
    if transport is None:
        raise Unusable(
            f"the scheme of {_safe(url)} is not one of {', '.join(sorted({*TRANSPORTS, *SOCKET_TRANSPORTS}))}",
            "use http:// or https://",
        )
    host = _host(parts, url)
    if "*" in host:
        raise Unusable(f"{_safe(url)} has a wildcard", "name one upstream host")
    if port is None and transport in (Transport.TCP, Transport.UDP):
        raise Unusable(f"{_safe(url)} has no port", f"write {parts.scheme}://{host}:PORT")
    bare = host.strip("[]")
    return Endpoint(
        url=url,
        transport=transport,
        host="127.0.0.1" if bare == "localhost" else bare,
        port=port or (443 if transport is Transport.HTTPS else 80),
        hostname=host if port is None else f"{host}:{port}",
        path=parts.path,
        weight=weight,
        server_name=bare if transport is Transport.HTTPS else "",
    )


def parse_upstreams(urls: Sequence[str], complaints: Complaints) -> tuple[Endpoint, ...]:
    """All `to` URLs of a route; what they must have in common is checked here (routes 3.3)."""
    endpoints: list[Endpoint] = []
    for index, url in enumerate(urls):
        endpoint = complaints.attempt(f"to[{index}]", parse_endpoint, url)
        if endpoint is not None:
            endpoints.append(endpoint)
    weighted = sum(endpoint.weight is not None for endpoint in endpoints)
    if 0 < weighted < len(endpoints):
        complaints.refuse(
            "to", f"{weighted} of {len(endpoints)} URLs carry a weight", "give a weight to all of them or to none"
        )
    for what, mixed in (
        ("tcp", {endpoint.transport is Transport.TCP for endpoint in endpoints}),
        ("udp", {endpoint.transport is Transport.UDP for endpoint in endpoints}),
        ("unix", {bool(endpoint.pipe) for endpoint in endpoints}),
    ):
        if len(mixed) > 1:
            complaints.refuse("to", f"cannot mix {what} with other kinds of URLs", "split them into two routes")
    return tuple(endpoints)


def with_weights(endpoints: Sequence[Endpoint], weights: Sequence[int], complaints: Complaints) -> tuple[Endpoint, ...]:
    """`load_balancing_weights` over the endpoints: only when the counts agree; zero means unset (routes 1.2)."""
    if weights and len(weights) != len(endpoints):
        complaints.warn(
            "load_balancing_weights",
            f"there are {len(weights)} weights for {len(endpoints)} URLs, so none of them is used",
            "give one weight per URL",
        )
    elif weights and all(endpoint.weight is None for endpoint in endpoints):
        endpoints = [replace(e, weight=w or None) for e, w in zip(endpoints, weights, strict=True)]
    if sum(endpoint.weight or 1 for endpoint in endpoints) > MAX_WEIGHT:
        complaints.refuse("to", f"the weights add up to more than {MAX_WEIGHT}", "use smaller weights")
    return tuple(endpoints)


def display(url: str) -> str:
    """A URL as it may be shown: without a user name and password."""
    head, separator, rest = url.partition("://")
    authority, slash, path = rest.partition("/")
    return head + separator + authority.rpartition("@")[2] + slash + path


def ascii_host(host: str) -> str:
    """A host name in lower-case ASCII, wildcards kept; raises ValueError when there is no such form."""
    labels = [_label(label) for label in _DOTS.split(host)]
    name = ".".join(labels)
    if not _HOST.fullmatch(name) or ".." in name or name.startswith("."):
        raise ValueError("not a host name")
    return name


def _label(label: str) -> str:
    if label.isascii():
        return label.lower()
    return idna.encode(label, uts46=True).decode()


def _split(url: str) -> tuple[SplitResult, int | None]:
    if _WHITE_OR_CONTROL.search(url):
        raise Unusable(f"{_safe(url)} has white space or a control character inside", "remove it")
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        raise Unusable(
            f"{_safe(url)} is not a URL that can be read", "write it as scheme://host:port, the port below 65536"
        ) from None
    if port == 0:
        raise Unusable(f"{_safe(url)} has port 0", "use a port from 1 to 65535")
    if "://" not in url:  # "app.example.com:8443" would be the scheme app.example.com
        parts = parts._replace(scheme="")
    return parts, port


def _host(parts: SplitResult, url: str) -> str:
    if "@" in parts.netloc:
        raise Unusable(f"{_safe(url)} carries a user name", "remove it: credentials in URLs are never used")
    hostname = parts.hostname
    if not hostname:
        raise Unusable(f"{_safe(url)} has no host", "write a host name after ://")
    if parts.netloc.startswith("["):
        try:
            return f"[{ipaddress.IPv6Address(hostname)}]"
        except ValueError:
            raise Unusable(f"{_safe(url)} has no valid IPv6 address between its brackets", "correct it") from None
    try:
        return ascii_host(hostname)
    except ValueError:  # idna's own errors are of this kind too
        raise Unusable(f"{_safe(url)} has a host that is not a host name", "correct its spelling") from None


def _target(text: str) -> str:
    """One `host:port` in the path of a tcp or udp `from`."""
    parts, port = _split(f"target://{text}")
    if port is None:
        raise Unusable(f"the target {shown(text)} has no port", "write it as host:port")
    host = _host(parts, text)
    if "*" in host:  # which Envoy would take for every host with that port
        raise Unusable(f"the target {shown(text)} has a wildcard", "name the host that the tunnel leads to")
    return f"{host}:{port}"


def _weight(text: str) -> int:
    if not (text.isascii() and text.isdigit()) or not 1 <= int(text) <= MAX_WEIGHT:
        raise Unusable(
            f"what follows the comma, {shown(text)}, is not a weight", "write a whole number from 1 on, or no comma"
        )
    return int(text)


def _socket(url: str, parts: SplitResult, weight: int | None) -> Endpoint:
    if parts.netloc:
        raise Unusable(
            f"{_safe(url)} has a host, {shown(parts.netloc)}",
            f"use three slashes: {parts.scheme}:///{parts.netloc}{parts.path}",
        )
    path = unquote(parts.path)
    if path in ("", "/"):
        raise Unusable(f"{_safe(url)} names no socket", f"write {parts.scheme}:///run/app.sock")
    if len(path.encode()) > MAX_SOCKET_PATH:
        raise Unusable(f"the path of the socket is longer than {MAX_SOCKET_PATH} bytes", "use a shorter path")
    if "\0" in path:
        raise Unusable("the path of the socket holds a NUL", "remove it")
    return Endpoint(url=url, transport=SOCKET_TRANSPORTS[parts.scheme], pipe=path, weight=weight)


def _safe(url: str) -> str:
    return shown(display(url))


def _safe_host(url: str) -> str:
    return "".join(c for c in display(url).partition("/")[0] if c.isprintable() and c not in "<>\"'")[:60] or "HOST"
