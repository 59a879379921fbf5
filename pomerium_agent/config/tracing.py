"""Where traces go, how many, and what they may say (routes 7.7): the settings otel_* as values."""

from dataclasses import dataclass, field
from datetime import timedelta
from urllib.parse import urlsplit

from pomerium_agent.settings import Secret

TRACES_PATH = "/v1/traces"  # of OTLP over HTTP
HTTP_PORT = 4318  # of collectors that speak OTLP over HTTP, unless told otherwise

Headers = tuple[tuple[str, Secret], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Where spans are sent, and how."""

    url: str  # http or https, with the path where HTTP is spoken
    http: bool  # OTLP over HTTP with protobuf; else over gRPC
    headers: Headers = field(default=(), repr=False)
    timeout: timedelta = timedelta(seconds=10)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tracing:
    """The settings otel_* as they were read; an empty text or None is what nobody has set."""

    exporter: bool = False
    ratio: float = 1.0  # of the traces that begin here
    resource: tuple[tuple[str, str], ...] = ()
    log_level: str = "warn"  # from which on trouble with the export is told
    value_limit: int | None = None  # characters of an attribute
    endpoint: str = ""
    traces_endpoint: str = ""
    protocol: str = ""
    traces_protocol: str = ""
    headers: Headers = field(default=(), repr=False)
    traces_headers: Headers = field(default=(), repr=False)
    timeout: timedelta | None = None
    traces_timeout: timedelta | None = None
    schedule_delay: timedelta = timedelta(seconds=5)
    batch_size: int = 512

    @property
    def target(self) -> Target | None:
        """Where to send spans; None when there is no tracing. What is said for traces alone wins."""
        url = self.traces_endpoint or self.endpoint
        if not self.exporter or not url:
            return None
        said = self.traces_protocol or self.protocol
        http = said.startswith("http") if said else urlsplit(url).port == HTTP_PORT
        if http and not self.traces_endpoint:
            url = url.rstrip("/") + TRACES_PATH
        return Target(
            url=url,
            http=http,
            headers=self.traces_headers or self.headers,
            timeout=self.traces_timeout or self.timeout or timedelta(seconds=10),
        )


NO_TRACING = Tracing()
