"""One check from bytes to bytes: gather, decide, respond."""

import structlog

from pomerium_agent.authorize.decide import decide
from pomerium_agent.authorize.gather import gather
from pomerium_agent.authorize.respond import respond
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest

log = structlog.get_logger(__name__)


def check(request: bytes) -> bytes:
    """Answer a serialized CheckRequest with a serialized CheckResponse.

    Raises DecodeError when the request is not one; the server turns that, and any other error, into a
    failed call, which Envoy answers with 503 (A-2).
    """
    facts = gather(CheckRequest.FromString(request))
    decision = decide(facts)
    if not decision.allowed:
        log.info(
            "request denied",
            reason=decision.reason,
            status=decision.status,
            route_id=facts.route_id,
            request_id=facts.request_id,
            method=facts.method,
            host=facts.host,
            path=facts.path,
        )
    return respond(facts, decision).SerializeToString()
