"""From a decision to the answer that Envoy understands; denials in the form the client can read (authorize.md 8)."""

import json
from html import escape
from http import HTTPStatus

from pomerium_agent.authorize.accept import prefers_json
from pomerium_agent.authorize.decide import Decision
from pomerium_agent.authorize.gather import Facts
from pomerium_agent.pb.envoy.config.core.v3.base_pb2 import HeaderValueOption
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckResponse

PERMISSION_DENIED = 7
GRPC_STATUS = {400: 13, 401: 16, 403: 7, 404: 12, 429: 14, 502: 14, 503: 14, 504: 14}  # others: 2, UNKNOWN
KUBERNETES_REASON = {401: "Unauthorized", 403: "Forbidden", 404: "NotFound", 450: "Unauthorized", 495: "Unauthorized"}
PHRASES = {status.value: status.phrase for status in HTTPStatus}

PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 1rem/1.5 system-ui, sans-serif; max-width: 34rem; margin: 15vh auto; padding: 0 1rem; color: #222 }}
h1 {{ font-size: 1.5rem }}
small {{ color: #666 }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{text}</p>
<p><small>Request id: {request_id}</small></p>
</body>
</html>
"""


def respond(facts: Facts, decision: Decision) -> CheckResponse:
    """The whole answer."""
    response = CheckResponse()
    if decision.allowed:
        response.ok_response.SetInParent()
        return response
    status, headers, body = _denial(facts, decision)
    response.status.code = PERMISSION_DENIED
    response.status.message = "Access Denied"
    denied = response.denied_response
    denied.status.code = status  # type: ignore[assignment]  # 450 and 495 are not in Envoy's enum, which is open
    denied.body = body
    for name, value in headers:
        option = denied.headers.add(append_action=HeaderValueOption.OVERWRITE_IF_EXISTS_OR_ADD)
        option.header.key, option.header.value = name, value
    return response


def _denial(facts: Facts, decision: Decision) -> tuple[int, tuple[tuple[str, str], ...], str]:
    """Status, headers and body; the first form that fits the client."""
    headers = facts.headers
    content_type = headers.get("content-type", "")
    if "kubernetes/" in headers.get("user-agent", ""):
        return decision.status, (("content-type", "application/json"),), _kubernetes(decision)
    if facts.path == "/robots.txt":
        return 200, (("content-type", "text/plain"),), "User-agent: *\nDisallow: /"
    if prefers_json(headers.get("accept", "")):
        body = json.dumps({"error": decision.message, "request_id": facts.request_id})
        return decision.status, (("content-type", "application/json"),), body
    for grpc in ("application/grpc", "application/grpc-web-text", "application/grpc-web"):
        if _is_grpc(content_type, grpc):
            answer = "application/grpc+json" if grpc == "application/grpc" else "application/grpc-web+json"
            code = str(GRPC_STATUS.get(decision.status, 2))
            return (
                decision.status,
                (("content-type", answer), ("grpc-status", code), ("grpc-message", decision.message)),
                "",
            )
    return (
        decision.status,
        (("content-type", "text/html; charset=UTF-8"), ("x-pomerium-intercepted-response", "true")),
        _page(facts, decision),
    )


def _is_grpc(content_type: str, kind: str) -> bool:
    if kind == "application/grpc-web":
        return content_type.startswith("application/grpc-web+")
    if kind == "application/grpc-web-text":
        return content_type == kind
    return content_type == kind or content_type.startswith(kind + "+")


def _kubernetes(decision: Decision) -> str:
    """A Status object, which kubectl shows as it is."""
    return json.dumps(
        {
            "apiVersion": "v1",
            "kind": "Status",
            "status": "Failure",
            "message": decision.message,
            "reason": KUBERNETES_REASON.get(decision.status, ""),
            "code": decision.status,
        }
    )


def _page(facts: Facts, decision: Decision) -> str:
    phrase = PHRASES.get(decision.status, decision.message)
    return PAGE.format(
        title=f"{decision.status} {escape(phrase)}",
        text="You are not allowed to open this page. If you think you should be, tell whoever runs this site, "
        "and give them the request id.",
        request_id=escape(facts.request_id),
    )
