"""Where requests come from: the `from` of a route, and the paths that it catches."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

_PORTS: Mapping[str, int] = {"http": 80, "https": 443}


class Kind(Enum):
    """What a `from` URL asks for."""

    HTTP = "http"
    TCP = "tcp"
    UDP = "udp"


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """A parsed `from` URL (routes 3.1). `host` is lower-case ASCII without a port and may hold `*`."""

    url: str
    kind: Kind
    scheme: str
    host: str
    port: int | None = None
    targets: tuple[str, ...] = ()  # tcp and udp behind a shared front host: "target:port"

    @property
    def wildcard(self) -> bool:
        return "*" in self.host

    @property
    def origin(self) -> str:
        """What two spellings of one `from` have in common: the host. Ports of their own sort before any port."""
        own = self.port is None or self.port == _PORTS.get(self.scheme)
        return " ".join((self.host, "~" if own else f"{self.port:05}", *self.targets))


class MatchKind(Enum):
    PREFIX = "prefix"
    PATH = "path"
    REGEX = "regex"
    CONNECT = "connect"


@dataclass(frozen=True, slots=True)
class Match:
    """One matcher for the path of a request (routes 3.4)."""

    kind: MatchKind
    value: str = "/"


EVERYTHING = Match(MatchKind.PREFIX)
