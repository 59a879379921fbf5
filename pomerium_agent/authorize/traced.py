"""A span for each decision about a request whose trace is collected (routes 7.7)."""

from collections.abc import Awaitable, Callable
from time import time_ns

from pomerium_agent.authorize.gather import Asked, Glance
from pomerium_agent.envoyconfig.tracing import TRACE_HEADER
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from pomerium_agent.runtime.spans import Parent, Spans, parse_traceparent

Check = Callable[[bytes], bytes | Awaitable[bytes]]
COLLECTED = frozenset("9ab")  # what Envoy writes into a request id where a trace is collected, and why
WHERE = 14  # in a request id


def traced(check: Check, spans: Spans) -> Check:
    """The same check, with spans. It costs nothing to speak of while there is no collector."""

    def answer(message: bytes) -> bytes | Awaitable[bytes]:
        if not spans.on:
            return check(message)
        began = time_ns()
        glance = Glance(CheckRequest.FromString(message))
        parent = parent_of(glance)
        if parent is None:
            return check(message)
        given = check(message)
        if isinstance(given, bytes):
            _tell(spans, glance, parent, began, given)
            return given
        return _later(given, spans, glance, parent, began)

    return answer


async def _later(given: Awaitable[bytes], spans: Spans, glance: Glance, parent: Parent, began: int) -> bytes:
    answer = await given
    _tell(spans, glance, parent, began, answer)
    return answer


def _tell(spans: Spans, glance: Glance, parent: Parent, began: int, answer: bytes) -> None:
    """Nothing of who asked or with what: the log line of the same request id has that."""
    response = CheckResponse.FromString(answer)
    allowed = response.status.code == 0
    facts: dict[str, str | int | bool] = {
        "pomerium.allowed": allowed,
        "pomerium.request_id": glance.request_id,
        "pomerium.route_id": glance.route_id,
        "http.request.method": glance.method,
        "server.address": glance.host,
    }
    if not allowed:
        facts["http.response.status_code"] = response.denied_response.status.code
    spans.add("authorize", parent, began, facts, server=True)


def parent_of(question: Asked) -> Parent | None:
    """Envoy's span of this request, if its trace is collected: what Envoy says, unless the caller has said no."""
    headers = question.headers
    if question.request_id[WHERE : WHERE + 1] not in COLLECTED:
        return None
    before = headers.get("traceparent", "")
    if before and parse_traceparent(before) is None:
        return None
    trace, _, span = headers.get(TRACE_HEADER, "").partition("-")
    return parse_traceparent(f"00-{trace}-{span}-01")
