"""Routes and snapshots as the compiler would make them, for tests that look at one thing of them."""

import dataclasses
from collections.abc import Iterable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import certifi

from pomerium_agent.config.action import Action, Endpoint, Forward, Transport, Upstream
from pomerium_agent.config.snapshot import Certificate, ConfigSnapshot, Route, Settings
from pomerium_agent.config.source import Kind, Match, MatchKind, Source
from pomerium_agent.envoyconfig import LocalAddresses
from tests.fakes.golden import self_signed

LOCAL = LocalAddresses(
    authorize_socket="/run/agent/authorize.sock",
    pages_socket="/run/agent/pages.sock",
    metrics_socket="/run/agent/metrics.sock",
    system_ca=Path(certifi.where()).read_text(),
)


def source(url: str) -> Source:
    """A `from`."""
    parts = urlsplit(url)
    scheme = parts.scheme
    kind = {"tcp": Kind.TCP, "udp": Kind.UDP}.get(scheme.partition("+")[0], Kind.HTTP)
    return Source(url=url, kind=kind, scheme=scheme, host=parts.hostname or "", port=parts.port)


def endpoint(url: str, **changes: Any) -> Endpoint:
    """A `to`."""
    parts = urlsplit(url)
    transport = Transport(parts.scheme)
    tls = transport is Transport.HTTPS
    made = Endpoint(
        url=url,
        transport=transport,
        host=parts.hostname or "",
        port=parts.port or (443 if tls else 80),
        hostname=parts.netloc,
        path=parts.path,
        server_name=(parts.hostname or "") if tls else "",
    )
    return dataclasses.replace(made, **changes)


def forward(*urls: str, **changes: Any) -> Forward:
    """Send the request to these."""
    return Forward(
        upstream=Upstream(endpoints=tuple(endpoint(url) for url in urls or ("http://up.internal",))), **changes
    )


def route(id: str = "r1", url: str = "https://app.example.com", action: Action | None = None, **changes: Any) -> Route:
    """A route, whose key is made from everything in it."""
    made = Route(id=id, key="", source=source(url), action=action or forward(), **changes)
    return dataclasses.replace(made, key=repr(made))


def prefix(value: str) -> Match:
    """Match what begins with `value`."""
    return Match(MatchKind.PREFIX, value)


def certificate(*names: str) -> Certificate:
    """A certificate that somebody chose."""
    chain, key = self_signed(*names)
    return Certificate(id=names[0], chain=chain, key=key, names=names)


ANY_CERTIFICATE = certificate("example.com")


def snapshot(routes: Iterable[Route] = (), **settings: Any) -> ConfigSnapshot:
    """A snapshot with a certificate and these settings."""
    return ConfigSnapshot(settings=Settings(**{"certificates": (ANY_CERTIFICATE,), **settings}), routes=tuple(routes))
