"""From Envoy's question to facts: the parts of a CheckRequest that a decision reads (authorize.md 2)."""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """One request, as the decision sees it. Header names are in lower case.

    `route_id` and `internal` come from the context extensions that our own Envoy configuration sets on each
    route, never from the visitor (A-1).
    """

    method: str = ""
    host: str = ""
    path: str = ""  # percent-decoded, without the query; empty when it cannot be decoded
    headers: Mapping[str, str]
    request_id: str = ""
    route_id: str = ""
    internal: bool = False


def gather(request: CheckRequest) -> Facts:
    """Read what one check is about."""
    http = request.attributes.request.http
    extensions = request.attributes.context_extensions
    return Facts(
        method=http.method,
        host=http.host,
        path=_decoded(http.path.partition("?")[0]),
        headers=http.headers,
        request_id=http.headers.get("x-request-id", ""),
        route_id=extensions.get("route_id", ""),
        internal=extensions.get("internal", "") == "true",
    )


def _decoded(path: str) -> str:
    try:
        return unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        return ""
