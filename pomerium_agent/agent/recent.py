"""What was denied lately, in a few words each: for the operator, who decides who else may see it. Pure."""

from typing import Any

from pomerium_agent.authorize import Denials, Denied

SHOWN = 100


def recent_denials(denials: Denials, count: int = SHOWN) -> dict[str, Any]:
    """Newest first, without queries and headers; `denied` is how many are remembered."""
    return {"denied": len(denials), "latest": [_told(each) for each in denials.latest(count)]}


def _told(denied: Denied) -> dict[str, Any]:
    request, identity = denied.facts.request, denied.facts.identity
    return {
        "request-id": denied.request_id,
        "at": denied.at.isoformat(),
        "route-id": denied.route_id,
        "kind": denied.kind.value,
        "status": denied.status,
        "reasons": list(denied.reasons),
        "method": request.method,
        "host": request.host,
        "path": request.raw_path.partition("?")[0],
        "ip": str(request.ip or ""),
        "session-id": denied.session_id,
        "user": identity.user_id,
        "email": identity.email,
    }
