"""Which decisions get a span, and what it says (routes 7.7)."""

import asyncio
import ssl
from collections.abc import Awaitable

import pytest

from pomerium_agent.authorize.traced import traced
from pomerium_agent.envoyconfig.tracing import TRACE_HEADER
from pomerium_agent.pb.envoy.service.auth.v3.external_auth_pb2 import CheckRequest, CheckResponse
from pomerium_agent.runtime.collector import Collector
from pomerium_agent.runtime.latest import Latest
from pomerium_agent.runtime.spans import Spans

COLLECTED = "00000000-0000-9000-8000-000000000000"
NOT_COLLECTED = "00000000-0000-4000-8000-000000000000"
TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
ANSWER = CheckResponse().SerializeToString()


def question(request_id: str = COLLECTED, **headers: str) -> bytes:
    request = CheckRequest()
    http = request.attributes.request.http
    http.method, http.host, http.path = "GET", "app.example.com", "/a?secret=planted"
    http.headers["x-request-id"] = request_id
    http.headers[TRACE_HEADER] = f"{TRACE}-{SPAN}"
    http.headers.update(headers)
    return request.SerializeToString()


def spans_to(collector: Collector | None) -> Spans:
    return Spans(Latest(collector), ssl.create_default_context(), b"")


HERE = Collector(url="http://127.0.0.1:1", http=True)


def test_a_decision_is_part_of_the_trace_that_envoy_began() -> None:
    spans = spans_to(HERE)

    assert traced(lambda _: ANSWER, spans)(question()) == ANSWER

    (span,) = spans.waiting
    assert (span.trace_id.hex(), span.parent_span_id.hex()) == (TRACE, SPAN)
    assert span.end_time_unix_nano >= span.start_time_unix_nano > 0
    assert "planted" not in str(span)


@pytest.mark.parametrize(
    "message",
    [
        question(NOT_COLLECTED),
        question(traceparent=f"00-{TRACE}-{SPAN}-00"),
        question(traceparent="nonsense"),
        question(**{TRACE_HEADER: "nonsense"}),
        question(""),
    ],
)
def test_what_is_not_collected_gets_none(message: bytes) -> None:
    spans = spans_to(HERE)

    assert traced(lambda _: ANSWER, spans)(message) == ANSWER

    assert not spans.waiting


async def test_an_answer_that_comes_later_gets_one_too() -> None:
    spans = spans_to(HERE)

    async def later(_: bytes) -> bytes:
        await asyncio.sleep(0)
        return ANSWER

    given = traced(later, spans)(question())

    assert isinstance(given, Awaitable)
    assert await given == ANSWER
    assert len(spans.waiting) == 1


def test_without_a_collector_the_question_is_not_even_read() -> None:
    assert traced(lambda _: ANSWER, spans_to(None))(b"\xff not a message") == ANSWER
