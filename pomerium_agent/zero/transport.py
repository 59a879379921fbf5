"""The gRPC channel that connect and telemetry share the recipe of (zero link 6)."""

from dataclasses import dataclass
from typing import Any

import grpc
from grpc import aio

from pomerium_agent.settings import Endpoint, Secret
from pomerium_agent.zero.egress import proxy_url
from pomerium_agent.zero.identity import Identity
from pomerium_agent.zero.text import without

CONNECT_MS = 20_000
LOST = ("Stream removed", "Socket closed", "Connection reset by peer")


@dataclass(frozen=True, slots=True, kw_only=True)
class Keepalive:
    """After how many seconds of silence to ping, and how long the answer may take; only while a stream is open."""

    time: float = 60.0
    timeout: float = 60.0


KEEPALIVE = Keepalive()


def open_channel(
    endpoint: Endpoint, identity: Identity, roots: bytes, *, keepalive: Keepalive | None = None
) -> aio.Channel:
    """A channel to `endpoint`; the caller closes it.

    Requests are compressed with gzip and `:authority` always carries the port. Each attempt of a service takes
    a channel of its own: a fresh one resolves the name anew and has no hidden backoff beside ours.
    """
    options: list[tuple[str, Any]] = [
        ("grpc.default_authority", endpoint.authority),
        ("grpc.primary_user_agent", identity.user_agent),
        ("grpc.use_local_subchannel_pool", 1),
        ("grpc.min_reconnect_backoff_ms", CONNECT_MS),
        ("grpc.enable_retries", 0),
        ("grpc.enable_http_proxy", 0),  # gRPC knows some of the variables; we hand it what all of them say
    ]
    if keepalive is not None:
        options += [
            ("grpc.keepalive_time_ms", int(keepalive.time * 1000)),
            ("grpc.keepalive_timeout_ms", int(keepalive.timeout * 1000)),
            ("grpc.http2.ping_timeout_ms", int(keepalive.timeout * 1000)),  # the later of the two decides
            ("grpc.http2.max_pings_without_data", 0),
        ]
    proxy = proxy_url("https" if endpoint.tls else "http", endpoint.host, endpoint.port)
    if proxy is not None:
        options = [option for option in options if option[0] != "grpc.enable_http_proxy"]
        options.append(("grpc.http_proxy", proxy))
    target = f"dns:{endpoint.authority}"
    if not endpoint.tls:
        return aio.insecure_channel(target, options=options, compression=grpc.Compression.Gzip)
    credentials = grpc.ssl_channel_credentials(root_certificates=roots)
    return aio.secure_channel(target, credentials, options=options, compression=grpc.Compression.Gzip)


def bearer_metadata(bearer: Secret) -> tuple[tuple[str, str], ...]:
    """The metadata that authorises one call; fetched for each (zero link 6)."""
    return (("authorization", f"Bearer {bearer}"),)


def is_unauthenticated(error: aio.AioRpcError) -> bool:
    """Whether the other side did not accept our bearer, which should then be dropped (W2)."""
    return error.code() is grpc.StatusCode.UNAUTHENTICATED


def describe(error: aio.AioRpcError, bearer: Secret) -> str:
    """The status and text of a failed call, in one line, without the bearer that it carried.

    The library tells of one and the same lost connection in words that differ by who noticed first, reader or writer;
    here they are the same, or a health check would have news at every try (Z-52).
    """
    details = error.details() or "no details"
    if error.code() is grpc.StatusCode.UNAVAILABLE and any(words in details for words in LOST):
        details = "the connection was lost"
    return f"{error.code().name}: {without(details, bearer)}"
